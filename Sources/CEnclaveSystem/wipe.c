// Wipes every secret of the process, from a signal handler.

#define _GNU_SOURCE
#include "wipe.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <time.h>

#include "CEnclaveSystem.h"

// --- Status ------------------------------------------------------------------------------------

uint32_t ces_wipe_handlers;
static uint32_t wiper;  // the thread that wipes; 0 before
static uint32_t result;  // CES_WIPE_DONE or CES_WIPE_LEFT; 0 before
static uint64_t *status_word, *signal_word;

uint32_t ces_wipe_status(void) {
  uint32_t done = __atomic_load_n(&result, __ATOMIC_ACQUIRE);
  if (done) return done;
  if (__atomic_load_n(&wiper, __ATOMIC_RELAXED)) return CES_WIPE_BEGUN;
  return __atomic_load_n(&ces_wipe_handlers, __ATOMIC_RELAXED) ? CES_WIPE_INSTALLED : CES_WIPE_ABSENT;
}

void ces_wipe_report_to(uint64_t *status, uint64_t *signal) {
  __atomic_store_n(&signal_word, signal, __ATOMIC_RELEASE);
  __atomic_store_n(&status_word, status, __ATOMIC_RELEASE);
}

// --- The wipe ----------------------------------------------------------------------------------

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/// Whether threads other than this one have write windows or frees open; with `with_readers`, read windows
/// too, because those of a cipher gate decrypt into scratch memory.
static bool has_writers(const ces_gate *gate, bool with_readers) {
  for (int i = 0; i < CES_THREADS; i++) {
    // This thread cannot continue before the handler returns. (The shared number may be another thread's.)
    if (i == ces_thread && i != CES_THREADS - 1) continue;
    ces_counters *counters = ces_gate_counters(gate, i);
    if (counters && ((ces_load_relaxed(&counters->writes) & CES_OPEN_MASK) != 0 ||
                  ces_load_relaxed32(&counters->wiping) != 0 ||
                  (with_readers && (ces_load_relaxed(&counters->reads) & CES_OPEN_MASK) != 0))) {
      return true;
    }
  }
  return false;
}

/// The same for a table entry: scratch memory is written in windows of any arena.
static bool is_being_written(const ces_wipe_entry *entry) {
  if (!entry->gate->serves_all) return has_writers(entry->gate, false);
  ces_wipe_block *block = __atomic_load_n(&ces_wipe_blocks, __ATOMIC_ACQUIRE);
  for (; block; block = block->next) {
    for (size_t i = 0; i < CES_WIPE_BLOCK_ENTRIES; i++) {
      const ces_wipe_entry *other = &block->entries[i];
      if (__atomic_load_n(&other->state, __ATOMIC_RELAXED) == CES_WIPE_TAKEN &&
          has_writers(other->gate, true)) {
        return true;
      }
    }
  }
  return false;
}

static void wipe_entry(ces_wipe_entry *entry, uint32_t keys) {
  size_t used = __atomic_load_n(&entry->used, __ATOMIC_ACQUIRE);
  if (used == 0) return;
  ces_wipe_repair(entry->data, used);
  if (sigsetjmp(ces_wipe_skip, 0) == 0) {
    // After a fault the kernel has closed all keys again.
    if (keys) ces_wrpkru(ces_rdpkru() & ~keys);
    // Without a key, page protection closes (or freezes) the memory.
    if (entry->gate->key_bits == 0) mprotect(entry->data, used, PROT_READ | PROT_WRITE);
    ces_wipe(entry->data, used);
  }
  ces_wipe_repair(NULL, 0);
}

/// Claims every live entry and marks its gate as wiped. Returns the number of entries claimed.
static size_t take_all(void) {
  size_t count = 0;
  ces_wipe_block *block = __atomic_load_n(&ces_wipe_blocks, __ATOMIC_ACQUIRE);
  for (; block; block = block->next) {
    for (size_t i = 0; i < CES_WIPE_BLOCK_ENTRIES; i++) {
      ces_wipe_entry *entry = &block->entries[i];
      uint32_t live = CES_WIPE_LIVE;
      if (!__atomic_compare_exchange_n(&entry->state, &live, CES_WIPE_TAKEN, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        continue;
      }
      // In a forked child the memory is zeros or not mapped.
      if (!ces_is_own(entry->gate)) {
        entry->used = 0;
        continue;
      }
      __atomic_store_n(&entry->gate->wiped, 1, __ATOMIC_RELEASE);
      ces_store_release32(&entry->gate->access, CES_ACCESS_DESTROYED);
      count++;
    }
  }
  return count;
}

/// Wipes the claimed entries (only the `late` ones if `again`). Returns whether another thread may still be
/// writing.
static bool wipe_taken(uint32_t keys, bool again) {
  bool is_written = false;
  ces_wipe_block *block = __atomic_load_n(&ces_wipe_blocks, __ATOMIC_ACQUIRE);
  for (; block; block = block->next) {
    for (size_t i = 0; i < CES_WIPE_BLOCK_ENTRIES; i++) {
      ces_wipe_entry *entry = &block->entries[i];
      if (__atomic_load_n(&entry->state, __ATOMIC_RELAXED) != CES_WIPE_TAKEN) continue;
      if (again && !entry->late) continue;
      // Checked before the wipe, so that the wipe is repeated after a writer that leaves during it.
      entry->late = entry->used != 0 && is_being_written(entry);
      wipe_entry(entry, keys);
      is_written |= entry->late != 0;
    }
  }
  return is_written;
}

static void report(int signal) {
  if (sigsetjmp(ces_wipe_skip, 0) != 0) return;  // the page was truncated
  uint64_t *status = __atomic_load_n(&status_word, __ATOMIC_ACQUIRE);
  uint64_t *number = __atomic_load_n(&signal_word, __ATOMIC_ACQUIRE);
  if (number) ces_store_relaxed(number, (uint64_t)signal);
  if (status) ces_store_release(status, ces_wipe_status());
}

void ces_wipe_everything(int signal) {
  uint32_t nobody = 0, self = ces_this_thread();
  if (!__atomic_compare_exchange_n(&wiper, &nobody, self, false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE)) {
    if (nobody == self) return;  // a fault in the handler
    for (uint32_t tries = 0; __atomic_load_n(&result, __ATOMIC_ACQUIRE) == 0;) {
      ces_back_off(tries++);
    }
    return;
  }
  ces_wipe_begin_faults();
  uint32_t keys = __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED);
  uint32_t found = keys ? ces_rdpkru() : 0;

  bool is_written = false;
  // Also wipes chunks added meanwhile; whoever adds one later sees that the wipe has begun.
  for (int round = 0; round < 3 && take_all() > 0; round++) {
    if (ces_barrier() < 0) ces_barrier_replace();
    is_written |= wipe_taken(keys, false);
  }
  uint64_t end = now_ns() + CES_WIPE_GRACE_MS * 1000000ull;
  for (uint32_t tries = 0; is_written && now_ns() < end;) {
    ces_back_off(tries++);
    is_written = wipe_taken(keys, true);
  }
  __atomic_store_n(&result, is_written ? CES_WIPE_LEFT : CES_WIPE_DONE, __ATOMIC_RELEASE);
  report(signal);

  if (keys) ces_wrpkru(found);
  ces_wipe_end_faults();
}
