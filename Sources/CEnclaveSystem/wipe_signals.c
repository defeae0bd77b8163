// The handler of fatal signals: it wipes, and then performs the signal's previous action.

#define _GNU_SOURCE
#include "wipe.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CEnclaveTerminal.h"

/// The kind of a signal's previous action. The action runs after the wipe; an application's handler runs before
/// it.
typedef enum { ENDS, IS_RUNTIME, IS_APPLICATION } before_t;
static struct {
  before_t before;
  struct sigaction action;
} handled[NSIG];

static _Noreturn void end_by(int signal) {
  struct sigaction standard;
  memset(&standard, 0, sizeof standard);
  sigaction(signal, &standard, NULL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  syscall(SYS_tgkill, getpid(), ces_this_thread(), signal);
  pthread_sigmask(SIG_UNBLOCK, &one, NULL);
  _exit(128 + signal);
}

static void call(const struct sigaction *action, int signal, siginfo_t *info, void *context) {
  if (action->sa_flags & SA_SIGINFO) {
    action->sa_sigaction(signal, info, context);
  } else {
    action->sa_handler(signal);
  }
}

static void on_signal(int signal, siginfo_t *info, void *context) {
  int error = errno;
  if (handled[signal].before == IS_APPLICATION) {
    call(&handled[signal].action, signal, info, context);
    struct sigaction now;
    if (handled[signal].action.sa_flags & SA_RESETHAND) {
      // The application's handler was to run only once; the signal's next delivery would have ended the
      // process.
      handled[signal].before = ENDS;
      errno = error;
      return;
    }
    // The application handled the signal, unless it restored the default action.
    if (sigaction(signal, NULL, &now) == 0 &&
        ((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL)) {
      errno = error;
      return;
    }
  }
  sigset_t all;
  sigfillset(&all);
  static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  if (getpid() == __atomic_load_n(&ces_wipe_owner, __ATOMIC_RELAXED)) {
    ces_wipe_everything(signal);
    ces_wipe_clear_interrupted(context);
  }
  ces_terminal_restore_before_end();
  if (handled[signal].before == IS_RUNTIME) {
    call(&handled[signal].action, signal, info, context);
  }
  end_by(signal);
}

/// The Swift runtime's crash handler prints and returns. It is one function for all these signals,
/// installed with these flags.
static bool is_runtime(const struct sigaction *action) {
  const int restorer = 0x04000000;  // the kernel's SA_RESTORER
  if ((action->sa_flags & ~restorer) != (SA_ONSTACK | SA_SIGINFO | SA_NODEFER)) return false;
  static const int signals[] = {SIGILL, SIGTRAP, SIGFPE, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction other;
    if (sigaction(signals[i], NULL, &other) != 0) return false;
    if (other.sa_sigaction == on_signal) other = handled[signals[i]].action;
    if (!(other.sa_flags & SA_SIGINFO) || other.sa_sigaction != action->sa_sigaction) return false;
  }
  return true;
}

/// A signal's action; while a passphrase is read, the action behind the reader's handler.
static int look_up(int signal, struct sigaction *action) {
  return ces_terminal_replaced_action(signal, action) ? 0 : sigaction(signal, NULL, action);
}

bool ces_wipe_covers(int signal) {
  struct sigaction now;
  return look_up(signal, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal;
}

int64_t ces_wipe_install(int signal, bool is_fault) {
  struct sigaction now;
  if (look_up(signal, &now) < 0) return -errno;
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal) return 1;
  bool is_default = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
  if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN) return 0;
  before_t before = is_default ? ENDS : is_runtime(&now) ? IS_RUNTIME : IS_APPLICATION;
  if (before == IS_APPLICATION && !is_fault) return 0;
  handled[signal].before = before;
  handled[signal].action = now;
  struct sigaction own;
  memset(&own, 0, sizeof own);
  own.sa_flags = SA_SIGINFO | SA_ONSTACK;
  if (before == IS_APPLICATION) {
    // An application's handler runs with the mask and flags it asked for.
    own.sa_mask = now.sa_mask;
    own.sa_flags = (now.sa_flags & ~SA_RESETHAND) | SA_SIGINFO;
  } else {
    sigfillset(&own.sa_mask);
    static const int faults[] = {SIGSEGV, SIGBUS};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&own.sa_mask, faults[i]);
    own.sa_flags |= SA_NODEFER;
  }
  own.sa_sigaction = on_signal;
  if (!ces_terminal_set_replaced_action(signal, &own) && sigaction(signal, &own, NULL) < 0) return -errno;
  __atomic_add_fetch(&ces_wipe_handlers, 1, __ATOMIC_RELEASE);
  return 1;
}
