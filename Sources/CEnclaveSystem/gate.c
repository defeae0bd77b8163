// The gates of a process: thread numbers, the list of gates, and barriers between windows and closers.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "result.h"

// Operation numbers of membarrier(2), which old headers lack; the same on every architecture.
enum { NR_MEMBARRIER_REGISTER = 16, NR_MEMBARRIER = 8 };

// --- Threads -----------------------------------------------------------------------------------

__thread int32_t ces_thread = -1;
static __thread int32_t last_number = -1;  // which this thread has released; its scratch memory may be there still

static uint64_t numbers_in_use = 1ull << (CES_THREADS - 1);  // the last number is shared
static pthread_once_t number_once = PTHREAD_ONCE_INIT;
static int number_key_error;

__thread uint32_t ces_thread_serial_word;
static uint32_t last_serial;

uint32_t ces_thread_serial_make(void) {
  uint32_t serial;
  do serial = __atomic_add_fetch(&last_serial, 1, __ATOMIC_RELAXED);
  while (serial == 0);
  return ces_thread_serial_word = serial;
}

static ces_gate *gates;
static uint64_t gates_generation;  // the process these gates belong to; a forked child starts a new list
static uint32_t gates_lock;

void ces_gate_list(ces_gate *gate) {
  ces_process_lock(&gates_lock);
  if (gates_generation != gate->generation) {
    gates = NULL;
    __atomic_store_n(&gates_generation, gate->generation, __ATOMIC_RELEASE);
  }
  gate->next = gates;
  gate->link = &gates;
  if (gates) gates->link = &gate->next;
  gates = gate;
  ces_spin_unlock(&gates_lock);
}

void ces_gate_unlist(ces_gate *gate) {
  ces_process_lock(&gates_lock);
  // In a forked child, an inherited gate is still linked into the parent's list.
  if (gate->link && gate->generation == ces_fork_generation()) {
    *gate->link = gate->next;
    if (gate->next) gate->next->link = gate->link;
  }
  gate->link = NULL;
  ces_spin_unlock(&gates_lock);
}

/// Whether an ending thread has windows open that are not recorded as abandoned yet. With `records`, records them: no
/// other thread can close them.
static bool has_open_windows(int32_t number, bool records) {
  uint64_t generation = __atomic_load_n(&gates_generation, __ATOMIC_ACQUIRE);
  if (generation == 0 || generation != ces_fork_generation()) return false;
  bool found = false;
  ces_process_lock(&gates_lock);
  for (ces_gate *gate = gates; gate; gate = gate->next) {
    ces_counters *counters = ces_gate_counters(gate, number);
    if (!counters) continue;
    uint32_t reads = ces_load_relaxed(&counters->reads) & CES_OPEN_MASK;
    uint32_t writes = ces_load_relaxed(&counters->writes) & CES_OPEN_MASK;
    // Those of earlier threads with this number are recorded already.
    found |= reads != ces_load_relaxed32(&counters->abandoned_reads) ||
             writes != ces_load_relaxed32(&counters->abandoned_writes);
    if (!records) continue;
    __atomic_store_n(&counters->abandoned_reads, reads, __ATOMIC_RELAXED);
    __atomic_store_n(&counters->abandoned_writes, writes, __ATOMIC_RELAXED);
  }
  ces_spin_unlock(&gates_lock);
  return found;
}

static pthread_key_t number_key;

