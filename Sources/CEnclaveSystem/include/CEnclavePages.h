// The owner of each page of every arena. This is how a bare address finds its arena, from any thread,
// without a lock.
//
// A two-level table over the 48 bits of a user-space address: 2^18 leaves of 2^18 words, one word per 4
// KiB. The kernel allocates only the parts in use (8 bytes per 4 KiB of arena, and at least a page per 2
// MiB of addresses).

#ifndef C_ENCLAVE_PAGES_H
#define C_ENCLAVE_PAGES_H

#include <stddef.h>
#include <stdint.h>

enum { CES_PAGES_SHIFT = 12, CES_PAGES_BITS = 18 };

extern void **ces_pages_leaves[1 << CES_PAGES_BITS];

/// The owner of the page that contains an address; NULL if it belongs to no arena.
static inline void *ces_pages_owner(const void *address) {
  uintptr_t page = (uintptr_t)address >> CES_PAGES_SHIFT;
  if (page >> (2 * CES_PAGES_BITS)) return NULL;
  void **leaf = __atomic_load_n(&ces_pages_leaves[page >> CES_PAGES_BITS], __ATOMIC_ACQUIRE);
  if (!leaf) return NULL;
  return __atomic_load_n(&leaf[page & ((1 << CES_PAGES_BITS) - 1)], __ATOMIC_ACQUIRE);
}

/// Makes room in the table for an address range. -errno of mmap(2) on failure.
int64_t ces_pages_reserve(const void *address, size_t length);
/// Sets the owner of every page of a reserved range.
void ces_pages_set(const void *address, size_t length, void *owner);

static inline void ces_fence_all(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline uint32_t ces_load_acquire32(const uint32_t *word) {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline void ces_publish32(uint32_t *word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/// For fields that other threads load at the same time, and may throw away.
static inline uint16_t ces_load_field16(const uint16_t *field) {
  return __atomic_load_n(field, __ATOMIC_RELAXED);
}
static inline uint32_t ces_load_field32(const uint32_t *field) {
  return __atomic_load_n(field, __ATOMIC_RELAXED);
}
static inline void ces_store_field16(uint16_t *field, uint16_t value) {
  __atomic_store_n(field, value, __ATOMIC_RELAXED);
}
static inline void ces_store_field32(uint32_t *field, uint32_t value) {
  __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

/// Replaces a word if its value is `old`; otherwise returns 0.
static inline _Bool ces_exchange(uint32_t *word, uint32_t old, uint32_t now) {
  return __atomic_compare_exchange_n(word, &old, now, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

#endif
