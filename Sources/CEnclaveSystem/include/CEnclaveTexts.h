// Copies of names: one for each text, kept until the process ends. A name that a program gives is a
// pointer whose text may be changed, freed or unmapped (dlclose(3)) as soon as the call returns.

#ifndef C_ENCLAVE_TEXTS_H
#define C_ENCLAVE_TEXTS_H

#include <stdint.h>
#include <stddef.h>

enum : size_t {
  /// Longer text is cut, between two scalars of UTF-8.
  CES_TEXT_LIMIT = 255,
  /// So many different texts are kept; further ones share one copy, "other labels".
  CES_TEXTS_LIMIT = 65536,
};

typedef struct ces_text {
  struct ces_text *next;
  uint64_t hash;
  uint32_t length;
  const char *bytes;  // and a NUL
} ces_text;

/// The copy of a C string: NUL ends it, or its length does at the limit. Never NULL. No lock: a hash of
/// the pointer finds a copy, which is compared with the text before it is used.
const ces_text *ces_text_of(const char *text);
/// The copy of so many bytes.
const ces_text *ces_text_keep(const char *bytes, size_t length);
/// How much of some text is kept.
size_t ces_text_length(const char *bytes, size_t length);

#endif
