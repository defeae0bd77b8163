/*
 * enclave.h: memory for secrets. Arenas map, lock, guard, gate and seal their memory, keep it out of core
 * dumps and forked children, and wipe it. memwatch shows them while the program runs.
 *
 *     enclave_arena *arena;
 *     if (enclave_arena_create("tls-keys", NULL, &arena) != ENCLAVE_OK)
 *       errx(1, "%s", enclave_last_error());
 *     unsigned char *key = enclave_allocate(arena, 32, 0, "session ticket key");
 *     enclave_status status;
 *     ENCLAVE_WITH_OPEN(key, ENCLAVE_READ_WRITE, status) {
 *       ... use key[0] to key[31]; the window ends with the block
 *     }
 *     if (status != ENCLAVE_OK) ... do not use results computed from the key
 *     enclave_free(key);
 *
 * Link with `pkg-config --cflags --libs enclave`.
 *
 * Errors. Functions that can fail return an enclave_status or NULL. Then enclave_last_error() returns, for
 * this thread, what was requested, what the system answered and what to do. Nothing throws, and only a
 * violation ends the process (see enclave_set_violation_handler).
 *
 * Threads. Every function may be called from any thread. A window belongs to the thread that opened it.
 * Under a key gate, a thread that is created in a window does not inherit it, provided that the process uses
 * this library's pthread_create (see ENCLAVE_CAPABILITY_THREADS_START_CLOSED).
 *
 * Fork. In a forked child the parent's arenas are zeros or absent, and every function that is given one
 * returns ENCLAVE_ERROR_INHERITED. A child may create its own arenas. fork(3) waits at most 5 seconds while
 * another thread is using a part of this library for the first time. _Fork(3) and a raw clone(2) do not
 * wait: their child must not call this library if other threads did at that moment.
 *
 * Signals. In a signal handler only enclave_open, enclave_secret_open and enclave_close may be called, for
 * an arena with a key gate or none: they take no lock and call no malloc(3). If the handler interrupted the
 * library in its own thread, opening may return ENCLAVE_ERROR_BUSY: the arena is being created, frozen,
 * checked or destroyed, and the handler cannot wait for that. (Under a page gate they return it instead of
 * waiting for a lock.)
 *
 * Exit. exit(3) wipes every arena and leaves it mapped; later uses return an error. Memory that exit itself
 * uses afterwards, such as a buffer of stdio, must lie elsewhere, or in an arena created with
 * ENCLAVE_FLAG_KEPT_AT_EXIT.
 *
 * Labels and names are visible to other processes in memwatch: write literals that may be seen. The text is
 * copied before the call returns, up to 255 bytes of it (memwatch shows 64), so it may be freed, changed or
 * unloaded afterwards. A process has at most 65,536 different labels; secrets with further ones are counted
 * under "other labels".
 */
#ifndef ENCLAVE_H
#define ENCLAVE_H 1

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ENCLAVE_VERSION_MAJOR 1
#define ENCLAVE_VERSION_MINOR 0
#define ENCLAVE_VERSION_PATCH 0

/* "FILE:LINE" of the place where it is written, as a label for a call site. */
#ifdef __FILE_NAME__
#define ENCLAVE_HERE __FILE_NAME__ ":" ENCLAVE_TEXT_(__LINE__)
#else
#define ENCLAVE_HERE __FILE__ ":" ENCLAVE_TEXT_(__LINE__)
#endif
#define ENCLAVE_TEXT_(x) ENCLAVE_TEXT__(x)
#define ENCLAVE_TEXT__(x) #x

/* ---- Errors --------------------------------------------------------------------------------- */

