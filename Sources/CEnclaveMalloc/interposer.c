// The interposer: replaces malloc(3) and serves each thread's allocations from its active arena.
//
// Without an active arena, calls go to the C library's own functions under their exported aliases
// (__libc_malloc and so on). free and realloc find the owner of an address in the page table, which takes two
// loads.
//
// ENCLAVE_MALLOC=heap in the environment (ignored in set-user-ID programs) serves all allocations of the
// process from one arena named "heap" with gate none, for programs that cannot be changed. More words may
// follow, separated by commas:
//
//   lock=required                 memory that cannot be locked is not allocated
//   lock=preferred (the default)  memory is locked if possible
//   lock=off                      memory is not locked
//   fork=inherit (the default)    a forked child continues with its copy of the heap, which is locked again
//   fork=refuse                   a forked child gets no copy; it reports that and exits with status 127
//   check                         checks the whole arena at exit and reports violations
//
// exec and posix_spawn(3) work with both settings of fork. Memory is locked when it is first touched
// (MLOCK_ONFAULT), but counts against RLIMIT_MEMLOCK as soon as it is mapped. Standard error gets one line for
// memory that cannot be locked, for an unknown word and for each violation, and nothing else.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../CEnclave/include/CEnclaveInternal.h"

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

// Initial-exec: access takes no call and no allocation.
static __thread enclave_arena *active __attribute__((tls_model("initial-exec")));
static enclave_arena *heap;
static void print_error(const char *text, const char *detail);
static void report_failed_lock(size_t size);

/// The arena that this thread allocates from; NULL for the C library's heap.
static inline enclave_arena *active_arena(void) {
  enclave_arena *arena = active ? active : heap;
  return arena && !enclave_private_is_busy() ? arena : NULL;
}

static void *set_enomem(void *result) {
  if (!result) errno = ENOMEM;
  return result;
}

// --- Alignments above a page ---------------------------------------------------------------------
//
// An arena aligns to at most a page. For larger alignments a block is allocated with slack, and this table
// maps the aligned address to the block. Only addresses with such an alignment are looked up, and only while
// the table has entries.

typedef struct aligned {
  struct aligned *next;
  void *address, *block;
  size_t size;
  /// The block's secret, to notice that the block went away with its arena and its address was reused.
  enclave_secret secret;
} aligned_t;

enum { BUCKETS = 64, PAGE = 4096 };
static aligned_t *buckets[BUCKETS];
static size_t aligned_count;
static pthread_mutex_t aligned_lock = PTHREAD_MUTEX_INITIALIZER;
// Whether this thread holds the lock; it then enters without waiting. That happens while it forks, when another
// library's fork handler allocates or frees (also in the child), and when a signal handler that interrupted it
// forks.
static __thread bool has_lock __attribute__((tls_model("initial-exec")));

static bool lock_aligned(void) {
  if (has_lock) return false;
  has_lock = true;
  pthread_mutex_lock(&aligned_lock);
  return true;
}
static void unlock_aligned(bool is_locked) {
  if (!is_locked) return;
  pthread_mutex_unlock(&aligned_lock);
  has_lock = false;
}

// A fork handler may fork again; the outer fork then holds the lock.
static __thread bool is_locked_for_fork __attribute__((tls_model("initial-exec")));
static __thread unsigned forks __attribute__((tls_model("initial-exec")));
static void before_fork(void) {
  if (forks++ == 0) is_locked_for_fork = lock_aligned();
}
static void after_fork(void) {
  if (forks > 0 && --forks == 0) unlock_aligned(is_locked_for_fork);
}
static void in_child(void) {
  forks = 0;
  unlock_aligned(is_locked_for_fork);
  is_locked_for_fork = false;
}

static aligned_t **bucket_of(const void *address) {
  return &buckets[((uintptr_t)address >> 13) * 0x9e3779b97f4a7c15u >> 58];
}

