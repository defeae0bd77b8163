// What a process needs to give up its rights, and to talk to the one that keeps them. No policy.
// Every function returns zero or a positive value on success and -errno on failure.

#ifndef C_ENCLAVE_CONFINE_H
#define C_ENCLAVE_CONFINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// The threads of this process (/proc/self/task).
int64_t ces_thread_count(void);
/// fork(2): 0 in the child. For processes of one thread.
int64_t ces_fork(void);
/// Unblocks the signals that end a process: whoever started this one may have blocked them.
void ces_take_ending_signals(void);
/// prctl(PR_SET_PDEATHSIG): the signal that this process gets when its parent dies.
int64_t ces_signal_at_parents_death(int signal);
int64_t ces_parent(void);

/// prctl(PR_SET_NO_NEW_PRIVS).
int64_t ces_no_new_privileges(void);
/// capset(2): keeps of the permitted capabilities those of the mask, and raises them; nothing is
/// inheritable or ambient. With an empty mask the bounding set is emptied too, as far as that is allowed.
int64_t ces_keep_capabilities(uint64_t mask);
/// The version of Landlock's interface; -ENOSYS or -EOPNOTSUPP where there is none.
int64_t ces_landlock_version(void);
/// landlock_restrict_self(2) with a ruleset that handles all that the kernel knows, and no rule.
int64_t ces_landlock_restrict(void);

/// socketpair(2) of AF_UNIX, SOCK_SEQPACKET, close-on-exec.
int64_t ces_socket_pair(int descriptors[2]);
/// sendmsg(2) of one message, with a descriptor where `passed` is not -1 (SCM_RIGHTS, unix(7)).
int64_t ces_send(int socket, const void *bytes, size_t length, int passed);
/// recvmsg(2) of one message. `passed` becomes the descriptor that came with it (close-on-exec), or -1.
/// 0: the other side is gone.
int64_t ces_receive(int socket, void *bytes, size_t length, int *passed);
/// memfd_create(2) with these bytes, opened anew for reading alone.
int64_t ces_file_of(const void *bytes, size_t length);

/// Blocks the signals that a parent has to pass on, and SIGCHLD; a signalfd(2) for them.
int64_t ces_watch_signals(void);
/// The next of them, or 0. `from_process`: sent by kill(2), not by the terminal.
int ces_next_signal(int descriptor, bool *from_process, int *sender);
/// Waits until one of two descriptors can be read, at most so long (poll(2)): a mask of 1 and 2.
int64_t ces_wait_for_two(int first, int second, int milliseconds);

enum : int { CES_CHILD_SAME, CES_CHILD_STOPPED, CES_CHILD_CONTINUED, CES_CHILD_EXITED, CES_CHILD_KILLED };
/// waitpid(2), not blocking; `detail` is the exit status, or the signal.
int ces_child_change(int pid, int *detail);
/// Stops this process as SIGSTOP does.
void ces_stop(void);
/// Ends this process as this signal does, without a core dump.
void ces_die_by(int signal);

#endif
