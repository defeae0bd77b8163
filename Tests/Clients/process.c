// Process-wide operations while threads use arenas, one case per run: process NAME [COUNT]. ProcessTests expect how
// each ends.

#include <enclave.h>

#include <err.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int count = 1;

static enclave_options usual(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  return options;
}

static enclave_arena *make(const char *name) {
  enclave_options options = usual();
  enclave_arena *arena;
  if (enclave_arena_create(name, &options, &arena)) errx(70, "%s", enclave_last_error());
  return arena;
}

// --- Threads that create and release arenas ----------------------------------------------------

static unsigned long rounds;

static void *churn(void *unused) {
  for (;;) {
    enclave_options options = usual();
    enclave_arena *arena;
    // Only refused while the process ends.
    if (enclave_arena_create("churned", &options, &arena)) continue;
    void *secret = enclave_malloc(arena, 64);
    if (secret) enclave_free(secret);
    enclave_arena_release(arena);
    __atomic_fetch_add(&rounds, 1, __ATOMIC_RELAXED);
  }
  return unused;
}

static void start(void *(*body)(void *), int threads) {
  for (int i = 0; i < threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, NULL)) errx(70, "no thread");
    pthread_detach(thread);
  }
}

/// Waits until the threads have completed this many more rounds.
static void let_them_run(unsigned long more) {
  unsigned long end = __atomic_load_n(&rounds, __ATOMIC_RELAXED) + more;
  while (__atomic_load_n(&rounds, __ATOMIC_RELAXED) < end) usleep(50);
}

static int wipe_while_arenas_go(void) {
  start(churn, 4);
  for (int i = 0; i < count; i++) {
    enclave_wipe_everything();
    let_them_run(1);
  }
  puts("ok");
  fflush(stdout);
  _exit(0);
}

static int exit_while_arenas_go(void) {
  start(churn, 4);
  let_them_run(10);
  puts("ok");
  exit(0);
}

// --- Forking -----------------------------------------------------------------------------------

static enclave_arena *shared;

/// Creates, fills, opens, freezes and destroys arenas of every kind, and uses one that all threads share.
static void *work(void *unused) {
  static unsigned next;
  for (unsigned i = __atomic_fetch_add(&next, 7, __ATOMIC_RELAXED);; i++) {
    enclave_options options = usual();
    options.gate = i % 2 ? ENCLAVE_GATE_PAGES : ENCLAVE_GATE_NONE;
    options.layout = i % 3 ? ENCLAVE_LAYOUT_SLAB : ENCLAVE_LAYOUT_ISOLATED;
    enclave_arena *arena;
    if (enclave_arena_create("worked", &options, &arena)) errx(70, "%s", enclave_last_error());
    char label[32];
    snprintf(label, sizeof label, "label %u", i % 50);
    for (int j = 0; j < 20; j++) {
      void *secrets[2] = {enclave_allocate(arena, 20 + 100 * j, 0, "own"),
                          enclave_allocate(shared, 48, 0, "shared")};
      for (int k = 0; k < 2; k++) {
        if (!secrets[k]) errx(70, "%s", enclave_last_error());
        enclave_window window;
        if (enclave_open(secrets[k], ENCLAVE_READ_WRITE, &window)) errx(70, "%s", enclave_last_error());
        *(volatile char *)secrets[k] = 1;
        enclave_close(&window);
        if (enclave_free(secrets[k])) errx(70, "%s", enclave_last_error());
      }
    }
    if (i % 4 == 0) enclave_arena_freeze(arena);
    if (i % 5 == 0) enclave_arena_destroy(arena, 0);
    enclave_arena_release(arena);
    __atomic_fetch_add(&rounds, 1, __ATOMIC_RELAXED);
  }
  return unused;
}

enum { EXECS, EXITS, LEAVES, USES, BEGINS, WAYS };
static const char *const ways[] = {"exec", "exit", "_exit", "use of the parent's arena",
                                   "an arena of its own"};

/// Runs in a child. The exit status is 0 if everything behaved as documented.
static void be_child(int way) {
  switch (way) {
    case EXECS: execl("/bin/true", "true", NULL); _exit(80);
    case EXITS: exit(0);
    case LEAVES: _exit(0);
    case USES:
      if (enclave_malloc(shared, 16)) _exit(81);
      if (enclave_last_status() != ENCLAVE_ERROR_INHERITED) _exit(82);
      enclave_wipe_everything();
      exit(0);
    case BEGINS: {
      enclave_options options = usual();
      enclave_arena *arena;
      if (enclave_arena_create("child", &options, &arena)) _exit(83);
      void *secret = enclave_malloc(arena, 64);
      if (!secret) _exit(84);
      enclave_window window;
      if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) _exit(85);
      enclave_close(&window);
      if (enclave_free(secret)) _exit(86);
      enclave_arena_release(arena);
      exit(0);
    }
  }
}

