// Implements the protocol of CEnclaveCipher.h.

#include "CEnclaveCipher.h"

#include <string.h>

#include "CEnclaveSystem.h"

// --- Copying bytes that another thread may be replacing -----------------------------------------------

// Word by word where aligned, as all slots are. The accesses are relaxed; the sequence tells whether what
// was read belongs together.

static void load_racing(void *to, const void *from, size_t length) {
  const char *source = from;
  char *target = to;
  if (((uintptr_t)from & 7) == 0) {
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

static void store_meta(ces_cipher_slot *slot, const ces_cipher_slot *meta, uint32_t state) {
  STORE(tag[0], meta->tag[0]);
  STORE(tag[1], meta->tag[1]);
  STORE(counter, meta->counter);
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
  static const ces_cipher_slot nothing;
  uint64_t sequence = begin_replacing(slot);
  store_meta(slot, &nothing, state);
  end_replacing(slot, sequence);
}

void ces_cipher_begin(ces_cipher_slot *slot) {
  STORE(writer, 0);
  set(slot, CES_CIPHER_BLANK);
}

void ces_cipher_end(ces_cipher_slot *slot) { set(slot, CES_CIPHER_BLANK); }

uint64_t ces_cipher_read(const ces_cipher_slot *slot, const void *from, void *to, size_t length,
                         ces_cipher_slot *meta) {
  uint64_t before = __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE);
  if (before & 1) return before;
  meta->tag[0] = LOAD(tag[0]);
  meta->tag[1] = LOAD(tag[1]);
  meta->counter = LOAD(counter);
  meta->shard = LOAD(shard);
  meta->state = LOAD(state);
  if (meta->state == CES_CIPHER_WRITTEN && LOAD(tampered_sequence) == before) meta->state = CES_CIPHER_TAMPERED;
  if (meta->state == CES_CIPHER_WRITTEN) load_racing(to, from, length);
  return ces_cipher_is_unchanged(slot, before) ? before : before | 1;
}

bool ces_cipher_is_unchanged(const ces_cipher_slot *slot, uint64_t sequence) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return LOAD(sequence) == sequence;
}

void ces_cipher_replace(ces_cipher_slot *slot, void *to, const void *from, size_t length,
                        const ces_cipher_slot *meta) {
  uint64_t sequence = begin_replacing(slot);
  store_racing(to, from, length);
  store_meta(slot, meta, CES_CIPHER_WRITTEN);
  end_replacing(slot, sequence);
}

void ces_cipher_mark_tampered(ces_cipher_slot *slot, uint64_t sequence) {
  // Sequence numbers never repeat, so this does not affect a later ciphertext.
  STORE(tampered_sequence, sequence);
}

// --- Residue ----------------------------------------------------------------------------------------------

__attribute__((noinline)) static void clear_stack_below(size_t bytes) {
  unsigned char below[bytes];
  memset(below, 0, bytes);
  __asm__ volatile("" : : "r"(below) : "memory");  // keeps the memset
}

// Clears what lies directly below the caller's frame. The frames of the functions here lie there, and their padding
// keeps what was on the stack before. So this has no frame of its own, and is reached by a tail call.
__attribute__((naked)) static void clear_frames(size_t unused) {
#if defined(__x86_64__)
  __asm__(
      "subq $256, %rsp; .cfi_adjust_cfa_offset 256; pxor %xmm0, %xmm0;"
      ".irp at, 0,16,32,48,64,80,96,112,128,144,160,176,192,208,224,240; movups %xmm0, \\at(%rsp); .endr;"
      "addq $256, %rsp; .cfi_adjust_cfa_offset -256; ret");
#elif defined(__aarch64__)
  __asm__(
      "sub sp, sp, #256\n .cfi_adjust_cfa_offset 256\n"
      ".irp at, 0,16,32,48,64,80,96,112,128,144,160,176,192,208,224,240\n stp xzr, xzr, [sp, #\\at]\n .endr\n"
      "add sp, sp, #256\n .cfi_adjust_cfa_offset -256\n ret");
#else
#error "no code for this processor: EnclaveSystem needs x86-64 or aarch64"
#endif
}

