// Keeps fork(3) apart from threads whose state a child must not inherit: a fork waits until no other thread is
// inside the gate, and a thread that enters waits until the fork is over. Both stop waiting after a while, because
// one may hold a lock of the program that the other needs. A thread may enter several times.

#ifndef CENCLAVE_FORK_GATE_H
#define CENCLAVE_FORK_GATE_H

#include <stdint.h>

typedef struct {
  uint32_t inside;  // how many threads are inside
  uint32_t forking;  // how many forks are in progress
} ces_fork_gate;

/// A thread's part in the counts of one gate. A thread-local variable, initially zero.
typedef struct {
  uint32_t depth;  // how often it has entered
  uint32_t forks;  // how many of `forking` are its own; more than one if a fork handler forks
} ces_fork_gate_thread;

/// Enters and leaves. Waits at most `patience_ms` milliseconds for forks in progress.
void ces_fork_gate_enter(ces_fork_gate *gate, ces_fork_gate_thread *thread, uint32_t patience_ms);
void ces_fork_gate_leave(ces_fork_gate *gate, ces_fork_gate_thread *thread);

/// Called by the three handlers of pthread_atfork(3).
void ces_fork_gate_before_fork(ces_fork_gate *gate, ces_fork_gate_thread *thread, uint32_t patience_ms);
void ces_fork_gate_in_parent(ces_fork_gate *gate, ces_fork_gate_thread *thread);
void ces_fork_gate_in_child(ces_fork_gate *gate, ces_fork_gate_thread *thread);

#endif
