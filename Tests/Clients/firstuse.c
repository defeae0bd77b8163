// Forks while another thread is paused during its first use of the library: firstuse lock|global
//   lock    after the Swift runtime took a lock
//   global  while a lazy global of the library is initialized, which reads the page size
// The child uses the library too, and so needs the object that the thread was initializing.

#define _GNU_SOURCE
#include <enclave.h>

#include <dlfcn.h>
#include <err.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static bool at_global;
static bool is_held, has_used, has_forked;
static __thread bool is_holder;

/// Pauses the thread until the process has forked, or for a second, because the fork may wait for this thread.
static void hold(void) {
  if (!is_holder || __atomic_exchange_n(&is_held, true, __ATOMIC_SEQ_CST)) return;
  struct timespec begun, now;
  clock_gettime(CLOCK_MONOTONIC, &begun);
  do {
    usleep(100);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (!__atomic_load_n(&has_forked, __ATOMIC_SEQ_CST) &&
           (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000 < 1000);
}

// Replaces the C library's.
int pthread_mutex_lock(pthread_mutex_t *mutex) {
  static int (*real)(pthread_mutex_t *);
  if (!real) real = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
  int result = real(mutex);
  if (!at_global) hold();
  return result;
}

long sysconf(int name) {
  static long (*real)(int);
  if (!real) real = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
  if (at_global && name == _SC_PAGESIZE) hold();
  return real(name);
}

static bool use(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  enclave_arena *arena;
  if (enclave_arena_create("first", &options, &arena)) return false;
  void *secret = enclave_allocate(arena, 64, 0, "label");
  if (!secret || enclave_free(secret)) return false;
  enclave_arena_release(arena);
  enclave_wipe_everything();
  return true;
}

static void *use_as_holder(void *unused) {
  is_holder = true;
  if (!use()) errx(1, "thread: %s", enclave_last_error());
  __atomic_store_n(&has_used, true, __ATOMIC_SEQ_CST);
  return unused;
}

int main(int arguments, char **argument) {
  at_global = arguments > 1 && strcmp(argument[1], "global") == 0;
  pthread_t thread;
  if (pthread_create(&thread, NULL, use_as_holder, NULL)) errx(70, "no thread");
  while (!__atomic_load_n(&is_held, __ATOMIC_SEQ_CST)) {
    if (__atomic_load_n(&has_used, __ATOMIC_SEQ_CST)) errx(1, "the thread was not held");
    usleep(100);
  }
  pid_t child = fork();
  if (child < 0) err(70, "fork");
  if (child == 0) {
    alarm(60);
    _exit(use() ? 0 : 1);
  }
  __atomic_store_n(&has_forked, true, __ATOMIC_SEQ_CST);
  int status;
  if (waitpid(child, &status, 0) != child) err(70, "waitpid");
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) errx(1, "the child hangs");
  if (status) errx(1, "the child ended with %#x", status);
  pthread_join(thread, NULL);
  puts("ok");
  return 0;
}
