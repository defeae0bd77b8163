// Tries each action that a confined process must not be able to do.

#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_of(int pid, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  close(fd);
  return 0;
}

static int closing(long fd) {
  if (fd < 0) return -errno;
  close((int)fd);
  return 0;
}

static int mem(int pid) { return open_of(pid, "mem"); }
static int environment(int pid) { return open_of(pid, "environ"); }
static int smaps(int pid) { return open_of(pid, "smaps"); }
static int descriptor(int pid) { return open_of(pid, "fd/0"); }
static int file(int pid) { (void)pid; return closing(open("/etc/passwd", O_RDONLY | O_CLOEXEC)); }
static int file_by_openat2(int pid) {
  (void)pid;
  struct { unsigned long long flags, mode, resolve; } how = {O_RDONLY | O_CLOEXEC, 0, 0};
  return closing(syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", &how, sizeof how));
}
static int new_file(int pid) {
  (void)pid;
  char path[64];
  snprintf(path, sizeof path, "/tmp/probe-%d", getpid());
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd >= 0) unlink(path);
  return closing(fd);
}
static int attach(int pid) {
  if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0) return -errno;
  return 0;
}
static int read_memory(int pid) {
  char here;
  // The address need not exist in the other process: permission is checked first, and EFAULT is not a refusal.
  struct iovec local = {&here, 1}, remote = {(void *)&open_of, 1};
  return process_vm_readv(pid, &local, 1, &remote, 1, 0) < 0 && errno != EFAULT ? -errno : 0;
}
static int take_descriptor(int pid) {
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0) return -errno;
  int fd = (int)syscall(SYS_pidfd_getfd, process, 0, 0);
  int error = errno;
  close(process);
  errno = error;
  return closing(fd);
}
static int ring(int pid) {
  (void)pid;
  char parameters[256] = {0};
  return closing(syscall(SYS_io_uring_setup, 2, parameters));
}
static int run(int pid) {
  (void)pid;
  // A missing program: ENOENT shows that the call itself is allowed.
  char *const none[] = {NULL};
  execve("/nonexistent", none, none);
  return errno == ENOENT ? 0 : -errno;
}
static int run_by_fork(int pid) {
  (void)pid;
  pid_t child = fork();
  if (child == 0) _exit(0);
  if (child < 0) return -errno;
  waitpid(child, NULL, 0);
  return 0;
}
static void *nothing(void *argument) { return argument; }
static int thread(int pid) {
  (void)pid;
  pthread_t made;
  int error = pthread_create(&made, NULL, nothing, NULL);
  if (error) return -error;
  pthread_join(made, NULL);
  return 0;
}
static int internet(int pid) { (void)pid; return closing(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }
static int local_socket(int pid) { (void)pid; return closing(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }
static int counters(int pid) {
  struct perf_event_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  int result = closing(syscall(SYS_perf_event_open, &attributes, pid, -1, -1, 0));
  return result == -ENOENT || result == -EOPNOTSUPP ? 0 : result;
}
static int code(int pid) {
  (void)pid;
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return -errno;
  munmap(page, 4096);
  return 0;
}
static int code_later(int pid) {
  (void)pid;
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return -errno;
  int result = mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0 ? -errno : 0;
  munmap(page, 4096);
  return result;
}
static int signal_it(int pid) { return kill(pid, 0) < 0 ? -errno : 0; }
static int type(int pid) {
  (void)pid;
  char space = ' ';
  // ENOTTY, EIO: the call was allowed, but there is no terminal (or CONFIG_LEGACY_TIOCSTI is off).
  if (ioctl(0, TIOCSTI, &space) == 0 || errno == ENOTTY || errno == EIO) return 0;
  return -errno;
}
static int directory(int pid) { (void)pid; return chdir("/") < 0 ? -errno : 0; }
static int rename_it(int pid) {
  (void)pid;
  return rename("/nonexistent/a", "/nonexistent/b") < 0 && errno != ENOENT ? -errno : 0;
}
static int key_ring(int pid) {
  (void)pid;
  return syscall(SYS_add_key, "user", "memwatch-probe", "x", 1, -3) < 0 ? -errno : 0;
}
static int name_space(int pid) {
  (void)pid;
  // In a child, so that this process keeps its namespace.
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) _exit(syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */) < 0 ? errno : 0);
  int status = 0;
  waitpid(child, &status, 0);
  return -WEXITSTATUS(status);
}

static const struct {
  const char *name;
  int (*attempt)(int);
} probes[] = {
    {"open mem", mem}, {"open environ", environment}, {"open smaps", smaps}, {"open fd", descriptor},
    {"open a file", file}, {"openat2", file_by_openat2}, {"make a file", new_file},
    {"ptrace", attach}, {"process_vm_readv", read_memory}, {"pidfd_getfd", take_descriptor},
    {"io_uring", ring}, {"exec", run}, {"fork", run_by_fork}, {"thread", thread},
    {"socket inet", internet}, {"socket unix", local_socket}, {"perf_event", counters},
    {"map code", code}, {"make code", code_later}, {"signal", signal_it}, {"type", type},
    {"chdir", directory}, {"rename", rename_it}, {"add_key", key_ring}, {"namespace", name_space},
};

int test_probe_count(void) { return sizeof probes / sizeof *probes; }
const char *test_probe_name(int index) { return probes[index].name; }
int test_probe(int index, int pid) { return probes[index].attempt(pid); }

void test_other_architecture(void) {
#ifdef __x86_64__
  // getpid(2) of i386.
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
  (void)result;
#else
  raise(SIGSYS);
#endif
}
