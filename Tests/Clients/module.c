// A plugin that uses the library, like a PAM module or a PKCS#11 provider.

#include <enclave.h>

#include <stddef.h>

static enclave_arena *arena;

static int make(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  return arena ? 0 : enclave_arena_create("plugin", &options, &arena);
}

int module_publish(void) { return make() || enclave_publish_start("plugin"); }
int module_stop(void) {
  enclave_publish_stop();
  return 0;
}
int module_wipe_on_signals(void) { return make() || enclave_wipe_on_signals(); }

/// Opens a window, so that the library has per-thread data to clean up when the calling thread ends.
int module_use(void) {
  if (make()) return 1;
  void *secret = enclave_allocate(arena, 32, 0, "a secret");
  if (!secret) return 2;
  enclave_window window;
  if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 3;
  *(volatile char *)secret = 1;
  return enclave_close(&window) || enclave_free(secret);
}
