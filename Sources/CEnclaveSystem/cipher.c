// Implements the protocol of CEnclaveCipher.h.

#include "CEnclaveCipher.h"

#include <string.h>

#include "CEnclaveSystem.h"

// --- Copying bytes that another thread may be replacing -----------------------------------------------

// Word by word where aligned, as all slots are. The accesses are relaxed; the sequence tells whether what
// was read belongs together.

typedef uint64_t two_words __attribute__((vector_size(16), aligned(1), may_alias));

/// Stores two words by one instruction. The cipher loads 16 bytes at once, and a processor forwards them from one
/// store without delay, but not from two (measured: 11 ns of 97 for a secret of 32 bytes).
static inline void store_pair(void *to, uint64_t low, uint64_t high) { *(two_words *)to = (two_words){low, high}; }

static void load_racing(void *to, const void *from, size_t length) {
  const char *source = from;
  char *target = to;
  if (((uintptr_t)from & 7) == 0) {
    for (; length >= 16; length -= 16, source += 16, target += 16) {
      store_pair(target, __atomic_load_n((const uint64_t *)source, __ATOMIC_RELAXED),
                 __atomic_load_n((const uint64_t *)(source + 8), __ATOMIC_RELAXED));
    }
    for (; length >= 8; length -= 8, source += 8, target += 8) {
      uint64_t word = __atomic_load_n((const uint64_t *)source, __ATOMIC_RELAXED);
      memcpy(target, &word, 8);
    }
  }
  for (; length > 0; length--) *target++ = __atomic_load_n(source++, __ATOMIC_RELAXED);
}

static void store_racing(void *to, const void *from, size_t length) {
  const char *source = from;
  char *target = to;
  if (((uintptr_t)to & 7) == 0) {
    for (; length >= 8; length -= 8, source += 8, target += 8) {
      uint64_t word;
      memcpy(&word, source, 8);
      __atomic_store_n((uint64_t *)target, word, __ATOMIC_RELAXED);
    }
  }
  for (; length > 0; length--) __atomic_store_n(target++, *source++, __ATOMIC_RELAXED);
}

#define LOAD(field) __atomic_load_n(&slot->field, __ATOMIC_RELAXED)
#define STORE(field, value) __atomic_store_n(&slot->field, value, __ATOMIC_RELAXED)

static void store_meta(ces_cipher_slot *slot, const ces_cipher_meta *meta, uint32_t state) {
  STORE(tag[0], meta->tag[0]);
  STORE(tag[1], meta->tag[1]);
  STORE(counter, meta->counter_low | (uint64_t)meta->counter_high << 32);
  STORE(shard, meta->shard);
  STORE(state, state);
}

/// Makes the sequence odd before any of the following stores becomes visible.
static uint64_t begin_replacing(ces_cipher_slot *slot) {
  uint64_t sequence = LOAD(sequence);
  STORE(sequence, sequence + 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return sequence;
}

static void end_replacing(ces_cipher_slot *slot, uint64_t sequence) {
  __atomic_store_n(&slot->sequence, sequence + 2, __ATOMIC_RELEASE);
}

static void set(ces_cipher_slot *slot, uint32_t state) {
  static const ces_cipher_meta nothing;
  uint64_t sequence = begin_replacing(slot);
  store_meta(slot, &nothing, state);
  end_replacing(slot, sequence);
}

void ces_cipher_begin(void *raw) {
  ces_cipher_slot *slot = raw;
  STORE(writer, 0);
  set(slot, CES_CIPHER_BLANK);
}

void ces_cipher_end(void *raw) { set(raw, CES_CIPHER_BLANK); }

uint64_t ces_cipher_read(const void *raw, const void *from, void *to, size_t length, void *meta) {
  const ces_cipher_slot *slot = raw;
  uint64_t before = __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE);
  if (before & 1) return before;
  uint64_t counter = LOAD(counter);
  uint32_t state = LOAD(state);
  if (state == CES_CIPHER_WRITTEN && LOAD(tampered_sequence) == before) state = CES_CIPHER_TAMPERED;
  store_pair(meta, LOAD(shard) | counter << 32, counter >> 32 | (uint64_t)state << 32);
  store_pair((char *)meta + offsetof(ces_cipher_meta, tag), LOAD(tag[0]), LOAD(tag[1]));
  if (state == CES_CIPHER_WRITTEN) load_racing(to, from, length);
  return ces_cipher_is_unchanged(slot, before) ? before : before | 1;
}

