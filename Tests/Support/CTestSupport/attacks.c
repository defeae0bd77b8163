#define _GNU_SOURCE
#include "CTestSupport.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <malloc.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <errno.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <elf.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((weak)) void ces_clear_residue(size_t stack_bytes);  // CEnclaveCipher.h

static __thread sigjmp_buf out;
static __thread volatile sig_atomic_t is_trying;
static __thread volatile int code;

static void on_fault(int signal, siginfo_t *info, void *context) {
  (void)context;
  if (!is_trying) {
    struct sigaction normal = {.sa_handler = SIG_DFL};
    sigaction(signal, &normal, NULL);
    return;
  }
  code = info->si_code ? info->si_code : -1;
  siglongjmp(out, 1);
}

static int has_keys(void) {
#if defined(__x86_64__)
  unsigned a = 7, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (c >> 4) & 1;  // OSPKE
#else
  return 0;
#endif
}

static uint32_t pkru(void) {
#if defined(__x86_64__)
  uint32_t a, d;
  __asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
  return a;
#else
  return 0;
#endif
}

static void set_pkru(uint32_t value) {
#if defined(__x86_64__)
  __asm__ volatile("wrpkru" ::"a"(value), "c"(0), "d"(0) : "memory");
#else
  (void)value;
#endif
}

static int try(uintptr_t address, int writing) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
  int keys = has_keys();
  uint32_t before = keys ? pkru() : 0;
  volatile char *place = (volatile char *)address;
  code = 0;
  if (sigsetjmp(out, 1) == 0) {
    is_trying = 1;
    char byte = *place;
    if (writing) *place = byte;
  }
  is_trying = 0;
  // A handler starts with the keys closed, and they stay closed after a jump out of it.
  if (keys) set_pkru(before);
  return code;
}

int ct_try_read(uintptr_t address) { return try(address, 0); }
int ct_try_write(uintptr_t address) { return try(address, 1); }

// Threads of a pool have signals blocked.
static void unblock(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static sigjmp_buf jump;
static void jump_handler(int signal) {
  (void)signal;
  siglongjmp(jump, 1);
}

int ct_jump_out(void (*body)(void *), void *context) {
  struct sigaction action = {.sa_handler = jump_handler};
  sigaction(SIGUSR1, &action, NULL);
  unblock(SIGUSR1);
  if (sigsetjmp(jump, 1) != 0) return 1;
  body(context);
  return 0;
}

void ct_on_signal(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler};
  sigaction(SIGUSR2, &action, NULL);
  unblock(SIGUSR2);
}

int ct_refuse_call(int number) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof program / sizeof *program, program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -errno;
  // For all threads, because the test runner has several.
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  return result == 0 ? 0 : result < 0 ? -errno : -1;
}

enum { LEFT_WORDS = 128 };
static const uint64_t left_word = 0x5a5a5a5a5a5a5a5a;

static __attribute__((noinline)) void leave_on_stack(void) {
  volatile uint64_t words[LEFT_WORDS];
  for (int i = 0; i < LEFT_WORDS; i++) words[i] = left_word;
}
static __attribute__((noinline)) int count_on_stack(void) {
  volatile uint64_t words[LEFT_WORDS];
  int found = 0;
  for (int i = 0; i < LEFT_WORDS; i++) found += words[i] == left_word;
  return found;
}

int ct_words_left_on_stack(bool clears) {
  leave_on_stack();
  if (clears) ces_clear_residue(2048);
  return count_on_stack();
}

// What the stack holds below a function: at most this much is looked at.
enum { PAINTED = 8192, PAINT = 0xc5 };

static __attribute__((noinline)) void paint_stack(void) {
  volatile unsigned char below[PAINTED];
  for (int i = 0; i < PAINTED; i++) below[i] = PAINT;
}
static __attribute__((noinline)) int painted_depth(void) {
  volatile unsigned char below[PAINTED];
  int depth = PAINTED;
  while (depth > 0 && below[PAINTED - depth] == PAINT) depth--;
  return depth;
}

// libsodium's calls, as far as it is linked.
typedef int encrypts(void *, void *, void *, const void *, unsigned long long, const void *, unsigned long long, const void *,
                     const void *, const void *);
typedef int decrypts(void *, void *, const void *, unsigned long long, const void *, const void *, unsigned long long,
                     const void *, const void *);
__attribute__((weak)) encrypts crypto_aead_aes256gcm_encrypt_detached_afternm,
    crypto_aead_chacha20poly1305_ietf_encrypt_detached, crypto_aead_xchacha20poly1305_ietf_encrypt_detached;
__attribute__((weak)) decrypts crypto_aead_aes256gcm_decrypt_detached_afternm,
    crypto_aead_chacha20poly1305_ietf_decrypt_detached, crypto_aead_xchacha20poly1305_ietf_decrypt_detached;
