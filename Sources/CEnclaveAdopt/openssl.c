// Serves OpenSSL's secure heap (CRYPTO_secure_malloc and its family) from an arena named "openssl".
//
// Unlike OpenSSL's, this heap exists even if the program never calls CRYPTO_secure_malloc_init, so libcrypto
// always allocates private keys from it; and it grows. The arena has no gate, because libcrypto does not tell
// when a key is in use.
//
// A libcrypto that was linked with -Bsymbolic-functions (as on Ubuntu) calls its own functions, and would
// free memory of the arena with them. It is not adopted. That is reported on standard error and by an empty
// arena named "openssl (not adopted: -Bsymbolic)": when the program starts, or when a libcrypto that was
// loaded later is first used (see secure_getenv).

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "adopt.h"

static const char *const files[] = {"libcrypto.so.4", "libcrypto.so.3", "libcrypto.so.1.1", NULL};

/// Whether an object has a relocation for a function of the family (CRYPTO_secure_…). If so, its own calls
/// can be interposed.
static bool imports_family(const struct link_map *object) {
  const char *texts = NULL;
  const ElfW(Sym) *symbols = NULL;
  const ElfW(Rela) *lists[2] = {NULL, NULL};
  size_t sizes[2] = {0, 0};
  for (const ElfW(Dyn) *entry = object->l_ld; entry->d_tag != DT_NULL; entry++) {
    switch (entry->d_tag) {
      case DT_STRTAB: texts = (const char *)entry->d_un.d_ptr; break;
      case DT_SYMTAB: symbols = (const ElfW(Sym) *)entry->d_un.d_ptr; break;
      case DT_JMPREL: lists[0] = (const ElfW(Rela) *)entry->d_un.d_ptr; break;
      case DT_PLTRELSZ: sizes[0] = entry->d_un.d_val; break;
      case DT_RELA: lists[1] = (const ElfW(Rela) *)entry->d_un.d_ptr; break;
      case DT_RELASZ: sizes[1] = entry->d_un.d_val; break;
    }
  }
  if (!texts || !symbols) return true;
  static const char family[] = "CRYPTO_secure_";
  for (int list = 0; list < 2; list++) {
    for (size_t index = 0; lists[list] && index < sizes[list] / sizeof(ElfW(Rela)); index++) {
      size_t symbol = ELF64_R_SYM(lists[list][index].r_info);
      if (symbol && strncmp(texts + symbols[symbol].st_name, family, sizeof family - 1) == 0) return true;
    }
  }
  return false;
}

/// Whether a libcrypto in the process defines the family and binds its own calls to these definitions.
static bool is_bound_to_itself(void) {
  for (const char *const *file = files; *file; file++) {
    void *handle = dlopen(*file, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) continue;
    struct link_map *object;
    bool is_bound = dlsym(handle, "CRYPTO_secure_malloc") && dlinfo(handle, RTLD_DI_LINKMAP, &object) == 0 &&
                    !imports_family(object);
    dlclose(handle);
    if (is_bound) return true;
  }
  return false;
}

static const char *obstacle(void) {
  return is_bound_to_itself() ? "libcrypto calls its own functions (-Bsymbolic-functions), and keeps its memory"
                              : NULL;
}

adopted adopt_openssl = {
    .name = "openssl",
    .layout = ENCLAVE_LAYOUT_SLAB,
    .gate = ENCLAVE_GATE_NONE,
    .files = files,
    .obstacle = obstacle,
    .unadopted_name = "openssl (not adopted: -Bsymbolic)",
};

static bool has_started;

void adopt_check_openssl(void) {
  has_started = true;
  if (is_bound_to_itself()) (void)adopt_arena(&adopt_openssl);
}

// libcrypto calls this function when it is first used, to find its configuration ($OPENSSL_CONF). So this is
// when a libcrypto that was loaded with dlopen(3) is noticed. Otherwise it does what the C library's does.
char *secure_getenv(const char *name) {
  static const char start[] = "OPENSSL_";
  if (has_started && strncmp(name, start, sizeof start - 1) == 0) adopt_check_openssl();
  return getauxval(AT_SECURE) ? NULL : getenv(name);
}

/// Whether the program has called CRYPTO_secure_malloc_init, and CRYPTO_secure_malloc_done since.
static bool is_initialized, is_done;

#define ORIGINAL(type, name, ...) \
  static void *cached;             \
  type (*original)(__VA_ARGS__) = (type(*)(__VA_ARGS__))adopt_original(&adopt_openssl, &cached, name)

static bool is_ours(const void *address) { return adopt_owns(&adopt_openssl, address); }

/// The call site as a label: "bn_lib.c:268" for line 268 of "../crypto/bn/bn_lib.c".
static const char *label_of(const char *file, int line, char *text, size_t size) {
  if (!file || !*file) return "CRYPTO_secure_malloc";
  const char *slash = strrchr(file, '/');
  if (slash) file = slash + 1;
  size_t length = strnlen(file, size - 12);
  memcpy(text, file, length);
  char digits[12];
  int count = 0;
  for (unsigned number = line < 0 ? 0 : (unsigned)line; count == 0 || number > 0; number /= 10) {
    digits[count++] = (char)('0' + number % 10);
  }
  text[length++] = ':';
  while (count > 0) text[length++] = digits[--count];
  text[length] = 0;
  return text;
}

