// Threads' numbers, counters, protection keys, seals, secret memory.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Numbers of calls that the C library's headers do not know yet; the same on every architecture.
enum { NR_MSEAL = 462, NR_MEMFD_SECRET = 447, NR_MEMBARRIER_REGISTER = 16, NR_MEMBARRIER = 8 };
enum { ADVICE_GUARD_INSTALL = 102, ADVICE_GUARD_REMOVE = 103 };

// --- Threads -----------------------------------------------------------------------------------

_Static_assert(sizeof(ces_counters) == 64, "a cache line");

__thread int32_t ces_thread = -1;

static uint64_t numbers_in_use = 1ull << (CES_THREADS - 1);  // the last is everybody's
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
static uint64_t gates_generation;  // of which process these are; a forked child begins anew
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

static void unlist(ces_gate *gate) {
  ces_process_lock(&gates_lock);
  // In a forked child, an inherited gate stands in its parent's list.
  if (gate->link && gate->generation == ces_fork_generation()) {
    *gate->link = gate->next;
    if (gate->next) gate->next->link = gate->link;
  }
  gate->link = NULL;
  ces_spin_unlock(&gates_lock);
}

/// Notes the windows that a thread leaves open: no other thread can close them.
static void abandon_windows(int32_t number) {
  uint64_t generation = __atomic_load_n(&gates_generation, __ATOMIC_ACQUIRE);
  if (generation == 0 || generation != ces_fork_generation()) return;
  ces_process_lock(&gates_lock);
  for (ces_gate *gate = gates; gate; gate = gate->next) {
    ces_counters *counters = ces_gate_counters(gate, number);
    if (!counters) continue;
    __atomic_store_n(&counters->abandoned_reads, ces_load_relaxed(&counters->reads) & CES_OPEN_MASK,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&counters->abandoned_writes, ces_load_relaxed(&counters->writes) & CES_OPEN_MASK,
                     __ATOMIC_RELAXED);
  }
  ces_spin_unlock(&gates_lock);
}

static pthread_key_t number_key;

static void give_number_back(void *value) {
  int32_t number = (int32_t)((uintptr_t)value & 0xff) - 1;
  // Other destructors may still close windows: the number goes in the last of the rounds that
  // pthread_key_create(3) promises (four).
#if defined(CES_THREAD_SANITIZER)
  // In the last one the sanitizer forgets the thread: what runs after that must not be instrumented.
  enum { ROUND = 0x100, LAST_ROUND = 2 };
#else
  enum { ROUND = 0x100, LAST_ROUND = 3 };
#endif
  uintptr_t round = (uintptr_t)value / ROUND;
  if (round < LAST_ROUND &&
      pthread_setspecific(number_key, (void *)((uintptr_t)value + ROUND)) == 0) {
    return;
  }
  if (number != CES_THREADS - 1) abandon_windows(number);
  ces_thread = -1;  // destructors that run after this one take a new one
  ces_alternate_stack_free();
  if (number != CES_THREADS - 1) {
    __atomic_fetch_and(&numbers_in_use, ~(1ull << number), __ATOMIC_RELEASE);
  }
}

static void make_number_key(void) {
  number_key_error = pthread_key_create(&number_key, give_number_back);
}

// Early, so that the key is one of the first: pthread_setspecific(3) needs memory only for later ones
// (the C library keeps 32 in each thread), and a thread's first window may be a signal handler's.
__attribute__((constructor)) static void make_number_key_early(void) {
  pthread_once(&number_once, make_number_key);
}

static __thread bool is_registering;

