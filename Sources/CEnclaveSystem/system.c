// Thin wrappers: one call each, -errno on failure, no decisions.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define RESULT(call)                      \
  do {                                    \
    long result_ = (long)(call);          \
    return result_ < 0 ? -errno : result_; \
  } while (0)

// --- Memory ------------------------------------------------------------------------------------

int64_t ces_has_room(size_t length) {
  void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return -errno;
  munmap(p, length);
  return 0;
}
int64_t ces_map_reserve(size_t length) {
  void *p = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? -errno : (int64_t)(uintptr_t)p;
}

int64_t ces_unmap(void *address, size_t length) { RESULT(munmap(address, length)); }

int64_t ces_protect(void *address, size_t length, int protection) {
  static const int bits[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
  RESULT(mprotect(address, length, bits[protection]));
}

int64_t ces_lock(void *address, size_t length) { RESULT(mlock(address, length)); }
int64_t ces_unlock(void *address, size_t length) { RESULT(munlock(address, length)); }

int64_t ces_advise(void *address, size_t length, int advice) {
  static const int values[] = {MADV_DONTDUMP, MADV_WIPEONFORK, MADV_DONTFORK,
                               MADV_UNMERGEABLE, MADV_NOHUGEPAGE};
  RESULT(madvise(address, length, values[advice]));
}

int64_t ces_separate(void *address, size_t length, size_t unit) {
  for (size_t at = unit; at < length; at += 2 * unit) {
    size_t bytes = length - at < unit ? length - at : unit;
    if (madvise((char *)address + at, bytes, MADV_NOHUGEPAGE) == 0) continue;
    int error = errno;
    // All pages alike merge again. (The flag cannot be taken back without asking for huge pages.)
    if (at > unit) madvise(address, length, MADV_NOHUGEPAGE);
    return -error;
  }
  return 0;
}

int64_t ces_metadata_allocate(size_t length, size_t alignment) {
  void *address = NULL;
  if (alignment < sizeof(void *)) alignment = sizeof(void *);
  int error = posix_memalign(&address, alignment, length);
  return error ? -error : (int64_t)(uintptr_t)address;
}

void ces_metadata_free(void *address) { free(address); }

static void *metadata_reserve;

int64_t ces_metadata_room(void) {
  if (!__atomic_load_n(&metadata_reserve, __ATOMIC_RELAXED)) {
    void *none = NULL, *made = malloc(CES_METADATA_RESERVE);
    if (!made) return -ENOMEM;
    if (!__atomic_compare_exchange_n(&metadata_reserve, &none, made, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED)) {
      free(made);  // another thread was faster
    }
  }
  // The compiler may not leave the pair out: the answer is what it is asked for.
  void *volatile room = malloc(CES_METADATA_ROOM);
  if (!room) {
    free(__atomic_exchange_n(&metadata_reserve, NULL, __ATOMIC_ACQ_REL));
    return -ENOMEM;
  }
  free(room);
  return 0;
}

void ces_wipe(void *address, size_t length) { explicit_bzero(address, length); }

void ces_copy(void *to, const void *from, size_t length) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
#else
  volatile unsigned char *out = to;
  const volatile unsigned char *in = from;
  for (size_t i = 0; i < length; i++) out[i] = in[i];
#endif
}

int ces_is_zero(const void *address, size_t length) {
  const volatile unsigned char *bytes = address;
  unsigned char all = 0;
  for (size_t i = 0; i < length; i++) all |= bytes[i];
  return all == 0;
}

int ces_is_equal(const void *a, const void *b, size_t length) {
  const volatile unsigned char *x = a, *y = b;
  unsigned char all = 0;
  for (size_t i = 0; i < length; i++) all |= x[i] ^ y[i];
  return all == 0;
}

int64_t ces_page_size(void) { RESULT(sysconf(_SC_PAGESIZE)); }

// --- The process -------------------------------------------------------------------------------

static uint64_t calls[CES_CALL_SLOTS], failures[CES_CALL_SLOTS];
static int last_errors[CES_CALL_SLOTS];

void ces_count(uint32_t call, bool failed, int error) {
  if (call >= CES_CALL_SLOTS) return;
  __atomic_fetch_add(&calls[call], 1, __ATOMIC_RELAXED);
  if (failed) {
    __atomic_store_n(&last_errors[call], error, __ATOMIC_RELAXED);
    __atomic_fetch_add(&failures[call], 1, __ATOMIC_RELAXED);
  }
}
uint64_t ces_calls(uint32_t call) {
  return call < CES_CALL_SLOTS ? __atomic_load_n(&calls[call], __ATOMIC_RELAXED) : 0;
}
uint64_t ces_failures(uint32_t call) {
  return call < CES_CALL_SLOTS ? __atomic_load_n(&failures[call], __ATOMIC_RELAXED) : 0;
}
int ces_last_error(uint32_t call) {
  return call < CES_CALL_SLOTS ? __atomic_load_n(&last_errors[call], __ATOMIC_RELAXED) : 0;
}

int64_t ces_random(void *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t n = getrandom((char *)bytes + done, length - done, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    done += (size_t)n;
  }
  return (int64_t)done;
}

int64_t ces_memlock_limit(uint64_t *soft, uint64_t *hard) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) return -errno;
  *soft = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
  *hard = limit.rlim_max == RLIM_INFINITY ? UINT64_MAX : limit.rlim_max;
  return 0;
}