static void release_number(void *value) {
  int32_t number = (int32_t)((uintptr_t)value & 0xff) - 1;
  // Destructors of other keys may still close windows. While this thread has some open, its number is kept, at most
  // until the last of the four rounds of destructors that pthread_key_create(3) guarantees. The shared number is always
  // kept until then, because others' windows are counted there, too. Any other number is released at once: if a
  // destructor took it, there may be no further round.
#if defined(CES_THREAD_SANITIZER)
  // By the last round the sanitizer has released the thread's state, and instrumented code must not run.
  enum { ROUND = 0x100, LAST_ROUND = 2 };
#else
  enum { ROUND = 0x100, LAST_ROUND = 3 };
#endif
  uintptr_t round = (uintptr_t)value / ROUND;
  bool is_shared = number == CES_THREADS - 1;
  if (round < LAST_ROUND && (is_shared || has_open_windows(number, false)) &&
      pthread_setspecific(number_key, (void *)((uintptr_t)value + ROUND)) == 0) {
    return;
  }
  if (!is_shared) has_open_windows(number, true);
  ces_thread = -1;  // destructors that run later take a new number
  ces_alternate_stack_free();
  if (is_shared) return;
  last_number = number;
  ces_thread_number_return(number);
}

static void make_number_key(void) {
  number_key_error = pthread_key_create(&number_key, release_number);
}

// Created early, so that the key is among the first 32: pthread_setspecific(3) allocates memory only for
// later keys, and a thread's first window may be in a signal handler.
__attribute__((constructor)) static void make_number_key_early(void) {
  pthread_once(&number_once, make_number_key);
}

static __thread bool is_registering;

int32_t ces_thread_register(void) {
  // The caller is a signal handler that interrupted this function. It returns before this function goes on,
  // so the shared number is enough for it.
  if (is_registering) return CES_THREADS - 1;
  is_registering = true;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  pthread_once(&number_once, make_number_key);
  int32_t number = CES_THREADS - 1;
  uint64_t used = __atomic_load_n(&numbers_in_use, __ATOMIC_RELAXED);
  // Without a destructor the number would never be released, so this thread uses the shared number.
  while (number_key_error == 0 && used != UINT64_MAX) {
    int32_t free = last_number >= 0 && !(used >> last_number & 1) ? last_number : __builtin_ctzll(~used);
    if (__atomic_compare_exchange_n(&numbers_in_use, &used, used | 1ull << free, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
      number = free;
      break;
    }
  }
  if (number_key_error == 0 &&
      pthread_setspecific(number_key, (void *)(uintptr_t)(number + 1)) != 0 &&
      number != CES_THREADS - 1) {
    ces_thread_number_return(number);
    number = CES_THREADS - 1;
  }
  ces_thread = number;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  is_registering = false;
  // So that this thread can wipe even after its stack has overflowed. A failed allocation is counted.
  if (ces_wipe_status() != CES_WIPE_ABSENT) ces_alternate_stack();
  return number;
}

bool ces_thread_number_take(int32_t number) {
  uint64_t bit = 1ull << number;
  return (__atomic_fetch_or(&numbers_in_use, bit, __ATOMIC_ACQUIRE) & bit) == 0;
}

void ces_thread_number_return(int32_t number) {
  __atomic_fetch_and(&numbers_in_use, ~(1ull << number), __ATOMIC_RELEASE);
}

void ces_threads_inherit(void) {
  uint64_t own = ces_thread >= 0 ? 1ull << ces_thread : 0;
  __atomic_store_n(&numbers_in_use, own | 1ull << (CES_THREADS - 1), __ATOMIC_RELEASE);
}

// --- Barriers ----------------------------------------------------------------------------------

uint32_t ces_windows_fence = 0;
void ces_windows_need_fence(void) { __atomic_store_n(&ces_windows_fence, 1, __ATOMIC_SEQ_CST); }

int64_t ces_barrier_register(void) {
  RESULT(syscall(SYS_membarrier, NR_MEMBARRIER_REGISTER, 0, 0));
}

int64_t ces_membarrier(void) { RESULT(syscall(SYS_membarrier, NR_MEMBARRIER, 0, 0)); }

int64_t ces_barrier(void) {
  if (__atomic_load_n(&ces_windows_fence, __ATOMIC_RELAXED)) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return 0;
  }
  return ces_membarrier();
}

void ces_barrier_replace(void) {
  ces_windows_need_fence();
  struct timespec left = {0, 2000000};
  int error = errno;
  while (nanosleep(&left, &left) < 0 && errno == EINTR) {
  }
  errno = error;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
