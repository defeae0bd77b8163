// Windows that belong to no thread: any thread opens one, and any other may close it.

#ifndef C_ENCLAVE_HELD_H
#define C_ENCLAVE_HELD_H

#include "CEnclaveGate.h"

/// Like ces_window_enter and ces_window_leave, but the window is counted in the shared counters, so that it
/// is not taken for abandoned when a thread ends. Returns CES_WINDOW_….
int ces_held_enter(void *gate, bool writing, uint32_t label);
void ces_held_leave(void *gate, bool writing, uint32_t label, bool undone);
/// Allocates the shared counters. -ENOMEM if there is no memory.
int64_t ces_held_counters_make(ces_gate *gate, uint32_t label);

#endif
