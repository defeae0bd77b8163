// Alternate signal stacks (sigaltstack(2)), so that a wipe can run even when a thread's stack has
// overflowed.

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "CEnclaveSystem.h"
#include "CEnclaveWipe.h"

static __thread void *own_stack;
static __thread size_t own_stack_bytes;

int64_t ces_alternate_stack(void) {
  stack_t now;
  if (own_stack || sigaltstack(NULL, &now) < 0 || !(now.ss_flags & SS_DISABLE)) return 0;
  long least = sysconf(_SC_SIGSTKSZ), page = sysconf(_SC_PAGESIZE);
  size_t size = least > 65536 ? ((size_t)least + page - 1) & ~(size_t)(page - 1) : 65536;
  char *base = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  int64_t answer = base == MAP_FAILED ? -errno : 0;
  if (answer == 0 && mprotect(base + page, size, PROT_READ | PROT_WRITE) < 0) answer = -errno;
  stack_t stack = {.ss_sp = base + page, .ss_size = size};
  if (answer == 0 && sigaltstack(&stack, NULL) < 0) answer = -errno;
  if (answer == 0) {
    own_stack = base;
    own_stack_bytes = size + page;
  } else if (base != MAP_FAILED) {
    munmap(base, size + page);
  }
  ces_count(CES_CALL_ALTERNATE_STACK, answer < 0, answer < 0 ? (int)-answer : 0);
  return answer;
}

void ces_alternate_stack_free(void) {
  if (!own_stack) return;
  stack_t now;
  // Only if the thread still uses this one.
  if (sigaltstack(NULL, &now) == 0 && (char *)now.ss_sp > (char *)own_stack &&
      (char *)now.ss_sp < (char *)own_stack + own_stack_bytes) {
    stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&none, NULL);
  }
  munmap(own_stack, own_stack_bytes);
  own_stack = NULL;
}
