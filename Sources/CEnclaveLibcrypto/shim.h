// P-256 operations of OpenSSL's libcrypto (3.0 or later) as functions that Swift can import. A scalar is 32 bytes in
// native byte order.

#ifndef C_ENCLAVE_LIBCRYPTO_H
#define C_ENCLAVE_LIBCRYPTO_H

#define OPENSSL_API_COMPAT 0x10100000L  // EC_KEY is deprecated in 3.0, without a replacement that is as fast

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/obj_mac.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stddef.h>

enum { CELC_SPARE_COUNT = 8 };

/// Key objects on P-256 without a private key, each for one signature at a time. Making one takes longer than setting
/// its scalar.
static inline EC_KEY **celc_spares(void) {
  static EC_KEY *spares[CELC_SPARE_COUNT];
  return spares;
}

/// A key object without a private key; NULL on failure.
static inline EC_KEY *celc_new_key(void) {
  // Never freed, and not changed after it was made: any thread may copy it.
  static EC_GROUP *shared;
  EC_GROUP *group = __atomic_load_n(&shared, __ATOMIC_ACQUIRE);
  if (!group) {
    EC_GROUP *made = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
    if (!made) return NULL;
    if (__atomic_compare_exchange_n(&shared, &group, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      group = made;
    } else {
      EC_GROUP_free(made);
    }
  }
  EC_KEY *key = EC_KEY_new();
  if (key && EC_KEY_set_group(key, group)) return key;
  EC_KEY_free(key);
  return NULL;
}

/// Takes the scalar out of a key, wipes it, and keeps the key for another signature.
static inline void celc_end_key(EC_KEY *key) {
  if (!key) return;
  // Before 3.0.6 this call did nothing (openssl/openssl issue 18744).
  EC_KEY_set_private_key(key, NULL);
  for (int i = 0; i < CELC_SPARE_COUNT && !EC_KEY_get0_private_key(key); i++) {
    EC_KEY *none = NULL;
    if (__atomic_compare_exchange_n(&celc_spares()[i], &none, key, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) return;
  }
  EC_KEY_free(key);
}

/// Makes a key from a scalar; NULL on failure. Its scalar lies in secure memory (BN_secure_new, which copies keep) and
/// is wiped by celc_end_key.
static inline EC_KEY *celc_make_key(const void *scalar) {
  EC_KEY *key = NULL;
  for (int i = 0; i < CELC_SPARE_COUNT && !key; i++) {
    EC_KEY **spare = &celc_spares()[i];
    if (__atomic_load_n(spare, __ATOMIC_RELAXED)) key = __atomic_exchange_n(spare, NULL, __ATOMIC_ACQUIRE);
  }
  if (!key) key = celc_new_key();
  BIGNUM *number = BN_secure_new();
  bool is_made =
      key && number && BN_native2bn((const unsigned char *)scalar, 32, number) && EC_KEY_set_private_key(key, number);
  BN_clear_free(number);
  if (is_made) return key;
  celc_end_key(key);
  return NULL;
}

/// Signs the SHA-256 of the data. The signature is DER, at most *signature_size bytes. Returns 0 on failure.
///
/// Uses the older EC_KEY and SHA256 functions: making an EVP_PKEY from a scalar takes as long as signing, and
/// finding a digest by its name longer than hashing.
static inline int celc_sign(const void *scalar, const void *data, size_t size, unsigned char *signature,
                            size_t *signature_size) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256_CTX hash;
  unsigned length = 0;
  EC_KEY *key = celc_make_key(scalar);
  int is_signed = key && *signature_size >= (size_t)ECDSA_size(key) && SHA256_Init(&hash) &&
                  SHA256_Update(&hash, data, size) && SHA256_Final(digest, &hash) &&
                  ECDSA_sign(0, digest, sizeof digest, signature, &length, key) == 1;
  celc_end_key(key);
  *signature_size = length;
  return is_signed;
}

/// Computes the public key as an uncompressed point of 65 bytes. Returns 0 if the scalar is invalid (0, or not
/// below the group's order) or memory is exhausted.
static inline int celc_make_public_key(const void *scalar, unsigned char *public_key) {
  EC_GROUP *group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
  BN_CTX *context = BN_CTX_secure_new();
  BIGNUM *number = BN_secure_new();
  EC_POINT *point = group ? EC_POINT_new(group) : NULL;
  int is_made = context && number && point && BN_native2bn((const unsigned char *)scalar, 32, number) &&
                !BN_is_zero(number) && BN_cmp(number, EC_GROUP_get0_order(group)) < 0 &&
                EC_POINT_mul(group, point, number, NULL, NULL, context) &&
                EC_POINT_point2oct(group, point, POINT_CONVERSION_UNCOMPRESSED, public_key, 65, context) == 65;
  EC_POINT_free(point);
  BN_clear_free(number);
  BN_CTX_free(context);
  EC_GROUP_free(group);
  return is_made;
}

/// Whether libcrypto itself allocates from this process's CRYPTO_secure_malloc. Checks that secure memory is in
/// use while a key exists.
static inline int celc_keys_are_secure(const void *scalar) {
  EC_KEY *key = celc_make_key(scalar);
  int are_secure = key && CRYPTO_secure_used() >= 32;
  celc_end_key(key);
  return are_secure;
}

#endif
