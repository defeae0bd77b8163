// Loads a plugin and unloads it: host CASE LIBRARY. It waits for a line of input when the test should inspect it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_ENCLAVE
#include <enclave.h>
#endif

static void *library;
static const char *path;

static void *find(const char *name) {
  void *found = dlsym(library, name);
  if (!found) errx(70, "%s", dlerror());
  return found;
}

static void call(const char *name) {
  int result = ((int (*)(void))find(name))();
  if (result) errx(1, "%s: %d", name, result);
}

static void unload(void) {
  if (dlclose(library)) errx(70, "%s", dlerror());
}

/// The plugin itself is unloaded, although its dependencies may stay.
static void unload_plugin(void) {
  unload();
  if (dlopen(path, RTLD_NOW | RTLD_NOLOAD)) errx(70, "the plugin is still loaded");
}

static void be_seen(const char *word) {
  char line[8];
  puts(word);
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) exit(1);
}

static int ticker(void) {
  call("module_publish");
  unload_plugin();
  be_seen("ready");
  return 0;
}

static pthread_barrier_t used, unloaded;

static void *use_and_end(void *unused) {
  call("module_use");
  pthread_barrier_wait(&used);
  pthread_barrier_wait(&unloaded);
  return unused;
}

static int threads(void) {
  pthread_t all[4];
  pthread_barrier_init(&used, NULL, 5);
  pthread_barrier_init(&unloaded, NULL, 5);
  for (int i = 0; i < 4; i++)
    if (pthread_create(&all[i], NULL, use_and_end, NULL)) errx(70, "no thread");
  pthread_barrier_wait(&used);
  unload_plugin();
  pthread_barrier_wait(&unloaded);
  for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
  return 0;
}

static int terminated(void) {
  call("module_wipe_on_signals");
  unload_plugin();
  // The signal may be blocked by the process that started this one.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_UNBLOCK, &all, NULL);
  raise(SIGTERM);
  return 1;
}

/// Frees memory of the interposer after it was unloaded.
static int interposer(void) {
  void *(*allocate)(size_t) = (void *(*)(size_t))find("malloc");
  void (*release)(void *) = (void (*)(void *))find("free");
  char *block = allocate(100);
  if (!block) return 1;
  unload();
  memset(block, 1, 100);
  release(block);
  release(allocate(100));
  return 0;
}

#ifdef WITH_ENCLAVE
/// The program contains one copy of the library, and the plugin another.
static int two_copies(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  enclave_arena *arena;
  if (enclave_arena_create("program", &options, &arena)) errx(1, "%s", enclave_last_error());
  if (enclave_publish_start("program")) errx(1, "%s", enclave_last_error());
  call("module_publish");
  be_seen("both");
  call("module_stop");
  be_seen("program");
  return 0;
}
#endif

static const struct {
  const char *name;
  int (*run)(void);
} cases[] = {
    {"ticker", ticker},         {"threads", threads}, {"terminated", terminated},
    {"interposer", interposer},
#ifdef WITH_ENCLAVE
    {"two-copies", two_copies},
#endif
};

int main(int count, char **arguments) {
  if (count != 3) errx(64, "host CASE LIBRARY");
  path = arguments[2];
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) errx(70, "%s", dlerror());
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(arguments[1], cases[i].name) == 0) return cases[i].run();
  errx(64, "there is no such case");
}
