// Protection keys (pkeys(7)), and the pthread_create that keeps them closed in new threads.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "result.h"

uint32_t ces_pool_bits = 0;
void ces_pool_add(uint32_t bits) { __atomic_fetch_or(&ces_pool_bits, bits, __ATOMIC_SEQ_CST); }
void ces_pool_clear(void) { __atomic_store_n(&ces_pool_bits, 0, __ATOMIC_SEQ_CST); }

int64_t ces_key_allocate(void) {
#if defined(__x86_64__)
  RESULT(pkey_alloc(0, PKEY_DISABLE_ACCESS));
#else
  return -ENOSYS;
#endif
}

int64_t ces_key_protect(void *address, size_t length, int key) {
  RESULT(pkey_mprotect(address, length, PROT_READ | PROT_WRITE, key));
}

// A thread inherits its creator's PKRU (measured; pkeys(7)). A thread created in a window closes the
// library's keys before it runs anything. This definition takes precedence over the C library's for
// everything in the process that creates threads, including the Swift runtime and libdispatch.

typedef int pthread_create_function(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

// The thread sanitizer has its own interceptor, which must still see every thread.
extern pthread_create_function __interceptor_pthread_create __attribute__((weak));

typedef struct {
  void *(*start)(void *);
  void *argument;
} thread_start_t;

static void *start_closed(void *raw) {
  thread_start_t start_info = *(thread_start_t *)raw;
  free(raw);
  ces_wrpkru(ces_rdpkru() | __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED));
  return start_info.start(start_info.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument) {
  static pthread_create_function *next;
  pthread_create_function *make = __atomic_load_n(&next, __ATOMIC_RELAXED);
  if (!make) {
    // If this definition is the program's own, call the sanitizer's interceptor next. If it is in a shared
    // library, the sanitizer's interceptor already ran.
    make = __interceptor_pthread_create && ces_threads_start_closed()
               ? __interceptor_pthread_create
               : (pthread_create_function *)dlsym(RTLD_NEXT, "pthread_create");
    if (!make) return EAGAIN;
    __atomic_store_n(&next, make, __ATOMIC_RELAXED);
  }
  uint32_t bits = __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED);
  // A key is closed when access is disabled, whatever its write bit says.
  uint32_t access = bits & 0x55555555u;
  if (bits == 0 || (ces_rdpkru() & access) == access) {
    return make(thread, attributes, start, argument);
  }
  thread_start_t *start_info = malloc(sizeof *start_info);
  if (!start_info) return EAGAIN;
  *start_info = (thread_start_t){start, argument};
  int result = make(thread, attributes, start_closed, start_info);
  if (result != 0) free(start_info);
  return result;
}

int ces_threads_start_closed(void) {
  Dl_info used, own;
  void *create = dlsym(RTLD_DEFAULT, "pthread_create");
  return create && dladdr(create, &used) && dladdr((void *)start_closed, &own) &&
         used.dli_fbase == own.dli_fbase;
}
