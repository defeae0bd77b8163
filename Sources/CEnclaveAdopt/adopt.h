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
  /// Why it cannot be adopted, NULL where it can; and the name of the empty arena that shows it then.
  const char *(*obstacle)(void);
  const char *name_if_not;
  /// NULL until the first allocation.
  enclave_arena *arena;
  bool has_failed;
} adopted;

/// The arena, which is made at the first call. NULL where it cannot be had, which is reported once, and while
/// this thread forks: then the library's own functions serve.
enclave_arena *adopt_arena(adopted *library);

/// Whether an address lies in the arena.
bool adopt_is_ours(const adopted *library, const void *address);

/// Wipes and frees what is the arena's, as soon as that can be; false where it is not the arena's.
bool adopt_free(const adopted *library, void *address);

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

/// Says so where libcrypto is in the process and cannot be adopted.
void adopt_look_at_openssl(void);

#endif
