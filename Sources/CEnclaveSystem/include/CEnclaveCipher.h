// The cipher gate's shared words: what is known of one encrypted secret, and the scratch memory that
// threads decrypt into. No policy, and no cipher: libsodium's is called from Swift.
//
// Contract
//
//   - A secret's ciphertext lies in its slot, nonce and tag lie here. `sequence` is odd while they are
//     replaced. Readers copy all of it and look at `sequence` before and after: no lock, no waiting for
//     a cipher. (H.-J. Boehm, Can Seqlocks Get Along With Programming Language Memory Models?, 2012.)
//   - Who has the secret open for writing has put itself into `writer` by compare-and-swap. It encrypts
//     in its scratch memory, and only copies between the two changes of `sequence`. While its scratch
//     memory does not hold the plain contents, `writer` says so: a signal handler of its thread reads the
//     ciphertext then, as others do.
//   - A thread that is interrupted between them leaves `sequence` odd for its own signal handler, which
//     must not wait.

#ifndef C_ENCLAVE_CIPHER_H
#define C_ENCLAVE_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum : uint32_t {
  CES_CIPHER_BLANK = 0,     // zeros: nothing was encrypted yet
  CES_CIPHER_WRITTEN = 1,
  CES_CIPHER_TAMPERED = 2,  // its ciphertext is not what was encrypted; it stays as it is
};

typedef struct ces_cipher_slot {
  uint64_t sequence;
  uint64_t writer;  // the serial of a thread << 32 | its scratch memory; 0: nobody
  uint64_t tag[2];
  uint64_t counter;  // the nonce: shard ‖ counter
  uint32_t shard;
  uint32_t state;    // CES_CIPHER_…
  uint64_t condemned;  // the sequence whose ciphertext was found to be wrong; 0: none
} ces_cipher_slot;

/// A slot is allocated: zeros, which nobody has open.
void ces_cipher_begin(ces_cipher_slot *slot);
/// Its secret goes: no nonce and no tag are left.
void ces_cipher_end(ces_cipher_slot *slot);
/// Copies the ciphertext, and what is known of it. The sequence; odd when it was being replaced.
uint64_t ces_cipher_take(const ces_cipher_slot *slot, const void *from, void *to, size_t length,
                         ces_cipher_slot *known);
/// Whether nothing was replaced since.
bool ces_cipher_is_still(const ces_cipher_slot *slot, uint64_t sequence);
/// Replaces the ciphertext. The caller is the writer.
void ces_cipher_replace(ces_cipher_slot *slot, void *to, const void *from, size_t length,
                        const ces_cipher_slot *known);
/// Marks the ciphertext of this sequence as wrong.
void ces_cipher_condemn(ces_cipher_slot *slot, uint64_t sequence);

/// In `writer`: its scratch memory holds something else than the contents, now.
#define CES_CIPHER_WORKING (1ull << 31)

/// Who has it open for writing; 0 is nobody.
static inline uint64_t ces_cipher_writer(const ces_cipher_slot *slot) {
  return __atomic_load_n(&slot->writer, __ATOMIC_RELAXED);
}
/// Becomes the writer; false when there is one.
static inline bool ces_cipher_claim(ces_cipher_slot *slot, uint64_t writer) {
  uint64_t nobody = 0;
  return __atomic_compare_exchange_n(&slot->writer, &nobody, writer, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
/// The writer says whether its scratch memory holds the contents.
static inline void ces_cipher_set_working(ces_cipher_slot *slot, uint64_t writer, bool is_working) {
  __atomic_store_n(&slot->writer, is_working ? writer | CES_CIPHER_WORKING : writer, __ATOMIC_RELEASE);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void ces_cipher_unclaim(ces_cipher_slot *slot) {
  __atomic_store_n(&slot->writer, 0, __ATOMIC_RELEASE);
}

/// The next counter of a nonce: never the same twice.
static inline uint64_t ces_next_counter(uint64_t *counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/// Clears what a cipher leaves behind: the vector registers, and the stack below the caller.
void ces_clear_residue(void);

// --- Scratch memory ----------------------------------------------------------------------------------

/// A page is given out in pieces of so many bytes, one bit each.
enum { CES_SCRATCH_PIECE = 64, CES_SCRATCH_LARGE = 8 };

enum : uint32_t { CES_SCRATCH_ABSENT = 0, CES_SCRATCH_FREE = 1, CES_SCRATCH_USED = 2, CES_SCRATCH_CHANGING = 3 };

/// Pages of its own, for what is too large for a piece of a page.
typedef struct {
  uint32_t state;  // CES_SCRATCH_…
  void *data;
  size_t length;
  uint64_t owner;  // the arena whose window it is
  void *entry;     // in the wipe table
} ces_scratch_pages;

/// The scratch memory of the threads with one number, which are one at a time but for the last number.
typedef struct {
  uint64_t generation;  // of the process that it is of: a forked child begins anew
  void *page;           // NULL: none yet
  uint64_t used;        // pieces
  uint64_t owners[64];  // by the first piece: the arena whose window it is; 0: nobody's
  uint8_t counts[64];   // and how many pieces
  ces_scratch_pages large[CES_SCRATCH_LARGE];
} ces_scratch;

ces_scratch *ces_scratch_of(int32_t thread);
/// NULL before there is one.
static inline void *ces_scratch_page(const ces_scratch *scratch) {
  return __atomic_load_n(&scratch->page, __ATOMIC_ACQUIRE);
}
/// False when there was one already.
static inline bool ces_scratch_set_page(ces_scratch *scratch, void *page) {
  void *none = NULL;
  return __atomic_compare_exchange_n(&scratch->page, &none, page, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline ces_scratch_pages *ces_scratch_pages_of(ces_scratch *scratch, int32_t index) {
  return &scratch->large[index];
}

/// Takes a run of pieces: the first one's number, or -1.
int32_t ces_scratch_take(ces_scratch *scratch, uint32_t count, uint64_t owner);
void ces_scratch_give(ces_scratch *scratch, uint32_t first, uint32_t count);
/// A run of pieces, from one on, that an arena has: the first one's number, and how many; -1 when it has none.
int32_t ces_scratch_find(const ces_scratch *scratch, uint64_t owner, int32_t from, uint32_t *count);
static inline uint64_t *ces_scratch_owner(ces_scratch *scratch, uint32_t first) {
  return &scratch->owners[first];
}

#endif
