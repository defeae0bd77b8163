// The version of everything that is made from this package. What repeats it is compared with it by a
// test: enclave.h, and the changelog of the Debian packages. Scripts read it from here.

let packageVersion = "1.0.0"
