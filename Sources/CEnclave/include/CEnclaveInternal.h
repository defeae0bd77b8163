// Between the C and the Swift side of the C interface, and the interposer; not installed.

#ifndef C_ENCLAVE_INTERNAL_H
#define C_ENCLAVE_INTERNAL_H

#include "enclave.h"

/// Options for the interposer and for adopted programs. Forked children get a copy of the arena as their own;
/// memory is locked when it is touched first.
#define CENCLAVE_INHERITED_BY_FORK 0x80000000u
#define CENCLAVE_LOCKED_ON_FAULT 0x20000000u

/// Keeps what a function of this thread could not do.
void cenclave_set_error(enclave_status status, int error, const char *text, size_t length);

/// This thread is in the library: what it allocates now is the library's own (or the Swift runtime's,
/// which sets itself up as it goes), and the interposer stays away. Counted together with the locks
/// that the thread holds, in other bits: CES_IN_LIBRARY of CEnclaveSystem.h.
extern __thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));
static inline void cenclave_enter(void) { ces_held_locks += 1 << 16; }
static inline void cenclave_leave(void) { ces_held_locks -= 1 << 16; }
bool enclave_private_is_busy(void);

/// What fork(3) calls around each fork, in the parent before and after it and in the child. The others are
/// called where `prepare` said so.
typedef struct {
  bool (*prepare)(void);
  void (*parent)(void), (*child)(void);
} cenclave_fork_handlers;
/// From now on. They may use the Swift runtime.
void cenclave_set_fork_handlers(cenclave_fork_handlers handlers);

/// This thread forks, and holds all locks of arenas that the child inherits: it may not allocate there. (The
/// handlers of pthread_atfork(3) of others may run meanwhile: those that were set before this library's.)
bool enclave_private_is_forking(void);
/// Frees an address as soon as that fork is over, in parent and child.
void enclave_private_free_after_fork(void *address);

// For libenclave-adopt.so alone.

/// How far a secret is open to every thread until the next call: 0 closed, 1 for reading, 2 for reading
/// and writing. Of an arena with a page gate and the layout `isolated`; no other window may be opened to
/// the secret.
enclave_status enclave_private_hold(void *secret, int protection);
/// Closes a secret that is held open, then wipes and frees it.
enclave_status enclave_private_free_held(void *secret);
/// Wipes an arena and leaves it mapped, as exit does with all that are not ENCLAVE_FLAG_KEPT_AT_EXIT.
void enclave_private_wipe(enclave_arena *arena);

/// What libenclave-malloc.so offers to libenclave.so, by its symbol `enclave_interposer`.
typedef struct {
  size_t struct_size;
  /// Sets this thread's active arena; returns the one before.
  enclave_arena *(*set_active)(enclave_arena *arena);
  /// The name of the first allocation function that is not the interposer's; NULL when all are.
  const char *(*foreign)(void);
} cenclave_interposer;

/// NULL when it is not in the process. Looked up until it is found: it may be loaded later.
const cenclave_interposer *cenclave_find_interposer(void);
/// The name of an allocation function that is not the interposer's; NULL when all are. Names are looked
/// up until all are: what is loaded later stands behind in the order of lookup.
const char *cenclave_foreign_allocator(const cenclave_interposer *interposer);
/// Ends the process: an allocator is not ours. Does not return.
_Noreturn void enclave_private_foreign_allocator(const char *what);

#endif
