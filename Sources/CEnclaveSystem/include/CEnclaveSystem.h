// System calls, constants and inline instructions that Swift cannot import. No policy.
//
// Every wrapper returns zero or a positive value on success and -errno on failure, so that nothing can
// change errno between a call and its check.

#ifndef C_ENCLAVE_SYSTEM_H
#define C_ENCLAVE_SYSTEM_H

#ifndef __linux__
#error "Enclave and memwatch are for Linux: they rest on its memory system calls."
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "CEnclaveCipher.h"
#include "CEnclaveForkGate.h"
#include "CEnclaveGate.h"
#include "CEnclaveHeld.h"
#include "CEnclavePages.h"
#include "CEnclaveTerminal.h"
#include "CEnclaveTexts.h"
#include "CEnclaveWipe.h"

// --- Memory ------------------------------------------------------------------------------------

/// mmap(2), private and anonymous, PROT_NONE. Returns the address, or -errno.
int64_t ces_map_reserve(size_t length);
/// Tests whether this much private memory can be mapped now (RLIMIT_AS, RLIMIT_DATA, overcommit). 0 or
/// -errno.
int64_t ces_has_room(size_t length);
int64_t ces_unmap(void *address, size_t length);

enum : int { CES_PROTECTION_CLOSED = 0, CES_PROTECTION_READ = 1, CES_PROTECTION_READ_WRITE = 2 };
/// mprotect(2) with one of CES_PROTECTION_….
int64_t ces_protect(void *address, size_t length, int protection);
int64_t ces_lock(void *address, size_t length);
/// mlock2(2), MLOCK_ONFAULT.
int64_t ces_lock_on_fault(void *address, size_t length);
int64_t ces_unlock(void *address, size_t length);

enum : int {
  CES_ADVICE_DONT_DUMP, CES_ADVICE_WIPE_ON_FORK, CES_ADVICE_DONT_FORK, CES_ADVICE_UNMERGEABLE,
  CES_ADVICE_NO_HUGE_PAGES,
};
int64_t ces_advise(void *address, size_t length, int advice);
/// Gives every second unit MADV_NOHUGEPAGE, so that no unit's mapping merges with its neighbours'. If that
/// fails, gives all units the same flags again (as far as the kernel allows) and returns -errno.
int64_t ces_separate(void *address, size_t length, size_t unit);

/// explicit_bzero(3).
void ces_wipe(void *address, size_t length);
/// Copies without leaving the bytes in a register.
void ces_copy(void *to, const void *from, size_t length);
/// 1 if all bytes are zero. The time does not depend on their values.
int ces_is_zero(const void *address, size_t length);
/// 1 if equal. The time does not depend on the bytes' values.
int ces_is_equal(const void *a, const void *b, size_t length);
int64_t ces_page_size(void);

/// malloc(3), aligned to a power of two. Returns the address, or -ENOMEM.
int64_t ces_metadata_allocate(size_t length, size_t alignment);
void ces_metadata_free(void *address);
/// -ENOMEM if malloc(3) cannot provide CES_METADATA_ROOM bytes in one piece, which is what the Swift
/// runtime and error texts need for one step. Then a reserve is released, so that the error can be
/// reported.
enum { CES_METADATA_ROOM = 64 * 1024, CES_METADATA_RESERVE = 32 * 1024 };
int64_t ces_metadata_room(void);

// --- The process -------------------------------------------------------------------------------

enum { CES_CALL_SLOTS = 64 };
/// Process-wide counters of calls and failures, a pair per call number; relaxed atomics.
void ces_count(uint32_t call, bool failed, int error);
uint64_t ces_calls(uint32_t call);
uint64_t ces_failures(uint32_t call);
int ces_last_error(uint32_t call);

/// getrandom(2): all of `length`, or -errno.
int64_t ces_random(void *bytes, size_t length);
/// getrlimit(2), RLIMIT_MEMLOCK; UINT64_MAX means unlimited.
int64_t ces_memlock_limit(uint64_t *soft, uint64_t *hard);
/// prctl(PR_GET_DUMPABLE).
int64_t ces_dumpable(void);
/// secure_getenv(3): NULL in a set-user-ID program.
const char *ces_secure_getenv(const char *name);
uint64_t ces_boottime_ms(void);
uint64_t ces_realtime_ms(void);
const char *ces_strerror(int error);
const char *ces_errno_name(int error);
int64_t ces_sleep_ms(uint32_t ms);
/// One round of waiting for another thread; `tries` counts the rounds from 0. The first rounds pause, later
/// ones call sched_yield(2), and the last ones sleep, so that even a waiter of higher real-time priority
/// leaves the processor to the other thread. Async-signal-safe.
void ces_back_off(uint32_t tries);
/// futex(2): sleeps while the word is `seen`. May return early.
void ces_word_wait(const uint32_t *word, uint32_t seen);
/// futex(2): wakes every thread that sleeps on the word.
void ces_word_wake(const uint32_t *word);
int64_t ces_processors(void);

