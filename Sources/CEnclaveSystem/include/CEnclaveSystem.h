// The system calls, constants and inline instructions that Swift cannot import. No policy.
//
// Every wrapper returns a value that is zero or positive on success and -errno on failure, so that
// nothing can run between a call and the reading of errno.

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
#include "CEnclaveGate.h"
#include "CEnclaveHeld.h"
#include "CEnclavePages.h"
#include "CEnclaveTerminal.h"
#include "CEnclaveTexts.h"
#include "CEnclaveWipe.h"

// --- Memory ------------------------------------------------------------------------------------

/// mmap(2), private and anonymous, PROT_NONE. The address, or -errno.
int64_t ces_map_reserve(size_t length);
/// Whether so much more private memory can be had now: RLIMIT_AS, RLIMIT_DATA and overcommit count it.
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
/// Gives every second unit MADV_NOHUGEPAGE, so that none merges with its neighbours. All of them or,
/// with -errno, none (unless the kernel refuses to undo it).
int64_t ces_separate(void *address, size_t length, size_t unit);

/// explicit_bzero(3).
void ces_wipe(void *address, size_t length);
/// Copies without a register that could hold the bytes afterwards.
void ces_copy(void *to, const void *from, size_t length);
/// 1 when all bytes are zero. Takes the same time whatever the bytes.
int ces_is_zero(const void *address, size_t length);
/// 1 when equal. Takes the same time whatever the bytes.
int ces_is_equal(const void *a, const void *b, size_t length);
int64_t ces_page_size(void);

/// malloc(3), aligned to a power of two; the address, or -ENOMEM.
int64_t ces_metadata_allocate(size_t length, size_t alignment);
void ces_metadata_free(void *address);
/// -ENOMEM when malloc(3) cannot give CES_METADATA_ROOM bytes in one piece: what the Swift runtime
/// and error texts need for one step. Some bytes are kept in reserve, and given up with that answer.
enum { CES_METADATA_ROOM = 64 * 1024, CES_METADATA_RESERVE = 32 * 1024 };
int64_t ces_metadata_room(void);

// --- The process -------------------------------------------------------------------------------

enum { CES_CALL_SLOTS = 64 };
/// Process-wide counters of calls and failures, one pair a call number; relaxed atomics.
void ces_count(uint32_t call, bool failed, int error);
uint64_t ces_calls(uint32_t call);
uint64_t ces_failures(uint32_t call);
int ces_last_error(uint32_t call);

/// getrandom(2), all of `length` or -errno.
int64_t ces_random(void *bytes, size_t length);
/// getrlimit(2), RLIMIT_MEMLOCK; UINT64_MAX is unlimited.
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
/// One turn of waiting for another thread, the `tries`th, from 0: a pause, then sched_yield(2), then
/// a sleep, which even a waiter of a higher real-time priority leaves to the one that it waits for.
/// Async-signal-safe.
void ces_back_off(uint32_t tries);
/// futex(2): sleeps while the word is `seen`; may return early.
void ces_word_wait(const uint32_t *word, uint32_t seen);
/// futex(2): wakes all that sleep for the word.
void ces_word_wake(const uint32_t *word);
int64_t ces_processors(void);

/// Calls `child` in each forked child of this process (pthread_atfork(3)).
int64_t ces_at_fork_child(void (*child)(void));
int64_t ces_at_exit(void (*handler)(void));

/// The value below is set to 0 in a forked child: by the kernel, where the page could be marked
/// MADV_WIPEONFORK (so that even a raw clone(2) is noticed), else by pthread_atfork(3).
extern uint64_t *ces_fork_word;

/// Starts a detached thread with every signal blocked. It calls `tick` every `interval_ms` until
/// that returns 0.
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
int64_t ces_create_exclusive(int at, const char *path);        // O_CREAT|O_EXCL, 0600
int64_t ces_close(int fd);
int64_t ces_mkdir(int at, const char *path, uint32_t mode);
int64_t ces_fstat(int fd, ces_stat_t *out);
int64_t ces_lstat(int at, const char *path, ces_stat_t *out);
int64_t ces_is_tmpfs(int fd);
int64_t ces_fallocate(int fd, uint64_t length);
/// Makes a call that may grow a file. Past RLIMIT_FSIZE such a call raises SIGXFSZ beside its EFBIG
/// (setrlimit(2)), which would end the process: the signal is held back, and taken.
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
/// Takes a write record lock on the whole file (fcntl(2) F_SETLK): held until the process ends or
/// closes any descriptor of that file.
int64_t ces_lock_file(int fd);
/// The pid that holds such a lock in this process' pid namespace; 0 when free; INT32_MAX when the
/// holder is in a namespace that this one cannot see.
int64_t ces_lock_holder(int fd);