__attribute__((weak)) int crypto_aead_aes256gcm_beforenm(void *, const void *);

int ct_cipher_stack(int cipher) {
  static encrypts *const encrypt[] = {crypto_aead_aes256gcm_encrypt_detached_afternm,
                                      crypto_aead_chacha20poly1305_ietf_encrypt_detached,
                                      crypto_aead_xchacha20poly1305_ietf_encrypt_detached};
  static decrypts *const decrypt[] = {crypto_aead_aes256gcm_decrypt_detached_afternm,
                                      crypto_aead_chacha20poly1305_ietf_decrypt_detached,
                                      crypto_aead_xchacha20poly1305_ietf_decrypt_detached};
  static _Alignas(64) unsigned char schedule[512], key[32], nonce[24], tag[16], text[2048], ciphertext[2048], bound[64];
  if (!encrypt[cipher] || !decrypt[cipher]) return -1;
  int deepest = 0;
  // The dynamic linker resolves symbols in the first calls, on the same stack.
  for (int turn = 0; turn < 2; turn++) {
    deepest = 0;
    int sizes[] = {0, 32, 48, 2048};
    for (int i = 0; i < 4; i++) {
      for (int step = 0; step < 3; step++) {
        paint_stack();
        if (step == 0 && cipher == 0) crypto_aead_aes256gcm_beforenm(schedule, key);
        if (step == 1) encrypt[cipher](ciphertext, tag, 0, text, sizes[i], bound, 64, 0, nonce, schedule);
        if (step == 2) decrypt[cipher](text, 0, ciphertext, sizes[i], tag, bound, 64, nonce, schedule);
        int depth = painted_depth();
        if (depth > deepest) deepest = depth;
      }
    }
  }
  return deepest;
}

void ct_perturb_heap(void) { mallopt(M_PERTURB, 0xa5); }

int ct_membarrier_number(void) { return SYS_membarrier; }

int ct_fork(void) { return fork(); }

// Whether another thread of this process runs, or is about to.
static int has_running_thread(void) {
  DIR *threads = opendir("/proc/self/task");
  if (!threads) return 0;
  int found = 0;
  for (struct dirent *entry; !found && (entry = readdir(threads));) {
    if (entry->d_name[0] == '.' || atoi(entry->d_name) == gettid()) continue;
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", atoi(entry->d_name));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (length <= 0) continue;  // it ended
    text[length] = 0;
    char *name_end = strrchr(text, ')');
    found = name_end && name_end[2] != 'S';
  }
  closedir(threads);
  return found;
}

static void wait_for_rest(void) {
  for (int tries = 0; tries < 5000 && has_running_thread(); tries++) usleep(1000);
}

int ct_fork_at_rest(void) {
  wait_for_rest();
  return fork();
}

