// Handles faults of the wipe itself.
//
// The wipe faults on pages that another thread closes meanwhile, or that are no longer mapped. While it runs,
// this handler replaces those of SIGSEGV and SIGBUS: it opens the pages that can be opened, and skips the rest.

#define _GNU_SOURCE
#include "wipe.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CEnclaveSystem.h"

static uint32_t guarded;  // the thread whose faults are handled; 0 if none
static struct sigaction before_segv, before_bus;
static uintptr_t wiping_from, wiping_to;
static unsigned repairs;  // for the current entry; pages under another owner's key would fault forever
sigjmp_buf ces_wipe_skip;

uint32_t ces_this_thread(void) { return (uint32_t)syscall(SYS_gettid); }

static void on_own_fault(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)context;
  if (ces_this_thread() != __atomic_load_n(&guarded, __ATOMIC_RELAXED)) {
    // Another thread's fault: return, and let it fault again, once the wipe is done.
    for (uint32_t tries = 0; __atomic_load_n(&guarded, __ATOMIC_ACQUIRE) != 0;) {
      ces_back_off(tries++);
    }
    return;
  }
  uintptr_t at = (uintptr_t)info->si_addr;
  enum { MOST_REPAIRS = 4096 };
  if (at >= wiping_from && at < wiping_to && repairs++ < MOST_REPAIRS &&
      mprotect((void *)wiping_from, wiping_to - wiping_from, PROT_READ | PROT_WRITE) == 0) {
    return;
  }
  siglongjmp(ces_wipe_skip, 1);
}

bool ces_is_wipe_fault_handler(const void *handler) { return handler == (const void *)on_own_fault; }

void ces_wipe_begin_faults(void) {
  uint32_t nobody = 0, self = ces_this_thread(), tries = 0;
  while (!__atomic_compare_exchange_n(&guarded, &nobody, self, false, __ATOMIC_ACQUIRE,
                                      __ATOMIC_RELAXED)) {
    if (nobody == self) _exit(128 + SIGABRT);  // a fault that the handler does not cover
    ces_back_off(tries++);
    nobody = 0;
  }
  struct sigaction own;
  memset(&own, 0, sizeof own);
  own.sa_sigaction = on_own_fault;
  own.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &own, &before_segv);
  sigaction(SIGBUS, &own, &before_bus);
}

void ces_wipe_end_faults(void) {
  sigaction(SIGSEGV, &before_segv, NULL);
  sigaction(SIGBUS, &before_bus, NULL);
  __atomic_store_n(&guarded, 0, __ATOMIC_RELEASE);
}

void ces_wipe_repair(void *from, size_t length) {
  wiping_from = (uintptr_t)from;
  wiping_to = wiping_from + length;
  repairs = 0;
}