typedef enum enclave_status {
  ENCLAVE_OK = 0,
  ENCLAVE_ERROR_SYSTEM = 1,        /* a system call failed: see enclave_last_errno() */
  ENCLAVE_ERROR_UNSUPPORTED = 2,   /* this machine lacks the requested mechanism */
  ENCLAVE_ERROR_MAP_LIMIT = 3,     /* vm.max_map_count */
  ENCLAVE_ERROR_LOCK_LIMIT = 4,    /* RLIMIT_MEMLOCK, or memory.max of the cgroup */
  ENCLAVE_ERROR_CAPACITY = 5,      /* the arena's own capacity, or its key's nonces, are used up */
  ENCLAVE_ERROR_SIZE = 6,          /* above 2 GiB, or an invalid alignment */
  ENCLAVE_ERROR_FROZEN = 7,        /* the arena can only be read */
  ENCLAVE_ERROR_DESTROYED = 8,     /* the arena or the secret no longer exists */
  ENCLAVE_ERROR_INHERITED = 9,     /* it belongs to this process's parent */
  ENCLAVE_ERROR_WINDOWS_OPEN = 10, /* close the windows first */
  ENCLAVE_ERROR_NEEDS_KEY = 11,    /* sealing needs a key gate or a cipher gate */
  ENCLAVE_ERROR_PUBLISHING = 12,   /* the process already publishes */
  ENCLAVE_ERROR_DIRECTORY = 13,    /* the directory cannot hold the stats page */
  ENCLAVE_ERROR_ARGUMENT = 14,     /* NULL, or an unknown value */
  ENCLAVE_ERROR_NOT_OURS = 15,     /* the address is not a live secret */
  ENCLAVE_ERROR_NO_INTERPOSER = 16, /* libenclave-malloc.so is not in this process */
  ENCLAVE_ERROR_CLOSED = 17,       /* the arena is closed to this thread */
  ENCLAVE_ERROR_BUSY = 18,         /* the arena is being changed, and this thread cannot wait */
  ENCLAVE_ERROR_THREAD = 19,       /* the window belongs to another thread */
  ENCLAVE_ERROR_TAMPERED = 20,     /* cipher gate: the secret was changed outside a window */
  ENCLAVE_ERROR_END_OF_INPUT = 21  /* the input ended too early */
} enclave_status;

/* What the last failed call of this thread requested, what the system answered and what to do; "" if none
 * failed. Valid until the next failure in this thread. */
const char *enclave_last_error(void);
/* The same as a code; and the errno behind ENCLAVE_ERROR_SYSTEM and _UNSUPPORTED, otherwise 0. */
enclave_status enclave_last_status(void);
int enclave_last_errno(void);

/* ---- What this machine has ------------------------------------------------------------------ */

typedef enum enclave_capability {
  ENCLAVE_CAPABILITY_PROTECTION_KEYS = 1, /* pkeys(7) */
  ENCLAVE_CAPABILITY_SEALS = 2,           /* mseal(2) */
  ENCLAVE_CAPABILITY_SECRET_MEMORY = 3,   /* memfd_secret(2) */
  ENCLAVE_CAPABILITY_GUARD_MARKERS = 4,   /* MADV_GUARD_INSTALL */
  ENCLAVE_CAPABILITY_WIPE_ON_FORK = 5,    /* MADV_WIPEONFORK */
  ENCLAVE_CAPABILITY_MEMORY_TAGGING = 6,  /* arm64 MTE */
  /* Threads created in a window start closed: the process uses this library's pthread_create. It does if
   * the library was linked or preloaded, but not if it was loaded with dlopen(3). */
  ENCLAVE_CAPABILITY_THREADS_START_CLOSED = 7,
  /* libenclave-malloc.so serves this process's malloc. */
  ENCLAVE_CAPABILITY_INTERPOSER = 8
} enclave_capability;

/* ENCLAVE_OK, or ENCLAVE_ERROR_UNSUPPORTED with the reason. Asks the kernel each time. */
enclave_status enclave_probe(enclave_capability capability);

/* ---- Arenas --------------------------------------------------------------------------------- */

/* Named pages with one set of properties. Reference-counted. */
typedef struct enclave_arena enclave_arena;

typedef enum enclave_layout {
  ENCLAVE_LAYOUT_SLAB = 0,    /* many secrets per page, with a canary behind each */
  ENCLAVE_LAYOUT_ISOLATED = 1 /* separate pages for each secret, with its data against a guard page */
} enclave_layout;

