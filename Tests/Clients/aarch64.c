// What the library does with registers, in assembly of its own, on aarch64: run by Tests/Support/test-aarch64.
// Prints what is wrong; the exit status is 1 then.

#define _GNU_SOURCE
#include "CEnclaveCipher.h"
#include "CEnclaveSystem.h"
#include "wipe.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#define SECRET 0x5a5a5a5a5a5a5a5aull
enum { VECTORS = 32, LONGEST_VECTOR = 256 };

static int failures;
static void expect(bool holds, const char *what, long at) {
  if (holds) return;
  failures++;
  printf("aarch64: %s (%ld)\n", what, at);
}

// Fills all registers with SECRET, then clears them: `fill_and_clear…` by ces_clear_residue, `fill_and_trap…` by
// the handler of the trap. Both then store all vector registers in `vectors`.
unsigned char vectors[VECTORS * LONGEST_VECTOR];
void fill_and_clear(void), fill_and_clear_sve(void), fill_and_trap(void), fill_and_trap_sve(void);
void finish(void);
__asm__(
    ".arch_extension sve\n"
    ".macro all do\n"
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "\\do \\n\n"
    ".endr\n"
    ".endm\n"
    ".macro fill n\n dup v\\n\\().2d, x0\n .endm\n"
    ".macro fill_sve n\n dup z\\n\\().d, x0\n .endm\n"
    ".macro store n\n str q\\n, [x0, #16 * \\n]\n .endm\n"
    ".macro store_sve n\n str z\\n, [x0, #\\n, mul vl]\n .endm\n"
    ".macro address\n adrp x0, vectors\n add x0, x0, :lo12:vectors\n .endm\n"
    ".macro clear_after do, to\n"
    " stp x29, x30, [sp, #-80]!\n"
    " mov x29, sp\n"
    " stp d8, d9, [sp, #16]\n stp d10, d11, [sp, #32]\n stp d12, d13, [sp, #48]\n stp d14, d15, [sp, #64]\n"
    " ldr x0, =0x5a5a5a5a5a5a5a5a\n"
    " all \\do\n"
    " mov x0, #2048\n"
    " bl ces_clear_residue\n"
    " address\n"
    " all \\to\n"
    " ldp d8, d9, [sp, #16]\n ldp d10, d11, [sp, #32]\n ldp d12, d13, [sp, #48]\n ldp d14, d15, [sp, #64]\n"
    " ldp x29, x30, [sp], #80\n"
    " ret\n"
    ".endm\n"
    ".macro trap_after do, to\n"
    " ldr x0, =0x5a5a5a5a5a5a5a5a\n"
    ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28\n"
    " mov x\\n, x0\n"
    ".endr\n"
    " stp x0, x0, [sp, #-16]!\n"
    " all \\do\n"
    " brk #1\n"
    " address\n"
    " all \\to\n"
    " b finish\n"
    ".endm\n"
    "fill_and_clear: clear_after fill, store\n"
    "fill_and_clear_sve: clear_after fill_sve, store_sve\n"
    "fill_and_trap: trap_after fill, store\n"
    "fill_and_trap_sve: trap_after fill_sve, store_sve\n"
    ".ltorg\n");

static size_t vector_bytes = 16;

static void expect_clear_vectors(bool keeps_callers, const char *what) {
  for (size_t at = 0; at < VECTORS * vector_bytes; at++) {
    // Calls preserve the lower halves of v8 to v15 (AAPCS64).
    size_t number = at / vector_bytes;
    bool is_kept = keeps_callers && number >= 8 && number < 16 && at % vector_bytes < 8;
    expect(vectors[at] == (is_kept ? 0x5a : 0), what, (long)number);
  }
}

static bool on_trap_found;
static void on_trap(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info;
  ucontext_t *interrupted = context;
  on_trap_found = memmem(&interrupted->uc_mcontext, sizeof interrupted->uc_mcontext, &(uint64_t){SECRET}, 8) != NULL;
  ces_wipe_clear_interrupted(interrupted);
  expect(on_trap_found, "the secret was in the saved registers", 0);
  for (int n = 0; n < 29; n++) expect(interrupted->uc_mcontext.regs[n] == 0, "a general register", n);
  const uint64_t *stack = (const uint64_t *)interrupted->uc_mcontext.sp;
  expect(stack[0] == 0 && stack[1] == 0, "the stack", 0);
  interrupted->uc_mcontext.pc += 4;  // after brk
}

static sigjmp_buf back;
void finish(void) {
  expect_clear_vectors(false, "a vector register of the interrupted thread");
  siglongjmp(back, 1);
}

static __attribute__((noinline)) void leave_on_stack(void) {
  volatile uint64_t bytes[128];
  for (int i = 0; i < 128; i++) bytes[i] = SECRET;
}
static __attribute__((noinline)) int count_on_stack(void) {
  volatile uint64_t bytes[128];
  int found = 0;
  for (int i = 0; i < 128; i++) found += bytes[i] == SECRET;
  return found;
}

enum { THREADS = 4, ROUNDS = 50000 };
static uint32_t word;
static long counted;
static void *count(void *unused) {
  for (int i = 0; i < ROUNDS; i++) {
    ces_spin_lock(&word);
    counted++;
    ces_spin_unlock(&word);
  }
  return unused;
}

int main(void) {
  bool has_sve = getauxval(AT_HWCAP) & HWCAP_SVE;
  if (has_sve) {
    uint64_t bytes;
    __asm__(".arch_extension sve\n rdvl %0, #1" : "=r"(bytes));
    vector_bytes = bytes;
  }
  ces_wipe_note_code();
  (has_sve ? fill_and_clear_sve : fill_and_clear)();
  expect_clear_vectors(true, "a vector register after a cipher");

  leave_on_stack();
  int before = count_on_stack();
  expect(before > 0, "the secret was on the stack", before);
  leave_on_stack();
  ces_clear_residue(2048);
  int after = count_on_stack();
  expect(after == 0, "the stack after a cipher", after);

  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  if (sigaction(SIGTRAP, &action, NULL) < 0) return perror("sigaction"), 2;
  if (sigsetjmp(back, 0) == 0) (has_sve ? fill_and_trap_sve : fill_and_trap)();

  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    int error = pthread_create(&threads[i], NULL, count, NULL);
    if (error) return printf("aarch64: pthread_create: %s\n", strerror(error)), 2;
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  expect(counted == (long)THREADS * ROUNDS, "a lock admitted two threads", counted);

  printf("%d failures, vectors of %zu bytes\n", failures, vector_bytes);
  return failures != 0;
}
