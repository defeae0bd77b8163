// Each thread's window counters: their memory, their arrays by label, and what a forked child keeps.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(sizeof(ces_counters) == 64, "a cache line");

// --- Memory for counters -------------------------------------------------------------------------
//
// A thread's first window to an arena may be in a signal handler that interrupted malloc(3), or this code.
// So counters are cut from separate blocks, by one atomic addition each. Memory that destroyed arenas have
// released is reused if the free list's lock happens to be free.

enum { COUNTS_LEAST = 64, COUNTS_SIZES = 11, COUNTS_BLOCK = 64 * 1024, COUNTS_HEADER = 64 };

typedef struct {
  size_t used;
} counts_block;

/// The header in front of an array of counts by label.
typedef struct labels {
  struct labels *next;  // the shorter array that this one replaced
  uint64_t count;
  size_t bytes;
  uint64_t reserved[5];
  uint64_t words[];
} labels_t;
_Static_assert(sizeof(labels_t) == 64, "a cache line");

static counts_block *counts_current;
static void *counts_free_lists[COUNTS_SIZES];  // by size class, from COUNTS_LEAST up; guarded by counts_lock
static uint32_t counts_lock;

static void *counts_map(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/// Returns zeroed memory, or NULL. `bytes` is COUNTS_LEAST times a power of two.
static void *counts_allocate(size_t bytes) {
  int size = __builtin_ctzll(bytes / COUNTS_LEAST);
  if (size >= COUNTS_SIZES || bytes > COUNTS_BLOCK - COUNTS_HEADER) return counts_map(bytes);
  if (__atomic_load_n(&counts_free_lists[size], __ATOMIC_RELAXED) && ces_process_try(&counts_lock)) {
    void *found = counts_free_lists[size];
    if (found) __atomic_store_n(&counts_free_lists[size], *(void **)found, __ATOMIC_RELAXED);
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

/// Not async-signal-safe.
static void counts_release(void *counts, size_t bytes) {
  int size = __builtin_ctzll(bytes / COUNTS_LEAST);
  if (size >= COUNTS_SIZES || bytes > COUNTS_BLOCK - COUNTS_HEADER) {
    munmap(counts, bytes);
    return;
  }
  ces_process_lock(&counts_lock);
  *(void **)counts = counts_free_lists[size];
  __atomic_store_n(&counts_free_lists[size], counts, __ATOMIC_RELAXED);
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
      // Never lower it: a signal handler may meanwhile have set a larger value.
      uint64_t known = __atomic_load_n(&counters->label_count, __ATOMIC_RELAXED);
      while (known < before->count &&
             !__atomic_compare_exchange_n(&counters->label_count, &known, before->count, false,
                                          __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
      }
      return 0;
    }
    // Several threads use the shared counters, so their array is allocated once, with room for every label.
    size_t bytes = shared ? 65536 * sizeof(uint64_t) : 2 * COUNTS_LEAST;
    while (bytes / sizeof(uint64_t) - sizeof(labels_t) / sizeof(uint64_t) <= label) bytes *= 2;
    labels_t *made = counts_allocate(bytes);
    if (!made) return -ENOMEM;
    made->next = before;
    made->bytes = bytes;
    made->count = bytes / sizeof(uint64_t) - sizeof(labels_t) / sizeof(uint64_t);
    // If another array was installed first, that one is used. This one's memory is lost, which is rare and
    // little.
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
    ces_counters *made = counts_allocate(sizeof *made);
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
  ces_gate_unlist(gate);
  for (int i = 0; i < CES_THREADS; i++) {
    ces_counters *counters = gate->counters[i];
    if (!counters) continue;
    for (labels_t *at = labels_of(counters->labels); at;) {
      labels_t *next = at->next;
      counts_release(at, at->bytes);
      at = next;
    }
    counts_release(counters, sizeof *counters);
    gate->counters[i] = NULL;
  }
}

void ces_gate_inherit(ces_gate *gate, uint64_t generation) {
  for (int i = 0; i < CES_THREADS; i++) {
    ces_counters *counters = gate->counters[i];
    if (!counters) continue;
    bool is_shared = i == CES_THREADS - 1;
    if (i == ces_thread && !is_shared) continue;
    counters->wiping = counters->abandoned_reads = counters->abandoned_writes = 0;
    // Windows that belong to no thread are counted in the shared counters and stay open.
    if (is_shared) continue;
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
