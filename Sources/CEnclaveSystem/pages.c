// Implements the table of CEnclavePages.h.

#define _GNU_SOURCE
#include "CEnclavePages.h"

#include <errno.h>
#include <sys/mman.h>

void **ces_pages_leaves[1 << CES_PAGES_BITS];

static const uintptr_t leaf_mask = (1 << CES_PAGES_BITS) - 1;

int64_t ces_pages_reserve(const void *address, size_t length) {
  uintptr_t page = (uintptr_t)address >> CES_PAGES_SHIFT;
  uintptr_t last = ((uintptr_t)address + length - 1) >> CES_PAGES_SHIFT;
  if (last >> (2 * CES_PAGES_BITS)) return -ENOMEM;
  size_t leaf_bytes = sizeof(void *) << CES_PAGES_BITS;
  for (uintptr_t index = page >> CES_PAGES_BITS; index <= last >> CES_PAGES_BITS; index++) {
    if (__atomic_load_n(&ces_pages_leaves[index], __ATOMIC_ACQUIRE)) continue;
    void *leaf = mmap(NULL, leaf_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (leaf == MAP_FAILED) return -errno;
    void **none = NULL;
    if (!__atomic_compare_exchange_n(&ces_pages_leaves[index], &none, leaf, 0, __ATOMIC_RELEASE,
                                     __ATOMIC_RELAXED)) {
      munmap(leaf, leaf_bytes);  // another thread was faster
    }
  }
  return 0;
}

void ces_pages_set(const void *address, size_t length, void *owner) {
  uintptr_t page = (uintptr_t)address >> CES_PAGES_SHIFT;
  uintptr_t end = ((uintptr_t)address + length + (1 << CES_PAGES_SHIFT) - 1) >> CES_PAGES_SHIFT;
  for (; page < end; page++) {
    void **leaf = __atomic_load_n(&ces_pages_leaves[page >> CES_PAGES_BITS], __ATOMIC_ACQUIRE);
    __atomic_store_n(&leaf[page & leaf_mask], owner, __ATOMIC_RELEASE);
  }
}
