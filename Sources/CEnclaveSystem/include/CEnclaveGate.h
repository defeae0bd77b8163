// The gate of an arena: what entering and leaving a window touches, without a lock or a system call.
//
// Each thread counts its windows in its own counters, by plain stores. A thread that wants to close an
// arena (freeze, destroy) sets `access`, runs a barrier on every thread (membarrier(2), private expedited)
// and reads the counters. It then sees every window counted before, and every later window sees `access`.
// The closer pays for the ordering, not the windows.
//
// A window opens the arena's protection key for its own thread: it saves the key's two PKRU bits, opens
// them as far as requested, and later restores them. So nested windows and signal handlers (which start
// with every key closed) unwind correctly. pkeys(7), Intel SDM volume 3A, 4.6.2.

#ifndef C_ENCLAVE_GATE_H
#define C_ENCLAVE_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Threads with counters of their own; the others share the last ones, by atomic additions.
enum { CES_THREADS = 64 };

/// One thread's windows to one arena. A word of windows is (opened so far) << 20 | (open now): opening adds
/// CES_OPENED, and closing subtracts 1.
///
/// Nothing here takes a lock or calls malloc(3), because a thread's first window, or its first with a
/// label, may be in a signal handler. A thread that needs more labels gets a longer array in front of the
/// shorter ones; the count of a label is the sum over its arrays.
typedef struct {
  uint64_t reads, writes;
  uint32_t wiping;  // frees in progress
  uint32_t label;  // of the window that this thread opened last
  uint32_t abandoned_reads, abandoned_writes;  // windows that were open when their thread ended
  uint64_t reserved[2];
  uint64_t *labels;  // the same words by label: the longest array
  uint64_t label_count;  // how many of its entries are in use
} ces_counters;  // one cache line, aligned to its size

#define CES_OPENED (1u << 20 | 1u)
enum { CES_OPEN_MASK = (1 << 20) - 1, CES_OPENS_SHIFT = 20 };

enum : uint32_t {
  CES_ACCESS_OPEN = 0,
  CES_ACCESS_FROZEN = 1,  // read only
  CES_ACCESS_DESTROYED = 2,  // no access
  CES_ACCESS_CHANGING = 3,  // wait and retry
};

typedef struct ces_gate {
  uint32_t access;
  uint32_t key_bits;  // 3 << 2 * key; 0 without a key
  uint32_t frozen;  // 1 once frozen, also while `access` is CHANGING
  uint32_t wiped;  // 1 from just before the contents are wiped under open windows
  uint32_t serves_all;  // belongs to no arena: its memory is written in windows of any arena
  uint64_t generation;
  uint64_t missed_opens;  // windows that failed to open and are counted nowhere else
  ces_counters *counters[CES_THREADS];
  struct ces_gate *next, **link;  // all gates of the process, for ending threads
} ces_gate;

enum {
  CES_WINDOW_OPEN = 0,
  CES_WINDOW_NO_COUNTERS = 1,  // this thread's first window here, or its first with this label
  CES_WINDOW_FORKED = 2,
  CES_WINDOW_FROZEN = 3,
  CES_WINDOW_DESTROYED = 4,
  CES_WINDOW_CHANGING = 5,
};

/// This thread's number; -1 before its first window. Initial-exec: one load from the thread pointer.
extern __thread int32_t ces_thread __attribute__((tls_model("initial-exec")));
/// Gives this thread a number, which is released when the thread ends.
int32_t ces_thread_register(void);
static inline int32_t ces_thread_number(void) {
  int32_t number = ces_thread;
  return number >= 0 ? number : ces_thread_register();
}

/// Takes a number that no thread has, so that none gets it meanwhile; false if a thread has it.
bool ces_thread_number_take(int32_t number);
void ces_thread_number_return(int32_t number);

/// A serial number of this thread, never 0, unique in the process until 2^32 threads have had one.
extern __thread uint32_t ces_thread_serial_word __attribute__((tls_model("initial-exec")));
uint32_t ces_thread_serial_make(void);
static inline uint32_t ces_thread_serial(void) {
  uint32_t serial = ces_thread_serial_word;
  return serial != 0 ? serial : ces_thread_serial_make();
}

