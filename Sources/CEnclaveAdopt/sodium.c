// Serves libsodium's guarded memory (sodium_malloc and its family) from an arena named "libsodium".
//
// It behaves like the original: each allocation has its own pages, ends at a guard page, is filled with 0xdb
// and is writable at first. sodium_mprotect_* change its protection for all threads until the next such call.
// sodium_free ends the process if bytes before the allocation were overwritten.

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "adopt.h"

static const char *const files[] = {"libsodium.so.26", "libsodium.so.23", NULL};
adopted adopt_libsodium = {
    .name = "libsodium",
    .layout = ENCLAVE_LAYOUT_ISOLATED,
    .gate = ENCLAVE_GATE_PAGES,
    .flags = ENCLAVE_FLAG_ENDS_AT_GUARD,
    .files = files,
};

/// libsodium fills new memory with this byte (GARBAGE_VALUE in its sources).
enum { GARBAGE = 0xdb };
enum { CLOSED = 0, READABLE = 1, WRITABLE = 2 };

#define ORIGINAL(type, name, ...) \
  static void *cached;             \
  type (*original)(__VA_ARGS__) = (type(*)(__VA_ARGS__))adopt_original(&adopt_libsodium, &cached, name)

static void *allocate(enclave_arena *arena, size_t size, const char *label) {
  void *result = adopt_allocate(arena, size, label);
  if (!result) return NULL;
  if (enclave_private_hold(result, WRITABLE) != ENCLAVE_OK) {
    enclave_free(result);
    errno = ENOMEM;
    return NULL;
  }
  memset(result, GARBAGE, size);
  return result;
}

void *sodium_malloc(size_t size) {
  enclave_arena *arena = adopt_arena(&adopt_libsodium);
  if (arena) return allocate(arena, size, "sodium_malloc");
  ORIGINAL(void *, "sodium_malloc", size_t);
  if (original) return original(size);
  errno = ENOMEM;
  return NULL;
}

void *sodium_allocarray(size_t count, size_t size) {
  // (">=": libsodium refuses the largest product too.)
  if (count > 0 && size >= SIZE_MAX / count) {
    errno = ENOMEM;
    return NULL;
  }
  enclave_arena *arena = adopt_arena(&adopt_libsodium);
  return arena ? allocate(arena, count * size, "sodium_allocarray") : sodium_malloc(count * size);
}

void sodium_free(void *address) {
  if (!address) return;
  int error = errno;
  bool is_freed = adopt_free(&adopt_libsodium, address);
  errno = error;
  if (is_freed) return;
  ORIGINAL(void, "sodium_free", void *);
  if (original) original(address);
}

/// Returns 0 or -1, or -2 if the address is not in the arena.
static int protect(void *address, int protection) {
  if (!adopt_owns(&adopt_libsodium, address)) return -2;
  if (enclave_private_is_forking()) {
    errno = EBUSY;
    return -1;
  }
  if (enclave_private_hold(address, protection) == ENCLAVE_OK) return 0;
  errno = enclave_last_errno() ? enclave_last_errno() : EINVAL;
  return -1;
}

#define PROTECT(function, protection)              \
  int function(void *address) {                    \
    int result = protect(address, protection);     \
    if (result != -2) return result;               \
    ORIGINAL(int, #function, void *);              \
    if (original) return original(address);        \
    errno = EINVAL;                                \
    return -1;                                     \
  }

PROTECT(sodium_mprotect_noaccess, CLOSED)
PROTECT(sodium_mprotect_readonly, READABLE)
PROTECT(sodium_mprotect_readwrite, WRITABLE)
