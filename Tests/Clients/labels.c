// Names that are only valid during the call: labels NAME [LIBRARY]. Publishes after they are freed, prints "ready",
// and waits for a line.

#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

static void wait_for_reader(void) {
  EXPECT(enclave_publish_start(NULL) == ENCLAVE_OK);
  enclave_publish_refresh();
  puts("ready");
  fflush(stdout);
  char line[8];
  EXPECT(fgets(line, sizeof line, stdin));
}

int main(int count, char **arguments) {
  EXPECT(count >= 2);
  const char *name = arguments[1];
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.gate = ENCLAVE_GATE_NONE;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  if (strcmp(name, "freed") == 0) {
    char *text = strdup("an arena of a freed name");
    EXPECT(enclave_arena_create(text, &options, &arena) == ENCLAVE_OK);
    memset(text, 'Z', strlen(text));
    free(text);
    text = strdup("a label that is freed");
    EXPECT(enclave_allocate(arena, 32, 0, text));
    memset(text, 'Z', strlen(text));
    free(text);
  } else if (strcmp(name, "reused") == 0) {
    EXPECT(enclave_arena_create("labels", &options, &arena) == ENCLAVE_OK);
    char text[32];
    for (int round = 0; round < 3; round++) {
      for (int number = 0; number < 4; number++) {
        snprintf(text, sizeof text, "number %d", number);
        EXPECT(enclave_allocate(arena, 32, 0, text));
      }
    }
  } else if (strcmp(name, "endless") == 0) {
    // No NUL before the end of the page, and an unreadable page after it.
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *end = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(end != MAP_FAILED);
    end += page;
    EXPECT(mprotect(end, page, PROT_NONE) == 0);
    memset(end - 256, 'e', 256);
    EXPECT(enclave_arena_create(end - 256, &options, &arena) == ENCLAVE_OK);
    EXPECT(enclave_allocate(arena, 32, 0, end - 256));
    EXPECT(enclave_allocate(arena, 32, 0, end - 256));
    memset(end - 256, 'Z', 256);
  } else if (strcmp(name, "unloaded") == 0) {
    EXPECT(count == 3 && enclave_arena_create("labels", &options, &arena) == ENCLAVE_OK);
    void *library = dlopen(arguments[2], RTLD_NOW);
    if (!library) errx(1, "%s", dlerror());
    int (*allocate)(enclave_arena *) = (int (*)(enclave_arena *))dlsym(library, "allocate");
    EXPECT(allocate && allocate(arena) == 2);
    EXPECT(dlclose(library) == 0);
    EXPECT(!dlopen(arguments[2], RTLD_NOW | RTLD_NOLOAD));
  } else if (strcmp(name, "many") == 0) {
    char text[32];
    for (int number = 0; number < 80000; number++) {
      if (number % 40000 == 0) {
        if (number) {
          EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
          enclave_arena_release(arena);
        }
        EXPECT(enclave_arena_create("many", &options, &arena) == ENCLAVE_OK);
      }
      snprintf(text, sizeof text, "number %d", number);
      void *secret = enclave_allocate(arena, 16, 0, text);
      EXPECT(secret && enclave_free(secret) == ENCLAVE_OK);
    }
    EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
    enclave_arena_release(arena);
    EXPECT(enclave_arena_create("labels", &options, &arena) == ENCLAVE_OK);
    EXPECT(enclave_allocate(arena, 32, 0, "number 3"));
    EXPECT(enclave_allocate(arena, 32, 0, "one more"));
    EXPECT(enclave_allocate(arena, 32, 0, "yet another"));
  } else {
    errx(64, "no such case: %s", name);
  }
  wait_for_reader();
  return 0;
}