static void *allocate_aligned(enclave_arena *arena, size_t size, size_t alignment, const char *label) {
  if ((alignment & (alignment - 1)) != 0 || size > SIZE_MAX - alignment) return NULL;
  aligned_t *entry = __libc_malloc(sizeof *entry);
  if (!entry) return NULL;
  entry->block = enclave_allocate(arena, size + alignment, PAGE, label);
  if (!entry->block || enclave_secret_find(entry->block, &entry->secret) != ENCLAVE_OK) {
    (void)enclave_free(entry->block);
    __libc_free(entry);
    return NULL;
  }
  entry->address = (void *)(((uintptr_t)entry->block + alignment - 1) & ~(alignment - 1));
  entry->size = size;
  bool is_locked = lock_aligned();
  entry->next = *bucket_of(entry->address);
  *bucket_of(entry->address) = entry;
  __atomic_fetch_add(&aligned_count, 1, __ATOMIC_RELAXED);
  unlock_aligned(is_locked);
  return entry->address;
}

/// The block that contains an aligned address, and the address's size; NULL if it is not in the table.
static void *aligned_block(void *address, size_t *size, bool removes_entry) {
  if (((uintptr_t)address & (2 * PAGE - 1)) != 0 ||
      __atomic_load_n(&aligned_count, __ATOMIC_RELAXED) == 0) {
    return NULL;
  }
  void *block = NULL;
  bool is_locked = lock_aligned();
  for (aligned_t **at = bucket_of(address); *at;) {
    aligned_t *found = *at;
    bool is_stale = enclave_secret_address(&found->secret) != found->block;
    bool is_match = !is_stale && found->address == address;
    if (is_match) {
      block = found->block;
      if (size) *size = found->size;
    }
    if (is_stale || (is_match && removes_entry)) {
      *at = found->next;
      __atomic_fetch_sub(&aligned_count, 1, __ATOMIC_RELAXED);
      __libc_free(found);
    } else {
      at = &found->next;
    }
    if (is_match) break;
  }
  unlock_aligned(is_locked);
  return block;
}

// --- malloc --------------------------------------------------------------------------------------

static void *allocate(enclave_arena *arena, size_t size, size_t alignment, const char *label) {
  void *result = alignment > PAGE ? allocate_aligned(arena, size, alignment, label)
                                  : enclave_allocate(arena, size, alignment, label);
  if (arena == heap) report_failed_lock(size);
  return set_enomem(result);
}

void *malloc(size_t size) {
  enclave_arena *arena = active_arena();
  return arena ? allocate(arena, size, 0, "malloc") : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  enclave_arena *arena = active_arena();
  if (!arena) return __libc_calloc(count, size);
  void *result = enclave_allocate_array(arena, count, size, "calloc");
  if (arena == heap) report_failed_lock(result ? count * size : 0);
  return set_enomem(result);
}

void free(void *address) {
  int error = errno;
  void *block = aligned_block(address, NULL, true);
  if (block) address = block;
  if (enclave_private_is_forking() && enclave_owns(address)) {
    enclave_private_free_after_fork(address);
  } else if (!enclave_free_if_owned(address)) {
    __libc_free(address);
  }
  errno = error;
}

void *realloc(void *address, size_t size) {
  if (!address) return malloc(size);
  if (!enclave_owns(address)) return __libc_realloc(address, size);
  if (size == 0) {
    free(address);
    return NULL;
  }
  size_t kept;
  bool is_forking = enclave_private_is_forking();
  if (aligned_block(address, &kept, false) || is_forking) {
    if (is_forking) kept = malloc_usable_size(address);
    // As in other allocators, the alignment is not kept.
    void *moved = malloc(size);
    if (!moved) return NULL;
    memcpy(moved, address, kept < size ? kept : size);
    free(address);
    return moved;
  }
  return set_enomem(enclave_realloc(address, size));
}

void *reallocarray(void *address, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return NULL;
  }
  return realloc(address, bytes);
}