typedef enum enclave_lock {
  ENCLAVE_LOCK_REQUIRED = 0,  /* allocating fails if the memory cannot be locked */
  ENCLAVE_LOCK_PREFERRED = 1, /* unlocked memory is used, and shown as partial or unlocked */
  ENCLAVE_LOCK_OFF = 2
} enclave_lock;

typedef enum enclave_gate {
  ENCLAVE_GATE_AUTOMATIC = 0, /* a protection key if available, otherwise pages */
  ENCLAVE_GATE_KEY = 1,       /* a window opens the arena for its own thread, without a system call */
  ENCLAVE_GATE_PAGES = 2,     /* a window opens a secret's pages for every thread: mprotect(2) */
  ENCLAVE_GATE_NONE = 3,      /* always readable and writable through any pointer */
  ENCLAVE_GATE_CIPHER = 4     /* contents are encrypted at rest: see enclave_window */
} enclave_gate;

typedef struct enclave_options {
  size_t struct_size; /* sizeof(enclave_options) */
  enclave_layout layout;
  enclave_lock lock;
  enclave_gate gate;
  uint32_t flags; /* ENCLAVE_FLAG_OWN_KEY | ... */
  size_t capacity; /* the maximum number of data bytes that the arena maps; 0: unlimited */
} enclave_options;

enum {
  ENCLAVE_FLAG_OWN_KEY = 1,       /* a protection key that no other arena shares */
  ENCLAVE_FLAG_SECRET_MEMORY = 2, /* memfd_secret(2): inaccessible to the kernel itself, always locked;
                                     mapping a page takes about ten times as long */
  ENCLAVE_FLAG_TAGGED = 4,
  ENCLAVE_FLAG_KEPT_AT_EXIT = 8,  /* not wiped by exit(3), for memory that exit itself still uses */
  ENCLAVE_FLAG_ENDS_AT_GUARD = 16 /* secrets in separate pages end exactly at the guard page; their
                                     addresses are unaligned unless an alignment is given */
};

/* Slab layout, lock required, automatic gate, no capacity limit. */
#define ENCLAVE_OPTIONS_DEFAULT \
  { sizeof(enclave_options), ENCLAVE_LAYOUT_SLAB, ENCLAVE_LOCK_REQUIRED, ENCLAVE_GATE_AUTOMATIC, 0, 0 }

/* Creates an arena; NULL options mean the default. Nothing is mapped before the first secret. Release the
 * arena when done; it lives while it is referenced or one of its secrets exists. */
enclave_status enclave_arena_create(const char *name, const enclave_options *options,
                                    enclave_arena **arena);
enclave_arena *enclave_arena_retain(enclave_arena *arena);
void enclave_arena_release(enclave_arena *arena);

/* Makes the arena write-once: from now on its contents can only be read. ENCLAVE_ERROR_WINDOWS_OPEN while
 * any window for writing is open. */
enclave_status enclave_arena_freeze(enclave_arena *arena);
/* Freezes the arena, and makes the kernel refuse every change to its mappings until exit: mseal(2). */
enclave_status enclave_arena_seal(enclave_arena *arena);
/* Wipes and unmaps the arena at once, with its secrets, which need not be freed. Waits up to this many
 * milliseconds for open windows. The arena must still be released; nobody may use it or one of its secrets
 * during the last release. */
enclave_status enclave_arena_destroy(enclave_arena *arena, uint32_t wait_milliseconds);

/* Returns memory that holds no secret to the system and releases its lock. Stores the number of bytes in
 * `bytes_returned`, which may be NULL. A frozen arena has none. */
enclave_status enclave_arena_trim(enclave_arena *arena, size_t *bytes_returned);

typedef struct enclave_statistics {
  size_t struct_size; /* sizeof(enclave_statistics), set by the caller: fields beyond it are left out */
  uint64_t secret_count, bytes_in_use, bytes_mapped, bytes_locked, open_windows;
  uint64_t separate_pages, merged_pages; /* page gate: pages in slabs that are separate mappings, or not */
  uint64_t stuck_open_pages; /* pages that could not be closed again */
  uint64_t failed_locks, failed_opens, failed_allocations, corruptions;
  int32_t protection_key; /* -1 without a key gate */
  bool is_frozen, is_sealed;
  /* Mapped bytes of chunks that hold no secret: wiped, closed, and kept for later secrets. */
  uint64_t idle_bytes;
  uint64_t abandoned_windows; /* open windows whose threads have ended */
  uint64_t retired_slots;     /* in a frozen arena: slots whose secret was freed */
} enclave_statistics;