/// Calls `each` with every name of the directory except "." and "..", until it returns non-zero.
int64_t ces_list_directory(int fd, int (*each)(void *, const char *), void *context);

// --- The stats page's SIGBUS guard -------------------------------------------------------------

/// Installs a SIGBUS handler that, for addresses in the range, maps private memory over the whole
/// range and sets the flag; anything else goes to the handler that was there before. sigaction(2).
int64_t ces_page_guard_install(void *address, size_t length);
/// Puts the guard on top again where the program has set a handler since; that one has all faults that are
/// not the page's. 1: it did. Not async-signal-safe; one thread at a time.
int64_t ces_page_guard_keep(void);
/// 1 once the guard had to replace the range.
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

/// A spin word: one exchange to take it, a plain store and a load to give it back. Of six locks measured
/// it is the cheapest uncontended (about 3 ns each way). A waiter pauses for some microseconds, then
/// sleeps (futex(2)) until the word is given back, so that a waiter of any real-time priority leaves the
/// processor to the holder.
void ces_spin_wait(uint32_t *word);
/// Threads that sleep, or are about to, by the address of their word: a table of its own, because the
/// next holder may free the word's memory as soon as the word is given back.
enum { CES_SLEEPER_COUNTS = 32 };
typedef struct {
  uint32_t count __attribute__((aligned(64)));  // a cache line each: holders of other words read theirs
} ces_sleeper_count;
extern ces_sleeper_count ces_sleepers[CES_SLEEPER_COUNTS];
static inline uint32_t *ces_sleepers_of(const uint32_t *word) {
  return &ces_sleepers[((uintptr_t)word / 64) % CES_SLEEPER_COUNTS].count;
}
/// Wakes one that sleeps for the word. The word's memory need not be there any more.
void ces_wake_sleeper(uint32_t *word);
/// How this thread stands to the library: 1 for each spin word that it holds, CES_IN_LIBRARY for each
/// call of the library that it is in, and for each lock that is held across such calls. Not 0: an
/// allocator that would come back here (the interposer's malloc) stays away. Locks held where a
/// window is opened: that is a signal handler, which interrupted their holder.
extern __thread int32_t ces_held_locks __attribute__((tls_model("initial-exec")));
enum { CES_IN_LIBRARY = 1 << 16 };
static inline void ces_enter_library(void) { ces_held_locks += CES_IN_LIBRARY; }
static inline void ces_leave_library(void) { ces_held_locks -= CES_IN_LIBRARY; }
static inline bool ces_holds_locks(void) { return (ces_held_locks & (CES_IN_LIBRARY - 1)) != 0; }
/// Out of the library, to call what is the application's; ces_return_to_library takes the answer.
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
/// From a lock that no call of the library is made under to one that is, and back.
static inline void ces_lock_spans_calls(void) { ces_held_locks += CES_IN_LIBRARY - 1; }
static inline void ces_lock_spans_no_calls(void) { ces_held_locks -= CES_IN_LIBRARY - 1; }

/// A lock that a forked child never finds taken. The word holds the pid of the holder's process; any
/// other process' pid counts as free. Each attempt calls getpid(2). Limit: a child in another pid
/// namespace with the same pid as its parent is not recognised as a child.
void ces_process_lock(uint32_t *word);
/// Takes such a lock if it is free. Async-signal-safe.
bool ces_process_try(uint32_t *word);

/// The fork word, read on each use of an arena: one load.
static inline uint64_t ces_fork_generation(void) {
  uint64_t *word = __atomic_load_n(&ces_fork_word, __ATOMIC_ACQUIRE);
  return word ? __atomic_load_n(word, __ATOMIC_RELAXED) : 0;
}
void ces_set_fork_word(uint64_t *word);
void ces_reset_fork_word(void);

/// write(2) to standard error; what it does not take is lost.
void ces_complain(const char *text, size_t length);
_Noreturn void ces_abort(void);
/// 1 when this library's pthread_create is the one that the process uses.
int ces_threads_start_closed(void);

// --- The process, once more: who it is ---------------------------------------------------------

/// The lines of /proc/self/maps. Asked when memory has run out: it allocates none.
int64_t ces_map_count(void);
int64_t ces_pid(void);
int64_t ces_uid(void);
/// The user id where the real, the effective and the saved one are the same; negative elsewhere.
int64_t ces_settled_uid(void);

#endif
