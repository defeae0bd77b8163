// One-word locks, and how threads wait for them.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));

// A running holder unlocks within microseconds. A preempted holder needs the processor, which sched_yield(2)
// gives only to threads of the waiter's priority or higher, so waiters sleep in the end.
enum { PAUSES = 128, YIELDS = 32, SHORTEST_SLEEP_NS = 20000, DOUBLINGS = 5 };

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

void ces_back_off(uint32_t tries) {
  if (tries < PAUSES) {
    pause_briefly();
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

// Unlocking is a plain store of the word followed by a load of the sleeper count, and the processor may
// reorder the two: the holder would see no sleeper, and the sleeper would see the word still locked. So a
// thread that is about to sleep counts itself and runs a barrier on every thread before it looks at the
// word again (Tests/Models/lock.pml). Where that barrier is unavailable, sleeps are short.
ces_sleeper_count ces_sleepers[CES_SLEEPER_COUNTS];
enum { UNSURE_NS = 1000000 };

// The count in which this thread registered as a sleeper.
static __thread uint32_t *counted_at __attribute__((tls_model("initial-exec")));

// A forked child has only this thread, which may have been about to sleep when its signal handler forked.
// (After a raw clone(2) the counts are stale, so unlocking may make needless wake-up calls.)
static void reset_sleepers(void) {
  for (int i = 0; i < CES_SLEEPER_COUNTS; i++) {
    __atomic_store_n(&ces_sleepers[i].count, 0, __ATOMIC_RELAXED);
  }
  if (counted_at) __atomic_store_n(counted_at, 1, __ATOMIC_RELAXED);
}
__attribute__((constructor)) static void watch_forks(void) {
  (void)pthread_atfork(NULL, NULL, reset_sleepers);
}

static void wait_for(uint32_t *word, bool (*take)(uint32_t *)) {
  for (int i = 0; i < PAUSES; i++) {
    if (take(word)) return;
    pause_briefly();
  }
  int error = errno;
  uint32_t *sleepers = ces_sleepers_of(word);
  counted_at = sleepers;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  __atomic_fetch_add(sleepers, 1, __ATOMIC_SEQ_CST);
  struct timespec patience = {0, UNSURE_NS};
  struct timespec *limit = ces_membarrier() == 0 ? NULL : &patience;
  while (!take(word)) {
    uint32_t holder = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (holder == 0) continue;
    long result = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, holder, limit, NULL, 0);
    // A seccomp filter may forbid futex(2).
    if (result < 0 && errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT) {
      nanosleep(&patience, NULL);
    }
  }
  __atomic_fetch_sub(sleepers, 1, __ATOMIC_RELAXED);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  counted_at = NULL;
  errno = error;
}

void ces_wake_sleeper(uint32_t *word) {
  int error = errno;
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  errno = error;
}

static bool take_spin_word(uint32_t *word) {
  return __atomic_load_n(word, __ATOMIC_RELAXED) == 0 &&
         __atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE) == 0;
}

void ces_spin_wait(uint32_t *word) { wait_for(word, take_spin_word); }

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
  if (!ces_process_try(word)) wait_for(word, ces_process_try);
}
