// P-256 operations of OpenSSL's libcrypto (3.0 or later) as functions that Swift can import: OpenSSL's
// parameters and selections are macros. A scalar is 32 bytes in native byte order.

#ifndef C_ENCLAVE_LIBCRYPTO_H
#define C_ENCLAVE_LIBCRYPTO_H

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <stddef.h>

/// Makes a key from a scalar; NULL on failure. Its scalar lies in secure memory (BN_secure_new) and is wiped by
/// EVP_PKEY_free.
static inline EVP_PKEY *celc_make_key(const void *scalar) {
  OSSL_PARAM parameters[3] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)SN_X9_62_prime256v1, 0),
      OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_PRIV_KEY, (unsigned char *)scalar, 32),
      OSSL_PARAM_construct_end()};
  EVP_PKEY *key = NULL;
  EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
  if (context && EVP_PKEY_fromdata_init(context) > 0) {
    (void)EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, parameters);
  }
  EVP_PKEY_CTX_free(context);
  return key;
}

/// Signs the SHA-256 of the data. The signature is DER, at most *signature_size bytes. Returns 0 on failure.
static inline int celc_sign(const void *scalar, const void *data, size_t size, unsigned char *signature,
                            size_t *signature_size) {
  EVP_PKEY *key = celc_make_key(scalar);
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  int is_signed = key && context && EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) > 0 &&
                  EVP_DigestSign(context, signature, signature_size, (const unsigned char *)data, size) > 0;
  EVP_MD_CTX_free(context);
  EVP_PKEY_free(key);
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
  EVP_PKEY *key = celc_make_key(scalar);
  int are_secure = key && CRYPTO_secure_used() >= 32;
  EVP_PKEY_free(key);
  return are_secure;
}

#endif
