// Threads that act at intervals, and forks that wait for them.
//
// A child has only the thread that forked. If another thread is inside the Swift runtime at that moment, its lock
// stays locked in the child, which deadlocks at the next use (see CEnclave/fork.c). The library must not bring
// that about in a program that has no other threads, so a fork waits until no ticker is within its tick, and no
// tick begins until the fork is over. Only the C library's fork(3) does so (pthread_atfork(3)).

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>

// How long the two wait for each other. A tick that takes longer waits for a lock that the forking thread holds.
enum { PATIENCE_MS = 1000 };

static uint32_t ticking;  // tickers
static uint32_t forking;  // threads
// Of `forking` this thread's: more than one where a handler of a fork forks.
static __thread uint32_t forks __attribute__((tls_model("initial-exec")));
static __thread bool is_ticking __attribute__((tls_model("initial-exec")));

static bool is_over(uint64_t *end, uint32_t tries) {
  if (tries == 0) *end = ces_boottime_ms() + PATIENCE_MS;
  return ces_boottime_ms() >= *end;
}

static void before_fork(void) {
  forks++;
  __atomic_fetch_add(&forking, 1, __ATOMIC_SEQ_CST);
  uint64_t end;
  for (uint32_t tries = 0; __atomic_load_n(&ticking, __ATOMIC_SEQ_CST) > is_ticking; tries++) {
    if (is_over(&end, tries)) break;
    ces_back_off(tries);
  }
}

static void after_fork_in_parent(void) {
  // A child of a fork within another returns into that other one.
  if (forks == 0) return;
  forks--;
  __atomic_fetch_sub(&forking, 1, __ATOMIC_SEQ_CST);
}

static void after_fork_in_child(void) {
  forks = 0;
  __atomic_store_n(&ticking, is_ticking, __ATOMIC_SEQ_CST);
  __atomic_store_n(&forking, 0, __ATOMIC_SEQ_CST);
}

// Registered with the first ticker, and so usually after the handlers of other libraries: before a fork the newest
// handlers run first, when no locks are held yet.
static void watch_forks(void) {
  // Can only fail for lack of memory; forks then do not wait.
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void begin_tick(void) {
  uint64_t end;
  for (uint32_t tries = 0;; tries++) {
    __atomic_fetch_add(&ticking, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&forking, __ATOMIC_SEQ_CST) == 0 || is_over(&end, tries)) break;
    __atomic_fetch_sub(&ticking, 1, __ATOMIC_SEQ_CST);
    ces_back_off(tries);
  }
  is_ticking = true;
}

static void end_tick(void) {
  is_ticking = false;
  __atomic_fetch_sub(&ticking, 1, __ATOMIC_SEQ_CST);
}

struct ticker {
  const char *name;
  uint32_t interval_ms;
  int (*tick)(void *);
  void *context;
};

static bool run_tick(const struct ticker *ticker) {
  begin_tick();
  bool goes_on = ticker->tick(ticker->context) != 0;
  end_tick();
  return goes_on;
}

static void *ticker_main(void *argument) {
  struct ticker ticker = *(struct ticker *)argument;
  free(argument);
  prctl(PR_SET_NAME, ticker.name, 0, 0, 0);
  do ces_sleep_ms(ticker.interval_ms);
  while (run_tick(&ticker));
  return NULL;
}

int64_t ces_start_ticker(const char *name, uint32_t interval_ms, int (*tick)(void *),
                         void *context) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  struct ticker *ticker = malloc(sizeof *ticker);
  if (!ticker) return -ENOMEM;
  *ticker = (struct ticker){name, interval_ms, tick, context};
  sigset_t all, old;
  sigfillset(&all);
  // This thread may also store into a truncated page, so SIGBUS must not be blocked.
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
