// The system calls that only the viewer needs: starting processes, giving up rights, and talking to
// the process that keeps them. No policy.
//
// Every function returns zero or a positive value on success and -errno on failure.

#ifndef C_MEMWATCH_SYSTEM_H
#define C_MEMWATCH_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// The threads of this process (/proc/self/task).
int64_t cms_thread_count(void);
/// fork(2): 0 in the child. For processes of one thread.
int64_t cms_fork(void);
/// Unblocks SIGXCPU and, if `ending`, the signals that ask a process to end: whoever started this one may have
/// blocked them.
void cms_take_signals(bool ending);
/// prctl(PR_SET_PDEATHSIG): the signal that this process gets when its parent dies.
int64_t cms_signal_at_parents_death(int signal);
int64_t cms_parent(void);

/// prctl(PR_SET_NO_NEW_PRIVS).
int64_t cms_no_new_privileges(void);
/// capset(2): keeps of the permitted capabilities those of the mask, and raises them; nothing is
/// inheritable or ambient. With an empty mask the bounding set is emptied too, as far as that is allowed.
int64_t cms_keep_capabilities(uint64_t mask);
/// The version of Landlock's interface; -ENOSYS or -EOPNOTSUPP where there is none.
int64_t cms_landlock_version(void);
/// landlock_restrict_self(2) with a ruleset that handles all that the kernel knows, and no rule.
int64_t cms_landlock_restrict(void);

/// socketpair(2) of AF_UNIX, SOCK_SEQPACKET, close-on-exec.
int64_t cms_socket_pair(int descriptors[2]);
/// sendmsg(2) of one message, with a descriptor where `passed` is not -1 (SCM_RIGHTS, unix(7)).
int64_t cms_send(int socket, const void *bytes, size_t length, int passed);
/// recvmsg(2) of one message. `passed` becomes the descriptor that came with it (close-on-exec), or -1.
/// 0: the other side is gone.
int64_t cms_receive(int socket, void *bytes, size_t length, int *passed);
/// memfd_create(2) with these bytes, opened anew for reading alone.
int64_t cms_file_of(const void *bytes, size_t length);

/// Blocks the signals that a parent has to pass on, and SIGCHLD; a signalfd(2) for them.
int64_t cms_watch_signals(void);
/// The next of them, or 0. `from_process`: sent by kill(2), not by the terminal.
int cms_next_signal(int descriptor, bool *from_process, int *sender);
/// Waits until one of two descriptors can be read, at most so long (poll(2)): a mask of 1 and 2.
int64_t cms_wait_for_two(int first, int second, int milliseconds);

enum : int { CMS_CHILD_SAME, CMS_CHILD_STOPPED, CMS_CHILD_CONTINUED, CMS_CHILD_EXITED, CMS_CHILD_KILLED };
/// waitpid(2), not blocking; `detail` is the exit status, or the signal.
int cms_child_change(int pid, int *detail);
/// Stops this process as SIGSTOP does.
void cms_stop(void);
/// Ends this process as this signal does, without a core dump.
void cms_die_by(int signal);

/// From now on a write past RLIMIT_FSIZE answers EFBIG and raises no SIGXFSZ, which would end this process
/// (setrlimit(2)). Programs that are started from here get the signal again.
void cms_ignore_file_limit(void);

/// A soft limit in bytes (getrlimit(2)); UINT64_MAX where there is none.
enum : int { CMS_LIMIT_ADDRESSES, CMS_LIMIT_DATA, CMS_LIMIT_STACK, CMS_LIMIT_FILE_SIZE };
uint64_t cms_soft_limit(int which);

/// Raises the soft RLIMIT_NOFILE to the hard one, at most to 16,384.
void cms_raise_file_limit(void);
/// The soft RLIMIT_NOFILE.
uint64_t cms_file_limit(void);

/// posix_spawn(3) of `argv` with stdin from `in`, stdout and stderr to `out` (-1: inherited; /dev/null
/// when `group`), in its own process group when `group`, environment `envp`. The pid or -errno.
int64_t cms_spawn(const char *path, char *const argv[], char *const envp[], int in, int out,
                  bool group, bool search);
/// waitpid(2): 0 while it runs; else 1 and *status = exit status, or 128+n for a signal.
int64_t cms_wait(int pid, bool block, int *status);
int64_t cms_kill(int pid, int signal);
/// Whether a file has the attribute security.capability; -errno where it has not, or that is not known.
int64_t cms_has_capabilities(const char *path);
char **cms_environment(void);

/// fchmod(2).
int64_t cms_change_mode(int fd, uint32_t mode);
/// renameat(2) within a directory: takes the place of what has that name.
int64_t cms_replace(int directory, const char *from, const char *to);

int64_t cms_local_time(int64_t seconds, bool with_date, char *bytes, size_t length);
int64_t cms_user_name(uint32_t uid, char *bytes, size_t length);
/// wcwidth(3) in a locale that knows all of Unicode, whatever the process's locale is; -2 without such a
/// locale. The first call opens files.
int cms_character_width(uint32_t scalar);

#endif