/// Calls `child` in each forked child of this process (pthread_atfork(3)).
int64_t ces_at_fork_child(void (*child)(void));
int64_t ces_at_exit(void (*handler)(void));

/// The word that holds the process's generation. It becomes 0 in a forked child: through the kernel, if its
/// page is MADV_WIPEONFORK (also after a raw clone(2)), otherwise through pthread_atfork(3).
extern uint64_t *ces_fork_word;

/// Starts a detached thread with all signals blocked except SIGBUS. It calls `tick` every `interval_ms`
/// until `tick` returns 0. fork(3) waits until no thread is within `tick`.
int64_t ces_start_ticker(const char *name, uint32_t interval_ms, int (*tick)(void *),
                         void *context);

// --- Files -------------------------------------------------------------------------------------

typedef struct {
  uint64_t device, inode, size, links;
  uint32_t mode, uid;
} ces_stat_t;

int64_t ces_open_directory(int at, const char *path);          // O_DIRECTORY|O_NOFOLLOW
int64_t ces_open_directory_following(const char *path);        // O_DIRECTORY
int64_t ces_open_read(int at, const char *path, bool follow);  // O_RDONLY|O_NONBLOCK|O_CLOEXEC
int64_t ces_open_temporary(int directory);                     // O_TMPFILE, 0600
/// /proc/self/status.
int64_t ces_open_own_status(void);
int64_t ces_create_exclusive(int at, const char *path);        // O_CREAT|O_EXCL, 0600
int64_t ces_close(int fd);
int64_t ces_mkdir(int at, const char *path, uint32_t mode);
int64_t ces_fstat(int fd, ces_stat_t *out);
int64_t ces_lstat(int at, const char *path, ces_stat_t *out);
int64_t ces_is_tmpfs(int fd);
int64_t ces_fallocate(int fd, uint64_t length);
/// Makes a call that may grow a file. Beyond RLIMIT_FSIZE such a call raises SIGXFSZ in addition to EFBIG
/// (setrlimit(2)), which would end the process; this blocks the signal and discards it.
int64_t ces_without_xfsz(int64_t (*call)(int, uint64_t), int fd, uint64_t length);
int64_t ces_chmod(int fd, uint32_t mode);
int64_t ces_link(int fd, int directory, const char *name);
int64_t ces_rename_exclusive(int at, const char *from, const char *to);
int64_t ces_unlink(int at, const char *name);
int64_t ces_rmdir(const char *path);
int64_t ces_pread(int fd, void *bytes, size_t length, uint64_t offset);
int64_t ces_write(int fd, const void *bytes, size_t length);
int64_t ces_fsync(int fd);
int64_t ces_readlink(int at, const char *path, char *bytes, size_t length);
int64_t ces_map_shared(int fd, size_t length);
/// Sets a write record lock on the whole file (fcntl(2) F_SETLK). It is held until the process ends or
/// closes any descriptor of that file.
int64_t ces_lock_file(int fd);
/// The pid that holds such a lock, in this process's pid namespace; 0 if free; INT32_MAX if the holder is in
/// a namespace that is not visible here.
int64_t ces_lock_holder(int fd);

/// Calls `each` with every name in the directory except "." and "..", until it returns non-zero.
int64_t ces_list_directory(int fd, int (*each)(void *, const char *), void *context);

// --- The stats page's SIGBUS guard -------------------------------------------------------------

/// Installs a SIGBUS handler. On a fault in the range it maps private memory over the whole range and sets
/// a flag; other faults go to the previous handler. sigaction(2).
int64_t ces_page_guard_install(void *address, size_t length);
/// Reinstalls the guard if the program has installed a handler since, and returns 1 then. The guard passes
/// faults outside of the page to that handler. Not async-signal-safe; one thread at a time.
int64_t ces_page_guard_keep(void);
/// 1 once the guard has replaced the range.
int ces_page_guard_tripped(void);
void ces_page_guard_remove(void);

// --- Words shared with other threads and processes ---------------------------------------------