void *memalign(size_t alignment, size_t size) {
  enclave_arena *arena = active_arena();
  return arena ? allocate(arena, size, alignment, "memalign") : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  enclave_arena *arena = active_arena();
  return arena ? allocate(arena, size, alignment, "aligned_alloc") : __libc_memalign(alignment, size);
}

int posix_memalign(void **result_address, size_t alignment, size_t size) {
  if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) return EINVAL;
  int error = errno;
  enclave_arena *arena = active_arena();
  void *result = arena ? allocate(arena, size, alignment, "posix_memalign")
                       : __libc_memalign(alignment, size);
  errno = error;
  if (!result) return ENOMEM;
  *result_address = result;
  return 0;
}

void *valloc(size_t size) { return memalign((size_t)sysconf(_SC_PAGESIZE), size); }

void *pvalloc(size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (size > SIZE_MAX - page) return set_enomem(NULL);
  return memalign(page, (size + page - 1) & ~(page - 1));
}

size_t malloc_usable_size(void *address) {
  size_t size;
  if (aligned_block(address, &size, false)) return size;
  if (enclave_owns(address)) return enclave_usable_size(address);
  static size_t (*next)(void *);
  if (!next) next = (size_t(*)(void *))dlsym(RTLD_NEXT, "malloc_usable_size");
  return next ? next(address) : 0;
}

// --- Interface to libenclave.so ------------------------------------------------------------------

static enclave_arena *set_active(enclave_arena *arena) {
  enclave_arena *before = active;
  active = arena;
  return before;
}

/// Whether the process resolves a name to this library's definition.
static bool is_ours(const char *name) {
  Dl_info found, own;
  ElfW(Sym) *symbol = NULL;
  void *address = dlsym(RTLD_DEFAULT, name);
  if (!address || !dladdr(set_active, &own) ||
      !dladdr1(address, &found, (void **)&symbol, RTLD_DL_SYMENT)) {
    return false;
  }
  if (found.dli_fbase == own.dli_fbase) return true;
  // An executable that takes the function's address has a PLT stub of that name, which is undefined.
  return symbol && symbol->st_shndx == SHN_UNDEF;
}

static const char *foreign_function(void) {
  static const char *const names[] = {
      "malloc", "free",          "calloc",         "realloc",            "reallocarray",
      "memalign", "aligned_alloc", "posix_memalign", "malloc_usable_size",
  };
  for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
    if (!is_ours(names[index])) return names[index];
  }
  return NULL;
}

const cenclave_interposer enclave_interposer = {
    .struct_size = sizeof(cenclave_interposer),
    .set_active = set_active,
    .foreign = foreign_function,
};

// --- ENCLAVE_MALLOC=heap -------------------------------------------------------------------------

static void print_error(const char *text, const char *detail) {
  char line[640];
  int length = snprintf(line, sizeof line, "Enclave: ENCLAVE_MALLOC: %s%s\n", text, detail);
  ssize_t ignored = write(STDERR_FILENO, line, length < (int)sizeof line ? (size_t)length : sizeof line);
  (void)ignored;
}

static const char *const known_words[] = {"heap",     "lock=required", "lock=preferred", "lock=off",
                                    "fork=inherit", "fork=refuse",   "check"};
enum { WORDS = sizeof known_words / sizeof *known_words };

/// Parses ENCLAVE_MALLOC. Returns false for an unknown word.
static bool parse_options(const char *text, enclave_options *options, bool *checks) {
  if (strcspn(text, ",") != 4 || memcmp(text, "heap", 4) != 0) return false;
  while (true) {
    size_t length = strcspn(text, ","), index = 0;
    while (index < WORDS &&
           (strlen(known_words[index]) != length || memcmp(known_words[index], text, length) != 0)) {
      index++;
    }
    switch (index) {
      case 0: break;
      case 1: options->lock = ENCLAVE_LOCK_REQUIRED; break;
      case 2: options->lock = ENCLAVE_LOCK_PREFERRED; break;
      case 3: options->lock = ENCLAVE_LOCK_OFF; break;
      case 4: options->flags |= CENCLAVE_INHERITED_BY_FORK; break;
      case 5: options->flags &= ~CENCLAVE_INHERITED_BY_FORK; break;
      case 6: *checks = true; break;
      default: return false;
    }
    if (!text[length]) return true;
    text += length + 1;
  }
}

