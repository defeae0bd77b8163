// Calls on files and directories. Each makes one call and returns -errno on failure; no policy.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "result.h"

int64_t ces_open_directory(int at, const char *path) {
  RESULT(openat(at == -1 ? AT_FDCWD : at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}
int64_t ces_open_directory_following(const char *path) {
  RESULT(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}
int64_t ces_open_read(int at, const char *path, bool follow) {
  RESULT(openat(at == -1 ? AT_FDCWD : at, path,
                O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | (follow ? 0 : O_NOFOLLOW)));
}
enum { FIRST_KEPT_DESCRIPTOR = 64 };

// Avoids the low numbers, which daemons close, reopen and duplicate: a daemon's standard output must not
// end up in the page. If the descriptor limit does not allow a higher number, keeps the low one.
static int64_t with_high_number(int fd) {
  if (fd < 0) return -errno;
  int high = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_KEPT_DESCRIPTOR);
  if (high < 0) return fd;
  close(fd);
  return high;
}

int64_t ces_open_temporary(int directory) {
  return with_high_number(openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}
int64_t ces_open_own_status(void) {
  return with_high_number(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
}
int64_t ces_create_exclusive(int at, const char *path) {
  RESULT(openat(at == -1 ? AT_FDCWD : at, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}
int64_t ces_close(int fd) { RESULT(close(fd)); }
int64_t ces_mkdir(int at, const char *path, uint32_t mode) {
  RESULT(mkdirat(at == -1 ? AT_FDCWD : at, path, mode));
}

static int64_t copy_stat(int result, const struct stat *s, ces_stat_t *out) {
  if (result < 0) return -errno;
  *out = (ces_stat_t){s->st_dev, s->st_ino, (uint64_t)s->st_size, s->st_nlink, s->st_mode, s->st_uid};
  return 0;
}
int64_t ces_fstat(int fd, ces_stat_t *out) {
  struct stat s = {0};
  return copy_stat(fstat(fd, &s), &s, out);
}
int64_t ces_lstat(int at, const char *path, ces_stat_t *out) {
  struct stat s = {0};
  return copy_stat(fstatat(at == -1 ? AT_FDCWD : at, path, &s, AT_SYMLINK_NOFOLLOW), &s, out);
}

int64_t ces_is_tmpfs(int fd) {
  struct statfs s;
  if (fstatfs(fd, &s) < 0) return -errno;
  return s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC;
}

int64_t ces_without_xfsz(int64_t (*call)(int, uint64_t), int fd, uint64_t length) {
  sigset_t xfsz, before, pending;
  sigemptyset(&xfsz);
  sigaddset(&xfsz, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &xfsz, &before);
  bool was_pending = sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 1;
  int64_t result = call(fd, length);
  if (result == -EFBIG && !was_pending) {
    const struct timespec none = {0, 0};
    while (sigtimedwait(&xfsz, NULL, &none) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return result;
}

static int64_t allocate(int fd, uint64_t length) { return -posix_fallocate(fd, 0, (off_t)length); }
int64_t ces_fallocate(int fd, uint64_t length) { return ces_without_xfsz(allocate, fd, length); }
int64_t ces_chmod(int fd, uint32_t mode) { RESULT(fchmod(fd, mode)); }

int64_t ces_link(int fd, int directory, const char *name) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  RESULT(linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW));
}
int64_t ces_rename_exclusive(int at, const char *from, const char *to) {
  RESULT(renameat2(at == -1 ? AT_FDCWD : at, from, at == -1 ? AT_FDCWD : at, to, RENAME_NOREPLACE));
}
int64_t ces_unlink(int at, const char *name) { RESULT(unlinkat(at == -1 ? AT_FDCWD : at, name, 0)); }
int64_t ces_rmdir(const char *path) { RESULT(rmdir(path)); }

int64_t ces_pread(int fd, void *bytes, size_t length, uint64_t offset) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = pread(fd, (char *)bytes + done, length - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    if (n == 0) break;
    done += (size_t)n;
  }
  return (int64_t)done;
}

int64_t ces_write(int fd, const void *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = write(fd, (const char *)bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    done += (size_t)n;
  }
  return (int64_t)done;
}
int64_t ces_fsync(int fd) { RESULT(fsync(fd)); }
int64_t ces_readlink(int at, const char *path, char *bytes, size_t length) {
  RESULT(readlinkat(at == -1 ? AT_FDCWD : at, path, bytes, length));
}

int64_t ces_map_shared(int fd, size_t length) {
  void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return p == MAP_FAILED ? -errno : (int64_t)(uintptr_t)p;
}

int64_t ces_lock_file(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  RESULT(fcntl(fd, F_SETLK, &lock));
}
int64_t ces_lock_holder(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_GETLK, &lock) < 0) return -errno;
  if (lock.l_type == F_UNLCK) return 0;
  return lock.l_pid > 0 ? lock.l_pid : INT32_MAX;
}

int64_t ces_list_directory(int fd, int (*each)(void *, const char *), void *context) {
  int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (own < 0) return -errno;
  DIR *directory = fdopendir(own);
  if (!directory) {
    int error = errno;
    close(own);
    return -error;
  }
  int error = 0;
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(directory);
    if (!entry) {
      error = errno;
      break;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (each(context, entry->d_name) != 0) break;
  }
  closedir(directory);
  return -error;
}