enclave_status enclave_arena_statistics(enclave_arena *arena, enclave_statistics *statistics);

/* ---- Secrets by address --------------------------------------------------------------------- */

/* Allocates `size` bytes of zeros. `alignment` is a power of two up to 4096; 0 means 16, or 1 with
 * ENCLAVE_FLAG_ENDS_AT_GUARD. memwatch counts the secret under `label`; NULL means "C". Returns NULL on
 * failure. O(1).
 *
 * The memory is closed unless the arena's gate is `none`: open the secret to use it. */
void *enclave_allocate(enclave_arena *arena, size_t size, size_t alignment, const char *label);

/* The same under C's names, counted under the call site. */
#define enclave_malloc(arena, size) enclave_allocate((arena), (size), 0, ENCLAVE_HERE)
#define enclave_aligned_alloc(arena, alignment, size) \
  enclave_allocate((arena), (size), (alignment), ENCLAVE_HERE)
/* Also returns NULL if count * size overflows. */
#define enclave_calloc(arena, count, size) \
  enclave_allocate_array((arena), (count), (size), ENCLAVE_HERE)
void *enclave_allocate_array(enclave_arena *arena, size_t count, size_t size, const char *label);

/* Changes the size within the same arena: added bytes are zero, and removed bytes and the old memory of a
 * secret that moves are wiped. On failure returns NULL, and nothing has changed. ENCLAVE_ERROR_WINDOWS_OPEN
 * while a window to it is open. An address that is not a live secret is a violation, unless its arena was
 * destroyed: ENCLAVE_ERROR_DESTROYED. */
void *enclave_realloc(void *secret, size_t size);

/* Wipes and frees a secret, from any thread; NULL is allowed. An address that is not a live secret is a
 * violation: a double free, or a foreign pointer. So is a secret with an open window; if the handler returns
 * ENCLAVE_CONTINUE, the result is ENCLAVE_ERROR_WINDOWS_OPEN, and the secret still exists.
 *
 * For a secret that was destroyed with its arena (enclave_arena_destroy), returns ENCLAVE_ERROR_DESTROYED and
 * does nothing. But the address may have been reused, like that of any unmapped memory: where secrets may be
 * freed later than their arena, free them by handle, which is always safe. */
enclave_status enclave_free(void *secret);
/* The same, but returns false for an address that is in no arena, and then does nothing. */
bool enclave_free_if_owned(void *secret);

/* The requested size; 0 if the address is not a live secret. Behind it is a canary, not usable memory. */
size_t enclave_usable_size(const void *secret);

/* Whether an address is in an arena of this process, in a live secret or not. O(1), no lock. */
bool enclave_owns(const void *address);
/* Whether a range is within one live secret. O(1), no lock. */
bool enclave_contains(const void *start, size_t size);
/* Whether an address is in this arena, in a live secret or not. O(1), no lock. */
bool enclave_arena_owns(enclave_arena *arena, const void *address);

/* ---- Windows -------------------------------------------------------------------------------- */

typedef enum enclave_access { ENCLAVE_READ = 0, ENCLAVE_READ_WRITE = 1 } enclave_access;

/* The time in which this thread has a secret open. Windows nest; close them in reverse order.
 *
 * `bytes` is the address of the secret's bytes during the window; NULL for a whole arena. Under a cipher gate
 * it is this thread's locked copy, and the secret's own address holds only ciphertext. Under other gates it
 * is the secret's address. The other fields belong to the library. */
typedef struct enclave_window {
  void *bytes;
  uint64_t state[6];
} enclave_window;
#define ENCLAVE_WINDOW_CLOSED { 0, { 0, 0, 0, 0, 0, 0 } }

