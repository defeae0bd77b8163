// Threads that act at intervals, and forks that wait for them.
//
// A forked child has only the thread that forked. A lock of the Swift runtime that another thread holds at that
// moment stays locked in the child, which deadlocks when it needs the lock (see CEnclave/fork.c). The library's
// own threads must not cause that in a program that has no others. So a fork waits until no ticker is within its
// tick, and no tick begins until the fork is over. This works for the C library's fork(3) only
// (pthread_atfork(3)).

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>

// How long forks and ticks wait for each other. A tick that takes longer needs a lock that the forking thread
// holds.
enum { PATIENCE_MS = 1000 };

static ces_fork_gate gate;
static __thread ces_fork_gate_thread thread __attribute__((tls_model("initial-exec")));

static void before_fork(void) { ces_fork_gate_before_fork(&gate, &thread, PATIENCE_MS); }
static void after_fork_in_parent(void) { ces_fork_gate_in_parent(&gate, &thread); }
static void after_fork_in_child(void) { ces_fork_gate_in_child(&gate, &thread); }

// Registered with the first ticker, which is usually after the handlers of other libraries. Before a fork the
// newest handlers run first, so the waiting happens before other handlers take locks.
static void watch_forks(void) {
  // Can only fail for lack of memory; forks then do not wait.
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

struct ticker {
  const char *name;
  uint32_t interval_ms;
  int (*tick)(void *);
  void *context;
};

static bool run_tick(const struct ticker *ticker) {
  ces_fork_gate_enter(&gate, &thread, PATIENCE_MS);
  bool continues = ticker->tick(ticker->context) != 0;
  ces_fork_gate_leave(&gate, &thread);
  return continues;
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
  pthread_t started;
  int error = pthread_create(&started, &attributes, ticker_main, ticker);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error) free(ticker);
  return -error;
}
