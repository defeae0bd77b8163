// Private interface between the C and Swift parts of libenclave, the interposer and the adopter. Not installed.

#ifndef C_ENCLAVE_INTERNAL_H
#define C_ENCLAVE_INTERNAL_H

#include "enclave.h"

/// Flags for the interposer and for adopted programs: forked children get their own copy of the arena; memory
/// is locked when it is first touched.
#define CENCLAVE_INHERITED_BY_FORK 0x80000000u
#define CENCLAVE_LOCKED_ON_FAULT 0x20000000u

/// Stores this thread's last error.
void cenclave_set_error(enclave_status status, int error, const char *text, size_t length);

/// Marks that this thread is in the library, so that the interposer does not serve what the library or the
/// Swift runtime allocates. The upper bits count calls, the lower bits locks that the thread holds: see
/// CES_IN_LIBRARY in CEnclaveSystem.h.
extern __thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));
static inline void cenclave_enter(void) { ces_held_locks += 1 << 16; }
static inline void cenclave_leave(void) { ces_held_locks -= 1 << 16; }
bool enclave_private_is_busy(void);

/// Handlers that run around each fork(3): in the parent before and after it, and in the child. The latter two
/// run only if `prepare` returned true.
typedef struct {
  bool (*prepare)(void);
  void (*parent)(void), (*child)(void);
} cenclave_fork_handlers;
/// Sets the handlers for all further forks. They may use the Swift runtime.
void cenclave_set_fork_handlers(cenclave_fork_handlers handlers);

/// Whether this thread is forking. It then holds the locks of all arenas that the child inherits, and must not
/// allocate in them. (Handlers that others registered with pthread_atfork(3) before this library run then.)
bool enclave_private_is_forking(void);
/// Frees an address after the fork, in parent and child.
void enclave_private_free_after_fork(void *address);

// Only for libenclave-adopt.so.

/// Sets how a secret is open to every thread until the next call: 0 closed, 1 read, 2 read and write. The arena
/// needs a page gate and the layout `isolated`. No other window may be opened to the secret.
enclave_status enclave_private_hold(void *secret, int protection);
/// Closes a secret that is held open, then wipes and frees it.
enclave_status enclave_private_free_held(void *secret);
/// Wipes an arena and leaves it mapped, as exit does with arenas without ENCLAVE_FLAG_KEPT_AT_EXIT.
void enclave_private_wipe(enclave_arena *arena);

/// The interface of libenclave-malloc.so for libenclave.so, exported as `enclave_interposer`.
typedef struct {
  size_t struct_size;
  /// Sets this thread's active arena and returns the previous one.
  enclave_arena *(*set_active)(enclave_arena *arena);
  /// The name of the first allocation function that does not resolve to the interposer; NULL if all do.
  const char *(*foreign)(void);
} cenclave_interposer;

/// The interposer, or NULL if it is not in the process. Looked up again until found: it may be loaded later.
const cenclave_interposer *cenclave_find_interposer(void);
/// The name of an allocation function that does not resolve to the interposer; NULL if all do. A result of
/// NULL is cached: objects that are loaded later come later in symbol lookup.
const char *cenclave_foreign_allocator(const cenclave_interposer *interposer);
/// Ends the process because the named allocator is not the interposer.
_Noreturn void enclave_private_foreign_allocator(const char *what);

#endif
