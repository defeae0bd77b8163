// Adoption: serves the secure memory of libsodium, libcrypto and libgcrypt from arenas of this library, one
// per adopted library and named after it.
//
//     LD_PRELOAD=libenclave-adopt.so ENCLAVE_STATS=1 nginx        (or: memwatch run --adopt -- nginx)
//
// The symbols of a preloaded object take precedence in every call through a PLT. That includes calls inside
// libsodium and libcrypto, unless those were linked with -Bsymbolic-functions (see openssl.c). Memory that
// the libraries' own functions allocated is freed by them.
//
// An arena is created at the first allocation. Memory that cannot be locked is used anyway, as the libraries
// do, and memwatch shows it. Live memory is wiped after all exit handlers and the destructors of all
// libraries have run, because they may still use it.
//
// A forking thread holds the arenas' locks. Meanwhile its fork handlers (pthread_atfork(3)) get memory from
// the libraries' own functions, and adopted memory that they free is freed after the fork.

#define _GNU_SOURCE
#include "adopt.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// An error-checking mutex: a signal handler that forks may have interrupted the thread that holds it.
static const pthread_mutex_t unlocked = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static pthread_mutex_t creation_lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

static enclave_arena *create_arena(const adopted *library, const char *name) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.layout = library->layout;
  options.gate = library->gate;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  options.flags = library->flags | ENCLAVE_FLAG_KEPT_AT_EXIT | CENCLAVE_INHERITED_BY_FORK |
                  CENCLAVE_LOCKED_ON_FAULT;
  enclave_arena *arena;
  return enclave_arena_create(name, &options, &arena) == ENCLAVE_OK ? arena : NULL;
}

enclave_arena *adopt_arena(adopted *library) {
  enclave_arena *arena = __atomic_load_n(&library->arena, __ATOMIC_ACQUIRE);
  if (__builtin_expect(arena != NULL, 1)) return enclave_private_is_forking() ? NULL : arena;
  if (__atomic_load_n(&library->has_failed, __ATOMIC_RELAXED)) return NULL;
  if (enclave_private_is_forking() || pthread_mutex_lock(&creation_lock) != 0) return NULL;
  arena = library->arena;
  if (!arena && !library->has_failed) {
    const char *obstacle = library->obstacle ? library->obstacle() : NULL;
    arena = obstacle ? NULL : create_arena(library, library->name);
    if (arena) {
      __atomic_store_n(&library->arena, arena, __ATOMIC_RELEASE);
    } else {
      __atomic_store_n(&library->has_failed, true, __ATOMIC_RELAXED);
      adopt_report(library->name, obstacle ? obstacle : enclave_last_error());
      if (obstacle) (void)create_arena(library, library->unadopted_name);
    }
  }
  pthread_mutex_unlock(&creation_lock);
  return arena;
}

bool adopt_owns(const adopted *library, const void *address) {
  enclave_arena *arena = __atomic_load_n(&library->arena, __ATOMIC_ACQUIRE);
  return arena && address && enclave_arena_owns(arena, address);
}

bool adopt_free(const adopted *library, void *address) {
  if (!adopt_owns(library, address)) return false;
  if (enclave_private_is_forking()) {
    enclave_private_free_after_fork(address);
  } else if (library->gate != ENCLAVE_GATE_PAGES ||
             enclave_private_free_held(address) == ENCLAVE_ERROR_NOT_OURS) {
    // If the address is freed already or inside a secret, this is a violation and ends the process.
    (void)enclave_free(address);
  }
  return true;
}

void *adopt_original(const adopted *library, void **cached, const char *name) {
  void *found = __atomic_load_n(cached, __ATOMIC_RELAXED);
  if (found) return found;
  found = dlsym(RTLD_NEXT, name);
  // A library that was loaded with dlopen(3) may be in a local scope.
  for (const char *const *file = library->files; !found && *file; file++) {
    void *handle = dlopen(*file, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) continue;
    found = dlsym(handle, name);
    dlclose(handle);
  }
  if (!found) return NULL;
  // Keep the library loaded after dlclose(3): the pointer is used until the process ends.
  Dl_info info;
  if (dladdr(found, &info) && info.dli_fname) dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  __atomic_store_n(cached, found, __ATOMIC_RELAXED);
  return found;
}

void *adopt_allocate(enclave_arena *arena, size_t size, const char *label) {
  void *result = enclave_allocate(arena, size, 0, label);
  if (!result) errno = ENOMEM;
  return result;
}

void adopt_report(const char *name, const char *text) {
  char line[640];
  int length = snprintf(line, sizeof line, "Enclave: %s is not adopted: %s\n", name, text);
  ssize_t ignored = write(STDERR_FILENO, line, length < (int)sizeof line ? (size_t)length : sizeof line);
  (void)ignored;
}

void adopt_wipe(adopted *library) {
  enclave_arena *arena = __atomic_load_n(&library->arena, __ATOMIC_ACQUIRE);
  if (arena) enclave_private_wipe(arena);
}

// A fork handler may fork; the outer fork then holds the lock.
static __thread bool holds_creation_lock;
static __thread unsigned forks;
static void before_fork(void) {
  if (forks++ == 0) holds_creation_lock = pthread_mutex_lock(&creation_lock) == 0;
}
static void after_fork(void) {
  if (forks > 0 && --forks == 0 && holds_creation_lock) pthread_mutex_unlock(&creation_lock);
}
// The lock may be held by a thread that exists only in the parent.
static void in_child(void) {
  creation_lock = unlocked;
  forks = 0;
}

static void wipe_libraries(void *unused) {
  (void)unused;
  adopt_wipe(&adopt_libsodium);
  adopt_wipe(&adopt_openssl);
  adopt_wipe(&adopt_libgcrypt);
}

int __cxa_atexit(void (*)(void *), void *, void *);

__attribute__((constructor)) static void initialize(void) {
  // Children never inherit a half-made arena. (This call can only fail for lack of memory.)
  (void)pthread_atfork(before_fork, after_fork, in_child);
  // Runs after all destructors: exit handlers run in reverse order, and the C library registers the one that
  // runs the destructors later than this, when the program starts. (atexit(3) would register it for this
  // library, whose destructors run early.)
  (void)__cxa_atexit(wipe_libraries, NULL, NULL);
  adopt_check_openssl();
}
