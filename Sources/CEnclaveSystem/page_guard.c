// The stats page is on tmpfs, where its user can truncate it at any time; the next store would then raise
// SIGBUS (mmap(2)). This handler maps private memory over the whole range, so that the program's stores go
// nowhere and it keeps running. It is async-signal-safe: mmap(2) is a bare system call, and the rest are
// stores.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

static uintptr_t guarded_from, guarded_to;
static int tripped, installed;
// The handler from before the guard; and the handler that the program installed later, if it did, which the
// guard has replaced in turn.
static struct sigaction previous, later;
static int has_later;
// How often the guard has called another handler that has not returned. A later handler may call the guard as
// its previous one; then the guard must not call that handler again.
static _Thread_local int depth;

static void on_sigbus(int signal, siginfo_t *info, void *context) {
  uintptr_t address = (uintptr_t)info->si_addr;
  uintptr_t from = __atomic_load_n(&guarded_from, __ATOMIC_ACQUIRE);
  uintptr_t to = __atomic_load_n(&guarded_to, __ATOMIC_ACQUIRE);
  if (from != 0 && address >= from && address < to) {
    int saved = errno;
    void *p = mmap((void *)from, to - from, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    __atomic_store_n(&tripped, 1, __ATOMIC_RELEASE);
    errno = saved;
    if (p != MAP_FAILED) return;
  }
  // Not a fault in the page: do what would happen without the guard.
  const struct sigaction *next =
      __atomic_load_n(&has_later, __ATOMIC_ACQUIRE) && depth == 0 ? &later : &previous;
  depth++;
  if ((next->sa_flags & SA_SIGINFO) && next->sa_sigaction) {
    next->sa_sigaction(signal, info, context);
  } else if (next->sa_handler == SIG_DFL || next->sa_handler == SIG_IGN) {
    // A fault cannot be ignored: returning would raise it again forever.
    struct sigaction standard;
    memset(&standard, 0, sizeof standard);
    standard.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &standard, NULL);
  } else {
    next->sa_handler(signal);
  }
  depth--;
}

static int guard_with(struct sigaction *before) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, before);
}

int64_t ces_page_guard_install(void *address, size_t length) {
  __atomic_store_n(&tripped, 0, __ATOMIC_RELEASE);
  __atomic_store_n(&guarded_to, (uintptr_t)address + length, __ATOMIC_RELEASE);
  __atomic_store_n(&guarded_from, (uintptr_t)address, __ATOMIC_RELEASE);
  if (installed) return 0;
  if (guard_with(&previous) < 0) return -errno;
  installed = 1;
  return 0;
}

int64_t ces_page_guard_keep(void) {
  struct sigaction now;
  if (!installed || __atomic_load_n(&guarded_from, __ATOMIC_ACQUIRE) == 0) return 0;
  if (sigaction(SIGBUS, NULL, &now) < 0) return -errno;
  if ((now.sa_flags & SA_SIGINFO) &&
      (now.sa_sigaction == on_sigbus || ces_is_wipe_fault_handler((void *)now.sa_sigaction)))
    return 0;
  // While `later` changes, faults go to `previous`.
  __atomic_store_n(&has_later, 0, __ATOMIC_RELEASE);
  later = now;
  __atomic_store_n(&has_later, 1, __ATOMIC_RELEASE);
  struct sigaction ignored;
  return guard_with(&ignored) < 0 ? -errno : 1;
}

int ces_page_guard_tripped(void) { return __atomic_load_n(&tripped, __ATOMIC_ACQUIRE); }

void ces_page_guard_remove(void) {
  __atomic_store_n(&guarded_from, 0, __ATOMIC_RELEASE);
  __atomic_store_n(&guarded_to, 0, __ATOMIC_RELEASE);
}
