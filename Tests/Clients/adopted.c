// Uses the secure memory of libsodium, OpenSSL and libgcrypt like their own tests, without Enclave. It is run with
// libenclave-adopt.so preloaded, and without.
//
// usage: adopted CASE. Prints "ok" and exits with 0. Cases that are named after a signal end with it after "ok".

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gcrypt.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

static void ok(void) {
  puts("ok");
  fflush(stdout);
}

static void set(volatile unsigned char *place, unsigned char value) { *place = value; }
static unsigned char get(volatile unsigned char *place) { return *place; }

/// Runs a function in a new thread, and waits for its end.
static void *elsewhere(void *(*body)(void *), void *argument) {
  pthread_t thread;
  void *result;
  CHECK(pthread_create(&thread, NULL, body, argument) == 0);
  CHECK(pthread_join(thread, &result) == 0);
  return result;
}

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

// --- libsodium -----------------------------------------------------------------------------------

static void sodium(void) {
  CHECK(sodium_init() >= 0);
  // Sizes around a page: filled with 0xdb, and writable up to the last byte.
  for (size_t size = 0; size < 3 * 4096; size = size * 3 + 1) {
    unsigned char *bytes = sodium_malloc(size);
    CHECK(bytes);
    for (size_t i = 0; i < size; i++) CHECK(bytes[i] == 0xdb);
    memset(bytes, 1, size);
    CHECK(size == 0 || ((uintptr_t)bytes + size) % 4096 == 0);
    sodium_free(bytes);
  }
  CHECK(sodium_malloc(SIZE_MAX - 1) == NULL && errno == ENOMEM);
  errno = 0;
  CHECK(sodium_allocarray(SIZE_MAX / 2U + 1U, SIZE_MAX / 2U) == NULL && errno == ENOMEM);
  sodium_free(sodium_allocarray(0, SIZE_MAX));
  unsigned char *array = sodium_allocarray(1000, 50);
  CHECK(array);
  memset(array, 2, 50000);
  sodium_free(array);
  sodium_free(NULL);

  unsigned char *key = sodium_malloc(33);
  memset(key, 7, 33);
  CHECK(sodium_mprotect_readonly(key) == 0 && sodium_mprotect_readonly(key) == 0);
  CHECK(get(key) == 7 && get(key + 32) == 7);
  CHECK(sodium_mprotect_noaccess(key) == 0 && sodium_mprotect_noaccess(key) == 0);
  CHECK(sodium_mprotect_readwrite(key) == 0 && sodium_mprotect_readwrite(key) == 0);
  set(key, 8);
  CHECK(get(key) == 8 && get(key + 32) == 7);
  // Closed memory can be freed.
  CHECK(sodium_mprotect_noaccess(key) == 0);
  sodium_free(key);
  key = sodium_malloc(33);
  CHECK(sodium_mprotect_readonly(key) == 0);
  sodium_free(key);
}

static void *make(void *unused) {
  (void)unused;
  unsigned char *key = sodium_malloc(32);
  memset(key, 9, 32);
  return key;
}
static void *close_it(void *key) { return sodium_mprotect_noaccess(key) == 0 ? key : NULL; }
static void *read_only(void *key) { return sodium_mprotect_readonly(key) == 0 ? key : NULL; }
static void *free_it(void *key) {
  sodium_free(key);
  return NULL;
}

/// A thread's sodium_mprotect_* call applies to all threads, also after it has ended.
static void threads(void) {
  CHECK(sodium_init() >= 0);
  unsigned char *key = elsewhere(make, NULL);
  set(key, 10);
  CHECK(elsewhere(read_only, key) == key);
  CHECK(get(key) == 10 && get(key + 31) == 9);
  CHECK(elsewhere(close_it, key) == key);
  CHECK(sodium_mprotect_readwrite(key) == 0);
  set(key, 11);
  elsewhere(free_it, key);
  // A thousand live allocations, freed in another order.
  unsigned char *all[1000];
  for (int i = 0; i < 1000; i++) CHECK((all[i] = sodium_malloc((size_t)i)));
  for (int i = 0; i < 1000; i += 2) sodium_free(all[i]);
  for (int i = 1; i < 1000; i += 2) sodium_free(all[i]);
}

