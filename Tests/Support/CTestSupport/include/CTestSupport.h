// What attacks need and Swift cannot do: faults that are survived, jumps out of handlers, raw calls.

#ifndef C_TEST_SUPPORT_H
#define C_TEST_SUPPORT_H

#include "probe.h"
#include <stddef.h>
#include <stdint.h>

/// 0 when a byte can be read (written with itself) there; else the si_code of the fault. The
/// thread's PKRU is as it was afterwards.
int ct_try_read(uintptr_t address);
int ct_try_write(uintptr_t address);

/// Runs `body`, which raises SIGUSR1; the handler jumps out of it. 1 when it did.
int ct_jump_out(void (*body)(void *), void *context);
/// Runs `handler` as the handler of SIGUSR2.
void ct_on_signal(void (*handler)(int));

/// Has the kernel refuse a call by its number, with EPERM, from now on: seccomp(2). 0 or -errno.
int ct_refuse_call(int number);
int ct_membarrier_number(void);

/// What is freed from the heap is overwritten from now on: mallopt(3), M_PERTURB.
void ct_perturb_heap(void);

/// fork(2), which Swift does not import.
int ct_fork(void);
/// clone(2) with no flags but SIGCHLD: a fork that the C library does not know of.
int ct_raw_fork(void);
/// pkey_set(3): WRPKRU.
int ct_set_key(int key, unsigned access);
/// process_vm_readv(2); the bytes read, or -errno.
long ct_read_other(int pid, uintptr_t address, void *bytes, size_t length);
long ct_mseal(uintptr_t address, size_t length);
/// The calls that change a mapping or discard its contents: what mseal(2) refuses where it is not writable.
enum { CT_CHANGES = 15 };
/// Makes one of them, of two pages; 0 or -errno. CT_ABSENT where the kernel does not know it.
enum { CT_ABSENT = 1 };
int ct_change(int number, uintptr_t address);
const char *ct_change_name(int number);
int ct_discard(uintptr_t address, size_t length);
int ct_discard_locked(uintptr_t address, size_t length);

/// Gives up CAP_IPC_LOCK, so that the limit binds; 0 when it is gone.
int ct_drop_lock_capability(void);

/// Stops a thread of another process and reads its registers (general, vector); the bytes read, or
/// -errno.
long ct_registers(int tid, void *bytes, size_t length);

/// Leaves eight bytes in a callee-saved register and waits until *go is not 0.
void ct_hold_in_register(uint64_t value, volatile int *ready, volatile int *go);

/// Ends the process with bytes of a secret (32 of them) in general and vector registers, with
/// registers that point at it, and a copy of it in the frame: by a fault ('f'), a trap ('t'),
/// abort(3) ('a'), raise(3) of SIGTERM ('k'), or a stack that ends ('s').
void ct_crash_with(const void *secret, char how);

/// Where any eight consecutive bytes of a pattern stand that is known masked alone: up to `room`
/// offsets, one for each place. Their number.
size_t ct_places(const void *bytes, size_t length, const uint8_t *masked, size_t count, uint8_t mask,
                 size_t *offsets, size_t room);

/// A pattern that follows from a seed and a number; 8 bytes and more.
void ct_fill_pattern(void *to, size_t length, uint64_t seed, uint64_t number);
int ct_is_pattern(const void *at, size_t length, uint64_t seed, uint64_t number);
/// How often one of the first words of the patterns 0 to count - 1 stands anywhere in memory.
size_t ct_patterns_in(const void *bytes, size_t length, uint64_t seed, uint64_t count);
/// Overwrites the stack below the caller, and the registers that calls may change.
void ct_clear_stack(void);

/// Has a process that this one started stand still at its exit (ptrace(2), PTRACE_O_TRACEEXIT): its
/// memory is still there. By the thread that then waits. 0 or -errno.
int ct_stop_at_exit(int pid);
/// Waits for that; signals on the way are delivered. 0 when it stands, -errno when it does not.
int ct_wait_for_exit(int pid);
/// Lets it go, and waits for its end: its status as of waitpid(2).
int ct_let_go(int pid);

/// posix_spawn_file_actions_addclosefrom_np(3), which Swift does not import.
int ct_close_from(void *actions, int from);

/// A SIGBUS handler as a program may have one: it ends the process with this status, and calls nobody.
void ct_exit_on_bus(int status);

#endif