int32_t ces_thread_register(void) {
  // A handler that interrupted this: it is done before this goes on, and needs no number of its own.
  if (is_registering) return CES_THREADS - 1;
  is_registering = true;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  pthread_once(&number_once, make_number_key);
  int32_t number = CES_THREADS - 1;
  uint64_t used = __atomic_load_n(&numbers_in_use, __ATOMIC_RELAXED);
  // Without a destructor the number would never come back: then this thread shares the last one.
  while (number_key_error == 0 && used != UINT64_MAX) {
    int32_t free = __builtin_ctzll(~used);
    if (__atomic_compare_exchange_n(&numbers_in_use, &used, used | 1ull << free, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
      number = free;
      break;
    }
  }
  if (number_key_error == 0 &&
      pthread_setspecific(number_key, (void *)(uintptr_t)(number + 1)) != 0 &&
      number != CES_THREADS - 1) {
    __atomic_fetch_and(&numbers_in_use, ~(1ull << number), __ATOMIC_RELEASE);
    number = CES_THREADS - 1;
  }
  ces_thread = number;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  is_registering = false;
  // A thread whose stack ends must still be able to wipe. Where there is no memory for it, that is
  // counted.
  if (ces_wipe_status() != CES_WIPE_ABSENT) ces_alternate_stack();
  return number;
}

// --- Memory for counts ---------------------------------------------------------------------------
//
// A thread's first window to an arena may be a signal handler's, which interrupted anything: malloc(3),
// or this. So the memory comes from blocks of its own, by one atomic addition; what arenas that are
// gone gave back is used again where the lock of that list is free.

enum { COUNTS_LEAST = 64, COUNTS_SIZES = 11, COUNTS_BLOCK = 64 * 1024, COUNTS_HEADER = 64 };

typedef struct {
  size_t used;
} counts_block;

/// In front of an array of labels' words.
typedef struct labels {
  struct labels *next;  // the one that it took over from
  uint64_t count;
  size_t bytes;
  uint64_t reserved[5];
  uint64_t words[];
} labels_t;
_Static_assert(sizeof(labels_t) == 64, "a cache line");

static counts_block *counts_current;
static void *counts_free[COUNTS_SIZES];  // by size, from COUNTS_LEAST on, under the lock
static uint32_t counts_lock;

static void *counts_map(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/// Zeros; `bytes` is COUNTS_LEAST or a power of two above it. NULL when there is no memory.
static void *counts_take(size_t bytes) {
  int size = __builtin_ctzll(bytes / COUNTS_LEAST);
  if (size >= COUNTS_SIZES || bytes > COUNTS_BLOCK - COUNTS_HEADER) return counts_map(bytes);
  if (__atomic_load_n(&counts_free[size], __ATOMIC_RELAXED) && ces_process_try(&counts_lock)) {
    void *found = counts_free[size];
    if (found) __atomic_store_n(&counts_free[size], *(void **)found, __ATOMIC_RELAXED);
    ces_spin_unlock(&counts_lock);
    if (found) return memset(found, 0, bytes);
  }
  for (;;) {
    counts_block *block = __atomic_load_n(&counts_current, __ATOMIC_ACQUIRE);
    if (block) {
      size_t at = __atomic_fetch_add(&block->used, bytes, __ATOMIC_RELAXED);
      if (at + bytes <= COUNTS_BLOCK) return (char *)block + at;
    }
    counts_block *made = counts_map(COUNTS_BLOCK);
    if (!made) return NULL;
    made->used = COUNTS_HEADER + bytes;
    if (__atomic_compare_exchange_n(&counts_current, &block, made, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED)) {
      return (char *)made + COUNTS_HEADER;
    }
    munmap(made, COUNTS_BLOCK);
  }
}

/// Not in a signal handler.
static void counts_give(void *counts, size_t bytes) {
  int size = __builtin_ctzll(bytes / COUNTS_LEAST);
  if (size >= COUNTS_SIZES || bytes > COUNTS_BLOCK - COUNTS_HEADER) {
    munmap(counts, bytes);
    return;
  }
  ces_process_lock(&counts_lock);
  *(void **)counts = counts_free[size];
  __atomic_store_n(&counts_free[size], counts, __ATOMIC_RELAXED);
  ces_spin_unlock(&counts_lock);
}

// --- Counters --------------------------------------------------------------------------------------

static labels_t *labels_of(uint64_t *words) {
  return words ? (labels_t *)((char *)words - sizeof(labels_t)) : NULL;
}

static int64_t make_labels(ces_counters *counters, uint32_t label, bool shared) {
  for (;;) {
    uint64_t *words = __atomic_load_n(&counters->labels, __ATOMIC_ACQUIRE);
    labels_t *before = labels_of(words);
    if (before && label < before->count) {
      // Only ever more: a handler that came in between may have left more than is known here.
      uint64_t known = __atomic_load_n(&counters->label_count, __ATOMIC_RELAXED);
      while (known < before->count &&
             !__atomic_compare_exchange_n(&counters->label_count, &known, before->count, false,
                                          __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
      }
      return 0;
    }
    // Several threads count in the shared one: it is made once, with all the labels that there will
    // ever be room for.
    size_t bytes = shared ? 65536 * sizeof(uint64_t) : 2 * COUNTS_LEAST;
    while (bytes / sizeof(uint64_t) - sizeof(labels_t) / sizeof(uint64_t) <= label) bytes *= 2;
    labels_t *made = counts_take(bytes);
    if (!made) return -ENOMEM;
    made->next = before;
    made->bytes = bytes;
    made->count = bytes / sizeof(uint64_t) - sizeof(labels_t) / sizeof(uint64_t);
    // Another's that came first stays; this one's memory is lost then, which is little and rare.
    if (!__atomic_compare_exchange_n(&counters->labels, &words, made->words, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED) &&
        shared) {
      munmap(made, bytes);
    }
  }
}

int64_t ces_counters_make(ces_gate *gate, uint32_t label) {
  int32_t number = ces_thread_number();
  ces_counters *counters = __atomic_load_n(&gate->counters[number], __ATOMIC_ACQUIRE);
  if (!counters) {
    ces_counters *made = counts_take(sizeof *made);
    if (!made) return -ENOMEM;
    counters = made;
    ces_counters *other = NULL;
    if (!__atomic_compare_exchange_n(&gate->counters[number], &other, made, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
      counters = other;
    }
  }
  return make_labels(counters, label, number == CES_THREADS - 1);
}

uint64_t ces_counters_label(const ces_counters *counters, uint32_t label) {
  uint64_t sum = 0;
  for (labels_t *at = labels_of(__atomic_load_n(&counters->labels, __ATOMIC_ACQUIRE)); at;
       at = at->next) {
    if (label < at->count) sum += __atomic_load_n(&at->words[label], __ATOMIC_RELAXED);
  }
  return sum;
}

void ces_counters_free(ces_gate *gate) {
  unlist(gate);
  for (int i = 0; i < CES_THREADS; i++) {
    ces_counters *counters = gate->counters[i];
    if (!counters) continue;
    for (labels_t *at = labels_of(counters->labels); at;) {
      labels_t *next = at->next;
      counts_give(at, at->bytes);
      at = next;
    }
    counts_give(counters, sizeof *counters);
    gate->counters[i] = NULL;
  }
}

void ces_gate_inherit(ces_gate *gate, uint64_t generation) {
  for (int i = 0; i < CES_THREADS; i++) {
    ces_counters *counters = gate->counters[i];
    if (!counters) continue;
    counters->wiping = counters->abandoned_reads = counters->abandoned_writes = 0;
    // Windows that belong to no thread are counted in the shared counters: they stay open.
    if (i == ces_thread || i == CES_THREADS - 1) continue;
    counters->reads &= ~(uint64_t)CES_OPEN_MASK;
    counters->writes &= ~(uint64_t)CES_OPEN_MASK;
    for (labels_t *at = labels_of(counters->labels); at; at = at->next) {
      for (uint64_t label = 0; label < at->count; label++) at->words[label] &= ~(uint64_t)CES_OPEN_MASK;
    }
  }
  gate->generation = generation;
  gate->link = NULL;
  ces_gate_list(gate);
}

void ces_threads_inherit(void) {
  uint64_t own = ces_thread >= 0 ? 1ull << ces_thread : 0;
  __atomic_store_n(&numbers_in_use, own | 1ull << (CES_THREADS - 1), __ATOMIC_RELEASE);
}

int64_t ces_processors(void) { return sysconf(_SC_NPROCESSORS_ONLN); }

// --- Barriers ----------------------------------------------------------------------------------

uint32_t ces_windows_fence = 0;
void ces_windows_need_fence(void) { __atomic_store_n(&ces_windows_fence, 1, __ATOMIC_SEQ_CST); }

int64_t ces_barrier_register(void) {
  long result = syscall(SYS_membarrier, NR_MEMBARRIER_REGISTER, 0, 0);
  return result < 0 ? -errno : 0;
}

int64_t ces_membarrier(void) {
  long result = syscall(SYS_membarrier, NR_MEMBARRIER, 0, 0);
  return result < 0 ? -errno : 0;
}

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

// --- Protection keys ---------------------------------------------------------------------------

uint32_t ces_pool_bits = 0;
void ces_pool_add(uint32_t bits) { __atomic_fetch_or(&ces_pool_bits, bits, __ATOMIC_SEQ_CST); }
void ces_pool_forget(void) { __atomic_store_n(&ces_pool_bits, 0, __ATOMIC_SEQ_CST); }

int64_t ces_key_allocate(void) {
#if defined(__x86_64__)
  int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  return key < 0 ? -errno : key;
#else
  return -ENOSYS;
#endif
}

int64_t ces_key_protect(void *address, size_t length, int key) {
  return pkey_mprotect(address, length, PROT_READ | PROT_WRITE, key) < 0 ? -errno : 0;
}

// A thread inherits its creator's PKRU (measured; pkeys(7)). One that is born in a window closes
// the pool's keys before it runs anything: this definition comes before the C library's for
// everything in the process that makes threads, the Swift runtime and libdispatch included.

typedef int pthread_create_function(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

// The thread sanitizer has an interceptor of its own, which must go on seeing threads.
extern pthread_create_function __interceptor_pthread_create __attribute__((weak));

typedef struct {
  void *(*start)(void *);
  void *argument;
} birth_t;

static void *born_closed(void *raw) {
  birth_t birth = *(birth_t *)raw;
  free(raw);
  ces_wrpkru(ces_rdpkru() | __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED));
  return birth.start(birth.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument) {
  static pthread_create_function *next;
  pthread_create_function *make = __atomic_load_n(&next, __ATOMIC_RELAXED);
  if (!make) {
    // A sanitizer's comes after this one where this one is the program's own; where this one lies
    // in a shared library, the sanitizer's came first.
    make = __interceptor_pthread_create && ces_threads_start_closed()
               ? __interceptor_pthread_create
               : (pthread_create_function *)dlsym(RTLD_NEXT, "pthread_create");
    if (!make) return EAGAIN;
    __atomic_store_n(&next, make, __ATOMIC_RELAXED);
  }
  uint32_t bits = __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED);
  // A key is closed when its access is disabled, whatever its write bit says.
  uint32_t access = bits & 0x55555555u;
  if (bits == 0 || (ces_rdpkru() & access) == access) {
    return make(thread, attributes, start, argument);
  }
  birth_t *birth = malloc(sizeof *birth);
  if (!birth) return EAGAIN;
  *birth = (birth_t){start, argument};
  int result = make(thread, attributes, born_closed, birth);
  if (result != 0) free(birth);
  return result;
}

int ces_threads_start_closed(void) {
  Dl_info used, own;
  void *create = dlsym(RTLD_DEFAULT, "pthread_create");
  return create && dladdr(create, &used) && dladdr((void *)born_closed, &own) &&
         used.dli_fbase == own.dli_fbase;
}

// --- Seals, secret memory, probes --------------------------------------------------------------

int64_t ces_seal(void *address, size_t length) {
  long result = syscall(NR_MSEAL, address, length, 0);
  return result < 0 ? -errno : 0;
}

static int64_t set_length(int fd, uint64_t length) {
  return ftruncate(fd, (off_t)length) < 0 ? -errno : 0;
}

int64_t ces_map_secret(void *address, size_t length) {
  long fd = syscall(NR_MEMFD_SECRET, 02000000 /* O_CLOEXEC */);
  if (fd < 0) return -errno;
  int64_t result = 0;
  if (length > 0) {
    // memfd_secret(2)'s files are under RLIMIT_FSIZE too.
    result = ces_without_xfsz(set_length, (int)fd, length);
    if (result == 0 && mmap(address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd, 0) ==
               MAP_FAILED) {
      result = -errno;
    }
  }
  close((int)fd);
  return result;
}

int64_t ces_discard(void *address, size_t length) {
  return madvise(address, length, MADV_DONTNEED) < 0 ? -errno : 0;
}

int64_t ces_guard_probe(void *address, size_t length) {
  if (madvise(address, length, ADVICE_GUARD_INSTALL) < 0) return -errno;
  return madvise(address, length, ADVICE_GUARD_REMOVE) < 0 ? -errno : 0;
}

int64_t ces_memory_tagging_probe(void) {
  // arm64's MTE (PROT_MTE, PR_SET_TAGGED_ADDR_CTRL) has its place here; nothing else has tags.
  return -ENOSYS;
}