int64_t ces_dumpable(void) { RESULT(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)); }
const char *ces_secure_getenv(const char *name) { return secure_getenv(name); }

static uint64_t clock_ms(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t) < 0) return 0;
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
uint64_t ces_boottime_ms(void) { return clock_ms(CLOCK_BOOTTIME); }
uint64_t ces_realtime_ms(void) { return clock_ms(CLOCK_REALTIME); }
const char *ces_strerror(int error) { return strerrordesc_np(error) ?: "unknown error"; }
const char *ces_errno_name(int error) { return strerrorname_np(error) ?: "E?"; }

int64_t ces_sleep_ms(uint32_t ms) {
  struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
  RESULT(nanosleep(&t, NULL));
}

int64_t ces_at_fork_child(void (*child)(void)) { return -pthread_atfork(NULL, NULL, child); }
int64_t ces_at_exit(void (*handler)(void)) { return atexit(handler) == 0 ? 0 : -ENOMEM; }

uint64_t *ces_fork_word;
void ces_set_fork_word(uint64_t *word) {
  __atomic_store_n(&ces_fork_word, word, __ATOMIC_RELEASE);
}
void ces_reset_fork_word(void) {
  uint64_t *word = __atomic_load_n(&ces_fork_word, __ATOMIC_ACQUIRE);
  if (word) __atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

struct ticker {
  const char *name;
  uint32_t interval_ms;
  int (*tick)(void *);
  void *context;
};

static void *ticker_main(void *argument) {
  struct ticker ticker = *(struct ticker *)argument;
  free(argument);
  prctl(PR_SET_NAME, ticker.name, 0, 0, 0);
  do ces_sleep_ms(ticker.interval_ms);
  while (ticker.tick(ticker.context) != 0);
  return NULL;
}

int64_t ces_start_ticker(const char *name, uint32_t interval_ms, int (*tick)(void *),
                         void *context) {
  struct ticker *ticker = malloc(sizeof *ticker);
  if (!ticker) return -ENOMEM;
  *ticker = (struct ticker){name, interval_ms, tick, context};
  sigset_t all, old;
  sigfillset(&all);
  // The page may be truncated under this thread as under any other: its SIGBUS must be taken.
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 128 * 1024);
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, ticker_main, ticker);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error) free(ticker);
  return -error;
}

// --- Files -------------------------------------------------------------------------------------

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
int64_t ces_open_temporary(int directory) {
  RESULT(openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
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

void ces_complain(const char *text, size_t length) {
  ssize_t ignored = write(STDERR_FILENO, text, length);
  (void)ignored;
}

void ces_abort(void) { abort(); }

// --- Spin word ---------------------------------------------------------------------------------

__thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));

// A holder that runs is done after some microseconds at most. One that was preempted has to get the
// processor: sched_yield(2) gives it only to those of the waiter's own priority or above.
enum { PAUSES = 128, YIELDS = 32, SHORTEST_SLEEP_NS = 20000, DOUBLINGS = 5 };

void ces_back_off(uint32_t tries) {
  if (tries < PAUSES) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
    return;
  }
  int error = errno;
  if (tries < PAUSES + YIELDS) {
    sched_yield();
  } else {
    uint32_t doublings = (tries - PAUSES - YIELDS) / 8;
    long ns = (long)SHORTEST_SLEEP_NS << (doublings < DOUBLINGS ? doublings : DOUBLINGS);
    nanosleep(&(struct timespec){0, ns}, NULL);
  }
  errno = error;
}

void ces_spin_wait(uint32_t *word) {
  for (uint32_t tries = 0;;) {
    while (__atomic_load_n(word, __ATOMIC_RELAXED) != 0) ces_back_off(tries++);
    if (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE) == 0) return;
  }
}

bool ces_process_try(uint32_t *word) {
  uint32_t mine = (uint32_t)getpid();
  uint32_t holder = __atomic_load_n(word, __ATOMIC_RELAXED);
  ces_held_locks++;
  if (holder != mine && __atomic_compare_exchange_n(word, &holder, mine, false, __ATOMIC_ACQUIRE,
                                                    __ATOMIC_RELAXED)) {
    return true;
  }
  ces_held_locks--;
  return false;
}

void ces_process_lock(uint32_t *word) {
  for (uint32_t tries = 0; !ces_process_try(word);) ces_back_off(tries++);
}

// --- Processes ---------------------------------------------------------------------------------

int64_t ces_pid(void) { return getpid(); }
int64_t ces_uid(void) { return geteuid(); }
int64_t ces_settled_uid(void) {
  uid_t real, effective, saved;
  if (getresuid(&real, &effective, &saved) < 0) return -errno;
  return real == effective && effective == saved ? (int64_t)effective : -EAGAIN;
}

int64_t ces_map_count(void) {
  int descriptor = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return -errno;
  char buffer[4096];
  int64_t lines = 0;
  ssize_t count;
  while ((count = read(descriptor, buffer, sizeof buffer)) > 0 || (count < 0 && errno == EINTR)) {
    for (ssize_t i = 0; i < count; i++) lines += buffer[i] == '\n';
  }
  if (count < 0) lines = -errno;
  close(descriptor);
  return lines;
}