static bool checks_at_exit;

/// Ends a forked child under fork=refuse: its heap is zeros.
static void refuse_child(void) {
  print_error("fork=refuse: the forked child exits; use posix_spawn(3) to run another program", "");
  _exit(127);
}

/// Reports the first failed lock, which nothing else reports under lock=preferred. Checks at each allocation
/// of 64 KiB or more and at every 1024th smaller one.
static void report_failed_lock(size_t size) {
  static bool has_warned;
  static uint32_t calls;
  if (size < 65536 && __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) % 1024 != 1) return;
  enclave_statistics now = {.struct_size = sizeof now};
  if (__atomic_load_n(&has_warned, __ATOMIC_RELAXED) || enclave_arena_statistics(heap, &now) ||
      now.failed_locks == 0 || __atomic_exchange_n(&has_warned, true, __ATOMIC_RELAXED)) {
    return;
  }
  char line[160];
  snprintf(line, sizeof line, "%llu of %llu bytes are not locked: raise RLIMIT_MEMLOCK (prlimit --memlock)",
           (unsigned long long)(now.bytes_mapped - now.bytes_locked),
           (unsigned long long)now.bytes_mapped);
  print_error(line, "");
}

__attribute__((constructor)) static void start(void) {
  const char *setting = secure_getenv("ENCLAVE_MALLOC");
  if (!setting) return;
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.gate = ENCLAVE_GATE_NONE;
  options.lock = ENCLAVE_LOCK_PREFERRED;
  // Kept at exit, because exit flushes buffers in it; inherited, because a child cannot continue without it.
  options.flags = ENCLAVE_FLAG_KEPT_AT_EXIT | CENCLAVE_INHERITED_BY_FORK | CENCLAVE_LOCKED_ON_FAULT;
  if (!parse_options(setting, &options, &checks_at_exit)) {
    // Using ordinary memory instead would silently drop the requested protection.
    print_error("unknown value: ", setting);
    char known[160] = "";
    for (size_t index = 1; index < WORDS; index++) {
      strcat(strcat(known, index > 1 ? ", " : ""), known_words[index]);
    }
    print_error("valid values: heap, optionally followed by comma-separated ", known);
    _exit(127);
  }
  const char *name = foreign_function();
  if (name) enclave_private_foreign_allocator(name);
  enclave_arena *arena;
  if (enclave_arena_create("heap", &options, &arena) != ENCLAVE_OK) {
    print_error("", enclave_last_error());
    _exit(127);
  }
  bool is_inherited = options.flags & CENCLAVE_INHERITED_BY_FORK;
  if (pthread_atfork(is_inherited ? before_fork : NULL, is_inherited ? after_fork : NULL,
                     is_inherited ? in_child : refuse_child) != 0) {
    print_error("out of memory", "");
    _exit(127);
  }
  heap = arena;
}

static void report(const enclave_violation *violation, void *unused) {
  (void)unused;
  print_error("", violation->description);
}

__attribute__((destructor)) static void finish(void) {
  if (!heap || !checks_at_exit) return;
  size_t violations;
  enclave_statistics now = {.struct_size = sizeof now};
  if (enclave_arena_check(heap, report, NULL, &violations) != ENCLAVE_OK ||
      enclave_arena_statistics(heap, &now) != ENCLAVE_OK) {
    print_error("check failed: ", enclave_last_error());
    return;
  }
  if (violations == 0) return;
  char line[160];
  snprintf(line, sizeof line, "check: %zu violations, %llu live allocations, %llu failed allocations", violations,
           (unsigned long long)now.secret_count, (unsigned long long)now.failed_allocations);
  print_error(line, "");
}
