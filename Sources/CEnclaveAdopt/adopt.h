// Shared by sodium.c, openssl.c and gcrypt.c, which adopt one library each.

#ifndef C_ENCLAVE_ADOPT_H
#define C_ENCLAVE_ADOPT_H

#include <stdbool.h>
#include <stddef.h>

#include "../CEnclave/include/CEnclaveInternal.h"

/// An adopted library: the arena that its memory comes from, and where its own functions are.
typedef struct {
  /// The arena's name.
  const char *name;
  enclave_layout layout;
  enclave_gate gate;
  uint32_t flags;
  /// The names of its shared objects, newest first, terminated by NULL.
  const char *const *files;
  /// Why the library cannot be adopted; NULL if it can.
  const char *(*obstacle)(void);
  /// The name of the empty arena that shows that the library is not adopted.
  const char *unadopted_name;
  /// NULL until the first allocation.
  enclave_arena *arena;
  bool has_failed;
} adopted;

/// The library's arena, created at the first call. NULL while this thread forks, and if the arena cannot be
/// created, which is reported once. The caller then uses the library's own function.
enclave_arena *adopt_arena(adopted *library);

/// Whether an address is in the library's arena.
bool adopt_owns(const adopted *library, const void *address);

/// Wipes and frees an allocation, after the fork if this thread is forking. Returns false if the address is
/// not in the library's arena.
bool adopt_free(const adopted *library, void *address);

/// The library's own function with this name, cached in `*cached`; NULL if the library is not in the process.
void *adopt_original(const adopted *library, void **cached, const char *name);

/// Allocates a zeroed secret. Returns NULL and sets errno to ENOMEM on failure.
void *adopt_allocate(enclave_arena *arena, size_t size, const char *label);

/// Writes to standard error that the library `name` is not adopted, and why.
void adopt_report(const char *name, const char *text);

/// Wipes what the library has not freed. Called after every exit handler and destructor of the program.
void adopt_wipe(adopted *library);

extern adopted adopt_libsodium, adopt_openssl, adopt_libgcrypt;

/// Reports a libcrypto that is in the process and cannot be adopted.
void adopt_check_openssl(void);

#endif
