// What the files of the wipe share. Contract: CEnclaveWipe.h.

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

// Hidden: a handler that calls through a lazily bound table is not async-signal-safe.
#pragma GCC visibility push(hidden)

/// The table, which only ever grows, at its head.
extern ces_wipe_block *ces_wipe_blocks;
/// The process that the arenas are of, not its children.
extern int ces_wipe_owner;
/// How many handlers are installed.
extern uint32_t ces_wipe_handlers;

/// Wipes everything; the second and further threads wait until the first has done it.
void ces_wipe_everything(int signal);
/// Clears what the interrupted thread had in registers and on its stack, but for the way back.
void ces_wipe_clear_interrupted(ucontext_t *context);

/// From here to `ces_wipe_end_faults`, this thread's faults are repaired in the range of
/// `ces_wipe_repair`, and jump to `ces_wipe_skip` elsewhere. Other threads' faults wait.
void ces_wipe_begin_faults(void);
void ces_wipe_end_faults(void);
void ces_wipe_repair(void *from, size_t length);
extern sigjmp_buf ces_wipe_skip;

uint32_t ces_this_thread(void);

#pragma GCC visibility pop

#endif
