// A library that labels secrets with its own literals, which disappear when it is unloaded.

#include <enclave.h>

int allocate(enclave_arena *arena) {
  return !!enclave_allocate(arena, 32, 0, "a label of a plugin") + !!enclave_malloc(arena, 64);
}
