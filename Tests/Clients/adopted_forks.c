// Forks of programs that use adopted memory: children, fork handlers, and signals.

#define _GNU_SOURCE
#include "adopted.h"

#include <errno.h>
#include <stdint.h>
#include <time.h>

/// Whether a child that does this ends with the signal of a fault.
static bool faults(void (*body)(void *), void *argument) {
  pid_t child = fork();
  if (child == 0) {
    body(argument);
    _exit(0);
  }
  int status;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static unsigned char *shared[3];

static void write_closed(void *key) { set(key, 1); }

/// A child has copies of its parent's allocations and can use them; changes do not affect the other.
static void child(void) {
  for (int i = 0; i < 3; i++) CHECK(shared[i][0] == 20 + i);
  CHECK(CRYPTO_secure_allocated(shared[1]) && gcry_is_secure(shared[2]));
  shared[0][0] = 30;
  CHECK(sodium_mprotect_noaccess(shared[0]) == 0 && faults(write_closed, shared[0]));
  CHECK(sodium_mprotect_readonly(shared[0]) == 0 && get(shared[0]) == 30);
  sodium_free(shared[0]);
  OPENSSL_secure_clear_free(shared[1], 32);
  shared[2] = gcry_xrealloc(shared[2], 400);
  CHECK(gcry_is_secure(shared[2]) && shared[2][0] == 22);
  gcry_free(shared[2]);
  // It can allocate new ones.
  shared[0] = sodium_malloc(100);
  shared[1] = OPENSSL_secure_malloc(100);
  shared[2] = gcry_malloc_secure(100);
  CHECK(shared[0] && CRYPTO_secure_allocated(shared[1]) && gcry_is_secure(shared[2]));
  CHECK(sodium_mprotect_noaccess(shared[0]) == 0 && sodium_mprotect_readwrite(shared[0]) == 0);
  sodium_free(shared[0]);
  OPENSSL_secure_free(shared[1]);
  gcry_free(shared[2]);
}

void forks(void) {
  CHECK(sodium_init() >= 0 && gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  CRYPTO_secure_malloc_init(16384, 32);
  shared[0] = sodium_malloc(32);
  shared[1] = OPENSSL_secure_malloc(32);
  shared[2] = gcry_malloc_secure(32);
  for (int i = 0; i < 3; i++) shared[i][0] = (unsigned char)(20 + i);
  for (int round = 0; round < 5; round++) {
    pid_t pid = fork();
    if (pid == 0) {
      child();
      exit(7);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    for (int i = 0; i < 3; i++) CHECK(shared[i][0] == 20 + i);
  }
  // A child of a child.
  pid_t pid = fork();
  if (pid == 0) {
    pid_t second = fork();
    if (second == 0) {
      child();
      exit(7);
    }
    int status;
    CHECK(waitpid(second, &status, 0) == second && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    exit(7);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
  sodium_free(shared[0]);
  OPENSSL_secure_free(shared[1]);
  gcry_free(shared[2]);
}

static void *busy(void *unused) {
  (void)unused;
  for (;;) {
    unsigned char *a = sodium_malloc(40), *b = OPENSSL_secure_malloc(40), *c = gcry_malloc_secure(40);
    a[0] = b[0] = c[0] = 1;
    sodium_mprotect_noaccess(a);
    OPENSSL_secure_free(b);
    gcry_free(c);
    sodium_free(a);
  }
  return NULL;
}

/// Forks while other threads allocate and free: no child may wait for locks that they held.
void storm(void) {
  CHECK(sodium_init() >= 0 && gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 65536, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  CRYPTO_secure_malloc_init(65536, 32);
  if (!getenv("ENCLAVE_STATS")) return;  // libgcrypt's own locks do not survive this
  shared[0] = sodium_malloc(32);
  shared[1] = OPENSSL_secure_malloc(32);
  shared[2] = gcry_malloc_secure(32);
  for (int i = 0; i < 3; i++) shared[i][0] = (unsigned char)(20 + i);
  pthread_t thread;
  for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread, NULL, busy, NULL) == 0);
  for (int round = 0; round < 60; round++) {
    pid_t pid = fork();
    if (pid == 0) {
      alarm(20);
      sodium_free(shared[0]);
      OPENSSL_secure_free(shared[1]);
      unsigned char *more = sodium_malloc(50);
      CHECK(more && sodium_mprotect_readonly(more) == 0 && get(more) == 0xdb);
      sodium_free(more);
      OPENSSL_secure_free(OPENSSL_secure_malloc(50));
      _exit(7);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  }
  ok();
  _exit(0);
}

static bool are_handlers_tested;
static unsigned char *handled[3];

static void handle(void) {
  if (!are_handlers_tested) return;
  for (int i = 0; i < 3; i++) {
    sodium_free(handled[0]);
    OPENSSL_secure_free(handled[1]);
    gcry_free(handled[2]);
    handled[0] = sodium_malloc(40);
    handled[1] = OPENSSL_secure_malloc(40);
    handled[2] = gcry_malloc(40);
    CHECK(handled[0] && handled[1] && handled[2]);
    memset(handled[0], i, 40);
    memset(handled[1], i, 40);
    CHECK(sodium_mprotect_readwrite(handled[0]) == 0);
  }
}

/// Registered before any library is initialized: these handlers run after those of libraries before a fork, and
/// before them afterwards.
static void set_handlers(void) { pthread_atfork(handle, handle, handle); }
__attribute__((section(".preinit_array"), used)) static void (*const first)(void) = set_handlers;

/// The program's own fork handlers allocate and free during a fork.
void handlers(void) {
  CHECK(sodium_init() >= 0 && gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  handled[0] = sodium_malloc(40);
  handled[1] = OPENSSL_secure_malloc(40);
  handled[2] = gcry_malloc_secure(40);
  are_handlers_tested = true;
  alarm(60);
  for (int round = 0; round < 5; round++) {
    pid_t pid = fork();
    if (pid == 0) {
      alarm(60);
      handle();
      _exit(7);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    handle();
  }
}

/// What the program's own handlers do before a fork and in the parent after it.
static void (*in_handler)(void);
static void act(void) {
  if (in_handler) in_handler();
}
static void set_act(void) { pthread_atfork(act, act, NULL); }
__attribute__((section(".preinit_array"), used)) static void (*const third)(void) = set_act;

/// Whether the next child of this process ends with a status, within a minute.
static bool next_child_ends_with(int wanted, void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    in_handler = NULL;
    alarm(60);
    body();
    _exit(7);
  }
  int status;
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == wanted;
}

static void use_all(void) {
  CHECK(get(shared[0]) == 20);
  unsigned char *key = sodium_malloc(40);
  set(key, 1);
  CHECK(sodium_mprotect_readonly(key) == 0);
  sodium_free(key);
  OPENSSL_secure_free(OPENSSL_secure_malloc(40));
  free(aligned_alloc(1 << 14, 1 << 14));
}

static void *use_all_in_thread(void *unused) {
  use_all();
  return unused;
}

/// Forks, as a handler of signals does that is called in the middle of a fork.
static void fork_within(void) {
  in_handler = NULL;
  CHECK(next_child_ends_with(7, use_all));
  (void)CRYPTO_secure_malloc_done();  // nothing is in use: what it answers is its own affair
  in_handler = fork_within;
}

/// A handler that forks does not keep anybody waiting: not its child, not the fork around it, not other threads.
void nested(void) {
  CHECK(sodium_init() >= 0);
  shared[0] = sodium_malloc(32);
  set(shared[0], 20);
  use_all();
  alarm(60);
  for (int round = 0; round < 3; round++) {
    in_handler = fork_within;
    CHECK(next_child_ends_with(7, use_all));
    in_handler = NULL;
    use_all();
    elsewhere(use_all_in_thread, NULL);
  }
}

static void *many[500];
static void free_many(void) {
  for (int i = 0; i < 500; i++) OPENSSL_secure_clear_free(many[i], 32);
  in_handler = NULL;
}
static void expect_nothing_in_use(void) { CHECK(CRYPTO_secure_used() == 0); }

/// Handlers may free what they like: after the fork it is gone, in the parent and in the child.
void many_freed(void) {
  CHECK(CRYPTO_secure_malloc_init(65536, 32));
  for (int i = 0; i < 500; i++) CHECK((many[i] = OPENSSL_secure_malloc(32)));
  in_handler = free_many;
  alarm(60);
  CHECK(next_child_ends_with(7, expect_nothing_in_use));
  expect_nothing_in_use();
}

static void exit_8(void) { exit(8); }
static void end_in_fork(void) {
  in_handler = exit_8;
  fork();
}
static int parent_handlers;
static void exit_8_later(void) {
  if (++parent_handlers == 2) exit(8);
}
static void end_after_fork(void) {
  in_handler = exit_8_later;
  if (fork() == 0) _exit(0);
}

/// A handler that ends the process does not wait for the fork.
void ended(void) {
  CHECK(sodium_init() >= 0);
  shared[0] = sodium_malloc(32);
  set(shared[0], 20);
  use_all();
  CHECK(next_child_ends_with(8, end_in_fork) && next_child_ends_with(8, end_after_fork));
}

static volatile sig_atomic_t signals, signals_in_fork;
static bool is_in_fork;
static void count_signal(int number) {
  (void)number;
  signals++;
  signals_in_fork += is_in_fork;
}
static void signal_in_fork(void) {
  is_in_fork = !is_in_fork;
  if (is_in_fork) CHECK(raise(SIGUSR1) == 0);
}
static void expect_blocked(bool usr1, bool usr2) {
  sigset_t now;
  CHECK(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0);
  CHECK(sigismember(&now, SIGUSR1) == usr1 && sigismember(&now, SIGUSR2) == usr2);
}
static void expect_signals_as_before(void) { expect_blocked(false, true); }

/// A signal in the middle of a fork is handled after it: a handler that ends the process or forks would wait for locks
/// that the interrupted fork holds. Faults are not held back.
void signalled(void) {
  if (!getenv("ENCLAVE_STATS")) return;  // the C library does not do that
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  sigset_t usr;
  sigemptyset(&usr);
  sigaddset(&usr, SIGUSR1);
  CHECK(pthread_sigmask(SIG_UNBLOCK, &usr, NULL) == 0);
  sigemptyset(&usr);
  sigaddset(&usr, SIGUSR2);
  CHECK(pthread_sigmask(SIG_BLOCK, &usr, NULL) == 0);
  CHECK(signal(SIGUSR1, count_signal) != SIG_ERR);
  in_handler = signal_in_fork;
  CHECK(next_child_ends_with(7, expect_signals_as_before));
  expect_signals_as_before();
  CHECK(signals == 1 && signals_in_fork == 0);
  in_handler = NULL;
}

static void *aligned[8];
static void use_aligned(void) {
  for (int i = 0; i < 8; i++) {
    free(aligned[i]);
    CHECK(posix_memalign(&aligned[i], 1 << 16, 100) == 0);
    memset(aligned[i], i, 100);
  }
}
static void heap_handle(void) {
  if (!are_handlers_tested) return;
  static char *kept;
  kept = realloc(kept, 1000);
  CHECK(kept);
  free(malloc(10));
  use_aligned();
}
static void set_heap_handlers(void) { pthread_atfork(heap_handle, heap_handle, heap_handle); }
__attribute__((section(".preinit_array"), used)) static void (*const second)(void) = set_heap_handlers;

/// The same with malloc, for the whole heap on an arena.
void heap_handlers(void) {
  use_aligned();
  // While there is one, each such address is looked up, whoever gave it out.
  void *kept;
  CHECK(posix_memalign(&kept, 1 << 16, 100) == 0);
  handlers();
  free(kept);
}
