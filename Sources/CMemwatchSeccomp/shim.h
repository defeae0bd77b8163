// libseccomp's own header, and the macros of it that Swift cannot import.
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>

static const uint32_t mws_allow = SCMP_ACT_ALLOW;
static const uint32_t mws_refuse = SCMP_ACT_ERRNO(EPERM);
static const uint32_t mws_kill = SCMP_ACT_KILL_PROCESS;
static const int mws_unknown_call = __NR_SCMP_ERROR;