/* Opens a secret by its address. Makes a system call only under a page gate. ENCLAVE_ERROR_NOT_OURS if the
 * address is not a live secret, ENCLAVE_ERROR_ARGUMENT for an invalid access. */
enclave_status enclave_open(void *secret, enclave_access access, enclave_window *window);
/* Closes a window; closing it again does nothing. ENCLAVE_ERROR_DESTROYED if everything was wiped while it
 * was open, ENCLAVE_ERROR_INHERITED in a child that was forked while it was open: results computed from the
 * contents may be wrong and must not be used. ENCLAVE_ERROR_THREAD if another thread opened it: it stays
 * open, and only that thread can close it. A window that is open when its thread ends can never be closed:
 * the arena can then be destroyed, but not frozen. */
enclave_status enclave_close(enclave_window *window);

/* Opens a whole arena for this thread. ENCLAVE_ERROR_UNSUPPORTED under a page gate, which would open it to
 * every thread. */
enclave_status enclave_arena_open(enclave_arena *arena, enclave_access access,
                                  enclave_window *window);

#if defined(__GNUC__)
/*
 * Runs a block with a secret open, and stores the result of closing it:
 *
 *     enclave_status status;
 *     ENCLAVE_WITH_OPEN(key, ENCLAVE_READ, status) {
 *       sign(message, key, signature);
 *     }
 *     if (status != ENCLAVE_OK) ... do not use the signature: enclave_last_error() says why
 *
 * `status` is a variable declared before. If the secret cannot be opened, the block does not run and
 * `status` says why; otherwise it is the result of closing the window. The window is closed however the
 * block is left: at its end, by break, goto, return or a C++ exception, but not by longjmp. (break and
 * continue leave the block.)
 */
#define ENCLAVE_WITH_OPEN(secret, access, status)                                             \
  for (enclave_scope_ enclave_scope_here_ __attribute__((cleanup(enclave_end_scope_))) =      \
           enclave_begin_scope_((secret), (access), &(status));                               \
       enclave_scope_here_.is_open; enclave_end_scope_(&enclave_scope_here_))

typedef struct enclave_scope_ {
  enclave_window window;
  enclave_status *status;
  int is_open;
} enclave_scope_;

static inline enclave_scope_ enclave_begin_scope_(void *secret, enclave_access access,
                                                  enclave_status *status) {
  enclave_scope_ scope;
  scope.status = status;
  *status = enclave_open(secret, access, &scope.window);
  scope.is_open = *status == ENCLAVE_OK;
  return scope;
}
static inline void enclave_end_scope_(enclave_scope_ *scope) {
  if (!scope->is_open) return;
  scope->is_open = 0;
  *scope->status = enclave_close(&scope->window);
}

/* A window that is closed at the end of its block, however that is left, except by longjmp. The result of
 * closing is then lost. Close it with enclave_close before using results, and leave only the other exits to
 * this; or use ENCLAVE_WITH_OPEN. */
#define ENCLAVE_SCOPED_WINDOW(name) \
  enclave_window name __attribute__((cleanup(enclave_close_scope_))) = ENCLAVE_WINDOW_CLOSED
static inline void enclave_close_scope_(enclave_window *window) { enclave_close(window); }
#endif

/* ---- Secrets by handle ---------------------------------------------------------------------- */

/* A secret, identified by its slot and the slot's generation. A handle whose secret was freed or resized is
 * recognised as stale, while an address may belong to another secret by now. Copies are equivalent. */
typedef struct enclave_secret {
  uint64_t state[4];
} enclave_secret;

enclave_status enclave_secret_allocate(enclave_arena *arena, size_t size, size_t alignment,
                                       const char *label, enclave_secret *secret);
/* The handle of the secret at an address, or ENCLAVE_ERROR_NOT_OURS. */
enclave_status enclave_secret_find(void *address, enclave_secret *secret);
/* NULL if the handle is stale. */
void *enclave_secret_address(const enclave_secret *secret);
size_t enclave_secret_size(const enclave_secret *secret);
/* ENCLAVE_ERROR_DESTROYED if the handle is stale. */
enclave_status enclave_secret_open(const enclave_secret *secret, enclave_access access,
                                   enclave_window *window, void **bytes);
