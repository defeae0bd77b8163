// A cipher gate from C: the address identifies the secret, and the window shows it.

#include <enclave.h>

#include <err.h>
#include <stdio.h>
#include <string.h>

#define EXPECT(condition) \
  do { \
    if (!(condition)) errx(1, "line %d: not %s (%s)", __LINE__, #condition, enclave_last_error()); \
  } while (0)

int main(void) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.gate = ENCLAVE_GATE_CIPHER;
  options.lock = ENCLAVE_LOCK_OFF;
  enclave_arena *arena;
  EXPECT(enclave_arena_create("encrypted", &options, &arena) == ENCLAVE_OK);
  char *key = enclave_allocate(arena, 32, 0, "key");
  EXPECT(key != NULL);

  enclave_window window = ENCLAVE_WINDOW_CLOSED;
  EXPECT(enclave_open(key, ENCLAVE_READ_WRITE, &window) == ENCLAVE_OK);
  EXPECT(window.bytes != NULL && window.bytes != key);
  memset(window.bytes, 'k', 32);
  enclave_window second;
  EXPECT(enclave_open(key, ENCLAVE_READ_WRITE, &second) == ENCLAVE_ERROR_WINDOWS_OPEN);
  EXPECT(enclave_close(&window) == ENCLAVE_OK);
  EXPECT(memchr(key, 'k', 4) == NULL || memcmp(key, "kkkk", 4) != 0);

  EXPECT(enclave_open(key, ENCLAVE_READ, &window) == ENCLAVE_OK);
  EXPECT(memcmp(window.bytes, "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", 32) == 0);
  EXPECT(enclave_close(&window) == ENCLAVE_OK);

  // By handle, and a larger secret.
  key = enclave_realloc(key, 100);
  EXPECT(key != NULL);
  enclave_secret secret;
  void *bytes;
  EXPECT(enclave_secret_find(key, &secret) == ENCLAVE_OK);
  EXPECT(enclave_secret_open(&secret, ENCLAVE_READ, &window, &bytes) == ENCLAVE_OK);
  EXPECT(bytes == window.bytes && memcmp(bytes, "kkkk", 4) == 0 && ((char *)bytes)[32] == 0);
  EXPECT(enclave_close(&window) == ENCLAVE_OK);

  // The arena cannot be opened as a whole.
  EXPECT(enclave_arena_open(arena, ENCLAVE_READ, &window) == ENCLAVE_ERROR_UNSUPPORTED);

  // Write to the idle ciphertext.
  key[3] ^= 1;
  EXPECT(enclave_open(key, ENCLAVE_READ, &window) == ENCLAVE_ERROR_TAMPERED);
  EXPECT(strstr(enclave_last_error(), "key") != NULL);
  EXPECT(enclave_free(key) == ENCLAVE_OK);

  char *other = enclave_allocate(arena, 16, 0, "other");
  enclave_status sealed = enclave_arena_seal(arena);
  EXPECT(sealed == ENCLAVE_OK || sealed == ENCLAVE_ERROR_UNSUPPORTED);
  EXPECT(enclave_open(other, ENCLAVE_READ, &window) == ENCLAVE_OK);
  EXPECT(memcmp(window.bytes, "\0\0\0\0", 4) == 0);
  EXPECT(enclave_close(&window) == ENCLAVE_OK);
  EXPECT(enclave_arena_destroy(arena, 0) == ENCLAVE_OK);
  puts("ok");
}