/// 1 where membarrier(2) is unavailable: then every window executes a fence.
extern uint32_t ces_windows_fence;
void ces_windows_need_fence(void);
int64_t ces_barrier_register(void);
/// membarrier(2), private and expedited. Returns -errno on failure.
int64_t ces_membarrier(void);
/// Runs a full barrier on every thread of the process. Returns -errno of membarrier(2).
int64_t ces_barrier(void);
/// Replaces ces_barrier after membarrier(2) has failed: from now on windows execute a fence, and this call
/// waits until the stores of earlier windows are visible (2 ms; a processor takes less than a microsecond).
/// Async-signal-safe.
void ces_barrier_replace(void);

static inline uint32_t ces_rdpkru(void) {
#if defined(__x86_64__)
  uint32_t value, unused;
  __asm__ volatile("rdpkru" : "=a"(value), "=d"(unused) : "c"(0));
  return value;
#else
  return 0;
#endif
}

static inline void ces_wrpkru(uint32_t value) {
#if defined(__x86_64__)
  __asm__ volatile("wrpkru" ::"a"(value), "c"(0), "d"(0) : "memory");
#else
  (void)value;
#endif
}

/// Opens the key with these PKRU bits. Returns the bits' previous value. Only ever opens it further: a read
/// window inside a write window leaves the key writable.
static inline uint32_t ces_key_open(uint32_t bits, bool writing) {
  if (bits == 0) return 0;
  uint32_t old = ces_rdpkru(), disable_access = bits & 0x55555555u;
  uint32_t now = writing ? old & ~bits
                 : (old & disable_access) ? (old & ~bits) | (bits & ~disable_access) : old;
  if (now != old) ces_wrpkru(now);
  return old & bits;
}

/// Restores the bits that ces_key_open returned. Other keys stay as they are.
static inline void ces_key_close(uint32_t bits, uint32_t found) {
  if (bits == 0) return;
  uint32_t old = ces_rdpkru(), now = (old & ~bits) | found;
  if (now != old) ces_wrpkru(now);
}

// The thread sanitizer does not see assembly. GCC defines __SANITIZE_THREAD__; clang has a feature test.
#if defined(__SANITIZE_THREAD__)
#define CES_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CES_THREAD_SANITIZER 1
#endif
#endif

// Adds with one instruction, so that no signal handler's window comes between the load and the store.
#if defined(__x86_64__) && !defined(CES_THREAD_SANITIZER)
#define CES_ADD(p, d, shared)                                                      \
  do {                                                                             \
    if (shared) {                                                                  \
      __atomic_fetch_add((p), (d), __ATOMIC_RELAXED);                              \
    } else if (sizeof(*(p)) == 8) {                                                \
      __asm__ volatile("addq %1, %0" : "+m"(*(p)) : "er"((int64_t)(int32_t)(d)) : "cc");    \
    } else {                                                                       \
      __asm__ volatile("addl %1, %0" : "+m"(*(p)) : "er"((int32_t)(d)) : "cc");    \
    }                                                                              \
  } while (0)
#else
#define CES_ADD(p, d, shared) ((void)(shared), __atomic_fetch_add((p), (d), __ATOMIC_RELAXED))
#endif

extern uint64_t *ces_fork_word;

static inline bool ces_is_own(const void *raw) {
  const ces_gate *gate = raw;
  uint64_t *word = __atomic_load_n(&ces_fork_word, __ATOMIC_RELAXED);
  return word && __atomic_load_n(word, __ATOMIC_RELAXED) == gate->generation;
}

static inline void ces_windows_order(void) {
  if (__builtin_expect(__atomic_load_n(&ces_windows_fence, __ATOMIC_RELAXED), 0)) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
  } else {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
  }
}

static inline uint64_t *ces_counters_labels(ces_counters *counters) {
  return __atomic_load_n(&counters->labels, __ATOMIC_RELAXED);
}

