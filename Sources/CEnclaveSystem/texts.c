// Implements CEnclaveTexts.h.
//
// Copies are in lists by hash. A list only grows at its head, by compare-and-swap. It needs no lock, so a
// forked child never finds one held.

#define _GNU_SOURCE
#include "CEnclaveTexts.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum : size_t { LISTS = 1024, RECENT = 512 };

static ces_text *lists[LISTS];
/// Recently found copies, by a hash of the caller's pointer.
static const ces_text *recent[RECENT];
static uint32_t count;

static const ces_text others = {NULL, 0, 12, "other labels"};

size_t ces_text_length(const char *bytes, size_t length) {
  if (length <= CES_TEXT_LIMIT) return length;
  length = CES_TEXT_LIMIT;
  // Cut whole scalars: continuation bytes begin with the bits 10.
  while (length > 0 && ((unsigned char)bytes[length] & 0xc0) == 0x80) length--;
  return length > CES_TEXT_LIMIT - 4 ? length : CES_TEXT_LIMIT;  // not UTF-8
}

static const ces_text *find(const ces_text *text, const ces_text *end, uint64_t hash,
                            const char *bytes, size_t length) {
  for (; text != end; text = text->next) {
    if (text->hash == hash && text->length == length && memcmp(text->bytes, bytes, length) == 0) {
      return text;
    }
  }
  return NULL;
}

const ces_text *ces_text_keep(const char *bytes, size_t length) {
  length = ces_text_length(bytes, length);
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (size_t index = 0; index < length; index++) {
    hash = (hash ^ (unsigned char)bytes[index]) * 0x100000001b3;
  }
  ces_text **list = &lists[(hash ^ hash >> 32) % LISTS];
  ces_text *first = __atomic_load_n(list, __ATOMIC_ACQUIRE);
  const ces_text *found = find(first, NULL, hash, bytes, length);
  if (found) return found;
  if (__atomic_fetch_add(&count, 1, __ATOMIC_RELAXED) >= CES_TEXTS_LIMIT) {
    __atomic_fetch_sub(&count, 1, __ATOMIC_RELAXED);
    return &others;
  }
  ces_text *made = malloc(sizeof *made + length + 1);
  if (!made) {
    __atomic_fetch_sub(&count, 1, __ATOMIC_RELAXED);
    return &others;
  }
  made->hash = hash;
  made->length = (uint32_t)length;
  char *copy = (char *)(made + 1);
  memcpy(copy, bytes, length);
  copy[length] = 0;
  made->bytes = copy;
  made->next = first;
  while (!__atomic_compare_exchange_n(list, &made->next, made, true, __ATOMIC_RELEASE,
                                      __ATOMIC_ACQUIRE)) {
    // Another thread inserted first, perhaps the same text.
    found = find(made->next, first, hash, bytes, length);
    first = made->next;
    if (found) {
      free(made);
      __atomic_fetch_sub(&count, 1, __ATOMIC_RELAXED);
      return found;
    }
  }
  return made;
}

const ces_text *ces_text_of(const char *text) {
  uintptr_t address = (uintptr_t)text;
  const ces_text **cached = &recent[(address ^ address >> 9) % RECENT];
  const ces_text *known = __atomic_load_n(cached, __ATOMIC_ACQUIRE);
  // Compare the texts: the pointer's memory may hold another one by now. (A text that was cut never equals its
  // copy; it is found below.)
  if (known && strcmp(known->bytes, text) == 0) return known;
  // Reads at most one byte more than is kept, and only while there is no NUL.
  known = ces_text_keep(text, strnlen(text, CES_TEXT_LIMIT + 1));
  __atomic_store_n(cached, known, __ATOMIC_RELEASE);
  return known;
}
