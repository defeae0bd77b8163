// Processes that memwatch starts, and names that it shows: thin wrappers, -errno on failure.

#define _GNU_SOURCE
#include "CMemwatchSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

uint64_t cms_soft_limit(int which) {
  static const int limits[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_FSIZE};
  struct rlimit limit;
  if (getrlimit(limits[which], &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return limit.rlim_cur;
}

// SIGXFSZ is ignored here, and was not by whoever started this program.
static bool ignores_file_limit;

void cms_ignore_file_limit(void) {
  struct sigaction action;
  if (sigaction(SIGXFSZ, NULL, &action) != 0 || action.sa_handler != SIG_DFL) return;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_IGN;
  ignores_file_limit = sigaction(SIGXFSZ, &action, NULL) == 0;
}

int64_t cms_spawn(const char *path, char *const argv[], char *const envp[], int in, int out,
                  bool group, bool search) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  if (in >= 0) posix_spawn_file_actions_adddup2(&actions, in, 0);
  if (out >= 0) {
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, out, 2);
  } else if (group) {
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
  }
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (group ? POSIX_SPAWN_SETPGROUP : 0);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  if (ignores_file_limit) sigaddset(&defaults, SIGXFSZ);
  sigaddset(&defaults, SIGINT);
  sigaddset(&defaults, SIGTERM);
  sigaddset(&defaults, SIGHUP);
  sigaddset(&defaults, SIGTSTP);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  if (group) posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, flags);
  pid_t pid = -1;
  int error = search ? posix_spawnp(&pid, path, &actions, &attributes, argv, envp)
                     : posix_spawn(&pid, path, &actions, &attributes, argv, envp);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error ? -error : pid;
}

int64_t cms_wait(int pid, bool block, int *status) {
  int raw = 0;
  pid_t result;
  do result = waitpid(pid, &raw, block ? 0 : WNOHANG);
  while (result < 0 && errno == EINTR);
  if (result < 0) return -errno;
  if (result == 0) return 0;
  *status = WIFSIGNALED(raw) ? 128 + WTERMSIG(raw) : WEXITSTATUS(raw);
  return 1;
}

int64_t cms_kill(int pid, int signal) { return kill(pid, signal) < 0 ? -errno : 0; }
char **cms_environment(void) { return environ; }

int64_t cms_change_mode(int fd, uint32_t mode) { return fchmod(fd, mode) < 0 ? -errno : 0; }
int64_t cms_replace(int directory, const char *from, const char *to) {
  return renameat(directory, from, directory, to) < 0 ? -errno : 0;
}

int64_t cms_local_time(int64_t seconds, bool with_date, char *bytes, size_t length) {
  time_t time = seconds;
  struct tm parts;
  if (!localtime_r(&time, &parts)) return -EINVAL;
  return (int64_t)strftime(bytes, length, with_date ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &parts);
}

int64_t cms_user_name(uint32_t uid, char *bytes, size_t length) {
  struct passwd entry, *found = NULL;
  char buffer[4096];
  int error = getpwuid_r(uid, &entry, buffer, sizeof buffer, &found);
  if (error) return -error;
  if (!found) return -ENOENT;
  snprintf(bytes, length, "%s", entry.pw_name);
  return (int64_t)strnlen(bytes, length);
}

int64_t cms_has_capabilities(const char *path) {
  return getxattr(path, "security.capability", NULL, 0) >= 0 ? 1 : -errno;
}

int cms_character_width(uint32_t scalar) {
  static locale_t unicode;
  locale_t known = __atomic_load_n(&unicode, __ATOMIC_ACQUIRE);
  if (!known) {
    known = newlocale(LC_CTYPE_MASK, "C.UTF-8", NULL);
    if (!known) return -2;
    // Of two threads, the second one's is never freed: it is a few bytes, once.
    __atomic_store_n(&unicode, known, __ATOMIC_RELEASE);
  }
  locale_t before = uselocale(known);
  int width = wcwidth((wchar_t)scalar);
  uselocale(before);
  return width;
}
