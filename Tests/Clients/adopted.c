// Uses the secure memory of libsodium, OpenSSL and libgcrypt like their own tests, without Enclave. It is run with
// libenclave-adopt.so preloaded, and without.
//
// usage: adopted CASE. Prints "ok" and exits with 0. Cases that are named after a signal end with it after "ok".

#define _GNU_SOURCE
#include "adopted.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdint.h>

void ok(void) {
  puts("ok");
  fflush(stdout);
}

/// Runs a function in a new thread, and waits for its end.
void *elsewhere(void *(*body)(void *), void *argument) {
  pthread_t thread;
  void *result;
  CHECK(pthread_create(&thread, NULL, body, argument) == 0);
  CHECK(pthread_join(thread, &result) == 0);
  return result;
}

// --- libsodium -----------------------------------------------------------------------------------

static void sodium(void) {
  CHECK(sodium_init() >= 0);
  // Sizes around a page: filled with 0xdb, and writable up to the last byte.
  for (size_t size = 0; size < 3 * 4096; size = size * 3 + 1) {
    unsigned char *bytes = sodium_malloc(size);
    CHECK(bytes);
    for (size_t i = 0; i < size; i++) CHECK(bytes[i] == 0xdb);
    memset(bytes, 1, size);
    CHECK(size == 0 || ((uintptr_t)bytes + size) % 4096 == 0);
    sodium_free(bytes);
  }
  CHECK(sodium_malloc(SIZE_MAX - 1) == NULL && errno == ENOMEM);
  errno = 0;
  CHECK(sodium_allocarray(SIZE_MAX / 2U + 1U, SIZE_MAX / 2U) == NULL && errno == ENOMEM);
  sodium_free(sodium_allocarray(0, SIZE_MAX));
  unsigned char *array = sodium_allocarray(1000, 50);
  CHECK(array);
  memset(array, 2, 50000);
  sodium_free(array);
  sodium_free(NULL);

  unsigned char *key = sodium_malloc(33);
  memset(key, 7, 33);
  CHECK(sodium_mprotect_readonly(key) == 0 && sodium_mprotect_readonly(key) == 0);
  CHECK(get(key) == 7 && get(key + 32) == 7);
  CHECK(sodium_mprotect_noaccess(key) == 0 && sodium_mprotect_noaccess(key) == 0);
  CHECK(sodium_mprotect_readwrite(key) == 0 && sodium_mprotect_readwrite(key) == 0);
  set(key, 8);
  CHECK(get(key) == 8 && get(key + 32) == 7);
  // Closed memory can be freed.
  CHECK(sodium_mprotect_noaccess(key) == 0);
  sodium_free(key);
  key = sodium_malloc(33);
  CHECK(sodium_mprotect_readonly(key) == 0);
  sodium_free(key);
}

static void *make(void *unused) {
  (void)unused;
  unsigned char *key = sodium_malloc(32);
  memset(key, 9, 32);
  return key;
}
static void *close_it(void *key) { return sodium_mprotect_noaccess(key) == 0 ? key : NULL; }
static void *read_only(void *key) { return sodium_mprotect_readonly(key) == 0 ? key : NULL; }
static void *free_it(void *key) {
  sodium_free(key);
  return NULL;
}

/// A thread's sodium_mprotect_* call applies to all threads, also after it has ended.
static void threads(void) {
  CHECK(sodium_init() >= 0);
  unsigned char *key = elsewhere(make, NULL);
  set(key, 10);
  CHECK(elsewhere(read_only, key) == key);
  CHECK(get(key) == 10 && get(key + 31) == 9);
  CHECK(elsewhere(close_it, key) == key);
  CHECK(sodium_mprotect_readwrite(key) == 0);
  set(key, 11);
  elsewhere(free_it, key);
  // A thousand live allocations, freed in another order.
  unsigned char *all[1000];
  for (int i = 0; i < 1000; i++) CHECK((all[i] = sodium_malloc((size_t)i)));
  for (int i = 0; i < 1000; i += 2) sodium_free(all[i]);
  for (int i = 1; i < 1000; i += 2) sodium_free(all[i]);
}

