// Publishes under a resource limit: limits LIMIT VALUE. Prints the library's result and exits normally, without a
// leaked descriptor.

#define _GNU_SOURCE
#include <enclave.h>

#include <dirent.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
  const char *name;
  int number;
} limits[] = {
    {"nofile", RLIMIT_NOFILE},   {"as", RLIMIT_AS},         {"data", RLIMIT_DATA},
    {"nproc", RLIMIT_NPROC},     {"memlock", RLIMIT_MEMLOCK}, {"fsize", RLIMIT_FSIZE},
    {"rttime", RLIMIT_RTTIME},
};

static int descriptors(void) {
  int found = 0;
  for (int i = 0; i < 1024; i++) found += dup2(i, i) == i;
  return found;
}

/// The bytes of address space (VmSize) or of private writable memory (VmData).
static rlim_t used(const char *key) {
  char line[256];
  unsigned long kilobytes = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (strncmp(line, key, strlen(key)) == 0) kilobytes = strtoul(line + strlen(key) + 1, NULL, 10);
  fclose(file);
  return (rlim_t)kilobytes << 10;
}

int main(int count, char **arguments) {
  if (count != 3) errx(64, "limits LIMIT VALUE");
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  enclave_arena *arena;
  if (enclave_arena_create("limited", &options, &arena)) errx(70, "%s", enclave_last_error());
  void *secret = enclave_malloc(arena, 32);
  if (!secret) errx(70, "%s", enclave_last_error());
  // A thread's first window allocates memory.
  enclave_window window;
  if (enclave_open(secret, ENCLAVE_READ, &window)) errx(70, "%s", enclave_last_error());
  enclave_close(&window);
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    if (strcmp(limits[i].name, arguments[1])) continue;
    struct rlimit limit;
    if (getrlimit(limits[i].number, &limit)) err(70, "getrlimit");
    limit.rlim_cur = strtoul(arguments[2], NULL, 10);
    // Existing secrets stay usable.
    if (limits[i].number == RLIMIT_AS) limit.rlim_cur += used("VmSize");
    if (limits[i].number == RLIMIT_DATA) limit.rlim_cur += used("VmData");
    if (setrlimit(limits[i].number, &limit)) err(70, "setrlimit");
  }
  int before = descriptors();
  enclave_status status = enclave_publish_start(NULL);
  if (status) {
    puts(enclave_last_error());
  } else {
    puts("publishes");
    enclave_publish_stop();
  }
  if (descriptors() != before) errx(1, "%d descriptors were %d", descriptors(), before);
  if (enclave_free(secret)) errx(1, "%s", enclave_last_error());
  return 0;
}
