// Implements CEnclaveForkGate.h.

#include "CEnclaveSystem.h"

#include <stdbool.h>

/// Whether the patience is used up; `tries` counts from 0.
static bool has_timed_out(uint64_t *end, uint32_t tries, uint32_t patience_ms) {
  if (tries == 0) *end = ces_boottime_ms() + patience_ms;
  return ces_boottime_ms() >= *end;
}

void ces_fork_gate_enter(ces_fork_gate *gate, ces_fork_gate_thread *thread, uint32_t patience_ms) {
  if (thread->depth == 0) {
    uint64_t end;
    for (uint32_t tries = 0;; tries++) {
      __atomic_fetch_add(&gate->inside, 1, __ATOMIC_SEQ_CST);
      if (__atomic_load_n(&gate->forking, __ATOMIC_SEQ_CST) <= thread->forks) break;
      if (has_timed_out(&end, tries, patience_ms)) break;
      __atomic_fetch_sub(&gate->inside, 1, __ATOMIC_SEQ_CST);
      ces_back_off(tries);
    }
  }
  thread->depth++;
}

void ces_fork_gate_leave(ces_fork_gate *gate, ces_fork_gate_thread *thread) {
  if (--thread->depth == 0) __atomic_fetch_sub(&gate->inside, 1, __ATOMIC_SEQ_CST);
}

void ces_fork_gate_before_fork(ces_fork_gate *gate, ces_fork_gate_thread *thread,
                               uint32_t patience_ms) {
  thread->forks++;
  __atomic_fetch_add(&gate->forking, 1, __ATOMIC_SEQ_CST);
  uint32_t own = thread->depth != 0;
  uint64_t end;
  for (uint32_t tries = 0; __atomic_load_n(&gate->inside, __ATOMIC_SEQ_CST) > own; tries++) {
    if (has_timed_out(&end, tries, patience_ms)) break;
    ces_back_off(tries);
  }
}

void ces_fork_gate_in_parent(ces_fork_gate *gate, ces_fork_gate_thread *thread) {
  // In the child of a fork within a fork handler, the outer fork ends too.
  if (thread->forks == 0) return;
  thread->forks--;
  __atomic_fetch_sub(&gate->forking, 1, __ATOMIC_SEQ_CST);
}

void ces_fork_gate_in_child(ces_fork_gate *gate, ces_fork_gate_thread *thread) {
  __atomic_store_n(&gate->inside, thread->depth != 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&gate->forking, 0, __ATOMIC_SEQ_CST);
  thread->forks = 0;
}
