// Destroys an arena with allocations aligned to more than a page. Other allocations reuse their addresses.

#include <enclave.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%d: %s %s\n", __LINE__, #condition, enclave_last_error()); \
      return 1;                                                       \
    }                                                                 \
  } while (0)

static enclave_arena *make(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_OFF;
  options.gate = ENCLAVE_GATE_NONE;
  enclave_arena *arena = NULL;
  return enclave_arena_create("stale", &options, &arena) == ENCLAVE_OK ? arena : NULL;
}

int main(void) {
  enum { COUNT = 64, ALIGNMENT = 1 << 14 };
  void *before[COUNT];
  enclave_arena *arena = make(), *none;
  CHECK(arena && enclave_set_active(arena, &none) == ENCLAVE_OK);
  for (int i = 0; i < COUNT; i++) CHECK(posix_memalign(&before[i], ALIGNMENT, 100) == 0);
  CHECK(enclave_set_active(NULL, NULL) == ENCLAVE_OK);
  CHECK(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
  enclave_arena_release(arena);
  // Others at the same addresses, with an alignment that the arena supports itself.
  CHECK((arena = make()) && enclave_set_active(arena, &none) == ENCLAVE_OK);
  int reused = 0;
  for (int i = 0; i < 100 * COUNT; i++) {
    char *page;
    CHECK(posix_memalign((void **)&page, 4096, 4096) == 0);
    for (int j = 0; j < COUNT; j++) {
      if (page != before[j]) continue;
      reused++;
      CHECK(malloc_usable_size(page) >= 4096);
      page = realloc(page, 5000);
      CHECK(page);
      break;
    }
    if (i % 2) free(page);
  }
  CHECK(enclave_set_active(NULL, NULL) == ENCLAVE_OK);
  printf("%s\n", reused ? "ok" : "no address came again");
  return 0;
}