void ces_clear_residue(size_t stack_bytes) {
  clear_stack_below(stack_bytes);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx")) {
    // The upper registers, which C libraries use for copying where they exist.
    if (__builtin_cpu_supports("avx512f")) {
      __asm__ volatile(
          "vpxorq %zmm16, %zmm16, %zmm16; vpxorq %zmm17, %zmm17, %zmm17; vpxorq %zmm18, %zmm18, %zmm18;"
          "vpxorq %zmm19, %zmm19, %zmm19; vpxorq %zmm20, %zmm20, %zmm20; vpxorq %zmm21, %zmm21, %zmm21;"
          "vpxorq %zmm22, %zmm22, %zmm22; vpxorq %zmm23, %zmm23, %zmm23; vpxorq %zmm24, %zmm24, %zmm24;"
          "vpxorq %zmm25, %zmm25, %zmm25; vpxorq %zmm26, %zmm26, %zmm26; vpxorq %zmm27, %zmm27, %zmm27;"
          "vpxorq %zmm28, %zmm28, %zmm28; vpxorq %zmm29, %zmm29, %zmm29; vpxorq %zmm30, %zmm30, %zmm30;"
          "vpxorq %zmm31, %zmm31, %zmm31");
    }
    __asm__ volatile("vzeroall" : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                     "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  } else {
    __asm__ volatile(
        "pxor %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; pxor %%xmm2, %%xmm2; pxor %%xmm3, %%xmm3;"
        "pxor %%xmm4, %%xmm4; pxor %%xmm5, %%xmm5; pxor %%xmm6, %%xmm6; pxor %%xmm7, %%xmm7;"
        "pxor %%xmm8, %%xmm8; pxor %%xmm9, %%xmm9; pxor %%xmm10, %%xmm10; pxor %%xmm11, %%xmm11;"
        "pxor %%xmm12, %%xmm12; pxor %%xmm13, %%xmm13; pxor %%xmm14, %%xmm14; pxor %%xmm15, %%xmm15"
        : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
              "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  }
#elif defined(__aarch64__)
  __asm__ volatile(
      "movi v0.16b, #0\n movi v1.16b, #0\n movi v2.16b, #0\n movi v3.16b, #0\n"
      "movi v4.16b, #0\n movi v5.16b, #0\n movi v6.16b, #0\n movi v7.16b, #0\n"
      "ins v8.d[1], xzr\n ins v9.d[1], xzr\n ins v10.d[1], xzr\n ins v11.d[1], xzr\n"
      "ins v12.d[1], xzr\n ins v13.d[1], xzr\n ins v14.d[1], xzr\n ins v15.d[1], xzr\n"
      "movi v16.16b, #0\n movi v17.16b, #0\n movi v18.16b, #0\n movi v19.16b, #0\n"
      "movi v20.16b, #0\n movi v21.16b, #0\n movi v22.16b, #0\n movi v23.16b, #0\n"
      "movi v24.16b, #0\n movi v25.16b, #0\n movi v26.16b, #0\n movi v27.16b, #0\n"
      "movi v28.16b, #0\n movi v29.16b, #0\n movi v30.16b, #0\n movi v31.16b, #0"
      : : : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
            "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
#endif
  __attribute__((musttail)) return clear_frames(stack_bytes);
}

// --- Scratch memory ----------------------------------------------------------------------------------------

static ces_scratch scratch[CES_THREADS];

ces_scratch *ces_scratch_of(int32_t thread) { return &scratch[thread]; }

static uint64_t run(uint32_t count) { return count >= 64 ? UINT64_MAX : (1ull << count) - 1; }

int32_t ces_scratch_allocate(ces_scratch *scratch, uint32_t count, uint64_t owner) {
  uint64_t *used = &scratch->used;
  uint64_t bits = run(count);
  uint64_t now = __atomic_load_n(used, __ATOMIC_RELAXED);
  for (;;) {
    // The piece taken last is released first, so the lowest free run is the one in the cache.
    uint32_t first = 0;
    while (first + count <= 64 && (now >> first & bits) != 0) {
      first += (uint32_t)__builtin_ctzll(now >> first & bits) + 1;
    }
    if (first + count > 64) return -1;
    if (__atomic_compare_exchange_n(used, &now, now | bits << first, true, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
      __atomic_store_n(&scratch->counts[first], (uint8_t)count, __ATOMIC_RELAXED);
      __atomic_store_n(&scratch->owners[first], owner, __ATOMIC_RELEASE);
      return (int32_t)first;
    }
  }
}

int32_t ces_scratch_find(const ces_scratch *scratch, uint64_t owner, int32_t from, uint32_t *count) {
  for (int32_t first = from; first < 64; first++) {
    if (__atomic_load_n(&scratch->owners[first], __ATOMIC_ACQUIRE) != owner) continue;
    *count = __atomic_load_n(&scratch->counts[first], __ATOMIC_RELAXED);
    return first;
  }
  return -1;
}

void ces_scratch_release(ces_scratch *scratch, uint32_t first, uint32_t count) {
  __atomic_store_n(&scratch->owners[first], 0, __ATOMIC_RELAXED);
  __atomic_fetch_and(&scratch->used, ~(run(count) << first), __ATOMIC_RELEASE);
}
