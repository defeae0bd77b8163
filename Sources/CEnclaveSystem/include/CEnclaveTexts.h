// Interned copies of names, kept until the process ends. A name that a program passes may be changed, freed
// or unmapped (dlclose(3)) as soon as the call returns.

#ifndef C_ENCLAVE_TEXTS_H
#define C_ENCLAVE_TEXTS_H

#include <stdint.h>
#include <stddef.h>

enum : size_t {
  /// Longer text is cut between two UTF-8 scalars.
  CES_TEXT_LIMIT = 255,
  /// The number of different texts; further ones share one copy, "other labels".
  CES_TEXTS_LIMIT = 65536,
};

typedef struct ces_text {
  struct ces_text *next;
  uint64_t hash;
  uint32_t length;
  const char *bytes;  // NUL-terminated
} ces_text;

/// Interns a C string, up to the limit. Never NULL. Takes no lock: a hash of the pointer finds a copy,
/// which is compared with the text before it is used.
const ces_text *ces_text_of(const char *text);
/// Interns this many bytes.
const ces_text *ces_text_keep(const char *bytes, size_t length);
/// How many bytes of a text are kept.
size_t ces_text_length(const char *bytes, size_t length);

#endif
