// Call sites bound to an arena, and misuse that must fail: active NAME.

#define _GNU_SOURCE
#include <enclave.h>

#include <err.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef OWN_FREE
// An executable with its own free: it uses the interposer's malloc, but not its free.
void free(void *address) { (void)address; }
#endif

static enclave_arena *arena, *former;

static void *close_former(size_t size) {
  return enclave_arena_freeze(former) ? NULL : malloc(size);
}

static void *free_elsewhere(void *address) {
  free(address);
  return malloc(24);  // this thread has no active arena
}

static void *another_heap(size_t size) {
  static char heap[4096];
  return size < sizeof heap ? heap : NULL;
}

#define EXPECT(condition)                                                               \
  do {                                                                                  \
    if (!(condition)) errx(1, "line %d: %s: %s", __LINE__, #condition, enclave_last_error()); \
  } while (0)

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "all";
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  options.gate = strcmp(what, "closed") == 0 ? ENCLAVE_GATE_PAGES : ENCLAVE_GATE_NONE;
  if (enclave_arena_create("bound", &options, &arena)) errx(70, "%s", enclave_last_error());

  if (strcmp(what, "closed") == 0 || strcmp(what, "without") == 0) {
    void *secret = enclave_arena_call(arena, malloc, 32);
    printf("%d %d %s\n", secret != NULL, enclave_last_status(), enclave_last_error());
    return 0;
  }
  if (strcmp(what, "foreign") == 0) {
    enclave_arena_call(arena, another_heap, 32);
    return 0;
  }
  if (strcmp(what, "restored") == 0) {
    // The previously active arena is closed to this thread when the call returns.
    enclave_arena *before;
    EXPECT(enclave_arena_create("former", &options, &former) == ENCLAVE_OK);
    EXPECT(enclave_set_active(former, NULL) == ENCLAVE_OK);
    EXPECT(enclave_arena_owns(arena, enclave_arena_call(arena, close_former, 32)));
    void *here = malloc(32);
    EXPECT(enclave_set_active(NULL, &before) == ENCLAVE_OK && before == former);
    printf("%d\n", here != NULL);
    return 0;
  }
  if (strcmp(what, "lookups") == 0) {
    for (int round = 0; round < 1000; round++) {
      EXPECT(enclave_set_active(arena, NULL) == ENCLAVE_OK);
      EXPECT(enclave_set_active(NULL, NULL) == ENCLAVE_OK);
    }
    puts("ok");
    return 0;
  }
  if (strcmp(what, "partial") == 0) {
    enclave_arena_call(arena, malloc, 32);
    return 0;
  }

  char *secret = enclave_arena_call(arena, malloc, 40);
  EXPECT(secret && enclave_arena_owns(arena, secret) && malloc_usable_size(secret) == 40);
  char *ordinary = malloc(40);
  EXPECT(!enclave_owns(ordinary));
  // realloc keeps it in the arena, wherever it is called.
  secret = realloc(secret, 5000);
  EXPECT(secret && enclave_arena_owns(arena, secret));
  free(secret);
  EXPECT(malloc_usable_size(ordinary) >= 40);
  ordinary = realloc(ordinary, 100000);
  EXPECT(ordinary && !enclave_owns(ordinary));

  enclave_arena *before;
  EXPECT(enclave_set_active(arena, &before) == ENCLAVE_OK && before == NULL);
  void *all[12];
  int n = 0;
  all[n++] = malloc(10);
  all[n++] = calloc(10, 10);
  all[n++] = realloc(NULL, 10);
  all[n++] = reallocarray(NULL, 10, 10);
  all[n++] = aligned_alloc(64, 128);
  all[n++] = memalign(256, 10);
  all[n++] = valloc(10);
  all[n++] = pvalloc(10);
  all[n++] = strdup("a password");
  all[n++] = strndup("a password", 3);
  EXPECT(posix_memalign(&all[n++], 1024, 10) == 0);
  // These functions behave as the C library's manual says, with an arena too. (Volatile: the compiler
  // knows these functions, and removes calls without a visible effect.)
  void *volatile kept = &n;
  void *place = kept;
  volatile size_t large = SIZE_MAX / 4 + 1;
  errno = 0;
  EXPECT(reallocarray(NULL, large, 4) == NULL && errno == ENOMEM);
  EXPECT(posix_memalign(&place, 24, 10) == EINVAL && place == kept);
  EXPECT(posix_memalign(&place, 4, 10) == EINVAL && place == kept);
  EXPECT(posix_memalign(&place, 64, large) == ENOMEM && place == kept);
  kept = malloc(10);
  EXPECT(enclave_arena_owns(arena, kept));
  EXPECT(realloc(kept, 0) == NULL && !enclave_contains(kept, 1));
  char *printed;
  EXPECT(asprintf(&printed, "%s", "another password") == 16);
  all[n++] = printed;
  // Creating and using another arena meanwhile does not allocate in this one.
  enclave_arena *other;
  EXPECT(enclave_arena_create("other", &options, &other) == ENCLAVE_OK);
  void *elsewhere = enclave_malloc(other, 64);
  EXPECT(elsewhere && !enclave_arena_owns(arena, elsewhere));
  for (int index = 0; index < n; index++) EXPECT(enclave_arena_owns(arena, all[index]));
  // Ordinary memory can be freed here too.
  free(ordinary);
  // Fill a growing arena: its own metadata must not be allocated in it.
  enum { MANY = 20000 };
  void **many = calloc(MANY, sizeof *many);
  for (int index = 0; index < MANY; index++) EXPECT((many[index] = malloc((size_t)index % 700)));
  for (int index = 0; index < MANY; index++) {
    EXPECT(enclave_arena_owns(arena, many[index]));
    free(many[index]);
  }
  free(many);
  EXPECT(enclave_set_active(before, NULL) == ENCLAVE_OK);

  pthread_t thread;
  void *theirs;
  EXPECT(pthread_create(&thread, NULL, free_elsewhere, all[0]) == 0);
  EXPECT(pthread_join(thread, &theirs) == 0);
  EXPECT(!enclave_owns(theirs));
  free(theirs);
  for (int index = 1; index < n; index++) free(all[index]);
  enclave_free(elsewhere);

  enclave_statistics statistics = {.struct_size = sizeof statistics};
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_OK);
  EXPECT(statistics.secret_count == 0);
  size_t wrong;
  EXPECT(enclave_arena_check(arena, NULL, NULL, &wrong) == ENCLAVE_OK && wrong == 0);
  EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
  EXPECT(enclave_set_active(arena, NULL) == ENCLAVE_ERROR_CLOSED);
  // An allocation that fails in the arena is not served elsewhere.
  options.capacity = 4096;
  enclave_arena *small;
  EXPECT(enclave_arena_create("small", &options, &small) == ENCLAVE_OK);
  EXPECT(enclave_arena_call(small, malloc, 4000) != NULL || enclave_last_status() == ENCLAVE_ERROR_CAPACITY);
  EXPECT(enclave_arena_call(small, malloc, 10000) == NULL);
  EXPECT(enclave_last_status() == ENCLAVE_ERROR_CAPACITY);
  puts("ok");
  return 0;
}
