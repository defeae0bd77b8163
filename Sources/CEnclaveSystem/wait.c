// Sleeps until a word changes, for waits that are too long for a spin lock.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

void ces_word_wait(const uint32_t *word, uint32_t seen) {
  long result = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  // A seccomp filter may forbid futex(2); then this only yields.
  if (result < 0 && errno != EAGAIN && errno != EINTR) sched_yield();
}

void ces_word_wake(const uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
