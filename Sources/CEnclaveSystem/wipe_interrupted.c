// Clears the registers and the stack of the thread that a signal interrupted.
//
// A crash report prints the registers and the bytes they point to, and a core dump contains everything.
// What is needed to unwind the stack is kept: the program counter, the stack pointer, a valid frame
// pointer, and return addresses.

#define _GNU_SOURCE
#include "wipe.h"

#include <link.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { CODE_RANGES = 256, FRAME_BYTES = 4096, RED_ZONE = 128 };
static struct {
  uintptr_t from, to;
} code[CODE_RANGES];
static size_t code_count;

static int note_object(struct dl_phdr_info *info, size_t size, void *unused) {
  (void)size, (void)unused;
  for (int i = 0; i < info->dlpi_phnum && code_count < CODE_RANGES; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    if (header->p_type != PT_LOAD || !(header->p_flags & PF_X)) continue;
    code[code_count].from = info->dlpi_addr + header->p_vaddr;
    code[code_count].to = code[code_count].from + header->p_memsz;
    code_count++;
  }
  return 0;
}

void ces_wipe_note_code(void) {
  code_count = 0;
  dl_iterate_phdr(note_object, NULL);
}

static bool is_code(uintptr_t word) {
  for (size_t i = 0; i < code_count; i++) {
    if (word >= code[i].from && word < code[i].to) return true;
  }
  return false;
}

/// Clears the words in [from, to) that are not code addresses.
static void clear_stack(uintptr_t from, uintptr_t to) {
  from &= ~(uintptr_t)7;
  for (uintptr_t at = from; at < to; at += sizeof(uintptr_t)) {
    volatile uintptr_t *word = (volatile uintptr_t *)at;
    if (!is_code(*word)) *word = 0;
  }
}

static bool is_frame(uintptr_t frame, uintptr_t stack) {
  return frame >= stack && frame - stack < (8u << 20) && frame % sizeof(uintptr_t) == 0;
}

#if defined(__x86_64__)
/// Clears the vector registers saved by the kernel, and all other extended state except PKRU, which would
/// be restored with all keys open. Intel SDM volume 1, 13.4; <asm/sigcontext.h>.
static void clear_vectors(struct _libc_fpstate *state) {
  if (!state) return;
  memset(state->_st, 0, sizeof state->_st);
  memset(state->_xmm, 0, sizeof state->_xmm);
  const uint32_t *software = (const uint32_t *)((const char *)state + 464);
  if (software[0] != 0x46505853u) return;  // FP_XSTATE_MAGIC1: extended state follows
  uint32_t size = software[4], a, b = 0, c, d, pkru_bytes = 0, pkru_at = 0;
  if (__get_cpuid_count(0xd, 9, &a, &b, &c, &d)) {
    pkru_bytes = a;
    pkru_at = b;
  }
  enum { LEGACY = 512, HEADER = 64 };
  for (uint32_t at = LEGACY + HEADER; at + 4 <= size; at++) {
    if (at >= pkru_at && at < pkru_at + pkru_bytes) continue;
    ((volatile char *)state)[at] = 0;
  }
}
#elif defined(__aarch64__)
// The magic numbers of the records of SVE, SME and SME2; older <asm/sigcontext.h> lack some of them.
enum { SVE = 0x53564501, ZA = 0x54366345, ZT = 0x5a544e01 };

/// Clears the vector registers saved by the kernel, in all records that hold some: if a thread has used SVE, the
/// kernel restores them from SVE's record, not from the first one. Other records must stay: a cleared record of
/// the permission overlays would open all keys. <asm/sigcontext.h>.
static void clear_vectors(unsigned char *records, size_t length) {
  enum { HEADER = 16 };  // of a record of vectors
  for (size_t at = 0; at + sizeof(struct _aarch64_ctx) <= length;) {
    const struct _aarch64_ctx *record = (const struct _aarch64_ctx *)(records + at);
    if (record->magic == 0 || record->size < HEADER || record->size > length - at) return;
    if (record->magic == FPSIMD_MAGIC) {
      struct fpsimd_context *vectors = (struct fpsimd_context *)(records + at);
      memset(vectors->vregs, 0, sizeof vectors->vregs);
    } else if (record->magic == SVE || record->magic == ZA || record->magic == ZT) {
      memset(records + at + HEADER, 0, record->size - HEADER);
    } else if (record->magic == EXTRA_MAGIC) {
      const struct extra_context *more = (const struct extra_context *)record;
      clear_vectors((unsigned char *)(uintptr_t)more->datap, more->size);
    }
    at += record->size;
  }
}
#endif

static void clear_registers(ucontext_t *context) {
#if defined(__x86_64__)
  greg_t *registers = context->uc_mcontext.gregs;
  uintptr_t stack = (uintptr_t)registers[REG_RSP], frame = (uintptr_t)registers[REG_RBP];
  static const int general[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_R8,
                                REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  for (size_t i = 0; i < sizeof general / sizeof *general; i++) registers[general[i]] = 0;
  registers[REG_CR2] = 0;
  if (!is_frame(frame, stack)) registers[REG_RBP] = 0;
  clear_vectors(context->uc_mcontext.fpregs);
  uintptr_t red = RED_ZONE;
#elif defined(__aarch64__)
  uintptr_t stack = context->uc_mcontext.sp, frame = context->uc_mcontext.regs[29], red = 0;
  for (int i = 0; i < 29; i++) context->uc_mcontext.regs[i] = 0;
  context->uc_mcontext.fault_address = 0;
  if (!is_frame(frame, stack)) context->uc_mcontext.regs[29] = 0;
  clear_vectors(context->uc_mcontext.__reserved, sizeof context->uc_mcontext.__reserved);
#endif
  uintptr_t end = stack + 16;
  if (is_frame(frame, stack) && frame > end) {
    end = frame - stack < FRAME_BYTES ? frame : stack + FRAME_BYTES;
  } else if (frame == stack) {
    end = stack;  // a frame that holds only the return address
  }
  clear_stack(stack, end);
  // The red zone comes last: if nothing is mapped below the stack pointer, the fault ends this function.
  clear_stack(stack - red, stack);
}

void ces_wipe_clear_interrupted(ucontext_t *context) {
  // If the stack has overflowed, there is nothing to clear.
  ces_wipe_begin_faults();
  if (sigsetjmp(ces_wipe_skip, 0) == 0) clear_registers(context);
  ces_wipe_end_faults();
}