/// Counts a window; opens no key. Returns CES_WINDOW_….
static inline int ces_window_enter(void *raw, bool writing, uint32_t label) {
  ces_gate *gate = raw;
  if (__builtin_expect(!ces_is_own(gate), 0)) return CES_WINDOW_FORKED;
  int32_t number = ces_thread_number();
  bool shared = number == CES_THREADS - 1;
  ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_ACQUIRE);
  if (__builtin_expect(
          !counters || label >= __atomic_load_n(&counters->label_count, __ATOMIC_ACQUIRE), 0)) {
    return CES_WINDOW_NO_COUNTERS;
  }
  uint64_t *word = writing ? &counters->writes : &counters->reads;
  CES_ADD(word, CES_OPENED, shared);
  ces_windows_order();
  uint32_t access = __atomic_load_n(&gate->access, __ATOMIC_RELAXED);
  if (__builtin_expect(access != CES_ACCESS_OPEN, 0) &&
      !(access == CES_ACCESS_FROZEN && !writing)) {
    CES_ADD(word, -(int32_t)CES_OPENED, shared);
    return access == CES_ACCESS_FROZEN      ? CES_WINDOW_FROZEN
           : access == CES_ACCESS_DESTROYED ? CES_WINDOW_DESTROYED
                                            : CES_WINDOW_CHANGING;
  }
  __atomic_store_n(&counters->label, label, __ATOMIC_RELAXED);
  CES_ADD(&ces_counters_labels(counters)[label], CES_OPENED, shared);
  return CES_WINDOW_OPEN;
}

/// Ends the count of a window. `undone`: it was counted but could not be opened.
static inline void ces_window_leave(void *raw, bool writing, uint32_t label, bool undone) {
  ces_gate *gate = raw;
  int32_t number = ces_thread_number();
  bool shared = number == CES_THREADS - 1;
  ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_RELAXED);
  int32_t change = undone ? -(int32_t)CES_OPENED : -1;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  CES_ADD(&ces_counters_labels(counters)[label], change, shared);
  CES_ADD(writing ? &counters->writes : &counters->reads, change, shared);
}

/// Counts a free. Allowed while the arena is frozen, too. Returns CES_WINDOW_….
static inline int ces_wipe_enter(void *raw) {
  ces_gate *gate = raw;
  if (!ces_is_own(gate)) return CES_WINDOW_FORKED;
  int32_t number = ces_thread_number();
  ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_ACQUIRE);
  if (!counters) return CES_WINDOW_NO_COUNTERS;
  CES_ADD(&counters->wiping, 1, number == CES_THREADS - 1);
  ces_windows_order();
  uint32_t access = __atomic_load_n(&gate->access, __ATOMIC_RELAXED);
  if (__builtin_expect(access >= CES_ACCESS_DESTROYED, 0)) {
    CES_ADD(&counters->wiping, -1, number == CES_THREADS - 1);
    return access == CES_ACCESS_DESTROYED ? CES_WINDOW_DESTROYED : CES_WINDOW_CHANGING;
  }
  return CES_WINDOW_OPEN;
}

static inline void ces_wipe_leave(void *raw) {
  ces_gate *gate = raw;
  int32_t number = ces_thread_number();
  ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_RELAXED);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  CES_ADD(&counters->wiping, -1, number == CES_THREADS - 1);
}

