// Makes fork(3) safe while other threads are inside the Swift runtime.
//
// The first use of a type, a conformance or a lazy global takes a lock of the runtime, or marks the object
// as being initialized. A child that is forked meanwhile inherits that state without the thread that would
// finish, and deadlocks when it needs the same object. The C library resets its own locks in a child; the
// Swift runtime does not.
//
// libenclave contains its own copy of the runtime, so its locks can be observed: Assets/install-enclave links
// with --wrap (ld(1)), which redirects the runtime's calls to this file. fork(3) waits until no other thread
// is inside, and threads that want to enter wait until the fork is over. After the first uses the runtime
// takes no such locks, and none of this code runs.
//
// Limits: _Fork(3) and a raw clone(2) do not run the handlers of pthread_atfork(3). A program that links the
// Swift package instead never calls these functions.

#define _GNU_SOURCE
#include "CEnclaveInternal.h"

#include "CEnclaveSystem.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

/// How long fork waits for threads inside, and how long entering threads wait for a fork.
enum { FORK_PATIENCE_MS = 5000, ENTRY_PATIENCE_MS = 1000 };

static ces_fork_gate gate;
static __thread ces_fork_gate_thread thread __attribute__((tls_model("initial-exec")));

static void enter(void) { ces_fork_gate_enter(&gate, &thread, ENTRY_PATIENCE_MS); }
static void leave(void) { ces_fork_gate_leave(&gate, &thread); }
static void before_fork(void) { ces_fork_gate_before_fork(&gate, &thread, FORK_PATIENCE_MS); }
static void after_fork_in_parent(void) { ces_fork_gate_in_parent(&gate, &thread); }
static void after_fork_in_child(void) { ces_fork_gate_in_child(&gate, &thread); }

// The handlers for arenas that children inherit, once there is such an arena.
static cenclave_fork_handlers handlers;
static bool has_handlers;

void cenclave_set_fork_handlers(cenclave_fork_handlers given) {
  if (__atomic_load_n(&has_handlers, __ATOMIC_ACQUIRE)) return;
  handlers = given;
  __atomic_store_n(&has_handlers, true, __ATOMIC_RELEASE);
}

// Whether `prepare` ran for this fork: handlers that are set during a fork do not run for it.
static __thread bool is_handled __attribute__((tls_model("initial-exec")));
// Nested forks in handlers of pthread_atfork(3) or of signals during that fork. They need no further locks.
static __thread uint32_t forks_within __attribute__((tls_model("initial-exec")));

// Addresses to free after the fork. Only the forking thread uses this list: it holds the registry's lock.
typedef struct freed {
  struct freed *next;
  size_t count;
  void *addresses[510];
} freed_t;
static freed_t *freed_later;

bool enclave_private_is_forking(void) { return is_handled; }

void enclave_private_free_after_fork(void *address) {
  freed_t *list = freed_later;
  if (!list || list->count == sizeof list->addresses / sizeof *list->addresses) {
    list = mmap(NULL, sizeof *list, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (list == MAP_FAILED) return;
    list->next = freed_later;
    freed_later = list;
  }
  list->addresses[list->count++] = address;
}

// Signals are blocked while locks are held for a fork: a handler that ends the process or forks would wait
// for them forever. That is also so for those that the C library holds in fork(3) once the process has a
// second thread, which may be the publisher's (exit(3) takes the lock of the list of fork handlers).
// Guarded by the registry's lock.
static sigset_t signals_before;

static void block_signals(sigset_t *before) {
  sigset_t all;
  sigfillset(&all);
  static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_BLOCK, &all, before);
}

static void end_fork(void (*handler)(void)) {
  if (!is_handled) return;
  sigset_t before = signals_before;
  // Another thread may fork as soon as the locks are free.
  freed_t *list = freed_later;
  freed_later = NULL;
  is_handled = false;
  handler();
  while (list) {
    for (size_t index = 0; index < list->count; index++) {
      if (enclave_private_free_held(list->addresses[index]) == ENCLAVE_ERROR_NOT_OURS) {
        (void)enclave_free(list->addresses[index]);
      }
    }
    freed_t *next = list->next;
    munmap(list, sizeof *list);
    list = next;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// A handler that ends the process in the middle of a fork: exit needs the locks. (In a child they count as free.)
static pid_t forking_process;
static void end_fork_at_exit(void *unused) {
  (void)unused;
  if (is_handled && forking_process == getpid()) end_fork(handlers.parent);
}

int __cxa_atexit(void (*)(void *), void *, void *);

static void prepare_arenas(void) {
  if (is_handled) {
    forks_within++;
    return;
  }
  if (!__atomic_load_n(&has_handlers, __ATOMIC_ACQUIRE)) return;
  sigset_t before;
  block_signals(&before);
  is_handled = handlers.prepare();
  if (!is_handled) {
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return;
  }
  signals_before = before;
  // Later than the arenas' own handler, and so it runs before that one.
  static bool watches_exit;
  if (!watches_exit) watches_exit = __cxa_atexit(end_fork_at_exit, NULL, NULL) == 0;
  forking_process = getpid();
}

static void arenas_in_parent(void) {
  if (forks_within > 0) {
    forks_within--;
  } else {
    end_fork(handlers.parent);
  }
}

// Also of a fork within another: the locks are this child's to release.
static void arenas_in_child(void) {
  forks_within = 0;
  end_fork(handlers.child);
}

// Registered early, so that it runs last before a fork: the handlers of other libraries may take locks that a
// thread inside the runtime waits for, for example an allocator's.
__attribute__((constructor)) static void watch_forks(void) {
  // Can only fail for lack of memory; forks are then unprotected.
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  // Runs before that handler, while the runtime may still be used, and in a child after it.
  (void)pthread_atfork(prepare_arenas, arenas_in_parent, arenas_in_child);
}

// --- Wrapped calls of the runtime ----------------------------------------------------------------

// Weak: without --wrap the originals are undefined, and the functions below are never called.
#define REAL(type, name, ...) \
  extern __attribute__((weak)) type __real_##name(__VA_ARGS__); \
  type __wrap_##name(__VA_ARGS__)

REAL(int, pthread_mutex_lock, pthread_mutex_t *mutex) {
  enter();
  return __real_pthread_mutex_lock(mutex);
}

REAL(int, pthread_mutex_unlock, pthread_mutex_t *mutex) {
  int result = __real_pthread_mutex_unlock(mutex);
  leave();
  return result;
}

// Initializes a function-local static variable of the runtime, or waits for the thread that does.
REAL(int, __cxa_guard_acquire, uint64_t *guard) {
  enter();
  int mine = __real___cxa_guard_acquire(guard);
  if (!mine) leave();
  return mine;
}

REAL(void, __cxa_guard_release, uint64_t *guard) {
  __real___cxa_guard_release(guard);
  leave();
}

// swift::threading_impl::once_slow: initializes a lazy global, or waits for the thread that does.
REAL(void, _ZN5swift14threading_impl9once_slowERNS0_6once_tEPFvPvES3_, void *token,
     void (*function)(void *), void *context) {
  enter();
  __real__ZN5swift14threading_impl9once_slowERNS0_6once_tEPFvPvES3_(token, function, context);
  leave();
}
