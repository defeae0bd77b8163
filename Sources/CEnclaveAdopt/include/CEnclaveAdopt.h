// libenclave-adopt.so stands in for the secure allocations of libsodium, OpenSSL and libgcrypt in programs
// that are not changed. It is preloaded; there is nothing here to call.