static unsigned char *guarded(void) {
  CHECK(sodium_init() >= 0);
  unsigned char *key = sodium_malloc(32);
  memset(key, 3, 32);
  ok();
  return key;
}
static void overflow(void) { set(guarded() + 32, 1); }
static void overread(void) { (void)get(guarded() + 32); }
static void noaccess(void) {
  unsigned char *key = guarded();
  sodium_mprotect_noaccess(key);
  (void)get(key);
}
static void readonly(void) {
  unsigned char *key = guarded();
  sodium_mprotect_readonly(key);
  CHECK(get(key) == 3);
  set(key, 1);
}
static void underflow(void) {
  unsigned char *key = guarded();
  set(key - 1, (unsigned char)(get(key - 1) + 1));
  sodium_free(key);
}
static void twice(void) {
  unsigned char *key = guarded();
  sodium_free(key);
  sodium_free(key);
}

// --- OpenSSL -------------------------------------------------------------------------------------

/// The steps of OpenSSL's test of its secure heap.
static void openssl(void) {
  bool is_adopted = CRYPTO_secure_malloc_initialized();
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 1);
  CHECK(CRYPTO_secure_malloc_initialized());
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 0);
  CHECK(CRYPTO_secure_used() == 0);
  unsigned char *p = OPENSSL_secure_malloc(32);
  CHECK(p && CRYPTO_secure_allocated(p));
  CHECK(CRYPTO_secure_actual_size(p) >= 32 && CRYPTO_secure_used() == CRYPTO_secure_actual_size(p));
  memset(p, 5, 32);
  unsigned char *q = OPENSSL_malloc(32);
  CHECK(q && !CRYPTO_secure_allocated(q));
  unsigned char *r = OPENSSL_secure_zalloc(20);
  CHECK(r && CRYPTO_secure_allocated(r) && CRYPTO_secure_actual_size(r) >= 20);
  for (int i = 0; i < 20; i++) CHECK(r[i] == 0);
  CHECK(CRYPTO_secure_used() == CRYPTO_secure_actual_size(p) + CRYPTO_secure_actual_size(r));
  OPENSSL_secure_free(p);
  CHECK(CRYPTO_secure_used() == CRYPTO_secure_actual_size(r));
  OPENSSL_secure_free(q);  // ordinary memory, passed to the wrong function: it is still freed correctly
  q = OPENSSL_malloc(32);
  OPENSSL_secure_clear_free(q, 32);
  // Memory is in use.
  CHECK(CRYPTO_secure_malloc_done() == 0 && CRYPTO_secure_malloc_initialized());
  OPENSSL_secure_clear_free(r, 20);
  CHECK(CRYPTO_secure_used() == 0);
  OPENSSL_secure_free(NULL);
  OPENSSL_secure_clear_free(NULL, 0);
  CHECK(OPENSSL_secure_malloc((size_t)-1) == NULL);
  // More than the requested size of the heap.
  p = OPENSSL_secure_malloc(8192);
  CHECK((p != NULL) == is_adopted);
  OPENSSL_secure_free(p);
  CHECK(CRYPTO_secure_malloc_done() == 1 && !CRYPTO_secure_malloc_initialized());
  CHECK(CRYPTO_secure_malloc_init(4096, 32) == 1 && CRYPTO_secure_malloc_initialized());
  p = OPENSSL_secure_malloc(1);
  CHECK(p && CRYPTO_secure_allocated(p));
  OPENSSL_secure_free(p);
}

/// libcrypto asks, when the process ends, whether secure memory is in use that nobody ever asked for.
static void unused(void) {
  unsigned char digest[32];
  CHECK(EVP_Digest("", 0, digest, NULL, EVP_sha256(), NULL) == 1);
  OPENSSL_cleanup();
}

// --- libgcrypt -----------------------------------------------------------------------------------

