// The cipher gate's shared state: the nonce, tag and sequence of one encrypted secret, and the scratch
// memory that threads decrypt into. No policy and no cipher; Swift calls libsodium's.
//
// Contract
//
//   - A secret's ciphertext is in its slot; its nonce and tag are here. `sequence` is odd while they are
//     replaced. Readers copy everything and compare `sequence` before and after: no lock, and no waiting for
//     a cipher. (H.-J. Boehm, Can Seqlocks Get Along With Programming Language Memory Models?, 2012.)
//   - A thread that opens the secret for writing stores itself in `writer` by compare-and-swap. It encrypts in
//     its scratch memory; between the two changes of `sequence` it only copies. CES_CIPHER_BUSY in
//     `writer` says that its scratch memory does not hold the plain contents: a signal handler of this thread
//     then reads the ciphertext, as other threads do.
//   - A thread interrupted between the two changes leaves `sequence` odd for its own signal handler, which
//     must not wait.

#ifndef C_ENCLAVE_CIPHER_H
#define C_ENCLAVE_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "CEnclaveGate.h"

enum : uint32_t {
  CES_CIPHER_BLANK = 0,  // all zeros: nothing was encrypted yet
  CES_CIPHER_WRITTEN = 1,
  CES_CIPHER_TAMPERED = 2,  // the ciphertext is not what was encrypted; it is left unchanged
};

typedef struct ces_cipher_slot {
  uint64_t sequence;
  uint64_t writer;  // thread serial << 32 | scratch memory; 0: none
  uint64_t tag[2];
  uint64_t counter;  // the nonce is shard ‖ counter
  uint32_t shard;
  uint32_t state;    // CES_CIPHER_…
  uint64_t tampered_sequence;  // the sequence of a ciphertext found to be tampered with; 0: none
} ces_cipher_slot;

enum { CES_CIPHER_SLOT_BYTES = 56 };
_Static_assert(sizeof(ces_cipher_slot) == CES_CIPHER_SLOT_BYTES, "the size of a slot's state");

/// What a reader copies and a writer replaces, in the order in which the cipher wants it: the nonce is its first 12
/// bytes.
typedef struct ces_cipher_meta {
  uint32_t shard, counter_low, counter_high;
  uint32_t state;  // CES_CIPHER_…
  uint64_t tag[2];
} ces_cipher_meta;

// Slots and what is copied of them are plain pointers here, because Swift does not inline functions that name a C
// structure across modules.

/// Resets the state for a newly allocated secret: all zeros, not open.
void ces_cipher_begin(void *slot);
/// Clears nonce and tag of a freed secret.
void ces_cipher_end(void *slot);
/// Copies the ciphertext, and nonce, tag and state to `meta` (a ces_cipher_meta). Returns the sequence; odd if it was
/// being replaced.
uint64_t ces_cipher_read(const void *slot, const void *from, void *to, size_t length, void *meta);
/// Whether the ciphertext has not been replaced since this sequence was read.
bool ces_cipher_is_unchanged(const void *slot, uint64_t sequence);
/// Replaces the ciphertext, nonce and tag. Only the writer may call it.
void ces_cipher_replace(void *slot, void *to, const void *from, size_t length, const void *meta);
/// Marks the ciphertext with this sequence as tampered with.
void ces_cipher_mark_tampered(void *slot, uint64_t sequence);

/// In `writer`: the writer's scratch memory does not hold the plain contents at the moment.
#define CES_CIPHER_BUSY (1ull << 31)