static inline void ces_store_relaxed(void *p, uint64_t value) {
  __atomic_store_n((uint64_t *)p, value, __ATOMIC_RELAXED);
}
static inline void ces_store_release(void *p, uint64_t value) {
  __atomic_store_n((uint64_t *)p, value, __ATOMIC_RELEASE);
}
static inline uint64_t ces_load_relaxed(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
static inline void ces_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/// A spin lock: one exchange to lock, a plain store and a load to unlock. Of six locks measured it is the
/// cheapest uncontended (about 3 ns each way). A waiter pauses for some microseconds, then sleeps
/// (futex(2)) until the lock is released, so that a waiter of any real-time priority leaves the processor
/// to the holder.
void ces_spin_wait(uint32_t *word);
/// Counts of threads that sleep on a lock or are about to, by the lock's address. They are not in the lock,
/// because the next holder may free the lock's memory as soon as it is unlocked.
enum { CES_SLEEPER_COUNTS = 32 };
typedef struct {
  uint32_t count __attribute__((aligned(64)));  // a cache line each, so that locks do not share one
} ces_sleeper_count;
extern ces_sleeper_count ces_sleepers[CES_SLEEPER_COUNTS];
static inline uint32_t *ces_sleepers_of(const uint32_t *word) {
  return &ces_sleepers[((uintptr_t)word / 64) % CES_SLEEPER_COUNTS].count;
}
/// Wakes one thread that sleeps on the word, whose memory may already be gone.
void ces_wake_sleeper(uint32_t *word);
/// How deep this thread is inside the library: 1 for each spin lock that it holds, plus CES_IN_LIBRARY for
/// each library call that it is in and for each lock held across such calls. While it is not 0, the
/// interposer's malloc does not use arenas. If a window opens while it counts spin locks, the caller is a
/// signal handler that interrupted their holder.
extern __thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));
enum { CES_IN_LIBRARY = 1 << 16 };
static inline void ces_enter_library(void) { ces_held_locks += CES_IN_LIBRARY; }
static inline void ces_leave_library(void) { ces_held_locks -= CES_IN_LIBRARY; }
static inline bool ces_holds_locks(void) { return (ces_held_locks & (CES_IN_LIBRARY - 1)) != 0; }
/// Leaves the library to call application code. Pass the result to ces_return_to_library afterwards.
static inline int32_t ces_step_out_of_library(void) {
  int32_t held = ces_held_locks;
  ces_held_locks = 0;
  return held;
}
static inline void ces_return_to_library(int32_t held) { ces_held_locks = held; }
static inline void ces_spin_lock(uint32_t *word) {
  ces_held_locks++;
  if (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE) != 0) ces_spin_wait(word);
}
static inline bool ces_spin_try(uint32_t *word) {
  if (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE) != 0) return false;
  ces_held_locks++;
  return true;
}
static inline void ces_spin_unlock(uint32_t *word) {
  __atomic_store_n(word, 0, __ATOMIC_RELEASE);
  ces_held_locks--;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(ces_sleepers_of(word), __ATOMIC_RELAXED) != 0, 0)) {
    ces_wake_sleeper(word);
  }
}
/// Marks a held spin lock as held across library calls, and undoes that.
static inline void ces_lock_spans_calls(void) { ces_held_locks += CES_IN_LIBRARY - 1; }
static inline void ces_lock_spans_no_calls(void) { ces_held_locks -= CES_IN_LIBRARY - 1; }

/// A lock that a forked child never finds locked. The word holds the pid of the process that locked it; any
/// other process takes that for unlocked. Each attempt calls getpid(2). Limitation: a child that has its
/// parent's pid, in another pid namespace, is not recognised as a child.
void ces_process_lock(uint32_t *word);
/// Takes such a lock if it is free. Async-signal-safe.
bool ces_process_try(uint32_t *word);

/// The process's generation, read on each use of an arena: one load.
static inline uint64_t ces_fork_generation(void) {
  uint64_t *word = __atomic_load_n(&ces_fork_word, __ATOMIC_ACQUIRE);
  return word ? __atomic_load_n(word, __ATOMIC_RELAXED) : 0;
}
void ces_set_fork_word(uint64_t *word);
void ces_reset_fork_word(void);

/// Calls write(2) on standard error once; text that the call does not take is lost.
void ces_write_stderr(const char *text, size_t length);
_Noreturn void ces_abort(void);
/// 1 if the process uses this library's pthread_create, so that new threads start with closed keys.
int ces_threads_start_closed(void);

// --- The process's identity ---------------------------------------------------------------------

/// The number of lines of /proc/self/maps. Allocates no memory, because it is called when there is none.
int64_t ces_map_count(void);
int64_t ces_pid(void);
int64_t ces_uid(void);
/// The user id if the real, effective and saved ids are equal; otherwise -EAGAIN.
int64_t ces_sole_uid(void);
/// Reads the numbers of threads from an open /proc/PID/task, from `*position` on (0: the first thread), and
/// sets it to where the next call continues; to 0 at the end. Returns their count.
int64_t ces_list_threads(int directory, uint64_t *position, int32_t *threads, size_t capacity);
/// This thread's seccomp mode: prctl(2), PR_GET_SECCOMP.
int64_t ces_seccomp_mode(void);

#endif
