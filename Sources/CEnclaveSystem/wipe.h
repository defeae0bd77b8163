// Shared by the files that implement CEnclaveWipe.h.

#ifndef C_ENCLAVE_WIPE_PARTS_H
#define C_ENCLAVE_WIPE_PARTS_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#include "CEnclaveWipe.h"

enum {
  CES_WIPE_BLOCK_BYTES = 4096,
  CES_WIPE_BLOCK_ENTRIES = (CES_WIPE_BLOCK_BYTES - 8) / sizeof(ces_wipe_entry),
};
typedef struct ces_wipe_block {
  struct ces_wipe_block *next;
  ces_wipe_entry entries[CES_WIPE_BLOCK_ENTRIES];
} ces_wipe_block;
_Static_assert(sizeof(ces_wipe_block) <= CES_WIPE_BLOCK_BYTES, "a page");

// Hidden, because calling through a lazily bound symbol table is not async-signal-safe.
#pragma GCC visibility push(hidden)

/// The table's blocks. The list only grows, at its head.
extern ces_wipe_block *ces_wipe_blocks;
/// The process that owns the arenas; forked children do not.
extern int ces_wipe_owner;
/// How many handlers are installed.
extern uint32_t ces_wipe_handlers;

/// Wipes everything. Other threads that call it wait until the first caller is done.
void ces_wipe_everything(int signal);
/// Clears the interrupted thread's registers and stack, except what is needed to return.
void ces_wipe_clear_interrupted(ucontext_t *context);

/// From here to `ces_wipe_end_faults`, this thread's faults in the range of `ces_wipe_repair` are repaired, and
/// its other faults jump to `ces_wipe_skip`. Other threads that fault wait until the end.
void ces_wipe_begin_faults(void);
void ces_wipe_end_faults(void);
void ces_wipe_repair(void *from, size_t length);
extern sigjmp_buf ces_wipe_skip;

uint32_t ces_this_thread(void);

#pragma GCC visibility pop

#endif
