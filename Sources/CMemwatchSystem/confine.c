// Giving up rights, and the socket to the process that keeps them: see the header.

#define _GNU_SOURCE
#include "CMemwatchSystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESULT(call)                      \
  do {                                    \
    int64_t result = (int64_t)(call);     \
    return result < 0 ? -errno : result;  \
  } while (0)

int64_t cms_thread_count(void) {
  DIR *tasks = opendir("/proc/self/task");
  if (!tasks) return -errno;
  int64_t count = 0;
  for (struct dirent *entry; (entry = readdir(tasks));) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

void cms_raise_file_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  rlim_t wanted = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
  if (wanted <= limit.rlim_cur) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

uint64_t cms_file_limit(void) {
  struct rlimit limit;
  return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 0 : (uint64_t)limit.rlim_cur;
}

int64_t cms_fork(void) { RESULT(fork()); }

void cms_take_signals(bool ending) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGXCPU);
  if (ending) {
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
  }
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}
int64_t cms_signal_at_parents_death(int signal) { RESULT(prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)); }
int64_t cms_parent(void) { return getppid(); }
int64_t cms_no_new_privileges(void) { RESULT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

int64_t cms_keep_capabilities(uint64_t mask) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0) return -errno;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL) return -errno;
  if (mask == 0) {
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
      // Needs CAP_SETPCAP; without it nothing can be gained by exec(2) after no_new_privs anyway.
      if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EPERM) return -errno;
    }
  }
  for (int word = 0; word < 2; word++) {
    data[word].permitted &= (uint32_t)(mask >> (32 * word));
    data[word].effective = data[word].permitted;
    data[word].inheritable = 0;
  }
  RESULT(syscall(SYS_capset, &header, data));
}

#ifndef LANDLOCK_CREATE_RULESET_VERSION
#define LANDLOCK_CREATE_RULESET_VERSION (1U << 0)
#endif

int64_t cms_landlock_version(void) {
  RESULT(syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION));
}

int64_t cms_landlock_restrict(void) {
  int64_t version = cms_landlock_version();
  if (version < 0) return version;
  // landlock(7): the rights that each version added. The structure is spelled out because the headers
  // of a build may be older than the kernel that runs.
  struct {
    uint64_t handled_access_fs, handled_access_net, scoped;
  } ruleset = {.handled_access_fs = (1ULL << 13) - 1};
  size_t size = sizeof ruleset.handled_access_fs;
  if (version >= 2) ruleset.handled_access_fs |= 1ULL << 13;  // REFER
  if (version >= 3) ruleset.handled_access_fs |= 1ULL << 14;  // TRUNCATE
  if (version >= 4) {
    ruleset.handled_access_net = 3;  // BIND_TCP, CONNECT_TCP
    size = 2 * sizeof(uint64_t);
  }
  if (version >= 5) ruleset.handled_access_fs |= 1ULL << 15;  // IOCTL_DEV
  if (version >= 6) {
    ruleset.scoped = 3;  // ABSTRACT_UNIX_SOCKET, SIGNAL
    size = sizeof ruleset;
  }
  int64_t fd = syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
  if (fd < 0) return -errno;
  int64_t result = syscall(SYS_landlock_restrict_self, (int)fd, 0) < 0 ? -errno : version;
  close((int)fd);
  return result;
}

int64_t cms_socket_pair(int descriptors[2]) {
  RESULT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, descriptors));
}

int64_t cms_send(int socket, const void *bytes, size_t length, int passed) {
  struct iovec part = {(void *)bytes, length};
  union {
    char room[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control;
  memset(&control, 0, sizeof control);
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (passed >= 0) {
    message.msg_control = control.room;
    message.msg_controllen = sizeof control.room;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &passed, sizeof passed);
  }
  ssize_t sent;
  do sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

int64_t cms_receive(int socket, void *bytes, size_t length, int *passed) {
  struct iovec part = {bytes, length};
  union {
    char room[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control;
  // Room for one descriptor, without the padding into which a second one would fit.
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = CMSG_LEN(sizeof(int))};
  ssize_t got;
  do got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  *passed = -1;
  if (got < 0) return -errno;
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len == CMSG_LEN(sizeof(int)))
    memcpy(passed, CMSG_DATA(head), sizeof *passed);
  return got;
}

int64_t cms_file_of(const void *bytes, size_t length) {
  int writer = memfd_create("memwatch-answer", MFD_CLOEXEC);
  if (writer < 0) return -errno;
  size_t done = 0;
  while (done < length) {
    ssize_t n = write(writer, (const char *)bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      int error = errno;
      close(writer);
      return -error;
    }
    done += (size_t)n;
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", writer);
  int reader = open(path, O_RDONLY | O_CLOEXEC);
  int error = errno;
  close(writer);
  return reader < 0 ? -error : reader;
}

int64_t cms_watch_signals(void) {
  static const int watched[] = {SIGCHLD, SIGINT,  SIGTERM,   SIGHUP,  SIGQUIT, SIGTSTP, SIGUSR1,
                                SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSTKFLT,
                                SIGXCPU};
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) sigaddset(&set, watched[i]);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) return -errno;
  RESULT(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
}

int cms_next_signal(int descriptor, bool *from_process, int *sender) {
  struct signalfd_siginfo info;
  if (read(descriptor, &info, sizeof info) != sizeof info) return 0;
  *from_process = info.ssi_code <= 0;
  *sender = (int)info.ssi_pid;
  return (int)info.ssi_signo;
}

int64_t cms_wait_for_two(int first, int second, int milliseconds) {
  struct pollfd fds[2] = {{.fd = first, .events = POLLIN}, {.fd = second, .events = POLLIN}};
  int count = poll(fds, 2, milliseconds);
  if (count < 0) return errno == EINTR ? 0 : -errno;
  return (fds[0].revents ? 1 : 0) | (fds[1].revents ? 2 : 0);
}

int cms_child_change(int pid, int *detail) {
  int status = 0;
  *detail = 0;
  if (waitpid(pid, &status, WNOHANG | WUNTRACED | WCONTINUED) <= 0) return CMS_CHILD_SAME;
  if (WIFSTOPPED(status)) {
    *detail = WSTOPSIG(status);
    return CMS_CHILD_STOPPED;
  }
  if (WIFCONTINUED(status)) return CMS_CHILD_CONTINUED;
  *detail = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return WIFSIGNALED(status) ? CMS_CHILD_KILLED : CMS_CHILD_EXITED;
}

void cms_stop(void) { raise(SIGSTOP); }

void cms_die_by(int signal) {
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  struct sigaction standard;
  memset(&standard, 0, sizeof standard);
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, NULL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  raise(signal);
  _exit(128 + signal);
}