/// The thread that has it open for writing; 0 is none.
static inline uint64_t ces_cipher_writer(const void *slot) {
  return __atomic_load_n(&((const ces_cipher_slot *)slot)->writer, __ATOMIC_RELAXED);
}
/// Becomes the writer; false if there is one.
static inline bool ces_cipher_claim(void *slot, uint64_t writer) {
  uint64_t nobody = 0;
  return __atomic_compare_exchange_n(&((ces_cipher_slot *)slot)->writer, &nobody, writer, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED);
}
/// Sets whether the writer's scratch memory holds something other than the plain contents.
static inline void ces_cipher_set_busy(void *slot, uint64_t writer, bool is_busy) {
  __atomic_store_n(&((ces_cipher_slot *)slot)->writer, is_busy ? writer | CES_CIPHER_BUSY : writer, __ATOMIC_RELEASE);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void ces_cipher_unclaim(void *slot) {
  __atomic_store_n(&((ces_cipher_slot *)slot)->writer, 0, __ATOMIC_RELEASE);
}

/// The next counter for a nonce; never the same twice.
static inline uint64_t ces_next_counter(uint64_t *counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/// Clears what a cipher leaves in the vector registers, and on the stack up to `stack_bytes` below the caller: a
/// multiple of CES_RESIDUE_STEP, and not 0.
enum { CES_RESIDUE_STEP = 256 };
void ces_clear_residue(size_t stack_bytes);

// --- Scratch memory ----------------------------------------------------------------------------------

/// A scratch page is divided into pieces of this many bytes, with one bit each in `used`.
enum { CES_SCRATCH_PIECE = 64, CES_SCRATCH_LARGE = 8 };

enum : uint32_t { CES_SCRATCH_ABSENT = 0, CES_SCRATCH_FREE = 1, CES_SCRATCH_USED = 2, CES_SCRATCH_CHANGING = 3 };

/// Separate pages for a secret too large for the scratch page.
typedef struct {
  uint32_t state;  // CES_SCRATCH_…
  void *data;
  size_t length;
  uint64_t owner;  // the arena whose window uses them
  void *entry;  // the entry in the wipe table
} ces_scratch_pages;

/// The scratch memory of one thread number. One thread uses it at a time, except for the shared number.
typedef struct {
  uint64_t generation;  // of the process that it belongs to; a forked child starts anew
  void *page;  // NULL: not allocated yet
  void *entry;  // its entry in the wipe table
  uint64_t used;  // a bit per piece; changed by threads with this number, by one instruction
  uint64_t returned;  // pieces that other threads released; they are still set in `used`
  uint64_t owners[64];  // by first piece: the arena whose window uses it; 0: none
  uint8_t counts[64];  // by first piece: how many pieces
  ces_scratch_pages large[CES_SCRATCH_LARGE];
} ces_scratch;

ces_scratch *ces_scratch_of(int32_t thread);
/// NULL before it is allocated.
static inline void *ces_scratch_page(const ces_scratch *scratch) {
  return __atomic_load_n(&scratch->page, __ATOMIC_SEQ_CST);
}
/// False if a page was set already.
static inline bool ces_scratch_set_page(ces_scratch *scratch, void *page) {
  void *none = NULL;
  return __atomic_compare_exchange_n(&scratch->page, &none, page, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
/// How many threads are overwriting other threads' scratch memory. Each adds itself before it loads `page`.
extern uint32_t ces_scratch_wipers;
static inline void ces_scratch_start_wiping(void) { __atomic_fetch_add(&ces_scratch_wipers, 1, __ATOMIC_SEQ_CST); }
static inline void ces_scratch_end_wiping(void) { __atomic_fetch_sub(&ces_scratch_wipers, 1, __ATOMIC_RELEASE); }

/// Takes away the page of a number that no thread has, and that the caller has taken (ces_thread_number_take). Returns
/// NULL if there is no page, if windows that ended threads left open still use it, or if another thread is wiping.
static inline void *ces_scratch_take_page(ces_scratch *scratch) {
  uint64_t returned = __atomic_load_n(&scratch->returned, __ATOMIC_ACQUIRE);
  if ((__atomic_load_n(&scratch->used, __ATOMIC_RELAXED) & ~returned) != 0) return NULL;
  void *page = __atomic_exchange_n(&scratch->page, NULL, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&ces_scratch_wipers, __ATOMIC_SEQ_CST) != 0) {
    __atomic_store_n(&scratch->page, page, __ATOMIC_RELEASE);
    return NULL;
  }
  __atomic_store_n(&scratch->used, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&scratch->returned, 0, __ATOMIC_RELAXED);
  return page;
}
static inline ces_scratch_pages *ces_scratch_pages_of(ces_scratch *scratch, int32_t index) {
  return &scratch->large[index];
}

extern ces_scratch ces_scratches[CES_THREADS];

/// The bits of a run of pieces.
static inline uint64_t ces_scratch_bits(uint32_t first, uint32_t count) {
  return (count >= 64 ? UINT64_MAX : (1ull << count) - 1) << first;
}

// The thread that owns a scratch page changes `used` without a locked instruction, which would wait for all of its
// stores (measured: 3 ns each). Against its own signal handlers, one instruction is enough.
#if defined(__x86_64__) && !defined(CES_THREAD_SANITIZER)
static inline bool ces_scratch_set_used(uint64_t *used, uint64_t *now, uint64_t next, bool is_shared) {
  if (is_shared) return __atomic_compare_exchange_n(used, now, next, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
  bool is_equal;
  __asm__ volatile("cmpxchgq %3, %1" : "=@ccz"(is_equal), "+m"(*used), "+a"(*now) : "r"(next) : "memory");
  return is_equal;
}
static inline void ces_scratch_clear_used(uint64_t *used, uint64_t bits, bool is_shared) {
  if (is_shared) {
    __atomic_fetch_and(used, ~bits, __ATOMIC_RELEASE);
  } else {
    __asm__ volatile("andq %1, %0" : "+m"(*used) : "r"(~bits) : "cc", "memory");
  }
}
#else
static inline bool ces_scratch_set_used(uint64_t *used, uint64_t *now, uint64_t next, bool is_shared) {
  (void)is_shared;
  return __atomic_compare_exchange_n(used, now, next, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
static inline void ces_scratch_clear_used(uint64_t *used, uint64_t bits, bool is_shared) {
  (void)is_shared;
  __atomic_fetch_and(used, ~bits, __ATOMIC_RELEASE);
}
#endif

/// Takes a run of adjacent pieces of this thread's page. Returns its description (thread number, first piece << 6,
/// pieces << 12), or 0 if there is no room or no page yet.
static inline uint32_t ces_scratch_take(uint32_t count, uint64_t owner) {
  int32_t thread = ces_thread;
  if (thread < 0) return 0;
  ces_scratch *scratch = &ces_scratches[thread];
  uint64_t *word = __atomic_load_n(&ces_fork_word, __ATOMIC_RELAXED);
  if (!word || scratch->generation != __atomic_load_n(word, __ATOMIC_RELAXED)) return 0;
  if (!ces_scratch_page(scratch)) return 0;
  bool is_shared = thread == CES_THREADS - 1;
  if (__builtin_expect(__atomic_load_n(&scratch->returned, __ATOMIC_RELAXED) != 0, 0)) {
    ces_scratch_clear_used(&scratch->used, __atomic_exchange_n(&scratch->returned, 0, __ATOMIC_ACQUIRE), is_shared);
  }
  uint64_t bits = ces_scratch_bits(0, count);
  uint64_t now = __atomic_load_n(&scratch->used, __ATOMIC_RELAXED);
  for (;;) {
    // The piece taken last is released first, so the lowest free run is the one in the cache.
    uint32_t first = 0;
    while (first + count <= 64 && (now >> first & bits) != 0) {
      first += (uint32_t)__builtin_ctzll(now >> first & bits) + 1;
    }
    if (first + count > 64) return 0;
    if (!ces_scratch_set_used(&scratch->used, &now, now | bits << first, is_shared)) continue;
    __atomic_store_n(&scratch->counts[first], (uint8_t)count, __ATOMIC_RELAXED);
    __atomic_store_n(&scratch->owners[first], owner, __ATOMIC_RELEASE);
    return (uint32_t)thread | first << 6 | count << 12;
  }
}

/// The address of such a run.
static inline void *ces_scratch_base(uint32_t run) {
  return (char *)ces_scratch_page(&ces_scratches[run & 63]) + (size_t)(run >> 6 & 63) * CES_SCRATCH_PIECE;
}
/// Whether the run still belongs to this owner.
static inline bool ces_scratch_belongs(uint32_t run, uint64_t owner) {
  return __atomic_load_n(&ces_scratches[run & 63].owners[run >> 6 & 63], __ATOMIC_RELAXED) == owner;
}
/// Releases a run, which contains zeros. Any thread may call it.
static inline void ces_scratch_give(uint32_t run) {
  ces_scratch *scratch = &ces_scratches[run & 63];
  uint32_t first = run >> 6 & 63;
  uint64_t bits = ces_scratch_bits(first, run >> 12);
  __atomic_store_n(&scratch->owners[first], 0, __ATOMIC_RELAXED);
  if (__builtin_expect((int32_t)(run & 63) == ces_thread, 1)) {
    ces_scratch_clear_used(&scratch->used, bits, ces_thread == CES_THREADS - 1);
  } else {
    __atomic_fetch_or(&scratch->returned, bits, __ATOMIC_RELEASE);
  }
}
/// Finds a run of pieces that an arena owns, starting at `from`. Returns the first piece, or -1.
int32_t ces_scratch_find(const ces_scratch *scratch, uint64_t owner, int32_t from, uint32_t *count);

#endif
