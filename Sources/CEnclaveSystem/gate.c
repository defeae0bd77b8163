// Threads' numbers, shards, protection keys, seals, secret memory.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Numbers of calls that the C library's headers do not know yet; the same on every architecture.
enum { NR_MSEAL = 462, NR_MEMFD_SECRET = 447, NR_MEMBARRIER_REGISTER = 16, NR_MEMBARRIER = 8 };
enum { ADVICE_GUARD_INSTALL = 102, ADVICE_GUARD_REMOVE = 103 };

// --- Threads -----------------------------------------------------------------------------------

_Static_assert(sizeof(ces_shard) == 64, "a cache line");

__thread int32_t ces_thread = -1;

static uint64_t numbers_in_use = 1ull << (CES_THREADS - 1);  // the last is everybody's
static pthread_key_t number_key;
static pthread_once_t number_once = PTHREAD_ONCE_INIT;
static int number_key_error;

static void give_number_back(void *value) {
  int32_t number = (int32_t)(uintptr_t)value - 1;
  ces_thread = -1;  // destructors that run after this one take a new one
  ces_alternate_stack_free();
  if (number != CES_THREADS - 1) {
    __atomic_fetch_and(&numbers_in_use, ~(1ull << number), __ATOMIC_RELEASE);
  }
}

static void make_number_key(void) {
  number_key_error = pthread_key_create(&number_key, give_number_back);
}

int32_t ces_thread_register(void) {
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
  // A thread whose stack ends must still be able to wipe. Where there is no memory for it, that is
  // counted.
  if (ces_wipe_status() != CES_WIPE_ABSENT) ces_alternate_stack();
  return number;
}

int64_t ces_shard_make(ces_gate *gate, uint64_t label_count) {
  int32_t number = ces_thread_number();
  ces_shard *old = gate->shards[number];
  ces_shard *shard = old;
  if (!shard) {
    if (posix_memalign((void **)&shard, 64, sizeof *shard) != 0) return -ENOMEM;
    memset(shard, 0, sizeof *shard);
  }
  if (shard->label_count < label_count) {
    // Only its own thread writes a shard's counts, and it is here; the shared one is made once,
    // with all the labels that there will ever be room for.
    uint64_t room = number == CES_THREADS - 1 ? 65536 : label_count + label_count / 2 + 6;
    uint64_t *counts = calloc(room, sizeof *counts);
    if (!counts) {
      if (!old) free(shard);
      return -ENOMEM;
    }
    if (shard->label_count) {
      memcpy(counts, shard->labels, shard->label_count * sizeof *counts);
    }
    uint64_t *before = shard->labels;
    shard->labels = counts;
    __atomic_store_n(&shard->label_count, room, __ATOMIC_RELEASE);
    free(before);  // readers of other threads' counts hold the arena's lock, as the caller does
  }
  __atomic_store_n(&gate->shards[number], shard, __ATOMIC_RELEASE);
  return 0;
}

void ces_shards_free(ces_gate *gate) {
  for (int i = 0; i < CES_THREADS; i++) {
    if (gate->shards[i]) free(gate->shards[i]->labels);
    free(gate->shards[i]);
    gate->shards[i] = NULL;
  }
}

void ces_yield(void) { sched_yield(); }
int64_t ces_processors(void) { return sysconf(_SC_NPROCESSORS_ONLN); }

// --- Barriers ----------------------------------------------------------------------------------

uint32_t ces_windows_fence = 0;
void ces_windows_need_fence(void) { __atomic_store_n(&ces_windows_fence, 1, __ATOMIC_SEQ_CST); }

int64_t ces_barrier_register(void) {
  long result = syscall(SYS_membarrier, NR_MEMBARRIER_REGISTER, 0, 0);
  return result < 0 ? -errno : 0;
}

int64_t ces_barrier(void) {
  if (__atomic_load_n(&ces_windows_fence, __ATOMIC_RELAXED)) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return 0;
  }
  long result = syscall(SYS_membarrier, NR_MEMBARRIER, 0, 0);
  return result < 0 ? -errno : 0;
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
    make = __interceptor_pthread_create && ces_births_are_closed()
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

int ces_births_are_closed(void) {
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

int64_t ces_map_secret(void *address, size_t length) {
  long fd = syscall(NR_MEMFD_SECRET, 02000000 /* O_CLOEXEC */);
  if (fd < 0) return -errno;
  int64_t result = 0;
  if (length > 0) {
    if (ftruncate((int)fd, (off_t)length) < 0) {
      result = -errno;
    } else if (mmap(address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd, 0) ==
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
