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

/// Makes a key from a scalar; NULL on failure. Its scalar lies in secure memory (BN_secure_new, which copies keep) and
/// is wiped by EC_KEY_free.
static inline EC_KEY *celc_make_key(const void *scalar) {
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
  BIGNUM *number = BN_secure_new();
  bool is_made = key && number && EC_KEY_set_group(key, group) &&
                 BN_native2bn((const unsigned char *)scalar, 32, number) && EC_KEY_set_private_key(key, number);
  BN_clear_free(number);
  if (is_made) return key;
  EC_KEY_free(key);
  return NULL;
}

/// Signs the SHA-256 of the data. The signature is DER, at most *signature_size bytes. Returns 0 on failure.
///
/// Uses the older EC_KEY functions: making an EVP_PKEY from a scalar takes as long as signing.
static inline int celc_sign(const void *scalar, const void *data, size_t size, unsigned char *signature,
                            size_t *signature_size) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  unsigned length = 0;
  EC_KEY *key = celc_make_key(scalar);
  int is_signed = key && *signature_size >= (size_t)ECDSA_size(key) &&
                  SHA256((const unsigned char *)data, size, digest) &&
                  ECDSA_sign(0, digest, sizeof digest, signature, &length, key) == 1;
  EC_KEY_free(key);
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
  EC_KEY_free(key);
  return are_secure;
}

#endif