static void gcrypt(void) {
  CHECK(gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  unsigned char *plain = gcry_xmalloc(100), *secure = gcry_xmalloc_secure(100);
  CHECK(!gcry_is_secure(plain) && gcry_is_secure(secure));
  memset(secure, 6, 100);
  secure = gcry_xrealloc(secure, 5000);
  CHECK(gcry_is_secure(secure) && secure[99] == 6);
  plain = gcry_xrealloc(plain, 5000);
  CHECK(!gcry_is_secure(plain));
  unsigned char *zeros = gcry_xcalloc_secure(10, 10);
  CHECK(gcry_is_secure(zeros) && zeros[99] == 0);
  gcry_free(plain);
  gcry_free(secure);
  gcry_free(zeros);
  gcry_free(NULL);
  // A key that the library generates.
  gcry_sexp_t parameters, key;
  CHECK(gcry_sexp_new(&parameters, "(genkey (ecc (curve Ed25519)(flags eddsa)))", 0, 1) == 0);
  CHECK(gcry_pk_genkey(&key, parameters) == 0);
  gcry_sexp_release(key);
  gcry_sexp_release(parameters);
}

/// Allocates more secure memory than libgcrypt's pool has, which is a fatal error of gcry_xmalloc_secure there.
static void exhausted(void) {
  CHECK(gcry_check_version(NULL));
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  void *all[64];
  for (int i = 0; i < 64; i++) CHECK(gcry_is_secure(all[i] = gcry_xmalloc_secure(4096)));
  for (int i = 0; i < 64; i++) gcry_free(all[i]);
}

static void fips(void) {
  CHECK(gcry_check_version(NULL));
  CHECK(gcry_fips_mode_active());
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  void *secure = gcry_malloc_secure(32);
  CHECK(secure && gcry_is_secure(secure));
  gcry_free(secure);
}

/// FIPS mode can only be requested before the library is used.
static void forced(void) {
  CHECK(gcry_control(GCRYCTL_FORCE_FIPS_MODE, 0) == 0);
  fips();
}

/// Memory from libgcrypt's own pool, allocated before gcry_check_version, is freed correctly.
static void used(void) {
  gcry_control(GCRYCTL_INIT_SECMEM, 16384, 0);
  void *early = gcry_malloc_secure(32);
  CHECK(early && gcry_check_version(NULL) && gcry_is_secure(early));
  void *late = gcry_malloc_secure(32);
  CHECK(late && gcry_is_secure(late));
  gcry_free(early);
  gcry_free(late);
}

/// Allocates secure memory before gcry_check_version, which the manual requires first.
static void early(void) {
  void *secure = gcry_malloc_secure(32);
  CHECK(secure && gcry_check_version(NULL) && gcry_is_secure(secure));
  gcry_free(secure);
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {
      {"sodium", sodium},       {"threads", threads},   {"overflow", overflow}, {"overread", overread},
      {"noaccess", noaccess},   {"readonly", readonly}, {"underflow", underflow}, {"twice", twice},
      {"openssl", openssl},     {"unused", unused},     {"gcrypt", gcrypt},     {"exhausted", exhausted}, {"fips", fips},
      {"forks", forks},         {"held", held},
      {"storm", storm},         {"poorer", poorer},     {"forced", forced},     {"used", used},
      {"early", early},
      {"handlers", handlers},   {"heap-handlers", heap_handlers},
      {"nested", nested},       {"many-freed", many_freed}, {"ended", ended},
      {"signalled", signalled},
      {"closes", closes},
      {"sandboxed", sandboxed}, {"sandboxed-again", sandboxed_again}, {"sandboxed-thread", sandboxed_thread},
      {"sandboxed-root", sandboxed_root}, {"sandboxed-at-once", sandboxed_at_once},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (count < 2 || strcmp(cases[i].name, arguments[1]) != 0) continue;
    cases[i].run();
    ok();
    return 0;
  }
  return 2;
}