static unsigned char *guarded(void) {
  CHECK(sodium_init() >= 0);
  unsigned char *key = sodium_malloc(32);
  memset(key, 3, 32);
  ok();
  return key;
}
static void overflow(void) { set(guarded() + 32, 1); }
static void overread(void) { (void)get(guarded() + 32); }
static void noaccess(void) {
  unsigned char *key = guarded();
  sodium_mprotect_noaccess(key);
  (void)get(key);
}
static void readonly(void) {
  unsigned char *key = guarded();
  sodium_mprotect_readonly(key);
  CHECK(get(key) == 3);
  set(key, 1);
}
static void underflow(void) {
  unsigned char *key = guarded();
  set(key - 1, (unsigned char)(get(key - 1) + 1));
  sodium_free(key);
}
static void twice(void) {
  unsigned char *key = guarded();
  sodium_free(key);
  sodium_free(key);
}

// --- OpenSSL -------------------------------------------------------------------------------------

/// The steps of OpenSSL's test of its secure heap.
static void openssl(void) {
  bool is_adopted = CRYPTO_secure_malloc_initialized();
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 1);
  CHECK(CRYPTO_secure_malloc_initialized());
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 0);
  CHECK(CRYPTO_secure_used() == 0);
  unsigned char *p = OPENSSL_secure_malloc(32);
  CHECK(p && CRYPTO_secure_allocated(p));
  CHECK(CRYPTO_secure_actual_size(p) >= 32 && CRYPTO_secure_used() == CRYPTO_secure_actual_size(p));
  memset(p, 5, 32);
  unsigned char *q = OPENSSL_malloc(32);
  CHECK(q && !CRYPTO_secure_allocated(q));
  unsigned char *r = OPENSSL_secure_zalloc(20);
  CHECK(r && CRYPTO_secure_allocated(r) && CRYPTO_secure_actual_size(r) >= 20);
  for (int i = 0; i < 20; i++) CHECK(r[i] == 0);
  CHECK(CRYPTO_secure_used() == CRYPTO_secure_actual_size(p) + CRYPTO_secure_actual_size(r));
  OPENSSL_secure_free(p);
  CHECK(CRYPTO_secure_used() == CRYPTO_secure_actual_size(r));
  OPENSSL_secure_free(q);  // ordinary memory, passed to the wrong function: it is still freed correctly
  q = OPENSSL_malloc(32);
  OPENSSL_secure_clear_free(q, 32);
  // Memory is in use.
  CHECK(CRYPTO_secure_malloc_done() == 0 && CRYPTO_secure_malloc_initialized());
  OPENSSL_secure_clear_free(r, 20);
  CHECK(CRYPTO_secure_used() == 0);
  OPENSSL_secure_free(NULL);
  OPENSSL_secure_clear_free(NULL, 0);
  CHECK(OPENSSL_secure_malloc((size_t)-1) == NULL);
  // More than the requested size of the heap.
  p = OPENSSL_secure_malloc(8192);
  CHECK((p != NULL) == is_adopted);
  OPENSSL_secure_free(p);
  CHECK(CRYPTO_secure_malloc_done() == 1 && !CRYPTO_secure_malloc_initialized());
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 1 && CRYPTO_secure_malloc_initialized());
  p = OPENSSL_secure_malloc(1);
  CHECK(p && CRYPTO_secure_allocated(p));
  OPENSSL_secure_free(p);
}

/// libcrypto asks, when the process ends, whether secure memory is in use that nobody ever asked for.
static void unused(void) {
  unsigned char digest[32];
  CHECK(EVP_Digest("", 0, digest, NULL, EVP_sha256(), NULL) == 1);
  OPENSSL_cleanup();
}

// --- libgcrypt -----------------------------------------------------------------------------------

