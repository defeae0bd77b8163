// Preloaded into a watched process: at the signal SIGRTMIN + 5 it unlocks all memory of the process, like careless
// code (munlockall(2)). Children inherit it.

#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

static void unlock_all(int signal) {
  (void)signal;
  munlockall();
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_handler = unlock_all, .sa_flags = SA_RESTART};
  sigaction(SIGRTMIN + 5, &action, 0);
}
