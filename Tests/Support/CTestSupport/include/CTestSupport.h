// Helpers for tests that Swift cannot express: surviving faults, jumps out of handlers, raw system calls.

#ifndef C_TEST_SUPPORT_H
#define C_TEST_SUPPORT_H

#include "probe.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Tries to read a byte (or write it back unchanged). Returns 0, or the si_code of the fault. Restores the thread's
/// PKRU.
int ct_try_read(uintptr_t address);
int ct_try_write(uintptr_t address);

/// Runs `body`, which raises SIGUSR1, whose handler jumps out. Returns 1 if it did.
int ct_jump_out(void (*body)(void *), void *context);
/// Raises SIGUSR2 with `handler` as its handler.
void ct_on_signal(void (*handler)(int));

/// Makes the kernel refuse a system call, by number, with EPERM: seccomp(2). Returns 0 or -errno.
int ct_refuse_call(int number);
int ct_membarrier_number(void);

/// Makes free(3) overwrite memory: mallopt(3), M_PERTURB.
void ct_perturb_heap(void);

/// Leaves words on the stack below it, has the library clear the stack if asked, and returns how many are left.
int ct_words_left_on_stack(bool clears);

/// How many bytes of stack libsodium's calls use, for AES-256-GCM (0), ChaCha20-Poly1305 (1) or XChaCha20-Poly1305 (2); -1
/// without libsodium.
int ct_cipher_stack(int cipher);

/// fork(2), which Swift does not import.
int ct_fork(void);
/// fork(2) once all other threads of the process sleep, or after five seconds. The Swift runtime does not reset its
/// locks in a child, so a child of a process with a thread inside the runtime may wait for ever.
int ct_fork_at_rest(void);
/// clone(2) with only SIGCHLD: a fork that the C library does not notice.
int ct_raw_fork_at_rest(void);
/// pkey_set(3): WRPKRU.
int ct_set_key(int key, unsigned access);
/// process_vm_readv(2). Returns the bytes read, or -errno.
long ct_read_other(int pid, uintptr_t address, void *bytes, size_t length);
long ct_mseal(uintptr_t address, size_t length);
/// Calls that change a mapping or discard its contents, which mseal(2) refuses if it is not writable.
enum { CT_CHANGES = 15 };
/// Makes one of these calls for two pages. Returns 0, -errno, or CT_ABSENT if the kernel does not have it.
enum { CT_ABSENT = 1 };
int ct_change(int number, uintptr_t address);
const char *ct_change_name(int number);
int ct_discard(uintptr_t address, size_t length);
int ct_discard_locked(uintptr_t address, size_t length);

/// Drops CAP_IPC_LOCK, so that RLIMIT_MEMLOCK applies. Returns 0 if it is dropped.
int ct_drop_lock_capability(void);

/// Stops a thread of another process and reads its general and vector registers. Returns the bytes read, or -errno.
long ct_registers(int tid, void *bytes, size_t length);

/// Puts eight bytes into a callee-saved register and waits until *go is not 0.
void ct_hold_in_register(uint64_t value, volatile int *ready, volatile int *go);

/// Ends the process with bytes of a secret (32 of them) in general and vector registers, with
/// registers that point at it, and a copy of it in the frame: by a fault ('f'), a trap ('t'),
/// abort(3) ('a'), raise(3) of SIGTERM ('k'), or a stack that ends ('s').
void ct_crash_with(const void *secret, char how);

/// Finds any eight consecutive bytes of a pattern that is only known masked. Stores up to `room` offsets, one per
/// occurrence, and returns their number.
size_t ct_places(const void *bytes, size_t length, const uint8_t *masked, size_t count, uint8_t mask,
                 size_t *offsets, size_t room);

/// A pattern of at least 8 bytes that is derived from a seed and a number.
void ct_fill_pattern(void *to, size_t length, uint64_t seed, uint64_t number);
int ct_is_pattern(const void *at, size_t length, uint64_t seed, uint64_t number);
/// Counts the occurrences in memory of the first words of the patterns 0 to count - 1.
size_t ct_patterns_in(const void *bytes, size_t length, uint64_t seed, uint64_t count);
/// Overwrites the stack below the caller, and the caller-saved registers.
void ct_clear_stack(void);

/// Makes a child process stop at its exit, when its memory still exists (ptrace(2), PTRACE_O_TRACEEXIT). Call it on the
/// thread that then waits. Returns 0 or -errno.
int ct_stop_at_exit(int pid);
/// Waits for that stop, and delivers signals meanwhile. Returns 0 or -errno.
int ct_wait_for_exit(int pid);
/// Continues it and waits for its end. Returns its status as from waitpid(2).
int ct_let_go(int pid);

/// posix_spawn_file_actions_addclosefrom_np(3), which Swift does not import.
int ct_close_from(void *actions, int from);

/// Installs a program's own SIGBUS handler, which ends the process with this status and calls no other handler.
void ct_exit_on_bus(int status);

#endif
