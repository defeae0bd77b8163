// Shared by the clients: a published arena that is always open, and a pause in which the test inspects the process with
// memwatch.

#ifndef CLIENT_H
#define CLIENT_H

#include <enclave.h>

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                       \
  do {                                                                                          \
    if (!(condition)) errx(1, "line %d: %s: %s", __LINE__, #condition, enclave_last_error()); \
  } while (0)

static enclave_arena *arena;

static inline void start_client(const char *name) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.gate = ENCLAVE_GATE_NONE;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  EXPECT(enclave_publish_start(NULL) == ENCLAVE_OK);
  EXPECT(enclave_arena_create(name, &options, &arena) == ENCLAVE_OK);
}

/// Prints the expected counts, and waits until the test has compared them.
static inline void be_seen(void) {
  enclave_statistics now = {.struct_size = sizeof now};
  EXPECT(enclave_arena_statistics(arena, &now) == ENCLAVE_OK);
  EXPECT(now.secret_count > 0);
  enclave_publish_refresh();
  printf("ready %llu %llu\n", (unsigned long long)now.secret_count,
         (unsigned long long)now.bytes_in_use);
  fflush(stdout);
  char line[8];
  EXPECT(fgets(line, sizeof line, stdin));
}

/// Expects the arena to be without violations, and to hold at most this many secrets.
static inline void be_done(unsigned long long at_most) {
  size_t wrong;
  EXPECT(enclave_arena_check(arena, NULL, NULL, &wrong) == ENCLAVE_OK && wrong == 0);
  enclave_statistics now = {.struct_size = sizeof now};
  EXPECT(enclave_arena_statistics(arena, &now) == ENCLAVE_OK);
  EXPECT(now.corruptions == 0 && now.failed_allocations == 0);
  printf("left %llu\n", (unsigned long long)now.secret_count);
  EXPECT(now.secret_count <= at_most);
  puts("ok");
}

#endif
