// Windows that belong to no thread: any thread opens one, and any other ends it.

#ifndef C_ENCLAVE_HELD_H
#define C_ENCLAVE_HELD_H

#include "CEnclaveGate.h"

/// As ces_window_enter and ces_window_leave, counted in the counters that all threads share: a thread
/// that ends leaves none of them open. CES_WINDOW_….
int ces_held_enter(void *gate, bool writing, uint32_t label);
void ces_held_leave(void *gate, bool writing, uint32_t label, bool undone);
/// Makes room for these counts. -ENOMEM when there is no memory.
int64_t ces_held_counters_make(ces_gate *gate, uint32_t label);

#endif