static void gcrypt(void) {
  CHECK(gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  unsigned char *plain = gcry_xmalloc(100), *secure = gcry_xmalloc_secure(100);
  CHECK(!gcry_is_secure(plain) && gcry_is_secure(secure));
  memset(secure, 6, 100);
  secure = gcry_xrealloc(secure, 5000);
  CHECK(gcry_is_secure(secure) && secure[99] == 6);
  plain = gcry_xrealloc(plain, 5000);
  CHECK(!gcry_is_secure(plain));
  unsigned char *zeros = gcry_xcalloc_secure(10, 10);
  CHECK(gcry_is_secure(zeros) && zeros[99] == 0);
  gcry_free(plain);
  gcry_free(secure);
  gcry_free(zeros);
  gcry_free(NULL);
  // A key that the library generates.
  gcry_sexp_t parameters, key;
  CHECK(gcry_sexp_new(&parameters, "(genkey (ecc (curve Ed25519)(flags eddsa)))", 0, 1) == 0);
  CHECK(gcry_pk_genkey(&key, parameters) == 0);
  gcry_sexp_release(key);
  gcry_sexp_release(parameters);
}

/// Allocates more secure memory than libgcrypt's pool has, which is a fatal error of gcry_xmalloc_secure there.
static void exhausted(void) {
  CHECK(gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  void *all[64];
  for (int i = 0; i < 64; i++) CHECK(gcry_is_secure(all[i] = gcry_xmalloc_secure(4096)));
  for (int i = 0; i < 64; i++) gcry_free(all[i]);
}

static void fips(void) {
  CHECK(gcry_check_version(NULL));
  CHECK(gcry_fips_mode_active());
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  void *secure = gcry_malloc_secure(32);
  CHECK(secure && gcry_is_secure(secure));
  gcry_free(secure);
}

/// FIPS mode can only be requested before the library is used.
static void forced(void) {
  CHECK(gcry_control(GCRYCTL_FORCE_FIPS_MODE, 0) == 0);
  fips();
}

/// Memory from libgcrypt's own pool, allocated before gcry_check_version, is freed correctly.
static void used(void) {
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  void *early = gcry_malloc_secure(32);
  CHECK(early && gcry_check_version(NULL) && gcry_is_secure(early));
  void *late = gcry_malloc_secure(32);
  CHECK(late && gcry_is_secure(late));
  gcry_free(early);
  gcry_free(late);
}

/// Allocates secure memory before gcry_check_version, which the manual requires first.
static void early(void) {
  void *secure = gcry_malloc_secure(32);
  CHECK(secure && gcry_check_version(NULL) && gcry_is_secure(secure));
  gcry_free(secure);
}

// --- Forks ---------------------------------------------------------------------------------------

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

static void forks(void) {
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
static void storm(void) {
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
static void handlers(void) {
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
static void nested(void) {
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
static void many_freed(void) {
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
static void ended(void) {
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
static void signalled(void) {
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
static void heap_handlers(void) {
  use_aligned();
  // While there is one, each such address is looked up, whoever gave it out.
  void *kept;
  CHECK(posix_memalign(&kept, 1 << 16, 100) == 0);
  handlers();
  free(kept);
}

// --- Daemons -------------------------------------------------------------------------------------

/// Waits up to a minute until a directory has the expected number of names that begin with a text.
static bool comes_to_names(DIR *directory, const char *start, int wanted) {
  for (int i = 0; i < 6000; i++) {
    int count = 0;
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
      count += entry->d_name[0] != '.' && strncmp(entry->d_name, start, strlen(start)) == 0;
    }
    if (count == wanted) return true;
    usleep(10000);
  }
  return false;
}

static DIR *list(const char *path) {
  DIR *directory = opendir(path);
  CHECK(directory);
  return directory;
}

/// The same of the threads of this process.
static bool comes_to(int wanted) {
  DIR *tasks = list("/proc/self/task");
  bool is_there = comes_to_names(tasks, "", wanted);
  closedir(tasks);
  return is_there;
}

/// Filters the system calls of this thread; the filter allows all.
static void filter_calls(void) {
  struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog filter = {1, &all};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

/// Whether a child that does this ends itself with 7.
static bool child_ends_with_7(void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(7);
  }
  int status;
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 7;
}

static void filter_first_thread(void) {
  CHECK(comes_to(2));
  filter_calls();
  CHECK(comes_to(1));
}

/// A child that filters its system calls has no unfiltered thread left.
static void sandboxed(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(filter_first_thread));
  // This process has no filter.
  CHECK(comes_to(2));
}

/// The same in a process whose threads all have a filter already, as in most containers.
static void sandboxed_again(void) {
  filter_calls();
  sandboxed();
}

static void *wait_in_thread(void *unused) {
  for (;;) pause();
  return unused;
}
static void *filter_and_wait(void *unused) {
  filter_calls();
  return wait_in_thread(unused);
}
static void filter_last_thread(void) {
  CHECK(comes_to(2));
  pthread_t thread;
  for (int i = 0; i < 100; i++) CHECK(pthread_create(&thread, NULL, wait_in_thread, NULL) == 0);
  CHECK(pthread_create(&thread, NULL, filter_and_wait, NULL) == 0);
  CHECK(comes_to(102));
}

/// The same of a filter that one of many threads sets for itself.
static void sandboxed_thread(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(filter_last_thread));
}

/// Changes the root to a directory without /proc, and filters the system calls.
static void filter_in_other_root(void) {
  DIR *tasks = list("/proc/self/task");
  CHECK(chroot(getenv("ENCLAVE_STATS_DIR")) == 0 && access("/proc", F_OK) != 0);
  filter_calls();
  CHECK(comes_to_names(tasks, "", 1));
}

static void publish_and_filter_in_other_root(void) {
  char page[32];
  snprintf(page, sizeof page, "%d-", (int)getpid());
  CHECK(comes_to_names(list(getenv("ENCLAVE_STATS_DIR")), page, 1));
  filter_in_other_root();
}

/// Closes all unknown descriptors, like daemons, and waits until the library has opened its own again.
static void close_and_filter_in_other_root(void) {
  DIR *descriptors = list("/proc/self/fd");
  for (int fd = 3; fd < 1024; fd++) {
    if (fd != dirfd(descriptors)) close(fd);
  }
  char status[64], target[64];
  snprintf(status, sizeof status, "/proc/%d/status", (int)getpid());
  bool is_open = false;
  for (int i = 0; i < 6000 && !is_open; i++) {
    rewinddir(descriptors);
    for (struct dirent *entry; !is_open && (entry = readdir(descriptors));) {
      ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target - 1);
      target[length < 0 ? 0 : length] = 0;
      is_open = strcmp(target, status) == 0;
    }
    usleep(10000);
  }
  CHECK(is_open);
  filter_in_other_root();
}

/// The same without /proc: in children that publish already, at once, or after they closed all; and in this process.
static void sandboxed_root(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  CHECK(child_ends_with_7(publish_and_filter_in_other_root));
  CHECK(child_ends_with_7(close_and_filter_in_other_root));
  filter_in_other_root();
}

/// The same in a child that cannot lock, whose thread for this does not end by itself.
static void sandboxed_at_once(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  limit.rlim_cur = 0;
  CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  CHECK(child_ends_with_7(filter_in_other_root));
}

static void wait_for_the_end(void) {
  printf("%d\n", (int)getpid());
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

/// Closes all unknown descriptors, like daemons, and reuses the numbers for its own files.
static void closes(void) {
  CHECK(sodium_init() >= 0 && sodium_malloc(32));
  for (int fd = 3; fd < 1024; fd++) close(fd);
  int files[100];
  struct stat null, now;
  CHECK(stat("/dev/null", &null) == 0);
  for (int i = 0; i < 100; i++) CHECK((files[i] = open("/dev/null", O_RDONLY)) >= 0);
  wait_for_the_end();
  for (int i = 0; i < 100; i++) CHECK(fstat(files[i], &now) == 0 && now.st_rdev == null.st_rdev);
}

/// Forks a child whose RLIMIT_MEMLOCK is smaller than the parent's locked memory. Both wait.
static void poorer(void) {
  CRYPTO_secure_malloc_init(16384, 32);
  CHECK(OPENSSL_secure_malloc(32) && sodium_init() >= 0 && sodium_malloc(32));
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  rlim_t before = limit.rlim_cur;
  limit.rlim_cur = 0;
  CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  pid_t child = fork();
  char byte;
  if (child > 0) {
    limit.rlim_cur = before;
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    printf("%d\n", (int)child);
    fflush(stdout);
  }
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  if (child == 0) _exit(0);
  waitpid(child, NULL, 0);
}

/// Holds a secret of each library until its standard input ends, and so does a child that it forks before.
static void held(void) {
  CHECK(sodium_init() >= 0 && gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  CRYPTO_secure_malloc_init(16384, 32);
  for (int i = 0; i < 4; i++) {
    unsigned char *key = sodium_malloc(32);
    if (i == 1) sodium_mprotect_readonly(key);
    if (i > 1) sodium_mprotect_noaccess(key);
  }
  OPENSSL_secure_malloc(32);
  gcry_malloc_secure(32);
  pid_t child = fork();
  char byte;
  if (child == 0) {
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    _exit(0);
  }
  printf("%d\n", (int)child);
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  waitpid(child, NULL, 0);
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {
      {"sodium", sodium},       {"threads", threads},   {"overflow", overflow}, {"overread", overread},
      {"noaccess", noaccess},   {"readonly", readonly}, {"underflow", underflow}, {"twice", twice},
      {"openssl", openssl},     {"unused", unused},     {"gcrypt", gcrypt},     {"exhausted", exhausted}, {"fips", fips},
      {"forks", forks},         {"held", held},
      {"storm", storm},         {"poorer", poorer},     {"forced", forced},     {"used", used},
      {"early", early},
      {"handlers", handlers},   {"heap-handlers", heap_handlers},
      {"nested", nested},       {"many-freed", many_freed}, {"ended", ended},
      {"signalled", signalled},
      {"closes", closes},
      {"sandboxed", sandboxed}, {"sandboxed-again", sandboxed_again}, {"sandboxed-thread", sandboxed_thread},
      {"sandboxed-root", sandboxed_root}, {"sandboxed-at-once", sandboxed_at_once},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (count < 2 || strcmp(cases[i].name, arguments[1]) != 0) continue;
    cases[i].run();
    ok();
    return 0;
  }
  return 2;
}
