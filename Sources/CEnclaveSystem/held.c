// Implements CEnclaveHeld.h. The thread uses the shared number during the call, and so does a signal handler
// that interrupts it, for all of its own windows.

#include "CEnclaveHeld.h"

int ces_held_enter(void *gate, bool writing, uint32_t label) {
  int32_t own = ces_thread;
  ces_thread = CES_THREADS - 1;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  int entry = ces_window_enter(gate, writing, label);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  ces_thread = own;
  return entry;
}

void ces_held_leave(void *gate, bool writing, uint32_t label, bool undone) {
  int32_t own = ces_thread;
  ces_thread = CES_THREADS - 1;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  ces_window_leave(gate, writing, label, undone);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  ces_thread = own;
}

int64_t ces_held_counters_make(ces_gate *gate, uint32_t label) {
  int32_t own = ces_thread;
  ces_thread = CES_THREADS - 1;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  int64_t result = ces_counters_make(gate, label);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  ces_thread = own;
  return result;
}
