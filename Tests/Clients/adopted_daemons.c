// Programs that close all descriptors, filter their system calls, or hold memory until they are ended.

#define _GNU_SOURCE
#include "adopted.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

/// Waits up to a minute until a directory has the expected number of names that begin with a text.
static bool comes_to_names(DIR *directory, const char *start, int wanted) {
  for (int i = 0; i < 6000; i++) {
    int count = 0;
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
      count += entry->d_name[0] != '.' && strncmp(entry->d_name, start, strlen(start)) == 0;
    }
    if (count == wanted) return true;
    usleep(10000);
  }
  return false;
}

static DIR *list(const char *path) {
  DIR *directory = opendir(path);
  CHECK(directory);
  return directory;
}

/// The same of the threads of this process.
static bool comes_to(int wanted) {
  DIR *tasks = list("/proc/self/task");
  bool is_there = comes_to_names(tasks, "", wanted);
  closedir(tasks);
  return is_there;
}

/// Filters the system calls of this thread; the filter allows all.
static void filter_calls(void) {
  struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog filter = {1, &all};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

/// Whether a child that does this ends itself with 7.
static bool child_ends_with_7(void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(7);
  }
  int status;
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 7;
}

static void filter_first_thread(void) {
  CHECK(comes_to(2));
  filter_calls();
  CHECK(comes_to(1));
}

/// A child that filters its system calls has no unfiltered thread left.
void sandboxed(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(filter_first_thread));
  // This process has no filter.
  CHECK(comes_to(2));
}

/// The same in a process whose threads all have a filter already, as in most containers.
void sandboxed_again(void) {
  filter_calls();
  sandboxed();
}

static void *wait_in_thread(void *unused) {
  for (;;) pause();
  return unused;
}
static void *filter_and_wait(void *unused) {
  filter_calls();
  return wait_in_thread(unused);
}
static void filter_last_thread(void) {
  CHECK(comes_to(2));
  pthread_t thread;
  for (int i = 0; i < 100; i++) CHECK(pthread_create(&thread, NULL, wait_in_thread, NULL) == 0);
  CHECK(pthread_create(&thread, NULL, filter_and_wait, NULL) == 0);
  CHECK(comes_to(102));
}

/// The same of a filter that one of many threads sets for itself.
void sandboxed_thread(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(filter_last_thread));
}

/// Changes the root to a directory without /proc, and filters the system calls.
static void filter_in_other_root(void) {
  DIR *tasks = list("/proc/self/task");
  CHECK(chroot(getenv("ENCLAVE_STATS_DIR")) == 0 && access("/proc", F_OK) != 0);
  filter_calls();
  CHECK(comes_to_names(tasks, "", 1));
}

static void publish_and_filter_in_other_root(void) {
  char page[32];
  snprintf(page, sizeof page, "%d-", (int)getpid());
  CHECK(comes_to_names(list(getenv("ENCLAVE_STATS_DIR")), page, 1));
  filter_in_other_root();
}

/// Closes all unknown descriptors, like daemons, and waits until the library has opened its own again.
static void close_and_filter_in_other_root(void) {
  DIR *descriptors = list("/proc/self/fd");
  for (int fd = 3; fd < 1024; fd++) {
    if (fd != dirfd(descriptors)) close(fd);
  }
  char status[64], target[64];
  snprintf(status, sizeof status, "/proc/%d/status", (int)getpid());
  bool is_open = false;
  for (int i = 0; i < 6000 && !is_open; i++) {
    rewinddir(descriptors);
    for (struct dirent *entry; !is_open && (entry = readdir(descriptors));) {
      ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target - 1);
      target[length < 0 ? 0 : length] = 0;
      is_open = strcmp(target, status) == 0;
    }
    usleep(10000);
  }
  CHECK(is_open);
  filter_in_other_root();
}

/// The same without /proc: in children that publish already, at once, or after they closed all; and in this process.
void sandboxed_root(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(publish_and_filter_in_other_root));
  CHECK(child_ends_with_7(close_and_filter_in_other_root));
  filter_in_other_root();
}

/// The same in a child that cannot lock, whose thread for this does not end by itself.
void sandboxed_at_once(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  limit.rlim_cur = 0;
  CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  CHECK(child_ends_with_7(filter_in_other_root));
}

static void wait_for_the_end(void) {
  printf("%d\n", (int)getpid());
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

/// Closes all unknown descriptors, like daemons, and reuses the numbers for its own files.
void closes(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  for (int fd = 3; fd < 1024; fd++) close(fd);
  int files[100];
  struct stat null, now;
  CHECK(stat("/dev/null", &null) == 0);
  for (int i = 0; i < 100; i++) CHECK((files[i] = open("/dev/null", O_RDONLY)) >= 0);
  wait_for_the_end();
  for (int i = 0; i < 100; i++) CHECK(fstat(files[i], &now) == 0 && now.st_rdev == null.st_rdev);
}

/// Forks a child whose RLIMIT_MEMLOCK is smaller than the parent's locked memory. Both wait.
void poorer(void) {
  CRYPTO_secure_malloc_init(16384, 32);
  CHECK(OPENSSL_secure_malloc(32) && sodium_init() >= 0 && sodium_malloc(32));
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  rlim_t before = limit.rlim_cur;
  limit.rlim_cur = 0;
  CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  pid_t child = fork();
  char byte;
  if (child > 0) {
    limit.rlim_cur = before;
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    printf("%d\n", (int)child);
    fflush(stdout);
  }
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  if (child == 0) _exit(0);
  waitpid(child, NULL, 0);
}

/// Holds a secret of each library until its standard input ends, and so does a child that it forks before.
void held(void) {
  CHECK(sodium_init() >= 0 && gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  CRYPTO_secure_malloc_init(16384, 32);
  for (int i = 0; i < 4; i++) {
    unsigned char *key = sodium_malloc(32);
    if (i == 1) sodium_mprotect_readonly(key);
    if (i > 1) sodium_mprotect_noaccess(key);
  }
  OPENSSL_secure_malloc(32);
  gcry_malloc_secure(32);
  pid_t child = fork();
  char byte;
  if (child == 0) {
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    _exit(0);
  }
  printf("%d\n", (int)child);
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  waitpid(child, NULL, 0);
}
