// Mistakes of C code, one per run: attacks NAME. CInterfaceTests expect how each ends.

#include <enclave.h>

#include <err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static enclave_arena *make(enclave_gate gate, enclave_layout layout) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  options.gate = gate;
  options.layout = layout;
  enclave_arena *arena;
  if (enclave_arena_create("attacked", &options, &arena)) errx(70, "%s", enclave_last_error());
  return arena;
}

static char *take(enclave_arena *arena, size_t size) {
  char *secret = enclave_allocate(arena, size, 0, "victim");
  if (!secret) errx(70, "%s", enclave_last_error());
  return secret;
}

/// Reads or writes one byte at an address that is opaque to the compiler.
static volatile size_t zero;
static void poke(char *address, ptrdiff_t offset) { *(volatile char *)(address + offset + zero) ^= 0x41; }
static int peek(const char *address, ptrdiff_t offset) {
  return *(volatile const char *)(address + offset + zero);
}

static int ended(enclave_status status) {
  printf("%d %s\n", status, status ? enclave_last_error() : "");
  fflush(stdout);
  return 0;
}

static void *free_it(void *secret) {
  enclave_free(secret);
  return NULL;
}

static int is_quiet;
static enclave_response count_violation(const enclave_violation *violation, void *count) {
  if (!is_quiet)
    printf("violation %d %s %s %zu %td\n", violation->kind, violation->arena,
         violation->label ? violation->label : "-", violation->size, violation->offset);
  __atomic_fetch_add((int *)count, 1, __ATOMIC_RELAXED);
  return ENCLAVE_CONTINUE;
}

