// Forking while other threads are inside the Swift runtime.
//
// The first use of a type, of a conformance or of a lazy global takes a lock of the runtime's or marks
// the thing as being made. A child that is forked meanwhile inherits that without the thread that would
// end it, and waits for ever when it needs the same thing. The C library resets the locks of its own in
// a child; the runtime offers nothing.
//
// libenclave holds a runtime of its own, so its locks can be watched: Assets/install-enclave links with
// --wrap (ld(1)), which sends the runtime's calls here. fork(2) waits until no other thread is inside,
// and threads that would go in wait until the fork is over. Once everything has had its first use the
// runtime takes no lock any more, and none of this runs.
//
// Limits: _Fork(3) and a raw clone(2) run no handlers of pthread_atfork(3). Nothing calls these
// functions in a program that links the Swift package instead.

#define _GNU_SOURCE
#include "CEnclaveInternal.h"

#include "CEnclaveSystem.h"

#include <pthread.h>

/// How long fork waits for the threads inside, and how long they wait for a fork. Longer means that the
/// two wait for each other, by a lock of the program's; then it is as it would be without this.
enum { FORK_PATIENCE_MS = 5000, ENTRY_PATIENCE_MS = 1000 };

static uint32_t inside;   // threads
static uint32_t forking;  // threads
static __thread uint32_t depth __attribute__((tls_model("initial-exec")));

static bool is_over(uint64_t *end, uint32_t tries, uint32_t patience) {
  if (tries == 0) *end = ces_boottime_ms() + patience;
  return ces_boottime_ms() >= *end;
}

static void enter(void) {
  if (depth == 0) {
    uint64_t end;
    for (uint32_t tries = 0;; tries++) {
      __atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST);
      if (__atomic_load_n(&forking, __ATOMIC_SEQ_CST) == 0) break;
      if (is_over(&end, tries, ENTRY_PATIENCE_MS)) break;
      __atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST);
      ces_back_off(tries);
    }
  }
  depth++;
}

static void leave(void) {
  if (--depth == 0) __atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST);
}

static void before_fork(void) {
  __atomic_fetch_add(&forking, 1, __ATOMIC_SEQ_CST);
  uint32_t own = depth != 0;
  uint64_t end;
  for (uint32_t tries = 0; __atomic_load_n(&inside, __ATOMIC_SEQ_CST) != own; tries++) {
    if (is_over(&end, tries, FORK_PATIENCE_MS)) break;
    ces_back_off(tries);
  }
}

static void after_fork_in_parent(void) { __atomic_fetch_sub(&forking, 1, __ATOMIC_SEQ_CST); }

static void after_fork_in_child(void) {
  __atomic_store_n(&inside, depth != 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&forking, 0, __ATOMIC_SEQ_CST);
}

// What inherits arenas, where there are such arenas.
static cenclave_fork_handlers handlers;
static bool has_handlers;

void cenclave_set_fork_handlers(cenclave_fork_handlers given) {
  if (__atomic_load_n(&has_handlers, __ATOMIC_ACQUIRE)) return;
  handlers = given;
  __atomic_store_n(&has_handlers, true, __ATOMIC_RELEASE);
}

// A fork that began without them ends without them.
static __thread bool is_handled __attribute__((tls_model("initial-exec")));
static void prepare_arenas(void) {
  is_handled = __atomic_load_n(&has_handlers, __ATOMIC_ACQUIRE) && handlers.prepare();
}

// Who forks has the registry's lock, and the list to itself.
enum { MOST_FREED_LATER = 64 };
static void *freed_later[MOST_FREED_LATER];
static uint32_t freed_later_count;

bool enclave_private_is_forking(void) { return is_handled; }

void enclave_private_free_after_fork(void *address) {
  if (freed_later_count < MOST_FREED_LATER) freed_later[freed_later_count++] = address;
}

static void end_fork(void (*handler)(void)) {
  if (!is_handled) return;
  // Another thread may fork as soon as the locks are free.
  void *addresses[MOST_FREED_LATER];
  uint32_t count = freed_later_count;
  for (uint32_t index = 0; index < count; index++) addresses[index] = freed_later[index];
  freed_later_count = 0;
  handler();
  is_handled = false;
  for (uint32_t index = 0; index < count; index++) {
    if (enclave_private_free_held(addresses[index]) == ENCLAVE_ERROR_NOT_OURS) {
      (void)enclave_free(addresses[index]);
    }
  }
}
static void arenas_in_parent(void) { end_fork(handlers.parent); }
static void arenas_in_child(void) { end_fork(handlers.child); }

// Early, so that this handler is the last to run before a fork: those of other libraries may take locks
// that a thread inside waits for, for example an allocator's.
__attribute__((constructor)) static void watch_forks(void) {
  // It fails for want of memory only. Then forks are as dangerous as without this.
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  // Runs before that one, while the runtime is still free to be used, and in a child after it.
  (void)pthread_atfork(prepare_arenas, arenas_in_parent, arenas_in_child);
}

// --- What the runtime calls ----------------------------------------------------------------------

// Weak: where nothing is wrapped, these are not there, and the functions below are not called.
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

// Makes a local static variable of the runtime's, or waits until another thread has.
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

// swift::threading_impl::once_slow: makes a lazy global, or waits until another thread has.
REAL(void, _ZN5swift14threading_impl9once_slowERNS0_6once_tEPFvPvES3_, void *token,
     void (*function)(void *), void *context) {
  enter();
  __real__ZN5swift14threading_impl9once_slowERNS0_6once_tEPFvPvES3_(token, function, context);
  leave();
}
