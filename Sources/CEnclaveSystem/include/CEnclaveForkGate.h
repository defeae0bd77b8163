/// Keeps fork(3) apart from threads whose state a child must not inherit: a fork waits until no other thread is
/// inside, and threads that want to enter wait until the fork is over. Both stop waiting after a while, because
/// they may wait for each other through a lock of the program. A thread may enter several times.
#ifndef CENCLAVE_FORK_GATE_H
#define CENCLAVE_FORK_GATE_H

#include <stdint.h>

typedef struct {
  /// Threads.
  uint32_t inside, forking;
} ces_fork_gate;

/// What one thread does at one gate: a thread-local variable, zero at first.
typedef struct {
  /// How often the thread entered.
  uint32_t depth;
  /// How many of `forking` are this thread's: more than one where a handler of a fork forks.
  uint32_t forks;
} ces_fork_gate_thread;

void ces_fork_gate_enter(ces_fork_gate *gate, ces_fork_gate_thread *thread, uint32_t patience_ms);
void ces_fork_gate_leave(ces_fork_gate *gate, ces_fork_gate_thread *thread);

/// For the three handlers of pthread_atfork(3).
void ces_fork_gate_before_fork(ces_fork_gate *gate, ces_fork_gate_thread *thread, uint32_t patience_ms);
void ces_fork_gate_in_parent(ces_fork_gate *gate, ces_fork_gate_thread *thread);
void ces_fork_gate_in_child(ces_fork_gate *gate, ces_fork_gate_thread *thread);

#endif
