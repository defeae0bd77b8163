// Calls that map, protect, lock, seal and wipe memory, and the heap for bookkeeping.

#define _GNU_SOURCE
#include "CEnclaveSystem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "result.h"

// Numbers of system calls and advice that old headers lack; the same on every architecture.
enum { NR_MSEAL = 462, NR_MEMFD_SECRET = 447 };
enum { ADVICE_GUARD_INSTALL = 102, ADVICE_GUARD_REMOVE = 103 };

int64_t ces_has_room(size_t length) {
  void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return -errno;
  munmap(p, length);
  return 0;
}
int64_t ces_map_reserve(size_t length) {
  void *p = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? -errno : (int64_t)(uintptr_t)p;
}

int64_t ces_unmap(void *address, size_t length) { RESULT(munmap(address, length)); }

int64_t ces_protect(void *address, size_t length, int protection) {
  static const int bits[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
  RESULT(mprotect(address, length, bits[protection]));
}

int64_t ces_lock(void *address, size_t length) { RESULT(mlock(address, length)); }
int64_t ces_lock_on_fault(void *address, size_t length) {
  RESULT(mlock2(address, length, MLOCK_ONFAULT));
}
int64_t ces_unlock(void *address, size_t length) { RESULT(munlock(address, length)); }

int64_t ces_advise(void *address, size_t length, int advice) {
  static const int values[] = {MADV_DONTDUMP, MADV_WIPEONFORK, MADV_DONTFORK,
                               MADV_UNMERGEABLE, MADV_NOHUGEPAGE};
  RESULT(madvise(address, length, values[advice]));
}

int64_t ces_separate(void *address, size_t length, size_t unit) {
  for (size_t at = unit; at < length; at += 2 * unit) {
    size_t bytes = length - at < unit ? length - at : unit;
    if (madvise((char *)address + at, bytes, MADV_NOHUGEPAGE) == 0) continue;
    int error = errno;
    // Give all units equal flags, so that they merge again. (MADV_HUGEPAGE is the only way to clear the flag, and
    // asks for huge pages.)
    if (at > unit) madvise(address, length, MADV_NOHUGEPAGE);
    return -error;
  }
  return 0;
}

int64_t ces_metadata_allocate(size_t length, size_t alignment) {
  void *address = NULL;
  if (alignment < sizeof(void *)) alignment = sizeof(void *);
  int error = posix_memalign(&address, alignment, length);
  return error ? -error : (int64_t)(uintptr_t)address;
}

void ces_metadata_free(void *address) { free(address); }

static void *metadata_reserve;

int64_t ces_metadata_room(void) {
  if (!__atomic_load_n(&metadata_reserve, __ATOMIC_RELAXED)) {
    void *none = NULL, *made = malloc(CES_METADATA_RESERVE);
    if (!made) return -ENOMEM;
    if (!__atomic_compare_exchange_n(&metadata_reserve, &none, made, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED)) {
      free(made);  // another thread was faster
    }
  }
  // `volatile` keeps the compiler from removing the malloc and free.
  void *volatile room = malloc(CES_METADATA_ROOM);
  if (!room) {
    free(__atomic_exchange_n(&metadata_reserve, NULL, __ATOMIC_ACQ_REL));
    return -ENOMEM;
  }
  free(room);
  return 0;
}

void ces_wipe(void *address, size_t length) { explicit_bzero(address, length); }

void ces_copy(void *to, const void *from, size_t length) {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
#else
  volatile unsigned char *out = to;
  const volatile unsigned char *in = from;
  for (size_t i = 0; i < length; i++) out[i] = in[i];
#endif
}

int ces_is_zero(const void *address, size_t length) {
  const volatile unsigned char *bytes = address;
  unsigned char all = 0;
  for (size_t i = 0; i < length; i++) all |= bytes[i];
  return all == 0;
}

int ces_is_equal(const void *a, const void *b, size_t length) {
  const volatile unsigned char *x = a, *y = b;
  unsigned char all = 0;
  for (size_t i = 0; i < length; i++) all |= x[i] ^ y[i];
  return all == 0;
}

int64_t ces_page_size(void) { RESULT(sysconf(_SC_PAGESIZE)); }

// --- Seals, secret memory, probes --------------------------------------------------------------

int64_t ces_seal(void *address, size_t length) { RESULT(syscall(NR_MSEAL, address, length, 0)); }

static int64_t set_length(int fd, uint64_t length) { RESULT(ftruncate(fd, (off_t)length)); }

int64_t ces_map_secret(void *address, size_t length) {
  long fd = syscall(NR_MEMFD_SECRET, 02000000 /* O_CLOEXEC */);
  if (fd < 0) return -errno;
  int64_t result = 0;
  if (length > 0) {
    // RLIMIT_FSIZE applies to memfd_secret(2) files too.
    result = ces_without_xfsz(set_length, (int)fd, length);
    if (result == 0 && mmap(address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd, 0) ==
               MAP_FAILED) {
      result = -errno;
    }
  }
  close((int)fd);
  return result;
}

int64_t ces_discard(void *address, size_t length) { RESULT(madvise(address, length, MADV_DONTNEED)); }

int64_t ces_guard_probe(void *address, size_t length) {
  if (madvise(address, length, ADVICE_GUARD_INSTALL) < 0) return -errno;
  return madvise(address, length, ADVICE_GUARD_REMOVE) < 0 ? -errno : 0;
}

int64_t ces_memory_tagging_probe(void) {
  // Arm's MTE (PROT_MTE, PR_SET_TAGGED_ADDR_CTRL) would be probed here; x86-64 cannot tag memory.
  return -ENOSYS;
}
