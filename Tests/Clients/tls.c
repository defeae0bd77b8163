// OpenSSL with all of its memory on an arena (CRYPTO_set_mem_functions): TLS handshakes on loopback,
// the private key in the arena.

#include "client.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

// OpenSSL passes the file and line of each allocation. They are ignored: one literal label per function is enough.
static void *take(size_t size, const char *file, int line) {
  (void)file, (void)line;
  return size ? enclave_allocate(arena, size, 0, "OpenSSL") : NULL;
}
static void *resize(void *address, size_t size, const char *file, int line) {
  if (!address) return take(size, file, line);
  if (size) return enclave_realloc(address, size);
  enclave_free(address);
  return NULL;
}
static void give_back(void *address, const char *file, int line) {
  (void)file, (void)line;
  enclave_free(address);
}

static X509 *certificate(EVP_PKEY *key) {
  X509 *made = X509_new();
  EXPECT(made && ASN1_INTEGER_set(X509_get_serialNumber(made), 1));
  X509_gmtime_adj(X509_getm_notBefore(made), 0);
  X509_gmtime_adj(X509_getm_notAfter(made), 3600);
  EXPECT(X509_set_pubkey(made, key));
  X509_NAME *name = X509_get_subject_name(made);
  EXPECT(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1,
                                    -1, 0));
  EXPECT(X509_set_issuer_name(made, name) && X509_sign(made, key, EVP_sha256()));
  return made;
}

enum { HANDSHAKES = 20 };
static int listener;
static SSL_CTX *server;

static void *serve(void *unused) {
  (void)unused;
  for (int round = 0; round < HANDSHAKES; round++) {
    int connection = accept(listener, NULL, NULL);
    EXPECT(connection >= 0);
    SSL *ssl = SSL_new(server);
    EXPECT(ssl && SSL_set_fd(ssl, connection) && SSL_accept(ssl) == 1);
    char text[64];
    int length = SSL_read(ssl, text, sizeof text);
    EXPECT(length > 0 && SSL_write(ssl, text, length) == length);
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(connection);
  }
  return NULL;
}

int main(void) {
  start_client("tls");
  EXPECT(CRYPTO_set_mem_functions(take, resize, give_back));
  EVP_PKEY *key = EVP_EC_gen("P-256");
  EXPECT(key && enclave_arena_owns(arena, key));
  X509 *own = certificate(key);
  server = SSL_CTX_new(TLS_server_method());
  EXPECT(server && SSL_CTX_use_certificate(server, own) && SSL_CTX_use_PrivateKey(server, key));
  SSL_CTX *client = SSL_CTX_new(TLS_client_method());
  EXPECT(client && X509_STORE_add_cert(SSL_CTX_get_cert_store(client), own));
  SSL_CTX_set_verify(client, SSL_VERIFY_PEER, NULL);

  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  listener = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 8) == 0);
  EXPECT(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
  pthread_t thread;
  EXPECT(pthread_create(&thread, NULL, serve, NULL) == 0);
  for (int round = 0; round < HANDSHAKES; round++) {
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(connect(connection, (struct sockaddr *)&address, size) == 0);
    SSL *ssl = SSL_new(client);
    EXPECT(ssl && SSL_set_fd(ssl, connection));
    if (SSL_connect(ssl) != 1) {
      ERR_print_errors_fp(stderr);
      return 1;
    }
    char text[64];
    EXPECT(SSL_get_verify_result(ssl) == X509_V_OK && SSL_write(ssl, "hello", 5) == 5);
    EXPECT(SSL_read(ssl, text, sizeof text) == 5 && memcmp(text, "hello", 5) == 0);
    SSL_free(ssl);
    close(connection);
  }
  EXPECT(pthread_join(thread, NULL) == 0);
  be_seen();
  X509_free(own);
  EVP_PKEY_free(key);
  SSL_CTX_free(server);
  SSL_CTX_free(client);
  OPENSSL_cleanup();
  be_done(0);
  return 0;
}
