// The parts of the C interface that are written in C: each thread's last error, and finding the interposer.

#define _GNU_SOURCE
#include "CEnclaveInternal.h"

#include "CEnclaveSystem.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static __thread struct {
  enclave_status status;
  int error;
  char text[512];
} last;

const char *enclave_last_error(void) { return last.text; }
enclave_status enclave_last_status(void) { return last.status; }
int enclave_last_errno(void) { return last.error; }

void cenclave_set_error(enclave_status status, int error, const char *text, size_t length) {
  if (length > sizeof last.text - 1) length = sizeof last.text - 1;
  memcpy(last.text, text, length);
  last.text[length] = 0;
  last.status = status;
  last.error = error;
}

const cenclave_interposer *cenclave_find_interposer(void) {
  static const cenclave_interposer *known;
  const cenclave_interposer *found = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
  if (found) return found;
  found = dlsym(RTLD_DEFAULT, "enclave_interposer");
  if (!found || found->struct_size < sizeof *found) return NULL;
  __atomic_store_n(&known, found, __ATOMIC_RELEASE);
  return found;
}

const char *cenclave_foreign_allocator(const cenclave_interposer *interposer) {
  static bool are_ours;
  if (__atomic_load_n(&are_ours, __ATOMIC_ACQUIRE)) return NULL;
  const char *name = interposer->foreign();
  if (!name) __atomic_store_n(&are_ours, true, __ATOMIC_RELEASE);
  return name;
}

bool enclave_private_is_busy(void) { return ces_held_locks != 0; }

void enclave_private_foreign_allocator(const char *what) {
  char text[256];
  int length = snprintf(text, sizeof text,
                        "Enclave: %s does not resolve to libenclave-malloc.so and would allocate ordinary memory: "
                        "link libenclave-malloc.so before other allocators, or preload it\n",
                        what);
  ssize_t ignored = write(STDERR_FILENO, text, length < (int)sizeof text ? (size_t)length : sizeof text);
  (void)ignored;
  abort();
}
