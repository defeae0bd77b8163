// Serves libgcrypt's secure memory (gcry_malloc_secure, and what the library allocates with it) from an arena
// named "libgcrypt".
//
// libgcrypt calls its own functions directly, so they cannot be interposed, but it accepts allocation
// handlers (gcry_set_allocation_handler). They are set at the program's first gcry_check_version, which its
// manual requires first, or at the first request for secure memory if that comes earlier. Setting them even
// earlier would break programs: it initialises the library, and some controls (GCRYCTL_FORCE_FIPS_MODE,
// GCRYCTL_DISABLE_HWF) only work before that.
//
// The library is not adopted in FIPS mode, which ignores handlers, nor if it was in use before they could be set:
// handlers cannot free memory of the library's own pool. Both are reported on standard error and by an empty arena
// named "libgcrypt (not adopted: …)".

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "adopt.h"

static const char *const files[] = {"libgcrypt.so.20", NULL};
adopted adopt_libgcrypt = {
    .name = "libgcrypt", .layout = ENCLAVE_LAYOUT_SLAB, .gate = ENCLAVE_GATE_NONE, .files = files};

/// GCRYCTL_ANY_INITIALIZATION_P and GCRYCTL_FIPS_MODE_P of gcrypt.h. The second is valid only after the first.
enum { CONTROL_IS_INITIALIZED = 40, CONTROL_IS_FIPS_MODE = 55 };

static bool is_ours(const void *address) { return adopt_owns(&adopt_libgcrypt, address); }

static void *allocate(size_t size) { return malloc(size); }

static void *allocate_secure(size_t size) {
  enclave_arena *arena = adopt_arena(&adopt_libgcrypt);
  if (arena) return adopt_allocate(arena, size, "gcry_malloc_secure");
  errno = ENOMEM;
  return NULL;
}

static int is_secure(const void *address) { return is_ours(address); }

static void *reallocate(void *address, size_t size) {
  if (!is_ours(address)) return realloc(address, size);
  if (enclave_private_is_forking()) {
    errno = EBUSY;
    return NULL;
  }
  void *result = enclave_realloc(address, size);
  if (!result) errno = ENOMEM;
  return result;
}

static void release(void *address) {
  int error = errno;
  // libgcrypt's ordinary memory comes from malloc(3), with and without handlers.
  if (!adopt_free(&adopt_libgcrypt, address)) free(address);
  errno = error;
}

typedef void set_function(void *(*)(size_t), void *(*)(size_t), int (*)(const void *),
                          void *(*)(void *, size_t), void (*)(void *));
typedef unsigned control_function(int, ...);

static const char *reason;
static const char *obstacle(void) { return reason; }

static void adopt(void) {
  static void *cached_set, *cached_control;
  set_function *set = (set_function *)adopt_original(&adopt_libgcrypt, &cached_set, "gcry_set_allocation_handler");
  control_function *control =
      (control_function *)adopt_original(&adopt_libgcrypt, &cached_control, "gcry_control");
  if (!set || !control) return;
  bool was_used = control(CONTROL_IS_INITIALIZED, 0) != 0;
  if (!was_used) set(allocate, allocate_secure, is_secure, reallocate, release);
  adopt_libgcrypt.obstacle = obstacle;
  if (control(CONTROL_IS_FIPS_MODE, 0) != 0) {
    reason = "FIPS mode uses only its own memory";
    adopt_libgcrypt.unadopted_name = "libgcrypt (not adopted: FIPS)";
  } else if (was_used) {
    reason = "it was in use before the program called gcry_check_version";
    adopt_libgcrypt.unadopted_name = "libgcrypt (not adopted: in use)";
  }
  if (reason) (void)adopt_arena(&adopt_libgcrypt);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

// libgcrypt's manual requires programs to call this function first.
const char *gcry_check_version(const char *wanted) {
  static void *cached;
  const char *(*original)(const char *) =
      (const char *(*)(const char *))adopt_original(&adopt_libgcrypt, &cached, "gcry_check_version");
  if (!original) return NULL;
  pthread_once(&once, adopt);
  return original(wanted);
}

// Functions that request secure memory.
#define ADOPT_FIRST(function, parameters, ...)                                                       \
  void *function parameters {                                                                \
    static void *cached;                                                                      \
    void *(*original) parameters =                                                           \
        (void *(*) parameters)adopt_original(&adopt_libgcrypt, &cached, #function);           \
    if (!original) return NULL;                                                              \
    pthread_once(&once, adopt);                                                              \
    return original(__VA_ARGS__);                                                            \
  }
ADOPT_FIRST(gcry_malloc_secure, (size_t size), size)
ADOPT_FIRST(gcry_xmalloc_secure, (size_t size), size)
ADOPT_FIRST(gcry_calloc_secure, (size_t count, size_t size), count, size)
ADOPT_FIRST(gcry_xcalloc_secure, (size_t count, size_t size), count, size)
