// Sleeping for a change of a word: for waits that last longer than a spin lock may be held.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

void ces_word_wait(const uint32_t *word, uint32_t seen) {
  long result = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  // A filter of system calls may forbid it: then this is a poor wait, and still one.
  if (result < 0 && errno != EAGAIN && errno != EINTR) sched_yield();
}

void ces_word_wake(const uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
