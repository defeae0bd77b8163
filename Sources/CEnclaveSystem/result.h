// The result of a wrapper: the call's value, or -errno.

#ifndef C_ENCLAVE_RESULT_H
#define C_ENCLAVE_RESULT_H

#include <errno.h>

#define RESULT(call)                      \
  do {                                    \
    long result_ = (long)(call);          \
    return result_ < 0 ? -errno : result_; \
  } while (0)

#endif
