// Uses every function of enclave.h correctly. Prints "ok" at the end, and stops at the first failed expectation.

#include <enclave.h>

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT(condition)                                                                  \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, enclave_last_error());    \
      return 1;                                                                            \
    }                                                                                      \
  } while (0)

static void count_one(const enclave_violation *violation, void *context) {
  (void)violation;
  ++*(size_t *)context;
}

static int with(enclave_gate gate, enclave_layout layout) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.gate = gate;
  options.layout = layout;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  enclave_arena *arena;
  EXPECT(enclave_arena_create("interface", &options, &arena) == ENCLAVE_OK);

  // Sizes, alignments, zeros.
  for (size_t size = 0; size < 20000; size = size * 3 + 1) {
    for (size_t alignment = 16; alignment <= 4096; alignment *= 4) {
      unsigned char *secret = enclave_aligned_alloc(arena, alignment, size);
      EXPECT(secret && (uintptr_t)secret % alignment == 0);
      EXPECT(enclave_usable_size(secret) == size && enclave_owns(secret));
      EXPECT(enclave_contains(secret, size) && !enclave_contains(secret, size + 1));
      EXPECT(enclave_arena_owns(arena, secret));
      ENCLAVE_SCOPED_WINDOW(window);
      EXPECT(enclave_open(secret, ENCLAVE_READ_WRITE, &window) == ENCLAVE_OK);
      for (size_t index = 0; index < size; index++) EXPECT(secret[index] == 0);
      memset(secret, 0x5a, size);
      enclave_close(&window);
      EXPECT(enclave_free(secret) == ENCLAVE_OK);
    }
  }

  // Growing and shrinking keep the contents, and new bytes are zeros.
  unsigned char *secret = enclave_malloc(arena, 1);
  size_t before = 1;
  static const size_t sizes[] = {2, 16, 17, 33, 20, 4096, 4097, 9000, 8999, 70000, 12, 0, 5, 300};
  {
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_open(secret, ENCLAVE_READ_WRITE, &window) == ENCLAVE_OK);
    secret[0] = 0x77;
  }
  for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) {
    size_t size = sizes[index], kept = size < before ? size : before;
    secret = enclave_realloc(secret, size);
    EXPECT(secret && enclave_usable_size(secret) == size);
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_open(secret, ENCLAVE_READ_WRITE, &window) == ENCLAVE_OK);
    for (size_t at = 0; at < size; at++) EXPECT(secret[at] == (at < kept ? 0x77 : 0));
    memset(secret, 0x77, size);
    before = size;
  }
  // The old handle is stale, and the new one is not.
  enclave_secret handle;
  EXPECT(enclave_secret_find(secret, &handle) == ENCLAVE_OK);
  EXPECT(enclave_secret_size(&handle) == 300 && enclave_secret_address(&handle) == secret);
  EXPECT((secret = enclave_realloc(secret, 301)) != NULL);
  EXPECT(enclave_secret_address(&handle) == NULL && enclave_secret_size(&handle) == 0);
  EXPECT(enclave_secret_find(secret, &handle) == ENCLAVE_OK);
  void *bytes;
  {
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_secret_open(&handle, ENCLAVE_READ, &window, &bytes) == ENCLAVE_OK);
    EXPECT(bytes == secret && secret[299] == 0x77 && secret[300] == 0);
  }

  // Resize by handle: that handle stays valid, its copies do not.
  enclave_secret copy = handle;
  EXPECT(enclave_secret_resize(&handle, 5000) == ENCLAVE_OK && enclave_secret_size(&handle) == 5000);
  EXPECT(enclave_secret_resize(&copy, 1) == ENCLAVE_ERROR_DESTROYED);
  EXPECT(enclave_secret_resize(&handle, SIZE_MAX) == ENCLAVE_ERROR_SIZE);
  EXPECT(enclave_secret_resize(NULL, 1) == ENCLAVE_ERROR_DESTROYED);
  {
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_secret_open(&handle, ENCLAVE_READ, &window, &bytes) == ENCLAVE_OK);
    EXPECT(enclave_secret_resize(&handle, 1) == ENCLAVE_ERROR_WINDOWS_OPEN);
    EXPECT(((unsigned char *)bytes)[299] == 0x77 && ((unsigned char *)bytes)[4999] == 0);
  }
  EXPECT(enclave_secret_resize(&handle, 301) == ENCLAVE_OK);
  secret = enclave_secret_address(&handle);

  // A line from a descriptor that is not a terminal: exactly the line, or nothing.
  int ends[2];
  EXPECT(pipe(ends) == 0 && write(ends[1], "open sesame\nand more", 20) == 20 && close(ends[1]) == 0);
  enclave_secret typed;
  EXPECT(enclave_read_passphrase(arena, "? ", ends[0], 0, "typed", &typed) == ENCLAVE_OK);
  EXPECT(enclave_secret_size(&typed) == 11);
  {
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_secret_open(&typed, ENCLAVE_READ, &window, &bytes) == ENCLAVE_OK);
    EXPECT(memcmp(bytes, "open sesame", 11) == 0);
    EXPECT(enclave_secret_resize(&typed, 1) == ENCLAVE_ERROR_WINDOWS_OPEN);
  }
  EXPECT(enclave_secret_free(&typed) == ENCLAVE_OK);
  EXPECT(enclave_read_passphrase(arena, NULL, ends[0], 3, NULL, &typed) == ENCLAVE_ERROR_END_OF_INPUT);
  EXPECT(enclave_read_passphrase(NULL, "", ends[0], 0, NULL, &typed) == ENCLAVE_ERROR_ARGUMENT);
  EXPECT(enclave_read_passphrase(arena, "", ends[0], 0, NULL, NULL) == ENCLAVE_ERROR_ARGUMENT);
  close(ends[0]);

  // Windows nest.
  {
    ENCLAVE_SCOPED_WINDOW(outer);
    ENCLAVE_SCOPED_WINDOW(inner);
    EXPECT(enclave_open(secret, ENCLAVE_READ_WRITE, &outer) == ENCLAVE_OK);
    EXPECT(enclave_open(secret, ENCLAVE_READ, &inner) == ENCLAVE_OK);
    secret[0] = 1;
    enclave_close(&inner);
    secret[0] = 2;
  }
  enclave_window all;
  enclave_status opened = enclave_arena_open(arena, ENCLAVE_READ_WRITE, &all);
  EXPECT(opened == (gate == ENCLAVE_GATE_PAGES ? ENCLAVE_ERROR_UNSUPPORTED : ENCLAVE_OK));
  if (opened == ENCLAVE_OK) {
    secret[1] = 3;
    EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_ERROR_WINDOWS_OPEN);
    enclave_close(&all);
  }
  EXPECT(enclave_set_active(arena, NULL) == ENCLAVE_ERROR_NO_INTERPOSER);
  EXPECT(enclave_arena_call(arena, malloc, 8) == NULL);

  enclave_statistics statistics = {.struct_size = sizeof statistics};
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_OK);
  EXPECT(statistics.secret_count == 1 && statistics.bytes_in_use == 301);
  EXPECT(statistics.open_windows == 0 && statistics.corruptions == 0 && !statistics.is_frozen);
  EXPECT(statistics.struct_size == sizeof statistics);
  EXPECT(statistics.retired_slots == 0 && statistics.abandoned_windows == 0);
  EXPECT(statistics.stuck_open_pages == 0);
  uint64_t pages = statistics.separate_pages + statistics.merged_pages;
  if (gate == ENCLAVE_GATE_PAGES) EXPECT(pages == statistics.bytes_mapped / 4096);
  if (gate == ENCLAVE_GATE_NONE) EXPECT(pages == 0);
  // A program that was compiled with a smaller structure only gets the fields that fit.
  memset(&statistics, 0x55, sizeof statistics);
  statistics.struct_size = offsetof(enclave_statistics, idle_bytes);
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_OK);
  EXPECT(statistics.struct_size == offsetof(enclave_statistics, idle_bytes));
  EXPECT(statistics.secret_count == 1 && statistics.idle_bytes == 0x5555555555555555);
  statistics.struct_size--;
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_ERROR_ARGUMENT);
  // The pages of a large secret are kept as idle memory until they are trimmed.
  size_t given = 1;
  EXPECT(enclave_arena_trim(arena, NULL) == ENCLAVE_OK);
  EXPECT(enclave_arena_trim(arena, &given) == ENCLAVE_OK && given == 0);
  EXPECT(enclave_free(enclave_malloc(arena, 100000)) == ENCLAVE_OK);
  statistics.struct_size = sizeof statistics;
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_OK);
  // (Not if they could not be locked.)
  size_t idle = (size_t)statistics.idle_bytes;
  EXPECT((idle == 102400 || idle == 0) && statistics.bytes_in_use == 301);
  EXPECT(enclave_arena_trim(arena, &given) == ENCLAVE_OK && given == idle);
  EXPECT(enclave_arena_trim(NULL, &given) == ENCLAVE_ERROR_ARGUMENT);
  size_t wrong = 9, called = 0;
  EXPECT(enclave_arena_check(arena, count_one, &called, &wrong) == ENCLAVE_OK);
  EXPECT(wrong == 0 && called == 0);

  void *other = enclave_malloc(arena, 8);
  EXPECT(enclave_arena_freeze(arena) == ENCLAVE_OK);
  EXPECT(enclave_free(other) == ENCLAVE_OK);
  EXPECT(enclave_arena_statistics(arena, &statistics) == ENCLAVE_OK && statistics.retired_slots == 1);
  {
    ENCLAVE_SCOPED_WINDOW(window);
    EXPECT(enclave_open(secret, ENCLAVE_READ_WRITE, &window) == ENCLAVE_ERROR_FROZEN);
    EXPECT(enclave_open(secret, ENCLAVE_READ, &window) == ENCLAVE_OK);
    EXPECT(secret[299] == 0x77);
  }
  EXPECT(enclave_realloc(secret, 5) == NULL && enclave_last_status() == ENCLAVE_ERROR_FROZEN);
  EXPECT(enclave_secret_resize(&handle, 5) == ENCLAVE_ERROR_FROZEN);
  enclave_status sealed = enclave_arena_seal(arena);
  EXPECT(gate == ENCLAVE_GATE_KEY
             ? sealed == ENCLAVE_OK || sealed == ENCLAVE_ERROR_UNSUPPORTED
             : sealed == ENCLAVE_ERROR_NEEDS_KEY);

  EXPECT(enclave_arena_retain(arena) == arena);
  enclave_arena_release(arena);
  EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
  EXPECT(enclave_malloc(arena, 8) == NULL && enclave_last_status() == ENCLAVE_ERROR_DESTROYED);
  enclave_arena_release(arena);
  return 0;
}

