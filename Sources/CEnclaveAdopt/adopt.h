// What the adopters of the single libraries share.

#ifndef C_ENCLAVE_ADOPT_H
#define C_ENCLAVE_ADOPT_H

#include <stdbool.h>
#include <stddef.h>

#include "../CEnclave/include/CEnclaveInternal.h"

/// A library that is adopted: the arena that its memory comes from, and where its own functions are.
typedef struct {
  /// The arena's name.
  const char *name;
  enclave_layout layout;
  enclave_gate gate;
  uint32_t flags;
  /// Its shared objects, the newest first; NULL ends them.
  const char *const *files;
  /// NULL until the first allocation.
  enclave_arena *arena;
  bool has_failed;
} adopted;

/// The arena, which is made at the first call. NULL where it cannot be had: that is reported once, and the
/// library's own functions serve.
enclave_arena *adopt_arena(adopted *library);

/// The library's own function of a name, NULL where the library is not in the process. It is looked up
/// once: keep it in `place`.
void *adopt_original(const adopted *library, void **place, const char *name);

/// A secret of zeros; NULL, and ENOMEM, when there is no memory for it.
void *adopt_allocate(enclave_arena *arena, size_t size, const char *label);

/// Writes a line to standard error.
void adopt_complain(const char *name, const char *text);

/// Wipes what the library has left: every exit handler and every destructor of the program has run.
void adopt_wipe(adopted *library);

extern adopted adopt_libsodium, adopt_openssl, adopt_libgcrypt;

/// libgcrypt asks for memory through handlers, which have to be set before it is used.
void adopt_gcrypt(void);

#endif