int ct_raw_fork_at_rest(void) {
  wait_for_rest();
  return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
int ct_set_key(int key, unsigned access) { return pkey_set(key, access); }
long ct_read_other(int pid, uintptr_t address, void *bytes, size_t length) {
  struct iovec local = {bytes, length}, remote = {(void *)address, length};
  long count = process_vm_readv(pid, &local, 1, &remote, 1, 0);
  return count < 0 ? -errno : count;
}
long ct_mseal(uintptr_t address, size_t length) {
  return syscall(462, address, length, 0) < 0 ? -errno : 0;
}

static const char *const change_names[CT_CHANGES] = {
    "mprotect to read and write", "mprotect to read", "mprotect to nothing", "pkey_mprotect", "munmap",
    "mremap larger", "mremap smaller", "mremap elsewhere", "map over", "MADV_DONTNEED", "MADV_FREE",
    "MADV_DONTNEED_LOCKED", "MADV_GUARD_INSTALL", "MADV_WIPEONFORK", "MADV_DONTFORK",
};

const char *ct_change_name(int number) { return change_names[number]; }

/// MADV_GUARD_INSTALL came with Linux 6.13, mseal(2) with 6.10.
static int install_guard(void *at, size_t length) {
  void *page = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return -errno;
  int is_known = madvise(page, length, 102 /* MADV_GUARD_INSTALL */) == 0;
  munmap(page, length);
  if (!is_known) return CT_ABSENT;
  return madvise(at, length, 102) < 0 ? -errno : 0;
}

static int remap_elsewhere(void *at, size_t length) {
  void *place = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) return -errno;
  if (mremap(at, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) return -errno;
  return 0;
}

int ct_change(int number, uintptr_t address) {
  void *at = (void *)address;
  size_t page = (size_t)sysconf(_SC_PAGESIZE), length = 2 * page;
#define RESULT(call) ((call) < 0 ? -errno : 0)
#define MAPS(call) ((call) == MAP_FAILED ? -errno : 0)
  switch (number) {
    case 0: return RESULT(mprotect(at, length, PROT_READ | PROT_WRITE));
    case 1: return RESULT(mprotect(at, length, PROT_READ));
    case 2: return RESULT(mprotect(at, length, PROT_NONE));
    case 3: return RESULT(pkey_mprotect(at, length, PROT_READ | PROT_WRITE, -1));
    case 4: return RESULT(munmap(at, length));
    case 5: return MAPS(mremap(at, length, 2 * length, MREMAP_MAYMOVE));
    case 6: return MAPS(mremap(at, length, page, 0));
    case 7: return remap_elsewhere(at, length);
    case 8:
      return MAPS(mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    case 9: return RESULT(madvise(at, length, MADV_DONTNEED));
    case 10: return RESULT(madvise(at, length, MADV_FREE));
    case 11: return RESULT(madvise(at, length, 24 /* MADV_DONTNEED_LOCKED */));
    case 12: return install_guard(at, length);
    case 13: return RESULT(madvise(at, length, MADV_WIPEONFORK));
    case 14: return RESULT(madvise(at, length, MADV_DONTFORK));
    default: return -EINVAL;
  }
}
int ct_discard(uintptr_t a, size_t n) { return madvise((void *)a, n, MADV_DONTNEED) < 0 ? -errno : 0; }
int ct_discard_locked(uintptr_t a, size_t n) {
  return madvise((void *)a, n, 24 /* MADV_DONTNEED_LOCKED */) < 0 ? -errno : 0;
}

void ct_hold_in_register(uint64_t value, volatile int *ready, volatile int *go) {
#if defined(__x86_64__)
  __asm__ volatile(
      "movq %0, %%r12\n\tmovl $1, (%1)\n1:\tpause\n\tmovl (%2), %%eax\n\ttestl %%eax, %%eax\n\tjz 1b\n\t"
      "xorl %%r12d, %%r12d"
      :
      : "D"(value), "S"(ready), "d"(go)
      : "r12", "eax", "memory");
#else
  *ready = 1;
  while (!*go) __asm__ volatile("" ::"r"(value) : "memory");
#endif
}

static int use_up(const volatile char *secret, unsigned depth) {
  volatile char copy[256];
  for (unsigned i = 0; i < sizeof copy; i++) copy[i] = secret[i % 32];
  return depth == 0 ? copy[3] : use_up(secret, depth - 1) + copy[depth % 256];
}

__attribute__((noinline)) void ct_crash_with(const void *secret, char how) {
  volatile char spill[64];
  for (unsigned i = 0; i < sizeof spill; i++) spill[i] = ((const char *)secret)[i % 32];
  if (how == 'a') abort();
  if (how == 'k') raise(SIGTERM);
  if (how == 's') use_up(secret, 1u << 30);
#if defined(__x86_64__)
  if (how == 'f') {
    __asm__ volatile(
        "movdqu (%0), %%xmm0\n\tmovdqu 16(%0), %%xmm7\n\tmovdqu (%0), %%xmm15\n\t"
        "movq (%0), %%rax\n\tmovq 8(%0), %%rbx\n\tmovq 16(%0), %%r12\n\tmovq 24(%0), %%r13\n\t"
        "movq 3(%0), %%r8\n\tmovq %0, %%r14\n\tmovq %0, %%r15\n\tmovq %1, %%r10\n\t"
        "subq $256, %%rsp\n\tmovdqu %%xmm0, (%%rsp)\n\tmovdqu %%xmm7, 16(%%rsp)\n\t"
        "movl $1, 0"
        :
        : "D"(secret), "S"(spill)
        : "memory", "rax", "rbx", "r8", "r10", "r12", "r13", "r14", "r15", "xmm0", "xmm7", "xmm15");
  }
#endif
  __builtin_trap();
}

size_t ct_places(const void *bytes, size_t length, const uint8_t *masked, size_t count, uint8_t mask,
                 size_t *offsets, size_t room) {
  static const char zeros[4096];
  const unsigned char *at = bytes;
  // A bit for each pair of bytes that a window may begin with.
  unsigned char begins[8192] = {0};
  for (size_t i = 0; i + 8 <= count; i++) {
    unsigned pair = masked[i] | (unsigned)masked[i + 1] << 8;
    begins[pair >> 3] |= 1u << (pair & 7);
  }
  size_t found = 0;
  for (size_t offset = 0; offset + 8 <= length; offset++) {
    if (offset % 4096 == 0 && offset + 4096 <= length && memcmp(at + offset, zeros, 4096) == 0) {
      offset += 4095 - 8;  // a window may begin in its last bytes
      continue;
    }
    unsigned pair = (at[offset] ^ mask) | (unsigned)(at[offset + 1] ^ mask) << 8;
    if (!(begins[pair >> 3] & 1u << (pair & 7))) continue;
    for (size_t i = 0; i + 8 <= count; i++) {
      size_t same = 0;
      while (same < 8 && (at[offset + same] ^ mask) == masked[i + same]) same++;
      if (same < 8) continue;
      if (found < room) offsets[found] = offset;
      found++;
      offset += 63;  // one place, not each of its windows
      break;
    }
  }
  return found;
}

static uint64_t pattern_word(uint64_t seed, uint64_t number, uint64_t index) {
  // splitmix64 (Steele, Lea and Flood, 2014).
  uint64_t z = seed + (number * 64 + index + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

void ct_fill_pattern(void *to, size_t length, uint64_t seed, uint64_t number) {
  for (size_t i = 0; i < length; i++)
    ((unsigned char *)to)[i] = pattern_word(seed, number, i / 8) >> i % 8 * 8;
}

int ct_is_pattern(const void *at, size_t length, uint64_t seed, uint64_t number) {
  for (size_t i = 0; i < length; i++)
    if (((const unsigned char *)at)[i] != (unsigned char)(pattern_word(seed, number, i / 8) >> i % 8 * 8))
      return 0;
  return 1;
}

size_t ct_patterns_in(const void *bytes, size_t length, uint64_t seed, uint64_t count) {
  // A bit for each hash of the two first words; what has its bit is looked up.
  size_t bits = (size_t)1 << 27, room = 1;
  while (room < count * 4) room *= 2;
  unsigned char *may = calloc(1, bits / 8);
  uint64_t *table = calloc(room, sizeof *table);
  for (uint64_t number = 0; number < count; number++)
    for (uint64_t index = 0; index < 2; index++) {
      uint64_t word = pattern_word(seed, number, index), at = word % room;
      may[(word & (bits - 1)) / 8] |= 1u << word % 8;
      while (table[at] && table[at] != word) at = (at + 1) % room;
      table[at] = word;
    }
  size_t found = 0;
  for (size_t offset = 0; offset + 8 <= length; offset++) {
    uint64_t word;
    memcpy(&word, (const char *)bytes + offset, 8);
    if (!word || !(may[(word & (bits - 1)) / 8] & 1u << word % 8)) continue;
    size_t at = word % room;
    while (table[at] && table[at] != word) at = (at + 1) % room;
    found += table[at] == word;
  }
  free(may);
  free(table);
  return found;
}

__attribute__((noinline)) void ct_clear_stack(void) {
  volatile char below[256 * 1024];
  for (size_t i = 0; i < sizeof below; i++) below[i] = 0;
}

int ct_close_from(void *actions, int from) {
  return posix_spawn_file_actions_addclosefrom_np(actions, from);
}

int ct_stop_at_exit(int pid) {
  return ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT) < 0 ? -errno : 0;
}

int ct_wait_for_exit(int pid) {
  for (;;) {
    int status;
    if (waitpid(pid, &status, __WALL) < 0) return -errno;
    if (!WIFSTOPPED(status)) return -ESRCH;
    if (status >> 16 == PTRACE_EVENT_EXIT) return 0;
    int signal = status >> 16 == 0 ? WSTOPSIG(status) : 0;
    if (ptrace(PTRACE_CONT, pid, 0, signal) < 0) return -errno;
  }
}

int ct_let_go(int pid) {
  int status;
  ptrace(PTRACE_CONT, pid, 0, 0);
  if (waitpid(pid, &status, __WALL) < 0) return -errno;
  return status;
}

int ct_drop_lock_capability(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0) return -errno;
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  data[0].permitted &= ~(1u << CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

long ct_registers(int tid, void *bytes, size_t length) {
  if (ptrace(PTRACE_SEIZE, tid, 0, 0) < 0) return -errno;
  long result = -EIO;
  int status;
  if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0 && waitpid(tid, &status, __WALL) == tid) {
    size_t used = 0;
    static const int sets[] = {NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE};
    for (unsigned i = 0; i < 3; i++) {
      struct iovec part = {(char *)bytes + used, length - used};
      if (ptrace(PTRACE_GETREGSET, tid, sets[i], &part) == 0) used += part.iov_len;
    }
    result = (long)used;
  }
  ptrace(PTRACE_DETACH, tid, 0, 0);
  return result;
}

static int bus_status;
static void exit_on_bus(int signal) {
  (void)signal;
  _exit(bus_status);
}

void ct_exit_on_bus(int status) {
  bus_status = status;
  signal(SIGBUS, exit_on_bus);
}