int main(void) {
  for (enclave_gate gate = ENCLAVE_GATE_KEY; gate <= ENCLAVE_GATE_NONE; gate++) {
    if (gate == ENCLAVE_GATE_KEY && enclave_probe(ENCLAVE_CAPABILITY_PROTECTION_KEYS)) continue;
    for (enclave_layout layout = ENCLAVE_LAYOUT_SLAB; layout <= ENCLAVE_LAYOUT_ISOLATED; layout++) {
      if (with(gate, layout)) {
        fprintf(stderr, "gate %d layout %d\n", gate, layout);
        return 1;
      }
    }
  }
  unsigned char a[32] = {1}, b[32] = {1};
  EXPECT(enclave_equal(a, b, sizeof a));
  b[31] = 1;
  EXPECT(!enclave_equal(a, b, sizeof a));
  enclave_wipe(b, sizeof b);
  EXPECT(b[0] == 0 && b[31] == 0);
  EXPECT(enclave_fill_random(a, sizeof a) == ENCLAVE_OK && !enclave_equal(a, b, sizeof a));
  EXPECT(enclave_publish_start("interface") == ENCLAVE_OK);
  EXPECT(enclave_publish_start("interface") == ENCLAVE_ERROR_PUBLISHING);
  enclave_publish_refresh();
  enclave_publish_stop();
  enclave_publish_stop();
  enclave_publish_options publish = ENCLAVE_PUBLISH_OPTIONS_DEFAULT;
  publish.name = "with options";
  publish.addresses = ENCLAVE_ADDRESSES_NEVER;
  EXPECT(enclave_publish_start_with(&publish) == ENCLAVE_OK);
  EXPECT(enclave_publish_start_with(&publish) == ENCLAVE_ERROR_PUBLISHING);
  enclave_publish_stop();
  EXPECT(enclave_publish_start_with(NULL) == ENCLAVE_OK);
  enclave_publish_stop();
  publish.addresses = (enclave_addresses)3;
  EXPECT(enclave_publish_start_with(&publish) == ENCLAVE_ERROR_ARGUMENT);
  publish.addresses = ENCLAVE_ADDRESSES_ALWAYS;
  publish.tick_milliseconds = 9;
  EXPECT(enclave_publish_start_with(&publish) == ENCLAVE_ERROR_ARGUMENT);
  publish.tick_milliseconds = 10;
  publish.struct_size = sizeof publish - 1;
  EXPECT(enclave_publish_start_with(&publish) == ENCLAVE_ERROR_ARGUMENT);
  EXPECT(enclave_publish_start(NULL) == ENCLAVE_OK);
  puts("ok");
  return 0;
}