enclave_status enclave_secret_free(const enclave_secret *secret);
/* Changes the size, like enclave_realloc, and updates the handle; other copies of it become stale. On
 * failure nothing has changed. */
enclave_status enclave_secret_resize(enclave_secret *secret, size_t size);

/* Reads a passphrase: a line from a terminal without echo, directly into a secret of its length. Blocks. The
 * line can be edited; ^C and ^Z have their usual effect, with echo restored. Other descriptors are read up to
 * a newline or the end. `prompt` (NULL: none) is written to the terminal, or to standard error if the
 * descriptor is read-only. ENCLAVE_ERROR_END_OF_INPUT without a whole line, or if the line is longer than
 * `limit` bytes (0: 1024). */
enclave_status enclave_read_passphrase(enclave_arena *arena, const char *prompt, int descriptor,
                                       size_t limit, const char *label, enclave_secret *secret);

/* ---- Bytes ---------------------------------------------------------------------------------- */

/* Whether two ranges are equal. The time depends on their length alone. */
bool enclave_equal(const void *a, const void *b, size_t size);
/* Overwrites with zeros; never optimised away. */
void enclave_wipe(void *start, size_t size);
/* Random bytes from the kernel: getrandom(2). ENCLAVE_ERROR_SYSTEM or ENCLAVE_ERROR_ARGUMENT. */
enclave_status enclave_fill_random(void *start, size_t size);

/* Wipes every arena of the process now. Arenas stay mapped, as zeros; from then on every use of one returns
 * ENCLAVE_ERROR_DESTROYED. Does not wait for windows: closing one that was open returns the error.
 * ENCLAVE_ERROR_SYSTEM, with the arena and the number of bytes, if something could not be wiped (pages that
 * somebody unmapped); everything else has been wiped. */
enclave_status enclave_wipe_everything(void);

/* Makes signals that end the process (HUP, INT, QUIT, PIPE, ALRM, TERM, USR1, USR2, XCPU, XFSZ) and faults
 * (SEGV, BUS, ILL, FPE, TRAP, SYS, ABRT) wipe every arena first and then have their usual effect. Ignored
 * signals stay ignored, and termination signals that the application handles are left to it. For faults, the
 * application's handler runs first; if it leaves the default action installed, everything is wiped. Best
 * called before other threads exist. ENCLAVE_ERROR_SYSTEM with the result of sigaction(2). */
enclave_status enclave_wipe_on_signals(void);

/* ---- Violations ----------------------------------------------------------------------------- */

typedef enum enclave_violation_kind {
  ENCLAVE_VIOLATION_OVERFLOW = 1,
  ENCLAVE_VIOLATION_UNDERFLOW = 2,
  ENCLAVE_VIOLATION_WRITE_AFTER_FREE = 3,
  ENCLAVE_VIOLATION_DOUBLE_FREE = 4,
  ENCLAVE_VIOLATION_FOREIGN_POINTER = 5,
  ENCLAVE_VIOLATION_FREED_WHILE_OPEN = 6, /* a window to the secret is open; it was not freed */
  ENCLAVE_VIOLATION_TAMPERED = 7          /* ciphertext was changed; found by enclave_arena_check */
} enclave_violation_kind;

/* A detected misuse of memory. The texts are valid during the call to the handler. */
typedef struct enclave_violation {
  enclave_violation_kind kind;
  const char *arena;       /* "" if no arena is concerned */
  const char *label;       /* NULL if no secret is concerned */
  const char *description; /* one line */
  size_t size;             /* of the secret; 0 if none is concerned */
  ptrdiff_t offset;        /* of the first wrong byte, from the start of the secret */
} enclave_violation;

typedef enum enclave_response {
  ENCLAVE_END_PROCESS = 0, /* wipe every arena, print the violation, abort(3) */
  ENCLAVE_CONTINUE = 1     /* the call that found the violation returns as documented */
} enclave_response;