static long resident_kib(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%*d %ld", &pages) != 1) errx(70, "no statm");
  fclose(file);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static int leave_a_block(char *secret) {
  enclave_status status;
  ENCLAVE_WITH_OPEN(secret, ENCLAVE_READ, status) { return 3; }
  return 4;
}

static enclave_window thread_window;
static char *other_secret;
static void *read_along(void *unused) {
  (void)unused;
  printf("read %d\n", peek(other_secret, 0));
  return NULL;
}

int main(int count, char **arguments) {
  const char *attack = count > 1 ? arguments[1] : "";
  const char *gate_name = count > 2 ? arguments[2] : "pages";
  enclave_gate gate = strcmp(gate_name, "none") == 0 ? ENCLAVE_GATE_NONE
                      : strcmp(gate_name, "key") == 0 ? ENCLAVE_GATE_KEY : ENCLAVE_GATE_PAGES;
#define IS(name) (strcmp(attack, name) == 0)

  if (IS("overflow-slab") || IS("overflow-handled")) {
    int seen = 0;
    if (IS("overflow-handled")) enclave_set_violation_handler(count_violation, &seen);
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 40);
    ENCLAVE_SCOPED_WINDOW(window);
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    poke(secret, 40);
    enclave_close(&window);
    enclave_status status = enclave_free(secret);
    printf("status %d seen %d\n", status, seen);
    return 0;
  }
  if (IS("overflow-isolated")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_ISOLATED), 64);
    ENCLAVE_SCOPED_WINDOW(window);
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    poke(secret, 64);
    return 0;
  }
  if (IS("underflow-isolated")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_ISOLATED), 64);
    ENCLAVE_SCOPED_WINDOW(window);
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    poke(secret, -1);
    enclave_close(&window);
    return ended(enclave_free(secret));
  }
  if (IS("read-closed")) {
    return peek(take(make(gate, ENCLAVE_LAYOUT_SLAB), 32), 0);
  }
  if (IS("write-in-read-window")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    ENCLAVE_SCOPED_WINDOW(window);
    if (enclave_open(secret, ENCLAVE_READ, &window)) return 70;
    poke(secret, 0);
    return 0;
  }
  if (IS("use-after-free")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    enclave_free(secret);
    ENCLAVE_SCOPED_WINDOW(window);
    return ended(enclave_open(secret, ENCLAVE_READ, &window));
  }
  if (IS("stale-handle")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    enclave_secret first, second;
    if (enclave_secret_allocate(arena, 32, 0, "victim", &first)) return 70;
    if (enclave_secret_free(&first)) return 70;
    if (enclave_secret_allocate(arena, 32, 0, "other", &second)) return 70;
    ENCLAVE_SCOPED_WINDOW(window);
    void *bytes;
    ended(enclave_secret_open(&first, ENCLAVE_READ, &window, &bytes));
    return ended(enclave_secret_free(&first));
  }
  if (IS("handle-of-a-gone-arena")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    enclave_secret secret;
    if (enclave_secret_allocate(arena, 32, 0, "victim", &secret)) return 70;
    if (enclave_secret_free(&secret)) return 70;
    enclave_arena_release(arena);
    return ended(enclave_secret_free(&secret));
  }
  if (IS("double-free")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    enclave_free(secret);
    return ended(enclave_free(secret));
  }
  if (IS("double-free-two-threads")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    int seen = 0;
    is_quiet = 1;
    enclave_set_violation_handler(count_violation, &seen);
    for (int round = 0; round < 200; round++) {
      char *secret = take(arena, 32);
      pthread_t other;
      if (pthread_create(&other, NULL, free_it, secret)) return 70;
      enclave_free(secret);
      pthread_join(other, NULL);
    }
    enclave_statistics statistics = {.struct_size = sizeof statistics};
    if (enclave_arena_statistics(arena, &statistics)) return 70;
    size_t wrong;
    if (enclave_arena_check(arena, NULL, NULL, &wrong)) return 70;
    printf("seen %d live %d wrong %zu\n", seen, (int)statistics.secret_count, wrong);
    return 0;
  }
  if (IS("open-free")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 9000);
    enclave_window window;
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    return ended(enclave_free(secret));
  }
  if (IS("open-free-handled")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 40), *other = take(arena, 40);
    int seen = 0;
    enclave_set_violation_handler(count_violation, &seen);
    enclave_window window, second;
    enclave_secret handle;
    if (enclave_secret_find(secret, &handle)) return 70;
    if (enclave_open(secret, ENCLAVE_READ, &window)) return 70;
    if (enclave_open(secret, ENCLAVE_READ, &second)) return 70;
    printf("%d %d %d ", enclave_free(other), enclave_free(secret), enclave_secret_free(&handle));
    printf("%d %d ", enclave_realloc(secret, 20) != NULL, enclave_last_status());
    if (enclave_close(&second)) return 70;
    printf("%d ", enclave_free_if_owned(secret));
    printf("%d ", enclave_usable_size(secret) == 40);
    if (enclave_close(&window)) return 70;
    printf("%d seen %d\n", enclave_free(secret), seen);
    return 0;
  }
  if (IS("free-after-destroy")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *small = take(arena, 40), *large = take(arena, 9000), *gone = take(arena, 5000);
    enclave_secret handle;
    if (enclave_secret_find(small, &handle)) return 70;
    if (enclave_free(gone)) return 70;
    if (enclave_arena_destroy(arena, 0)) return 70;
    enclave_window window;
    for (int released = 0; released < 2; released++) {
      printf("%d %d %d %d %d %d ", enclave_free(small), enclave_free(small), enclave_free(large),
             enclave_free_if_owned(small), enclave_owns(large), enclave_secret_free(&handle));
      printf("%d %d %d %zu\n", enclave_open(large, ENCLAVE_READ, &window),
             enclave_realloc(small, 80) != NULL, enclave_last_status(), enclave_usable_size(small));
      if (!released) enclave_arena_release(arena);
    }
    fflush(stdout);
    return ended(enclave_free(gone));
  }
  if (IS("wiped-double-free")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    enclave_wipe_everything();
    ended(enclave_free(secret));
    return ended(enclave_free(secret));
  }
  if (IS("destroyed-leaks")) {
    long before = 0;
    for (int round = 0; round < 4000; round++) {
      enclave_arena *arena = make(ENCLAVE_GATE_NONE, ENCLAVE_LAYOUT_SLAB);
      take(arena, 32);
      take(arena, 9000);
      if (enclave_arena_destroy(arena, 0)) return 70;
      enclave_arena_release(arena);
      if (round == 500) before = resident_kib();
    }
    printf("%s\n", resident_kib() - before < 4000 ? "stays" : "grows");
    return 0;
  }
  if (IS("wiped-in-a-block")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    enclave_status status;
    int runs = 0;
    ENCLAVE_WITH_OPEN(secret, ENCLAVE_READ_WRITE, status) {
      poke(secret, 0);
      runs++;
    }
    printf("%d ", status);
    ENCLAVE_WITH_OPEN(secret, ENCLAVE_READ, status) {
      runs++;
      break;
    }
    printf("%d ", status);
    ENCLAVE_WITH_OPEN(secret, ENCLAVE_READ, status) {
      runs++;
      if (leave_a_block(secret) != 3) return 70;
      enclave_wipe_everything();
    }
    printf("%d ", status);
    ENCLAVE_WITH_OPEN(secret, ENCLAVE_READ, status) runs++;
    printf("%d %d\n", status, runs);
    return 0;
  }
  if (IS("foreign-free")) {
    char on_the_stack[32];
    return ended(enclave_free(on_the_stack));
  }
  if (IS("interior-free")) {
    return ended(enclave_free(take(make(gate, ENCLAVE_LAYOUT_SLAB), 32) + 8));
  }
  if (IS("realloc-after-free")) {
    char *secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    enclave_free(secret);
    return enclave_realloc(secret, 64) != NULL;
  }
  if (IS("write-after-free")) {
    enclave_arena *arena = make(ENCLAVE_GATE_NONE, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32);
    enclave_free(secret);
    poke(secret, 5);
    size_t wrong;
    int seen = 0;
    if (enclave_arena_check(arena, NULL, NULL, &wrong)) return 70;
    printf("wrong %zu seen %d\n", wrong, seen);
    return 0;
  }
  if (IS("frozen-write")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32);
    if (enclave_arena_freeze(arena)) return 70;
    ENCLAVE_SCOPED_WINDOW(window);
    ended(enclave_open(secret, ENCLAVE_READ_WRITE, &window));
    if (enclave_open(secret, ENCLAVE_READ, &window)) return 70;
    poke(secret, 0);
    return 0;
  }
  if (IS("fork")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32);
    enclave_secret handle;
    if (enclave_secret_find(secret, &handle)) return 70;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      ENCLAVE_SCOPED_WINDOW(window);
      void *bytes;
      printf("%d %d %d %d %d %d %d %s\n", enclave_open(secret, ENCLAVE_READ, &window),
             enclave_free(secret), enclave_secret_open(&handle, ENCLAVE_READ, &window, &bytes),
             enclave_malloc(arena, 16) != NULL, enclave_arena_freeze(arena),
             enclave_arena_destroy(arena, 0), enclave_realloc(secret, 64) != NULL,
             enclave_last_error());
      enclave_arena *own = make(gate, ENCLAVE_LAYOUT_SLAB);
      char *mine = take(own, 32);
      printf("own %d\n", enclave_free(mine));
      enclave_arena_release(arena);
      fflush(stdout);
      _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child %d parent %d\n", status, enclave_free(secret));
    return 0;
  }
  if (IS("lock-limit")) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_MEMLOCK, &none);
    enclave_arena *arena;
    if (enclave_arena_create("attacked", NULL, &arena)) return 70;
    void *secret = enclave_malloc(arena, 32);
    printf("%d %d %s\n", secret != NULL, enclave_last_status(), enclave_last_error());
    return 0;
  }
  if (IS("window-left-open")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32);
    enclave_window window;
    if (enclave_open(secret, ENCLAVE_READ, &window)) return 70;
    ended(enclave_arena_destroy(arena, 1));
    enclave_close(&window);
    enclave_close(&window);
    ended(enclave_arena_destroy(arena, 0));
    return ended(enclave_free(secret));
  }
  if (IS("released-in-a-window")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32);
    enclave_window window;
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    poke(secret, 0);
    enclave_arena_release(arena);
    enclave_close(&window);
    if (enclave_free(secret)) return 70;
    puts("went on");
    return 0;
  }
  if (IS("thread-in-a-window")) {
    other_secret = take(make(gate, ENCLAVE_LAYOUT_SLAB), 32);
    if (enclave_open(other_secret, ENCLAVE_READ, &thread_window)) return 70;
    pthread_t other;
    if (pthread_create(&other, NULL, read_along, NULL)) return 70;
    pthread_join(other, NULL);
    return 0;
  }
  if (IS("wipe-everything")) {
    enclave_arena *arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    char *secret = take(arena, 32), *held = take(arena, 32);
    ENCLAVE_SCOPED_WINDOW(window);
    if (enclave_open(held, ENCLAVE_READ_WRITE, &window)) return 70;
    poke(held, 0);
    enclave_wipe_everything();
    printf("%d ", gate == ENCLAVE_GATE_KEY ? 0 : peek(held, 0));
    enclave_close(&window);
    printf("%d ", enclave_open(secret, ENCLAVE_READ, &window));
    printf("%d ", enclave_malloc(arena, 16) != NULL);
    printf("%d\n", enclave_last_status());
    printf("%d\n", enclave_free(secret));
    return 0;
  }
  if (IS("arguments")) {
    enclave_window window = ENCLAVE_WINDOW_CLOSED;
    enclave_arena *arena;
    enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
    options.gate = (enclave_gate)77;
    enclave_secret none = {{0, 0, 0, 0}};
    void *bytes;
    printf("%d %d %d %d %d %d %d %d %d\n", enclave_arena_create(NULL, NULL, &arena),
           enclave_arena_create("x", &options, &arena), enclave_arena_freeze(NULL),
           enclave_open(NULL, ENCLAVE_READ, &window), enclave_open(&window, ENCLAVE_READ, &window),
           enclave_secret_open(&none, ENCLAVE_READ, &window, &bytes), enclave_free(NULL),
           enclave_malloc(NULL, 5) != NULL, enclave_probe((enclave_capability)99));
    arena = make(gate, ENCLAVE_LAYOUT_SLAB);
    int given = enclave_malloc(arena, SIZE_MAX) != NULL;
    printf("%d %d ", given, enclave_last_status());
    char *real = take(arena, 16);
    if (enclave_secret_find(real, &none)) return 70;
    printf("%d %d %d ", enclave_open(real, (enclave_access)2, &window),
           enclave_secret_open(&none, (enclave_access)7, &window, &bytes),
           enclave_arena_open(arena, (enclave_access)3, &window));
    given = enclave_calloc(arena, SIZE_MAX / 4 + 1, 4) != NULL;  // the product modulo 2^64 is 0
    printf("%d %d ", given, enclave_last_status());
    given = enclave_aligned_alloc(arena, 3, 8) != NULL;
    printf("%d %d ", given, enclave_last_status());
    printf("%d %d ", enclave_realloc(real, SIZE_MAX) != NULL, enclave_last_status());
    printf("%d ", enclave_secret_allocate(arena, SIZE_MAX / 2 + 1, 0, NULL, &none));
    printf("%s ", strncmp(enclave_last_error(), "invalid size: 9223372036854775808 bytes aligned to 0; ", 54) ? "no" : "yes");
    printf("%d %d %d ", enclave_fill_random(real, SIZE_MAX), enclave_fill_random(NULL, 0),
           enclave_fill_random(NULL, 1));
    printf("%zu %d %d\n", enclave_usable_size(&window), enclave_owns(&window), enclave_contains(NULL, 0));
    // Options of another version: shorter than these, or with an unknown flag.
    options = (enclave_options)ENCLAVE_OPTIONS_DEFAULT;
    options.struct_size--;
    printf("%d ", enclave_arena_create("short", &options, &arena));
    options.struct_size++;
    options.flags = 1u << 30;
    printf("%d\n", enclave_arena_create("flags", &options, &arena));
    enclave_close(NULL);
    enclave_arena_release(NULL);
    return 0;
  }
  errx(64, "no such attack: %s", attack);
}
