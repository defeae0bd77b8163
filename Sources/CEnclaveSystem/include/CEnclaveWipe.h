// The wipe table: what a signal handler needs to wipe every secret of the process.
//
// Contract
//
//   - Each chunk has an entry from before its first secret until its contents are wiped. `data` and `gate` do
//     not change while the entry is live. All bytes that may hold secrets lie in [data, data + used), and
//     `used` is raised before the first of them is written.
//   - Entries never move and their blocks are never freed: the handler follows the blocks without a lock.
//   - `ces_wipe_remove` is called before the chunk is unmapped. It does not return once a wipe has claimed the
//     entry: the process is ending, and those addresses must stay mapped.
//   - The handler opens what is closed: keys by WRPKRU, pages by mprotect(2). It skips pages that somebody
//     else has unmapped.
//
// The handler works in this order. It sets the gates of all arenas to `destroyed` and `wiped`, so that no
// window opens any more and none ends with a result. It wipes the contents. It waits for write windows of
// other threads (CES_WIPE_GRACE_MS at most) and wipes what they wrote. It records the wipe on the stats
// page, if there is one, and clears the interrupted thread's registers. Then the signal's previous action
// follows. Everything is async-signal-safe (signal-safety(7)): loads and stores, sigaction, sigprocmask,
// clock_gettime, and bare system calls.

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
  uint32_t late;  // a write window was open during the wipe: wipe again
  void *data;  // in a free entry: the next free one
  size_t used;
  ces_gate *gate;
} ces_wipe_entry;

/// Adds a live entry; NULL if there is no memory for it (errno is set).
ces_wipe_entry *ces_wipe_add(void *data, ces_gate *gate);
static inline void ces_wipe_set_used(ces_wipe_entry *entry, size_t used) {
  __atomic_store_n(&entry->used, used, __ATOMIC_RELEASE);
}
/// In a forked child: makes signals wipe what was inherited.
void ces_wipe_inherit(void);
void ces_wipe_remove(ces_wipe_entry *entry);

/// The stats page's EmergencyWipe has the same values.
enum : uint32_t {
  CES_WIPE_INSTALLED = 1,  // at least one handler is installed
  CES_WIPE_ABSENT = 2,
  CES_WIPE_BEGUN = 3,
  CES_WIPE_DONE = 4,
  CES_WIPE_LEFT = 5,  // done, except for write windows that stayed open
};
uint32_t ces_wipe_status(void);

/// Makes a signal wipe before its current action. Returns 1 if it does so now, or did already. Returns 0, and
/// changes nothing, if the signal is ignored, or is a termination signal that the application handles. Returns
/// -errno of sigaction(2) on failure.
int64_t ces_wipe_install(int signal, bool is_fault);
/// Whether the signal's current handler is this library's.
bool ces_wipe_covers(int signal);
/// Records where code is mapped: clearing a stack keeps words that point there. Call it once, before
/// installing a handler.
void ces_wipe_note_code(void);

/// Signal numbers, for Swift.
enum : int {
  CES_SIGNAL_HUP = SIGHUP, CES_SIGNAL_INT = SIGINT, CES_SIGNAL_QUIT = SIGQUIT,
  CES_SIGNAL_ILL = SIGILL, CES_SIGNAL_TRAP = SIGTRAP, CES_SIGNAL_ABRT = SIGABRT,
  CES_SIGNAL_BUS = SIGBUS, CES_SIGNAL_FPE = SIGFPE, CES_SIGNAL_USR1 = SIGUSR1,
  CES_SIGNAL_SEGV = SIGSEGV, CES_SIGNAL_USR2 = SIGUSR2, CES_SIGNAL_PIPE = SIGPIPE,
  CES_SIGNAL_ALRM = SIGALRM, CES_SIGNAL_TERM = SIGTERM, CES_SIGNAL_XCPU = SIGXCPU,
  CES_SIGNAL_XFSZ = SIGXFSZ, CES_SIGNAL_SYS = SIGSYS,
};

/// Whether this is the fault handler that a wipe installs while it runs.
bool ces_is_wipe_fault_handler(const void *handler);

/// Sets two words of the stats page: a wipe stores its status in the first and the signal in the second.
/// NULL unsets them.
void ces_wipe_report_to(uint64_t *status, uint64_t *signal);

/// Gives this thread an alternate signal stack, if it has none (sigaltstack(2)); it is freed when the
/// thread ends. Once a handler is installed, a thread's first window calls this.
int64_t ces_alternate_stack(void);
void ces_alternate_stack_free(void);
/// The number under which alternate stacks are counted: SystemCall's raw value.
enum { CES_CALL_ALTERNATE_STACK = 47 };

#endif
