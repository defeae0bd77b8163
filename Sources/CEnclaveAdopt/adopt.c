// Adoption: arenas named after the libraries, and the way to what the libraries do themselves.
//
//     LD_PRELOAD=libenclave-adopt.so ENCLAVE_STATS=1 nginx        (or: memwatch run --adopt -- nginx)
//
// Symbols of a preloaded object come first wherever a library calls through its table of functions, also
// for calls within libsodium and libcrypto, which are not bound with -Bsymbolic. Memory that the libraries'
// own functions gave out goes back to them.
//
// An arena is made at the first allocation. Memory that cannot be locked is used all the same, as the
// libraries do, and memwatch shows it. What is left is wiped when the process has run all its handlers of
// exit, since those may still use it.

#define _GNU_SOURCE
#include "adopt.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

enclave_arena *adopt_arena(adopted *library) {
  enclave_arena *arena = __atomic_load_n(&library->arena, __ATOMIC_ACQUIRE);
  if (__builtin_expect(arena != NULL, 1)) return arena;
  if (__atomic_load_n(&library->has_failed, __ATOMIC_RELAXED)) return NULL;
  pthread_mutex_lock(&making);
  arena = library->arena;
  if (!arena && !library->has_failed) {
    enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
    options.layout = library->layout;
    options.gate = library->gate;
    options.lock = ENCLAVE_LOCK_PREFERRED;
    options.flags = library->flags | ENCLAVE_FLAG_KEPT_AT_EXIT | CENCLAVE_INHERITED_BY_FORK |
                    CENCLAVE_LOCKED_ON_FAULT;
    if (enclave_arena_create(library->name, &options, &arena) == ENCLAVE_OK) {
      __atomic_store_n(&library->arena, arena, __ATOMIC_RELEASE);
    } else {
      arena = NULL;
      __atomic_store_n(&library->has_failed, true, __ATOMIC_RELAXED);
      adopt_complain(library->name, enclave_last_error());
    }
  }
  pthread_mutex_unlock(&making);
  return arena;
}

void *adopt_original(const adopted *library, void **place, const char *name) {
  void *found = __atomic_load_n(place, __ATOMIC_RELAXED);
  if (found) return found;
  found = dlsym(RTLD_NEXT, name);
  // A library that came with dlopen(3) may stand in no scope but its own.
  for (const char *const *file = library->files; !found && *file; file++) {
    void *handle = dlopen(*file, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) continue;
    found = dlsym(handle, name);
    dlclose(handle);
  }
  if (!found) return NULL;
  // It is called from here for as long as the process lives, whatever dlclose(3) says.
  Dl_info info;
  if (dladdr(found, &info) && info.dli_fname) dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  __atomic_store_n(place, found, __ATOMIC_RELAXED);
  return found;
}

void *adopt_allocate(enclave_arena *arena, size_t size, const char *label) {
  void *result = enclave_allocate(arena, size, 0, label);
  if (!result) errno = ENOMEM;
  return result;
}

void adopt_complain(const char *name, const char *text) {
  char line[640];
  int length = snprintf(line, sizeof line, "Enclave: %s is not adopted: %s\n", name, text);
  ssize_t ignored = write(STDERR_FILENO, line, length < (int)sizeof line ? (size_t)length : sizeof line);
  (void)ignored;
}

void adopt_wipe(adopted *library) {
  enclave_arena *arena = __atomic_load_n(&library->arena, __ATOMIC_ACQUIRE);
  if (arena) enclave_private_wipe(arena);
}

static void before_fork(void) { pthread_mutex_lock(&making); }
static void after_fork(void) { pthread_mutex_unlock(&making); }

__attribute__((constructor)) static void begin(void) {
  // A child finds no arena half made. (It fails for want of memory only.)
  (void)pthread_atfork(before_fork, after_fork, after_fork);
  adopt_gcrypt();
}

// After all handlers of atexit(3) and the program's own destructors; before those of libraries that it was
// linked with, which come later in the order of loading.
__attribute__((destructor)) static void end(void) {
  adopt_wipe(&adopt_libsodium);
  adopt_wipe(&adopt_openssl);
  adopt_wipe(&adopt_libgcrypt);
}
