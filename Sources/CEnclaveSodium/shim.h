// libsodium's own header, where pkg-config finds it.
#include <sodium.h>
