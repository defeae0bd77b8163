// Plants texts that a search of memory must find, as its control. Preloaded into the server:
//
//     cc -shared -fPIC -O1 -pthread -o plant.so plant.c
//     PLANTED=heap:HEX,stack:HEX,... LD_PRELOAD=plant.so server ...
//
//     heap       a block of malloc(3)
//     stack      the stack of a waiting thread
//     guard      the last bytes before a PROT_NONE page, between two such pages
//     marker     likewise, before a guard marker of madvise(2) within one mapping
//     registers  general registers of a waiting thread, 32 bytes
//     vectors    vector registers of a waiting thread, 32 bytes

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *planted;
static int ready;
static void *kept;

static void fail(const char *what) {
  perror(what);
  _exit(1);
}

/// Writes the bytes for a place directly to their destination. Returns their number; 0: none.
static size_t decode(const char *place, unsigned char *bytes, size_t limit) {
  const char *text = planted;
  size_t length = strlen(place);
  while (text && (strncmp(text, place, length) || text[length] != ':')) {
    text = strchr(text, ',');
    if (text) text++;
  }
  size_t count = 0;
  if (text) {
    unsigned byte;
    for (text += length + 1; count < limit && sscanf(text, "%2x", &byte) == 1; text += 2) {
      bytes[count++] = (unsigned char)byte;
    }
  }
  return count;
}

static void done(void) { __atomic_fetch_add(&ready, 1, __ATOMIC_RELEASE); }

static void *on_stack(void *unused) {
  volatile unsigned char bytes[256];
  (void)decode("stack", (unsigned char *)bytes, sizeof bytes);
  done();
  for (;;) pause();
  return unused;
}

static void *in_registers(void *unused) {
  unsigned char words[32];
  if (decode("registers", words, sizeof words) != sizeof words) {
    done();
    return unused;
  }
  // Loads the words and wipes them from the stack; then the thread never returns to C.
#if defined(__x86_64__)
  __asm__ volatile(
      "mov 0(%0), %%r12\n mov 8(%0), %%r13\n mov 16(%0), %%r14\n mov 24(%0), %%r15\n"
      "movq $0, 0(%0)\n movq $0, 8(%0)\n movq $0, 16(%0)\n movq $0, 24(%0)\n"
      "lock incl %1\n"
      "1: mov $34, %%eax\n syscall\n jmp 1b\n"  // pause(2)
      :: "r"(words), "m"(ready) : "r12", "r13", "r14", "r15", "rax", "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register unsigned char *start __asm__("x9") = words;
  register int *flag __asm__("x10") = &ready;
  __asm__ volatile(
      "ldp x19, x20, [x9]\n ldp x21, x22, [x9, 16]\n stp xzr, xzr, [x9]\n stp xzr, xzr, [x9, 16]\n"
      "2: ldaxr w11, [x10]\n add w11, w11, 1\n stlxr w12, w11, [x10]\n cbnz w12, 2b\n"
      "1: mov x0, 0\n mov x1, 0\n mov x2, 0\n mov x3, 0\n mov x4, 0\n mov x8, 73\n svc 0\n b 1b\n"  // ppoll(2)
      :: "r"(start), "r"(flag) : "x0", "x1", "x2", "x3", "x4", "x8", "x11", "x12", "x19", "x20",
      "x21", "x22", "memory");
#else
#error "unsupported processor"
#endif
  return unused;
}

static void *in_vectors(void *unused) {
  unsigned char words[32];
  if (decode("vectors", words, sizeof words) != sizeof words) {
    done();
    return unused;
  }
#if defined(__x86_64__)
  __asm__ volatile(
      "movdqu 0(%0), %%xmm8\n movdqu 16(%0), %%xmm9\n"
      "movq $0, 0(%0)\n movq $0, 8(%0)\n movq $0, 16(%0)\n movq $0, 24(%0)\n"
      "lock incl %1\n"
      "1: mov $34, %%eax\n syscall\n jmp 1b\n"
      :: "r"(words), "m"(ready) : "xmm8", "xmm9", "rax", "rcx", "r11", "memory");
#else
  register unsigned char *start __asm__("x9") = words;
  register int *flag __asm__("x10") = &ready;
  __asm__ volatile(
      "ldp q8, q9, [x9]\n stp xzr, xzr, [x9]\n stp xzr, xzr, [x9, 16]\n"
      "2: ldaxr w11, [x10]\n add w11, w11, 1\n stlxr w12, w11, [x10]\n cbnz w12, 2b\n"
      "1: mov x0, 0\n mov x1, 0\n mov x2, 0\n mov x3, 0\n mov x4, 0\n mov x8, 73\n svc 0\n b 1b\n"
      :: "r"(start), "r"(flag) : "x0", "x1", "x2", "x3", "x4", "x8", "x11", "x12", "v8", "v9",
      "memory");
#endif
  return unused;
}

/// Four pages, of which the first and the third are unreadable; the text is at the end of the second.
static void beside_guards(const char *place, int is_marker) {
  unsigned char text[256];
  size_t page = (size_t)getpagesize(), count = decode(place, text, sizeof text);
  unsigned char *start = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) fail("mmap");
  memcpy(start + 2 * page - count, text, count);
  explicit_bzero(text, sizeof text);
  for (int guard = 0; guard < 4; guard += 2) {
    // (Since Linux 6.13; before that, a PROT_NONE page is used.)
    unsigned char *address = start + (size_t)guard * page;
    if (is_marker && madvise(address, page, MADV_GUARD_INSTALL) == 0) continue;
    if (mprotect(address, page, PROT_NONE)) fail("mprotect");
  }
}

__attribute__((constructor)) static void plant(void) {
  planted = getenv("PLANTED");
  if (!planted) return;
  kept = malloc(256);
  (void)decode("heap", kept, 256);
  beside_guards("guard", 0);
  beside_guards("marker", 1);
  void *(*const threads[])(void *) = {on_stack, in_registers, in_vectors};
  for (size_t index = 0; index < 3; index++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, threads[index], NULL)) fail("pthread_create");
    pthread_detach(thread);
  }
  while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) < 3) usleep(1000);
}
