// A library that keeps secrets in libsodium's memory and uses them in its destructor, and a program that links it.
//
//   gcc -shared -fPIC -DLIBRARY -o libending.so …     gcc … -lending

#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void keep(void);

#ifdef LIBRARY
static unsigned char *key;

void keep(void) {
  if (sodium_init() < 0) return;
  key = sodium_malloc(32);
  memset(key, 7, 32);
}

__attribute__((destructor)) static void end(void) {
  for (int i = 0; i < 32; i++) {
    if (key[i] != 7) {
      static const char text[] = "the key is gone\n";
      ssize_t ignored = write(STDOUT_FILENO, text, sizeof text - 1);
      (void)ignored;
      return;
    }
  }
  static const char text[] = "the key is there\n";
  ssize_t ignored = write(STDOUT_FILENO, text, sizeof text - 1);
  (void)ignored;
}
#else
int main(void) {
  keep();
  return 0;
}
#endif