/* Sets the handler that chooses the response to a violation; NULL means ENCLAVE_END_PROCESS. It runs on the
 * thread that found the violation, outside all locks. */
void enclave_set_violation_handler(enclave_response (*handler)(const enclave_violation *, void *),
                                   void *context);

/* Checks every canary and every free slot of an arena, and under a cipher gate every ciphertext (in windows of
 * its own). Calls `each` (may be NULL) for each violation. Stores their number in `count` (may be NULL).
 * O(memory). */
enclave_status enclave_arena_check(enclave_arena *arena,
                                   void (*each)(const enclave_violation *, void *), void *context,
                                   size_t *count);

/* ---- Publishing ----------------------------------------------------------------------------- */

/* Publishes names, counts, sizes and states for memwatch, until enclave_publish_stop() or exit. `name` is
 * what memwatch calls the process; NULL: its command's name. With ENCLAVE_STATS=1 in the environment, the
 * first arena that is created does the same. */
enclave_status enclave_publish_start(const char *name);

/* Whether the page contains the addresses of chunks. With addresses memwatch can audit each arena; without
 * them it compares totals. */
typedef enum enclave_addresses {
  ENCLAVE_ADDRESSES_WHILE_DUMPABLE = 0, /* while others can read this process's maps anyway: prctl(2) */
  ENCLAVE_ADDRESSES_ALWAYS = 1,
  ENCLAVE_ADDRESSES_NEVER = 2
} enclave_addresses;

typedef struct enclave_publish_options {
  size_t struct_size;         /* sizeof(enclave_publish_options) */
  const char *name;           /* as above */
  enclave_addresses addresses;
  uint32_t tick_milliseconds; /* the resolution of the page's times: 10 to 10,000 */
  uint32_t listed_secrets;    /* how many are listed individually; others are counted under their labels */
  uint32_t listed_arenas;     /* how many are listed individually; others are only counted */
} enclave_publish_options;

#define ENCLAVE_PUBLISH_OPTIONS_DEFAULT \
  { sizeof(enclave_publish_options), 0, ENCLAVE_ADDRESSES_WHILE_DUMPABLE, 100, 4096, 256 }

/* The same with options; NULL means the default. */
enclave_status enclave_publish_start_with(const enclave_publish_options *options);
void enclave_publish_stop(void);
/* Publishes the current counts at once instead of at the next tick (100 ms). */
void enclave_publish_refresh(void);

/* ---- Call sites bound to an arena ----------------------------------------------------------- */

/*
 * With libenclave-malloc.so in the process (linked before libc, or LD_PRELOAD), a thread can have an active
 * arena. While it does, malloc, calloc, realloc of NULL, posix_memalign, aligned_alloc, memalign, and
 * whatever calls them (strdup, asprintf, getline, operator new), allocate there. free and realloc recognise
 * an arena's pointers in every thread and translation unit, whether an arena is active or not. If the arena
 * has no memory, malloc returns NULL: it never falls back to the heap.
 *
 * The price in protection: code that calls malloc writes to the result, so the arena must be open to it.
 * Either its gate is `none`, and any stray access in the process reaches it at any time; or it has a key gate
 * and this thread has it open (enclave_arena_open), and everything that the thread runs meanwhile can access
 * it. In either case it is locked, kept out of dumps and children, checked and wiped.
 */

/* Calls allocator(size) with the arena active, and returns its result. NULL with ENCLAVE_ERROR_NO_INTERPOSER
 * if the interposer is not in the process, and with ENCLAVE_ERROR_CLOSED if the arena is closed to this
 * thread.
 *
 * An allocator that does not use this library (another malloc, or one whose free is not this library's) ends
 * the process with a message and abort(3): the secret would lie in ordinary memory. */
void *enclave_arena_call(enclave_arena *arena, void *(*allocator)(size_t), size_t size);

/* Makes an arena this thread's active one (NULL: none) and stores the previous one in `before` (may be
 * NULL). The caller keeps the arena alive meanwhile. Errors as above. */
enclave_status enclave_set_active(enclave_arena *arena, enclave_arena **before);

#ifdef __cplusplus
}
#endif

#endif
