// Locks of one word, and how their waiters wait.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

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
