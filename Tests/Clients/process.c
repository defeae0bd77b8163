// What a process does as a whole while threads use arenas, one case a run: process NAME [COUNT]. The
// test next door says how each ends.

#include <enclave.h>

#include <err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
    // Refused only while the process ends.
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

/// Waits until the threads have gone round so many times more.
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

static const struct {
  const char *name;
  int (*run)(void);
} cases[] = {
    {"wipe-while-arenas-go", wipe_while_arenas_go},
    {"exit-while-arenas-go", exit_while_arenas_go},
};

int main(int arguments, char **argument) {
  if (arguments > 2) count = atoi(argument[2]);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (arguments > 1 && strcmp(argument[1], cases[i].name) == 0) return cases[i].run();
  (void)make;
  errx(64, "there is no such case");
}
