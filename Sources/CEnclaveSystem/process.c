// Facts about this process: call counters, limits, clocks, threads, forks and ids.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "result.h"

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

void ces_write_stderr(const char *text, size_t length) {
  ssize_t ignored = write(STDERR_FILENO, text, length);
  (void)ignored;
}

void ces_abort(void) { abort(); }

int64_t ces_processors(void) { return sysconf(_SC_NPROCESSORS_ONLN); }
int64_t ces_pid(void) { return getpid(); }
int64_t ces_uid(void) { return geteuid(); }
int64_t ces_sole_uid(void) {
  uid_t real, effective, saved;
  if (getresuid(&real, &effective, &saved) < 0) return -errno;
  return real == effective && effective == saved ? (int64_t)effective : -EAGAIN;
}

int64_t ces_seccomp_mode(void) { RESULT(prctl(PR_GET_SECCOMP, 0, 0, 0, 0)); }

int64_t ces_list_threads(int directory, uint64_t *position, int32_t *threads, size_t capacity) {
  if (lseek(directory, (off_t)*position, SEEK_SET) < 0) return -errno;
  _Alignas(struct dirent64) char entries[1024];
  size_t found = 0;
  while (found < capacity) {
    ssize_t length = getdents64(directory, entries, sizeof entries);
    if (length < 0) return -errno;
    if (length == 0) {
      *position = 0;
      break;
    }
    for (ssize_t offset = 0; offset < length && found < capacity;) {
      const struct dirent64 *entry = (const struct dirent64 *)(entries + offset);
      if (entry->d_name[0] != '.') threads[found++] = atoi(entry->d_name);
      *position = (uint64_t)entry->d_off;
      offset += entry->d_reclen;
    }
  }
  return (int64_t)found;
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