void *CRYPTO_secure_malloc(size_t size, const char *file, int line) {
  enclave_arena *arena = adopt_arena(&adopt_openssl);
  if (arena) {
    char text[64];
    return adopt_allocate(arena, size, label_of(file, line, text, sizeof text));
  }
  ORIGINAL(void *, "CRYPTO_secure_malloc", size_t, const char *, int);
  return original ? original(size, file, line) : NULL;
}

void *CRYPTO_secure_zalloc(size_t size, const char *file, int line) {
  // (Arenas return zeroed memory.)
  if (adopt_arena(&adopt_openssl)) return CRYPTO_secure_malloc(size, file, line);
  ORIGINAL(void *, "CRYPTO_secure_zalloc", size_t, const char *, int);
  return original ? original(size, file, line) : NULL;
}

void CRYPTO_secure_free(void *address, const char *file, int line) {
  if (!address || adopt_free(&adopt_openssl, address)) return;
  ORIGINAL(void, "CRYPTO_secure_free", void *, const char *, int);
  if (original) original(address, file, line);
}

void CRYPTO_secure_clear_free(void *address, size_t size, const char *file, int line) {
  // Freeing wipes.
  if (!address || adopt_free(&adopt_openssl, address)) return;
  ORIGINAL(void, "CRYPTO_secure_clear_free", void *, size_t, const char *, int);
  if (original) original(address, size, file, line);
}

int CRYPTO_secure_allocated(const void *address) {
  if (is_ours(address)) return 1;
  ORIGINAL(int, "CRYPTO_secure_allocated", const void *);
  return original ? original(address) : 0;
}

/// The requested size. For memory outside the arena, libcrypto's answer.
size_t CRYPTO_secure_actual_size(void *address) {
  if (is_ours(address)) return enclave_usable_size(address);
  ORIGINAL(size_t, "CRYPTO_secure_actual_size", void *);
  return original ? original(address) : 0;
}

/// The sum of the sizes in use; 0 while this thread forks.
size_t CRYPTO_secure_used(void) {
  enclave_arena *arena = __atomic_load_n(&adopt_openssl.arena, __ATOMIC_ACQUIRE);
  enclave_statistics now = {.struct_size = sizeof now};
  if (enclave_private_is_forking()) return 0;
  if (arena && enclave_arena_statistics(arena, &now) == ENCLAVE_OK) return now.bytes_in_use;
  if (arena) return 0;
  // libcrypto's own function takes a lock that exists only once its heap does.
  static void *cached_initialized;
  int (*is_initialized)(void) =
      (int (*)(void))adopt_original(&adopt_openssl, &cached_initialized, "CRYPTO_secure_malloc_initialized");
  ORIGINAL(size_t, "CRYPTO_secure_used", void);
  return original && is_initialized && is_initialized() ? original() : 0;
}

int CRYPTO_secure_malloc_initialized(void) {
  if (__atomic_load_n(&is_done, __ATOMIC_RELAXED)) return 0;
  if (adopt_arena(&adopt_openssl)) return 1;
  ORIGINAL(int, "CRYPTO_secure_malloc_initialized", void);
  return original ? original() : 0;
}

/// Returns 1; 2 if the memory cannot be locked; 0 if the size is not a power of two or the heap was already
/// initialized.
int CRYPTO_secure_malloc_init(size_t size, size_t least) {
  enclave_arena *arena = adopt_arena(&adopt_openssl);
  if (!arena) {
    ORIGINAL(int, "CRYPTO_secure_malloc_init", size_t, size_t);
    return original ? original(size, least) : 0;
  }
  if (size == 0 || (size & (size - 1)) != 0) return 0;
  if (__atomic_exchange_n(&is_initialized, true, __ATOMIC_RELAXED)) return 0;
  __atomic_store_n(&is_done, false, __ATOMIC_RELAXED);
  enclave_statistics now = {.struct_size = sizeof now};
  void *first = enclave_allocate(arena, 1, 0, "CRYPTO_secure_malloc_init");
  bool is_locked = first && enclave_arena_statistics(arena, &now) == ENCLAVE_OK &&
                   now.bytes_locked == now.bytes_mapped;
  (void)enclave_free(first);
  return is_locked ? 1 : 2;
}

/// Returns 1; 0 if memory is in use or this thread forks. Later allocations still come from the arena.
int CRYPTO_secure_malloc_done(void) {
  if (enclave_private_is_forking()) return 0;
  enclave_arena *arena = __atomic_load_n(&adopt_openssl.arena, __ATOMIC_ACQUIRE);
  if (!arena && adopt_openssl.has_failed) {
    ORIGINAL(int, "CRYPTO_secure_malloc_done", void);
    return original ? original() : 0;
  }
  if (CRYPTO_secure_used() != 0) return 0;
  if (arena) (void)enclave_arena_trim(arena, NULL);
  __atomic_store_n(&is_initialized, false, __ATOMIC_RELAXED);
  __atomic_store_n(&is_done, true, __ATOMIC_RELAXED);
  return 1;
}