/// Allocates this thread's counters, with room for a label. -ENOMEM if there is no memory.
/// Async-signal-safe.
int64_t ces_counters_make(ces_gate *gate, uint32_t label);
/// A label's windows in a thread's counters: the sum over its arrays.
uint64_t ces_counters_label(const ces_counters *counters, uint32_t label);
/// Whether this thread is inside a free of this arena. If so, the caller is a signal handler.
static inline bool ces_is_wiping(const void *raw) {
  const ces_gate *gate = raw;
  int32_t number = ces_thread;
  // The shared counters may count another thread's frees.
  if (number < 0 || number == CES_THREADS - 1) return false;
  const ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_RELAXED);
  return counters && __atomic_load_n(&counters->wiping, __ATOMIC_RELAXED) != 0;
}
static inline ces_counters *ces_gate_counters(const ces_gate *gate, int32_t number) {
  return __atomic_load_n(&gate->counters[number], __ATOMIC_ACQUIRE);
}
void ces_counters_free(ces_gate *gate);
/// Adds a gate to the list in which ending threads look for their open windows; ces_counters_free removes
/// it. The caller holds the registry's lock.
void ces_gate_list(ces_gate *gate);
void ces_gate_unlist(ces_gate *gate);
/// In a forked child: makes the gate belong to this process, without the windows and frees of threads that
/// do not exist here. The caller holds the registry's lock, and nobody else uses the gate.
void ces_gate_inherit(ces_gate *gate, uint64_t generation);
/// In a forked child: releases the numbers of the parent's other threads.
void ces_threads_inherit(void);

/// pkey_alloc(2), closed for the calling thread too.
int64_t ces_key_allocate(void);
/// pkey_mprotect(2): readable and writable, under the key.
int64_t ces_key_protect(void *address, size_t length, int key);
/// The library's keys, as PKRU bits: a new thread must not start with any of them open.
extern uint32_t ces_pool_bits;
void ces_pool_add(uint32_t bits);
static inline uint32_t ces_pool(void) { return __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED); }
/// Test only: lets new threads inherit open keys.
void ces_pool_clear(void);
/// mseal(2), Linux 6.10.
int64_t ces_seal(void *address, size_t length);
/// Maps memfd_secret(2) memory of this length over [address, address + length), shared.
int64_t ces_map_secret(void *address, size_t length);
/// madvise(2), MADV_DONTNEED.
int64_t ces_discard(void *address, size_t length);
int64_t ces_guard_probe(void *address, size_t length);
int64_t ces_memory_tagging_probe(void);

static inline uint32_t ces_load_relaxed32(const uint32_t *p) {
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline void ces_store_release32(uint32_t *p, uint32_t value) {
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
}
static inline bool ces_exchange32(uint32_t *p, uint32_t from, uint32_t to) {
  return __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline uint64_t ces_add_relaxed(uint64_t *p, uint64_t value) {
  return __atomic_add_fetch(p, value, __ATOMIC_RELAXED);
}
/// Decrements a reference count. Whoever gets 0 sees what was done through the other references.
static inline uint64_t ces_drop_reference(uint64_t *p) {
  return __atomic_sub_fetch(p, 1, __ATOMIC_ACQ_REL);
}
static inline void ces_prefetch(const void *p) { __builtin_prefetch(p, 1, 3); }

/// Zeros a multiple of 16 bytes. Up to 64 bytes take a few stores that are never optimised away; more goes
/// through explicit_bzero(3).
void ces_wipe(void *address, size_t length);
static inline void ces_wipe_slot(void *address, size_t length) {
  if (__builtin_expect(length > 64, 0)) {
    ces_wipe(address, length);
    return;
  }
  for (size_t offset = 0; offset < length; offset += 16) {
    __builtin_memset((char *)address + offset, 0, 16);
    __asm__ volatile("" ::"r"(address) : "memory");  // separate stores, and no loop that becomes a call
  }
}

// The same for Swift, with plain pointers: functions that name a C structure are not inlined across
// modules.
static inline uint32_t ces_gate_key_open(void *raw, bool writing) {
  return ces_key_open(((ces_gate *)raw)->key_bits, writing);
}
static inline void ces_gate_key_close(void *raw, uint32_t found) {
  ces_key_close(((ces_gate *)raw)->key_bits, found);
}
static inline uint32_t ces_gate_access(void *raw) {
  return ces_load_relaxed32(&((ces_gate *)raw)->access);
}
/// If this returns 0, whatever the caller has read so far was read before any wipe.
static inline uint32_t ces_gate_is_wiped(void *raw) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return ces_load_relaxed32(&((ces_gate *)raw)->wiped);
}
static inline uint32_t ces_gate_is_frozen(void *raw) {
  return ces_load_relaxed32(&((ces_gate *)raw)->frozen);
}

#endif