/// Forks repeatedly from the start on, while six threads use arenas. A child that does not end within a minute hangs.
static int fork_while_arenas_work(void) {
  for (int i = 0; i < count; i++) {
    if (i == 1) {
      shared = make("shared");
      if (getenv("ENCLAVE_STATS") == NULL && enclave_publish_start(NULL))
        errx(70, "%s", enclave_last_error());
      start(work, 6);
    }
    int way = shared ? i % WAYS : i % LEAVES;
    pid_t child = fork();
    if (child < 0) err(70, "fork");
    if (child == 0) be_child(way);
    struct timespec now, begun;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int status;;) {
      pid_t ended = waitpid(child, &status, WNOHANG);
      if (ended < 0) err(70, "waitpid");
      if (ended == child) {
        if (status) errx(1, "fork %d: %s ended with %#x", i, ways[way], status);
        break;
      }
      clock_gettime(CLOCK_MONOTONIC, &now);
      if (now.tv_sec - begun.tv_sec > 60) {
        warnx("fork %d: %s hangs, process %d", i, ways[way], child);
        char command[100];
        snprintf(command, sizeof command, "gdb -p %d -batch -ex bt >&2", child);
        if (getenv("PROCESS_GDB")) (void)!system(command);
        kill(child, SIGKILL);
        _exit(1);
      }
      usleep(100);
    }
  }
  puts("ok");
  fflush(stdout);
  _exit(0);
}

// --- Publishing --------------------------------------------------------------------------------

/// With ENCLAVE_STATS=1, starting to publish takes over the publisher that the environment started, once.
static int start_after_the_environment(void) {
  make("tokens");
  if (enclave_publish_start("renamed")) errx(1, "%s", enclave_last_error());
  if (enclave_publish_start("again") != ENCLAVE_ERROR_PUBLISHING) errx(1, "twice");
  enclave_publish_stop();
  if (enclave_publish_start("anew")) errx(1, "%s", enclave_last_error());
  puts("ok");
  return 0;
}

static int may_make;
static void *make_when_told(void *unused) {
  while (!__atomic_load_n(&may_make, __ATOMIC_ACQUIRE)) {}
  make("first");
  return unused;
}

/// Another thread creates the first arena meanwhile, which starts the publisher of the environment.
static int start_beside_the_environment(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, make_when_told, NULL)) errx(70, "no thread");
  __atomic_store_n(&may_make, 1, __ATOMIC_RELEASE);
  for (volatile int i = 0; i < count * 50000; i++) {}
  if (enclave_publish_start("renamed")) errx(1, "%s", enclave_last_error());
  pthread_join(thread, NULL);
  enclave_publish_stop();
  puts("ok");
  return 0;
}

/// A daemon closes all descriptors and opens its own.
static int stop_after_closing_descriptors(void) {
  make("daemon");
  if (enclave_publish_start(NULL)) errx(1, "%s", enclave_last_error());
  for (int i = 3; i < 1024; i++) close(i);
  int own[3];
  for (int i = 0; i < 3; i++) own[i] = open("/dev/null", O_RDONLY);
  enclave_publish_stop();
  for (int i = 0; i < 3; i++)
    if (fcntl(own[i], F_GETFD) < 0) errx(1, "descriptor %d was closed", own[i]);
  puts("ok");
  return 0;
}

/// Publishing starts and stops repeatedly, and each page's memory is returned.
static int publish_often(void) {
  enclave_malloc(make("published"), 32);
  size_t before = 0;
  for (int i = 0; i < 50 + count; i++) {
    if (i == 50) before = mallinfo2().uordblks + mallinfo2().hblkhd;
    if (enclave_publish_start(NULL)) errx(1, "%s", enclave_last_error());
    enclave_publish_stop();
  }
  size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
  // A publishing thread that has not ended yet holds some memory: less than that of one page.
  if (after > before + (size_t)count * 1024) errx(1, "%zu bytes more in %d pages", after - before, count);
  puts("ok");
  return 0;
}

static int use_an_arena(void) {
  void *secret = enclave_malloc(make("plain"), 32);
  if (!secret) errx(1, "%s", enclave_last_error());
  enclave_free(secret);
  puts("ok");
  return 0;
}

static const struct {
  const char *name;
  int (*run)(void);
} cases[] = {
    {"wipe-while-arenas-go", wipe_while_arenas_go},
    {"exit-while-arenas-go", exit_while_arenas_go},
    {"fork-while-arenas-work", fork_while_arenas_work},
    {"start-after-the-environment", start_after_the_environment},
    {"start-beside-the-environment", start_beside_the_environment},
    {"stop-after-closing-descriptors", stop_after_closing_descriptors},
    {"publish-often", publish_often},
    {"use-an-arena", use_an_arena},
};

int main(int arguments, char **argument) {
  if (arguments > 2) count = atoi(argument[2]);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (arguments > 1 && strcmp(argument[1], cases[i].name) == 0) return cases[i].run();
  errx(64, "there is no such case");
}
