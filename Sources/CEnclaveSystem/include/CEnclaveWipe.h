// The wipe table: what a signal handler needs to know to wipe every secret of the process.
//
// Contract
//
//   - One entry for each chunk, from before its first secret until its contents are wiped. `data`
//     and `gate` stay as they are while the entry is live; all bytes that may hold secrets lie in
//     [data, data + used), and `used` is raised before the first of them is written.
//   - Entries never move, and their blocks are never given back: the handler follows the blocks
//     without a lock.
//   - `ces_wipe_remove` comes before the chunk is unmapped. It does not return once a wipe has taken
//     the entry: the process is ending, and those addresses must stay what they are.
//   - What is closed is opened by the handler itself: keys by WRPKRU, pages by mprotect(2). Pages
//     that somebody else took away are left out.
//
// The handler, in its order: the gates of all arenas say `destroyed` and `wiped`, so no window opens
// any more and none ends with a result; the contents are wiped; windows that other threads have open
// for writing are waited for (CES_WIPE_GRACE_MS at most), and what they wrote is wiped; the page, where
// there is one, is told; the interrupted thread's registers are cleared. Then the signal does what
// it would have done. Everything in it is async-signal-safe (signal-safety(7)): loads and stores,
// sigaction, sigprocmask, clock_gettime, and bare system calls.

#ifndef C_ENCLAVE_WIPE_H
#define C_ENCLAVE_WIPE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "CEnclaveGate.h"

enum : uint32_t { CES_WIPE_FREE = 0, CES_WIPE_LIVE = 1, CES_WIPE_TAKEN = 2 };
enum { CES_WIPE_GRACE_MS = 20 };

typedef struct {
  uint32_t state;  // CES_WIPE_…
  uint32_t late;   // to be wiped again: a window was open for writing
  void *data;      // of a free entry: the next free one
  size_t used;
  ces_gate *gate;
} ces_wipe_entry;

/// A live entry; NULL when there is no memory for it (errno is set).
ces_wipe_entry *ces_wipe_add(void *data, ces_gate *gate);
static inline void ces_wipe_use(ces_wipe_entry *entry, size_t used) {
  __atomic_store_n(&entry->used, used, __ATOMIC_RELEASE);
}
/// In a forked child: a signal wipes what it has inherited.
void ces_wipe_inherit(void);
void ces_wipe_remove(ces_wipe_entry *entry);

/// The page's EmergencyWipe, too.
enum : uint32_t {
  CES_WIPE_INSTALLED = 1,  // some handler is in place
  CES_WIPE_ABSENT = 2,
  CES_WIPE_BEGUN = 3,
  CES_WIPE_DONE = 4,
  CES_WIPE_LEFT = 5,  // done, but for windows that stayed open for writing
};
uint32_t ces_wipe_status(void);

/// Has a signal wipe before it does what it does now. 1: it will (or did already); 0: it is ignored,
/// or a termination signal that the application handles, and stays so; -errno of sigaction(2).
int64_t ces_wipe_install(int signal, bool is_fault);
/// Whether a signal's handler is this library's now.
bool ces_wipe_covers(int signal);
/// Where the code is, for the clearing of stacks: what lies between is kept. Once, before a handler.
void ces_wipe_note_code(void);

/// Signals by their number here.
enum : int {
  CES_SIGNAL_HUP = SIGHUP, CES_SIGNAL_INT = SIGINT, CES_SIGNAL_QUIT = SIGQUIT,
  CES_SIGNAL_ILL = SIGILL, CES_SIGNAL_TRAP = SIGTRAP, CES_SIGNAL_ABRT = SIGABRT,
  CES_SIGNAL_BUS = SIGBUS, CES_SIGNAL_FPE = SIGFPE, CES_SIGNAL_USR1 = SIGUSR1,
  CES_SIGNAL_SEGV = SIGSEGV, CES_SIGNAL_USR2 = SIGUSR2, CES_SIGNAL_PIPE = SIGPIPE,
  CES_SIGNAL_ALRM = SIGALRM, CES_SIGNAL_TERM = SIGTERM, CES_SIGNAL_XCPU = SIGXCPU,
  CES_SIGNAL_XFSZ = SIGXFSZ, CES_SIGNAL_SYS = SIGSYS,
};

/// Whether a handler is the one that a wipe has for its own time.
bool ces_is_wipes_handler(const void *handler);

/// Two words of the stats page: a wipe stores its status in the first and the signal in the
/// second. NULL takes them back.
void ces_wipe_report_to(uint64_t *status, uint64_t *signal);

/// An alternate signal stack for this thread, if it has none, given back when it ends.
/// sigaltstack(2). The first window of a thread makes one, once a handler is installed.
int64_t ces_alternate_stack(void);
void ces_alternate_stack_free(void);
/// How the alternate stacks are counted among the calls: SystemCall's number.
enum { CES_CALL_ALTERNATE_STACK = 47 };

#endif
