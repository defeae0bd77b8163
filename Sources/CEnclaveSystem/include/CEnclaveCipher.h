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

/// Resets the state for a newly allocated secret: all zeros, not open.
void ces_cipher_begin(ces_cipher_slot *slot);
/// Clears nonce and tag of a freed secret.
void ces_cipher_end(ces_cipher_slot *slot);
/// Copies the ciphertext with nonce, tag and state. Returns the sequence; odd if it was being replaced.
uint64_t ces_cipher_read(const ces_cipher_slot *slot, const void *from, void *to, size_t length,
                         ces_cipher_slot *meta);
/// Whether the ciphertext has not been replaced since this sequence was read.
bool ces_cipher_is_unchanged(const ces_cipher_slot *slot, uint64_t sequence);
/// Replaces the ciphertext, nonce and tag. Only the writer may call it.
void ces_cipher_replace(ces_cipher_slot *slot, void *to, const void *from, size_t length,
                        const ces_cipher_slot *meta);
/// Marks the ciphertext with this sequence as tampered with.
void ces_cipher_mark_tampered(ces_cipher_slot *slot, uint64_t sequence);

/// In `writer`: the writer's scratch memory does not hold the plain contents at the moment.
#define CES_CIPHER_BUSY (1ull << 31)

/// The thread that has it open for writing; 0 is none.
static inline uint64_t ces_cipher_writer(const ces_cipher_slot *slot) {
  return __atomic_load_n(&slot->writer, __ATOMIC_RELAXED);
}
/// Becomes the writer; false if there is one.
static inline bool ces_cipher_claim(ces_cipher_slot *slot, uint64_t writer) {
  uint64_t nobody = 0;
  return __atomic_compare_exchange_n(&slot->writer, &nobody, writer, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
/// Sets whether the writer's scratch memory holds something other than the plain contents.
static inline void ces_cipher_set_busy(ces_cipher_slot *slot, uint64_t writer, bool is_busy) {
  __atomic_store_n(&slot->writer, is_busy ? writer | CES_CIPHER_BUSY : writer, __ATOMIC_RELEASE);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void ces_cipher_unclaim(ces_cipher_slot *slot) {
  __atomic_store_n(&slot->writer, 0, __ATOMIC_RELEASE);
}

/// The next counter for a nonce; never the same twice.
static inline uint64_t ces_next_counter(uint64_t *counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/// Clears what a cipher leaves in the vector registers, and on the stack up to `stack_bytes` (not 0) below the
/// caller.
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
  uint64_t used;  // a bit per piece
  uint64_t owners[64];  // by first piece: the arena whose window uses it; 0: none
  uint8_t counts[64];  // by first piece: how many pieces
  ces_scratch_pages large[CES_SCRATCH_LARGE];
} ces_scratch;

ces_scratch *ces_scratch_of(int32_t thread);
/// NULL before it is allocated.
static inline void *ces_scratch_page(const ces_scratch *scratch) {
  return __atomic_load_n(&scratch->page, __ATOMIC_ACQUIRE);
}
/// False if a page was set already.
static inline bool ces_scratch_set_page(ces_scratch *scratch, void *page) {
  void *none = NULL;
  return __atomic_compare_exchange_n(&scratch->page, &none, page, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline ces_scratch_pages *ces_scratch_pages_of(ces_scratch *scratch, int32_t index) {
  return &scratch->large[index];
}

/// Takes a run of adjacent pieces. Returns the number of the first, or -1.
int32_t ces_scratch_allocate(ces_scratch *scratch, uint32_t count, uint64_t owner);
void ces_scratch_release(ces_scratch *scratch, uint32_t first, uint32_t count);
/// Finds a run of pieces that an arena owns, starting at `from`. Returns the first piece, or -1.
int32_t ces_scratch_find(const ces_scratch *scratch, uint64_t owner, int32_t from, uint32_t *count);
static inline uint64_t *ces_scratch_owner(ces_scratch *scratch, uint32_t first) {
  return &scratch->owners[first];
}

#endif
