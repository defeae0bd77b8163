// A minimal libcrypto, and a program that uses it. Whether its own calls can be interposed depends on how it was linked
// (-Bsymbolic-functions).
//
//   gcc -shared -fPIC -DLIBRARY [-Wl,-Bsymbolic-functions] -Wl,-soname,libcrypto.so.3 …   the library
//   gcc … -l:libcrypto.so.3                                   the program: prints "ok" and waits
//   gcc -DLATE …                                              the same, which loads the library itself

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void *CRYPTO_secure_malloc(size_t size, const char *file, int line);
void CRYPTO_secure_free(void *address, const char *file, int line);
void *make_key(void);
void free_key(void *key);

#ifdef LIBRARY
void *CRYPTO_secure_malloc(size_t size, const char *file, int line) {
  (void)file, (void)line;
  return malloc(size);
}
void CRYPTO_secure_free(void *address, const char *file, int line) {
  (void)file, (void)line;
  free(address);
}
void *make_key(void) {
  // As the real one does when it is first used.
  static const char *configuration;
  if (!configuration) configuration = secure_getenv("OPENSSL_CONF");
  return CRYPTO_secure_malloc(32, "key.c", 1);
}
void free_key(void *key) { CRYPTO_secure_free(key, "key.c", 2); }
#else
static void say_ok_and_wait(void) {
  puts("ok");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}
#ifdef LATE
int main(void) {
  void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
  if (!library) return 1;
  void *(*make)(void) = (void *(*)(void))dlsym(library, "make_key");
  void (*release)(void *) = (void (*)(void *))dlsym(library, "free_key");
  void *key = make();
  say_ok_and_wait();
  release(key);
  return 0;
}
#else
int main(void) {
  void *own = CRYPTO_secure_malloc(32, "main.c", 1), *key = make_key();
  // Each frees what the other allocated.
  free_key(CRYPTO_secure_malloc(32, "main.c", 2));
  CRYPTO_secure_free(make_key(), "main.c", 3);
  say_ok_and_wait();
  CRYPTO_secure_free(own, "main.c", 4);
  free_key(key);
  return 0;
}
#endif
#endif
