// libgcrypt's secure memory (gcry_malloc_secure and what the library allocates with it), from an arena named
// "libgcrypt".
//
// libgcrypt calls its own functions directly, so none of them can be stood in for; but it takes handlers
// (gcry_set_allocation_handler), which are set before main, or with the first gcry_check_version where the
// library is loaded later. In FIPS mode it takes none, and keeps to its own memory: the process says so, and
// an empty arena bears the name "libgcrypt (not adopted: FIPS)".

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

/// GCRYCTL_FIPS_MODE_P of gcrypt.h.
enum { CONTROL_IS_FIPS_MODE = 55 };

static bool is_ours(const void *address) {
  enclave_arena *arena = __atomic_load_n(&adopt_libgcrypt.arena, __ATOMIC_ACQUIRE);
  return arena && address && enclave_arena_owns(arena, address);
}

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
  void *result = enclave_realloc(address, size);
  if (!result) errno = ENOMEM;
  return result;
}

static void release(void *address) {
  int error = errno;
  if (is_ours(address)) {
    (void)enclave_free(address);
  } else {
    // Ordinary memory of libgcrypt comes from malloc(3), whoever its handler was then.
    free(address);
  }
  errno = error;
}

typedef void set_function(void *(*)(size_t), void *(*)(size_t), int (*)(const void *),
                          void *(*)(void *, size_t), void (*)(void *));
typedef unsigned control_function(int, ...);

static void adopt(void) {
  static void *set_place, *control_place;
  set_function *set = (set_function *)adopt_original(&adopt_libgcrypt, &set_place, "gcry_set_allocation_handler");
  control_function *control =
      (control_function *)adopt_original(&adopt_libgcrypt, &control_place, "gcry_control");
  if (!set || !control) return;
  set(allocate, allocate_secure, is_secure, reallocate, release);
  if (control(CONTROL_IS_FIPS_MODE, 0) == 0) return;
  adopt_complain("libgcrypt", "FIPS mode takes no other memory than its own");
  adopt_libgcrypt.name = "libgcrypt (not adopted: FIPS)";
  (void)adopt_arena(&adopt_libgcrypt);
}

void adopt_gcrypt(void) {
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  static bool is_done;
  if (__atomic_load_n(&is_done, __ATOMIC_ACQUIRE)) return;
  static void *place;
  if (!adopt_original(&adopt_libgcrypt, &place, "gcry_set_allocation_handler")) return;
  pthread_mutex_lock(&once);
  if (!is_done) adopt();
  __atomic_store_n(&is_done, true, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&once);
}

// The first function of libgcrypt that a program calls, as its manual has it.
const char *gcry_check_version(const char *wanted) {
  static void *place;
  const char *(*original)(const char *) =
      (const char *(*)(const char *))adopt_original(&adopt_libgcrypt, &place, "gcry_check_version");
  if (!original) return NULL;
  adopt_gcrypt();
  return original(wanted);
}
