// The wipe table of CEnclaveWipe.h: one entry per chunk.

#define _GNU_SOURCE
#include "wipe.h"

#include <sys/mman.h>
#include <unistd.h>

#include "CEnclaveSystem.h"

int ces_wipe_owner;
ces_wipe_block *ces_wipe_blocks;
static ces_wipe_entry *free_entry;  // guarded by `table_lock`, like every change except the handler's
static uint32_t table_lock;

ces_wipe_entry *ces_wipe_add(void *data, ces_gate *gate) {
  ces_process_lock(&table_lock);
  if (!free_entry) {
    ces_wipe_block *block = mmap(NULL, CES_WIPE_BLOCK_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
      ces_spin_unlock(&table_lock);
      return NULL;
    }
    for (size_t i = 0; i < CES_WIPE_BLOCK_ENTRIES; i++) {
      block->entries[i].data = free_entry;
      free_entry = &block->entries[i];
    }
    block->next = ces_wipe_blocks;
    __atomic_store_n(&ces_wipe_blocks, block, __ATOMIC_RELEASE);
  }
  ces_wipe_entry *entry = free_entry;
  free_entry = entry->data;
  entry->data = data;
  entry->gate = gate;
  entry->used = 0;
  entry->late = 0;
  __atomic_store_n(&ces_wipe_owner, getpid(), __ATOMIC_RELAXED);
  __atomic_store_n(&entry->state, CES_WIPE_LIVE, __ATOMIC_SEQ_CST);
  ces_spin_unlock(&table_lock);
  return entry;
}

void ces_wipe_inherit(void) { __atomic_store_n(&ces_wipe_owner, getpid(), __ATOMIC_RELAXED); }

void ces_wipe_remove(ces_wipe_entry *entry) {
  uint32_t live = CES_WIPE_LIVE;
  while (!__atomic_compare_exchange_n(&entry->state, &live, CES_WIPE_FREE, false,
                                      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    ces_sleep_ms(1000);  // a wipe has claimed it, so the process is about to end
    live = CES_WIPE_LIVE;
  }
  ces_process_lock(&table_lock);
  entry->data = free_entry;
  free_entry = entry;
  ces_spin_unlock(&table_lock);
}
