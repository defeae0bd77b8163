// libgcrypt with its memory on an arena (gcry_set_allocation_handler).

#include "client.h"

#include <gcrypt.h>

static void *take(size_t size) { return enclave_malloc(arena, size); }
static int is_secure(const void *address) { return enclave_arena_owns(arena, address); }
static void *resize(void *address, size_t size) {
  return address ? enclave_realloc(address, size) : enclave_malloc(arena, size);
}
static void give_back(void *address) { enclave_free(address); }

int main(void) {
  start_client("gcrypt");
  gcry_set_allocation_handler(take, take, is_secure, resize, give_back);
  EXPECT(gcry_check_version(NULL));
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);

  unsigned char *key = gcry_random_bytes_secure(32, GCRY_STRONG_RANDOM);
  EXPECT(key && enclave_arena_owns(arena, key) && gcry_is_secure(key));
  gcry_cipher_hd_t cipher;
  EXPECT(!gcry_cipher_open(&cipher, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_GCM, GCRY_CIPHER_SECURE));
  for (int round = 0; round < 2000; round++) {
    unsigned char nonce[12], text[200], tag[16];
    memset(text, round, sizeof text);
    memcpy(nonce, &round, sizeof round);
    memset(nonce + sizeof round, 0, sizeof nonce - sizeof round);
    EXPECT(!gcry_cipher_setkey(cipher, key, 32));
    EXPECT(!gcry_cipher_setiv(cipher, nonce, sizeof nonce));
    EXPECT(!gcry_cipher_encrypt(cipher, text, sizeof text, NULL, 0));
    EXPECT(!gcry_cipher_gettag(cipher, tag, sizeof tag));
    EXPECT(!gcry_cipher_setiv(cipher, nonce, sizeof nonce));
    EXPECT(!gcry_cipher_decrypt(cipher, text, sizeof text, NULL, 0));
    EXPECT(!gcry_cipher_checktag(cipher, tag, sizeof tag));
    EXPECT(text[0] == (unsigned char)round);
  }
  gcry_sexp_t parameters, pair, data, signature;
  EXPECT(!gcry_sexp_build(&parameters, NULL, "(genkey (ecc (curve Ed25519) (flags eddsa)))"));
  EXPECT(!gcry_pk_genkey(&pair, parameters));
  EXPECT(enclave_arena_owns(arena, pair));
  EXPECT(!gcry_sexp_build(&data, NULL, "(data (flags eddsa) (hash-algo sha512) (value \"text\"))"));
  EXPECT(!gcry_pk_sign(&signature, data, pair));
  EXPECT(!gcry_pk_verify(signature, data, pair));
  be_seen();
  gcry_sexp_release(signature);
  gcry_sexp_release(data);
  gcry_sexp_release(pair);
  gcry_sexp_release(parameters);
  gcry_cipher_close(cipher);
  gcry_free(key);
  be_done(200);  // at most this many allocations, which the library keeps until exit
  return 0;
}