bool ces_cipher_is_unchanged(const void *raw, uint64_t sequence) {
  const ces_cipher_slot *slot = raw;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return LOAD(sequence) == sequence;
}

void ces_cipher_replace(void *raw, void *to, const void *from, size_t length, const void *meta) {
  ces_cipher_slot *slot = raw;
  uint64_t sequence = begin_replacing(slot);
  store_racing(to, from, length);
  store_meta(slot, meta, CES_CIPHER_WRITTEN);
  end_replacing(slot, sequence);
}

void ces_cipher_mark_tampered(void *raw, uint64_t sequence) {
  ces_cipher_slot *slot = raw;
  // Sequence numbers never repeat, so this does not affect a later ciphertext.
  STORE(tampered_sequence, sequence);
}

// --- Residue ----------------------------------------------------------------------------------------------

// These functions have no frames of their own, and are reached by a tail call: a frame would lie in what they clear, and
// its padding would keep what was on the stack before. They move the stack pointer down and clear while moving it up, so
// a signal handler's frame is always below what was cleared.
//
// Few wide stores: the next cipher call waits for the stores in flight. Up to 1 KiB of 64-byte stores it does not notice
// them, twice as many cost it 20 ns (AMD Zen 5).

#if defined(__x86_64__)

#define CLEAR(registers, store, width, last)                                       \
  __asm__("movq %rsp, %rax\n .cfi_def_cfa %rax, 8\n subq %rdi, %rsp\n" registers   \
          "1:\n .irp at, 0,1,2,3\n " store ", (\\at * " width ")(%rsp)\n .endr\n" \
          "addq $(4 * " width "), %rsp\n cmpq %rax, %rsp\n jb 1b\n" last \
          "ret\n")

__attribute__((naked)) static void clear_with_sse(size_t unused) {
  CLEAR(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n pxor %xmm\\n, %xmm\\n\n .endr\n", "movups %xmm0", "16", "");
}

__attribute__((naked)) static void clear_with_avx(size_t unused) {
  CLEAR("vzeroall\n", "vmovdqu %ymm0", "32", "vzeroupper\n");
}

// The upper 16 registers, which C libraries use for copying where they exist, are not changed by vzeroall.
__attribute__((naked)) static void clear_with_avx512(size_t unused) {
  CLEAR(".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n vpxorq %zmm\\n, %zmm\\n, %zmm\\n\n .endr\n",
        "vmovdqu64 %zmm16", "64", "vzeroall\n");
}

void ces_clear_residue(size_t stack_bytes) {
  void (*clear)(size_t) = !__builtin_cpu_supports("avx")       ? clear_with_sse
                          : !__builtin_cpu_supports("avx512f") ? clear_with_avx
                                                               : clear_with_avx512;
  __attribute__((musttail)) return clear(stack_bytes);
}

#elif defined(__aarch64__)

// The lower halves of v8 to v15 belong to the caller, who has no secret in them.
__attribute__((naked)) static void clear_all(size_t unused) {
  __asm__(
      "mov x1, sp\n .cfi_def_cfa x1, 0\n sub sp, sp, x0\n"
      ".irp n, 0,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n movi v\\n\\().16b, #0\n .endr\n"
      ".irp n, 8,9,10,11,12,13,14,15\n ins v\\n\\().d[1], xzr\n .endr\n"
      "1:\n .irp at, 0,32,64,96,128,160,192,224\n stp q0, q0, [sp, #\\at]\n .endr\n"
      "add sp, sp, #256\n cmp sp, x1\n b.lo 1b\n ret");
}

void ces_clear_residue(size_t stack_bytes) { __attribute__((musttail)) return clear_all(stack_bytes); }

#else
#error "no code for this processor: EnclaveSystem needs x86-64 or aarch64"
#endif

// --- Scratch memory ----------------------------------------------------------------------------------------

ces_scratch ces_scratches[CES_THREADS];
uint32_t ces_scratch_wipers;

ces_scratch *ces_scratch_of(int32_t thread) { return &ces_scratches[thread]; }

int32_t ces_scratch_find(const ces_scratch *scratch, uint64_t owner, int32_t from, uint32_t *count) {
  for (int32_t first = from; first < 64; first++) {
    if (__atomic_load_n(&scratch->owners[first], __ATOMIC_ACQUIRE) != owner) continue;
    *count = __atomic_load_n(&scratch->counts[first], __ATOMIC_RELAXED);
    return first;
  }
  return -1;
}
