/*
 * enclave.h: memory for secrets. Arenas that are mapped, locked, guarded, gated, sealed, kept out of
 * core dumps and forked children, and wiped; and shown by memwatch while the program runs.
 *
 *     enclave_arena *arena;
 *     if (enclave_arena_create("tls-keys", NULL, &arena) != ENCLAVE_OK)
 *       errx(1, "%s", enclave_last_error());
 *     unsigned char *key = enclave_allocate(arena, 32, 0, "session ticket key");
 *     enclave_status status;
 *     ENCLAVE_WITH_OPEN(key, ENCLAVE_READ_WRITE, status) {
 *       ... use key[0] to key[31]; the window ends with the block
 *     }
 *     if (status != ENCLAVE_OK) ... what was made of the key is not to be used
 *     enclave_free(key);
 *
 * Link with `pkg-config --cflags --libs enclave`.
 *
 * Errors. Functions that can fail return an enclave_status, or NULL; then enclave_last_error() says,
 * for this thread, what was asked, what the system answered and what to do. Nothing throws, and
 * nothing ends the process but a violation (see enclave_set_violation_handler).
 *
 * Threads. Every function may be called from any thread. A window belongs to the thread that opened
 * it. Under a key gate a thread that is born in a window does not keep it, as long as the process
 * uses this library's pthread_create (see ENCLAVE_CAPABILITY_CLOSED_BIRTHS).
 *
 * Fork. In a forked child the parent's arenas are zeros or not there, and each function that is
 * given one returns ENCLAVE_ERROR_INHERITED. A child may make arenas of its own. fork(3) waits until no
 * other thread is in the middle of its first use of something in this library, at most 5 seconds.
 * _Fork(3) and a raw clone(2) do not: a child of theirs may call nothing here while other threads do.
 *
 * Signals. Of these functions only enclave_open, enclave_secret_open and enclave_close, for an arena
 * with a key gate or none, may be called in a signal handler: they take no lock and call no malloc(3).
 * Where the handler interrupted the library in its own thread, opening may return
 * ENCLAVE_ERROR_BUSY: the arena is just being created, frozen, checked or destroyed there, and the
 * handler cannot wait for that. (Under a page gate they return it too, rather than wait for a lock.)
 *
 * Exit. exit(3) wipes every arena and leaves it mapped; whoever uses one later gets an error. Memory
 * that exit itself uses after that (a buffer of stdio, say) must lie elsewhere, or in an arena that is
 * made with ENCLAVE_FLAG_KEPT_AT_EXIT.
 *
 * Labels and names are shown by memwatch, to other processes: write literals, and never what should
 * not be seen. Their text is copied before the call returns, up to 255 bytes of it (memwatch shows
 * 64), so that it may be freed, changed or unloaded afterwards. The process tells 65,536 labels apart;
 * secrets of further ones are counted under "other labels".
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

/* "FILE:LINE" of the place where it is written: a label for a call site. */
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
  ENCLAVE_ERROR_SYSTEM = 1,        /* a call to the kernel failed: enclave_last_errno() */
  ENCLAVE_ERROR_UNSUPPORTED = 2,   /* this machine does not have what was asked for */
  ENCLAVE_ERROR_MAP_LIMIT = 3,     /* vm.max_map_count */
  ENCLAVE_ERROR_LOCK_LIMIT = 4,    /* RLIMIT_MEMLOCK, or memory.max of the cgroup */
  ENCLAVE_ERROR_CAPACITY = 5,      /* the arena's own capacity, or its key's nonces, are used up */
  ENCLAVE_ERROR_SIZE = 6,          /* above 2 GiB, or an alignment that is none */
  ENCLAVE_ERROR_FROZEN = 7,        /* the arena can only be read */
  ENCLAVE_ERROR_DESTROYED = 8,     /* the arena or the secret is gone */
  ENCLAVE_ERROR_INHERITED = 9,     /* it belongs to the parent of this process */
  ENCLAVE_ERROR_WINDOWS_OPEN = 10, /* close them first */
  ENCLAVE_ERROR_NEEDS_KEY = 11,    /* only with a key gate or a cipher gate it can be sealed */
  ENCLAVE_ERROR_PUBLISHING = 12,   /* the process publishes already */
  ENCLAVE_ERROR_DIRECTORY = 13,    /* the directory for the stats page is not fit for it */
  ENCLAVE_ERROR_ARGUMENT = 14,     /* NULL, or a value that the function does not know */
  ENCLAVE_ERROR_NOT_OURS = 15,     /* an address that is no live secret's */
  ENCLAVE_ERROR_NO_INTERPOSER = 16, /* libenclave-malloc.so is not in this process */
  ENCLAVE_ERROR_CLOSED = 17,       /* the arena is closed to this thread */
  ENCLAVE_ERROR_BUSY = 18,         /* the arena is being changed, and that cannot be waited for */
  ENCLAVE_ERROR_THREAD = 19,       /* the window is another thread's */
  ENCLAVE_ERROR_TAMPERED = 20,     /* cipher gate: the secret was changed from outside of a window */
  ENCLAVE_ERROR_END_OF_INPUT = 21  /* the input ended before what was asked for had come */
} enclave_status;

/* What the last function that failed in this thread was asked, what the system answered and what to
 * do; "" when none has. Valid until the next failure in this thread. */
const char *enclave_last_error(void);
/* The same as a code, and the errno behind ENCLAVE_ERROR_SYSTEM and _UNSUPPORTED, else 0. */
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
  /* Threads born in a window are closed: this library's pthread_create is the one that the process
   * uses. It is where the library was linked or preloaded, not where it was loaded by dlopen(3). */
  ENCLAVE_CAPABILITY_CLOSED_BIRTHS = 7,
  /* libenclave-malloc.so serves this process' malloc. */
  ENCLAVE_CAPABILITY_INTERPOSER = 8
} enclave_capability;

/* ENCLAVE_OK, or ENCLAVE_ERROR_UNSUPPORTED and why. Asks the kernel each time. */
enclave_status enclave_probe(enclave_capability capability);

/* ---- Arenas --------------------------------------------------------------------------------- */

/* Named pages with one set of properties. Reference-counted. */
typedef struct enclave_arena enclave_arena;

typedef enum enclave_layout {
  ENCLAVE_LAYOUT_SLAB = 0,    /* many secrets a page, a canary behind each */
  ENCLAVE_LAYOUT_ISOLATED = 1 /* pages of its own for each, the data against a guard page */
} enclave_layout;

typedef enum enclave_lock {
  ENCLAVE_LOCK_REQUIRED = 0,  /* allocating fails rather than use memory that is not locked */
  ENCLAVE_LOCK_PREFERRED = 1, /* it goes on, and is shown as partial or unlocked */
  ENCLAVE_LOCK_OFF = 2
} enclave_lock;

typedef enum enclave_gate {
  ENCLAVE_GATE_AUTOMATIC = 0, /* a protection key, else pages */
  ENCLAVE_GATE_KEY = 1,       /* a window opens it for its own thread, without a system call */
  ENCLAVE_GATE_PAGES = 2,     /* a window opens a secret's pages for every thread: mprotect(2) */
  ENCLAVE_GATE_NONE = 3,      /* always open: a pointer is all that it takes */
  ENCLAVE_GATE_CIPHER = 4     /* contents rest encrypted: see enclave_window */
} enclave_gate;

typedef struct enclave_options {
  size_t struct_size; /* sizeof(enclave_options) */
  enclave_layout layout;
  enclave_lock lock;
  enclave_gate gate;
  uint32_t flags; /* ENCLAVE_FLAG_OWN_KEY | ... */
  size_t capacity; /* the most data bytes that the arena maps; 0: no limit of its own */
} enclave_options;

enum {
  ENCLAVE_FLAG_OWN_KEY = 1,       /* a protection key that no other arena has */
  ENCLAVE_FLAG_SECRET_MEMORY = 2, /* memfd_secret(2): unreachable for the kernel itself; about ten
                                     times the cost to map a page, always locked */
  ENCLAVE_FLAG_TAGGED = 4,
  ENCLAVE_FLAG_KEPT_AT_EXIT = 8,  /* not wiped by exit(3): for memory that exit itself still uses */
  ENCLAVE_FLAG_ENDS_AT_GUARD = 16 /* secrets with pages of their own end at the guard page at every
                                     size; their addresses have no alignment then, unless one is
                                     asked for */
};

/* A slab, locked (required), automatic gate, no capacity. */
#define ENCLAVE_OPTIONS_DEFAULT \
  { sizeof(enclave_options), ENCLAVE_LAYOUT_SLAB, ENCLAVE_LOCK_REQUIRED, ENCLAVE_GATE_AUTOMATIC, 0, 0 }

/* Makes an arena; NULL options are the default ones. It maps nothing until the first secret.
 * Release it when done; it lives while somebody holds it or a secret of it does. */
enclave_status enclave_arena_create(const char *name, const enclave_options *options,
                                    enclave_arena **arena);
enclave_arena *enclave_arena_retain(enclave_arena *arena);
void enclave_arena_release(enclave_arena *arena);

/* Write-once: from now on contents can only be read. ENCLAVE_ERROR_WINDOWS_OPEN while a window for
 * writing is open anywhere. */
enclave_status enclave_arena_freeze(enclave_arena *arena);
/* Freezes, and has the kernel refuse every change to the mapping until exit: mseal(2). */
enclave_status enclave_arena_seal(enclave_arena *arena);
/* Wipes and unmaps it at once; its secrets are gone, and need not be freed. Waits up to so many
 * milliseconds for windows that are open. The arena itself is still to be released; nobody may use it
 * or a secret of it while it is released for the last time. */
enclave_status enclave_arena_destroy(enclave_arena *arena, uint32_t wait_milliseconds);

/* Gives memory that holds no secret back to the system, and its lock with it; how many bytes goes into
 * `given_back`, which may be NULL. A frozen arena has none to give. */
enclave_status enclave_arena_trim(enclave_arena *arena, size_t *given_back);

typedef struct enclave_statistics {
  size_t struct_size; /* sizeof(enclave_statistics), set by the caller: what lies beyond is left out */
  uint64_t secret_count, bytes_in_use, bytes_mapped, bytes_locked, open_windows;
  uint64_t separate_pages, merged_pages; /* under a page gate: in slabs of their own mapping, or not */
  uint64_t stuck_open_pages; /* pages that could not be closed again */
  uint64_t failed_locks, failed_opens, failed_allocations, corruptions;
  int32_t protection_key; /* -1 without a key gate */
  bool is_frozen, is_sealed;
  /* Of the mapped bytes, those of chunks that hold no secret: wiped, closed, and kept for the next. */
  uint64_t idle_bytes;
  uint64_t abandoned_windows; /* of the open ones, those that threads left open when they ended */
  uint64_t retired_slots;     /* of a frozen arena: slots whose secret was freed */
} enclave_statistics;

enclave_status enclave_arena_statistics(enclave_arena *arena, enclave_statistics *statistics);

/* ---- Secrets by address --------------------------------------------------------------------- */

/* `size` bytes of zeros, aligned to `alignment`: a power of two up to 4096; 0: 16, or 1 with
 * ENCLAVE_FLAG_ENDS_AT_GUARD. `label` is what memwatch counts the secret under; NULL: "C". NULL when it
 * cannot be had. O(1).
 *
 * Unless its gate is `none` the memory is closed: open it to use it. */
void *enclave_allocate(enclave_arena *arena, size_t size, size_t alignment, const char *label);

/* The same by the names that C knows, counted under the call site. */
#define enclave_malloc(arena, size) enclave_allocate((arena), (size), 0, ENCLAVE_HERE)
#define enclave_aligned_alloc(arena, alignment, size) \
  enclave_allocate((arena), (size), (alignment), ENCLAVE_HERE)
/* NULL also where count * size overflows. */
#define enclave_calloc(arena, count, size) \
  enclave_allocate_array((arena), (count), (size), ENCLAVE_HERE)
void *enclave_allocate_array(enclave_arena *arena, size_t count, size_t size, const char *label);

/* Changes the size, in the same arena: bytes that are new are zero, bytes that go are wiped, and so
 * is the old place when the secret has to move. NULL when it cannot be done, and nothing has changed
 * then. ENCLAVE_ERROR_WINDOWS_OPEN while it is open in a window. An address that is no live
 * secret's is a violation, unless its arena was destroyed: ENCLAVE_ERROR_DESTROYED. */
void *enclave_realloc(void *secret, size_t size);

/* Wipes and frees, from any thread; NULL is fine. An address that is no live secret's is a
 * violation: a double free, or a foreign pointer. So is a secret with an open window: with a handler
 * that goes on it is ENCLAVE_ERROR_WINDOWS_OPEN, and the secret is still there.
 *
 * ENCLAVE_ERROR_DESTROYED, and nothing is done, for a secret that went with its arena
 * (enclave_arena_destroy). As with any memory that was unmapped, its address may be handed out again:
 * where secrets may be freed later than their arena, free them by handle, which is never mistaken. */
enclave_status enclave_free(void *secret);
/* The same, but returns false for an address that is no arena's, and touches nothing then. */
bool enclave_free_if_owned(void *secret);

/* The size that was asked for; 0 for an address that is no live secret's. What lies behind is a
 * canary's. */
size_t enclave_usable_size(const void *secret);

/* Whether an address lies in an arena of this process, live or not. O(1), no lock. */
bool enclave_owns(const void *address);
/* Whether a range lies within one live secret. O(1), no lock. */
bool enclave_contains(const void *start, size_t size);
/* Whether an address lies in this arena, live or not. O(1), no lock. */
bool enclave_arena_owns(enclave_arena *arena, const void *address);

/* ---- Windows -------------------------------------------------------------------------------- */

typedef enum enclave_access { ENCLAVE_READ = 0, ENCLAVE_READ_WRITE = 1 } enclave_access;

/* The time in which this thread has a secret open. Windows nest; end them in the opposite order.
 *
 * `bytes` is where the secret is meanwhile. Under a cipher gate that is a locked copy of this thread's own,
 * and the secret's address only names it: what lies there is ciphertext. Under all other gates it is the
 * address. NULL for a whole arena. The other fields are the library's. */
typedef struct enclave_window {
  void *bytes;
  uint64_t state[6];
} enclave_window;
#define ENCLAVE_WINDOW_CLOSED { 0, { 0, 0, 0, 0, 0, 0 } }

/* Opens a secret by its address. No system call but under a page gate. ENCLAVE_ERROR_NOT_OURS for an
 * address that is no live secret's, ENCLAVE_ERROR_ARGUMENT for an access that is none. */
enclave_status enclave_open(void *secret, enclave_access access, enclave_window *window);
/* Ends a window; one that is closed stays so. ENCLAVE_ERROR_DESTROYED when everything was wiped while
 * it was open, ENCLAVE_ERROR_INHERITED in a child that was forked while it was open: what was made of
 * the contents may have been made of zeros, and is not to be used. ENCLAVE_ERROR_THREAD when another
 * thread opened it: it stays open, and that thread can still close it. A window that a thread leaves
 * open when it ends is nobody's: the arena cannot be frozen any more, only destroyed. */
enclave_status enclave_close(enclave_window *window);

/* Opens all of an arena for this thread. ENCLAVE_ERROR_UNSUPPORTED under a page gate, which would
 * open it to every thread. */
enclave_status enclave_arena_open(enclave_arena *arena, enclave_access access,
                                  enclave_window *window);

#if defined(__GNUC__)
/*
 * Runs a block with a secret open, and keeps the answer:
 *
 *     enclave_status status;
 *     ENCLAVE_WITH_OPEN(key, ENCLAVE_READ, status) {
 *       sign(message, key, signature);
 *     }
 *     if (status != ENCLAVE_OK) ... the signature is not to be used: enclave_last_error() says why
 *
 * `status` is a variable that was declared before. Where the secret cannot be opened the block does
 * not run, and the status says why; else it is what closing the window answered. The window is
 * closed however the block is left: by its end, break, goto, return or a C++ exception, but not by
 * longjmp. (break and continue leave the block.)
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

/* A window that is closed where its block ends, however it is left (but by longjmp). What closing it
 * answers is lost then: close it with enclave_close before the results are used, so that this is
 * left to care for the other ways out; or use ENCLAVE_WITH_OPEN. */
#define ENCLAVE_SCOPED_WINDOW(name) \
  enclave_window name __attribute__((cleanup(enclave_close_scope_))) = ENCLAVE_WINDOW_CLOSED
static inline void enclave_close_scope_(enclave_window *window) { enclave_close(window); }
#endif

/* ---- Secrets by handle ---------------------------------------------------------------------- */

/* A secret, by the generation of its slot: a handle that was freed, or whose secret was resized, is
 * known to be stale, where an address may be another secret's by now. Copies are the same handle. */
typedef struct enclave_secret {
  uint64_t state[4];
} enclave_secret;

enclave_status enclave_secret_allocate(enclave_arena *arena, size_t size, size_t alignment,
                                       const char *label, enclave_secret *secret);
/* The handle of an address; ENCLAVE_ERROR_NOT_OURS. */
enclave_status enclave_secret_find(void *address, enclave_secret *secret);
/* NULL when the handle is stale. */
void *enclave_secret_address(const enclave_secret *secret);
size_t enclave_secret_size(const enclave_secret *secret);
/* ENCLAVE_ERROR_DESTROYED when the handle is stale. */
enclave_status enclave_secret_open(const enclave_secret *secret, enclave_access access,
                                   enclave_window *window, void **bytes);
enclave_status enclave_secret_free(const enclave_secret *secret);
/* Changes the size, as enclave_realloc does, and the handle with it; other copies of the handle are
 * stale then. Where it fails nothing has changed. */
enclave_status enclave_secret_resize(enclave_secret *secret, size_t size);

/* Reads a line from a terminal without echo, straight into a secret of its length: a passphrase. Blocks.
 * It can be edited; ^C and ^Z do what they do everywhere, with the echo restored. What is no terminal is read
 * up to a newline, or its end. `prompt` (NULL: none) is written to the terminal, or to standard error
 * where the descriptor is open for reading only. ENCLAVE_ERROR_END_OF_INPUT without a whole line, or
 * where it is longer than `limit` bytes (0: 1024). */
enclave_status enclave_read_passphrase(enclave_arena *arena, const char *prompt, int descriptor,
                                       size_t limit, const char *label, enclave_secret *secret);

/* ---- Bytes ---------------------------------------------------------------------------------- */

/* Whether two ranges are equal, in a time that depends on their length alone. */
bool enclave_equal(const void *a, const void *b, size_t size);
/* Zeros, never optimised away. */
void enclave_wipe(void *start, size_t size);
/* Random bytes of the kernel: getrandom(2). ENCLAVE_ERROR_SYSTEM, or what is said of the arguments. */
enclave_status enclave_fill_random(void *start, size_t size);

/* Wipes every arena of the process, now. They stay mapped, as zeros; from now on each use of one is
 * ENCLAVE_ERROR_DESTROYED. Waits for no window: closing one that was open says so.
 * ENCLAVE_ERROR_SYSTEM, and which arena and how many bytes, for what could not be wiped (pages that
 * something else unmapped); whatever else there is has been wiped then. */
enclave_status enclave_wipe_everything(void);

/* Has signals that end the process (HUP, INT, QUIT, PIPE, ALRM, TERM, USR1, USR2, XCPU, XFSZ) and faults
 * (SEGV, BUS, ILL, FPE, TRAP, SYS, ABRT) wipe every arena first, and then do what they would have
 * done. What is ignored stays ignored, and a termination signal with a handler of the application's
 * stays the application's; its handler of a fault runs first, and where it leaves the disposition
 * at default, everything is wiped. Best called before there are threads. ENCLAVE_ERROR_SYSTEM with
 * sigaction(2)'s answer. */
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

/* Memory that was misused. The texts are valid during the call that they are given to. */
typedef struct enclave_violation {
  enclave_violation_kind kind;
  const char *arena;       /* "" where no arena is meant */
  const char *label;       /* NULL where no secret is meant */
  const char *description; /* one line */
  size_t size;             /* of the secret; 0 where none is meant */
  ptrdiff_t offset;        /* of the first wrong byte, from the secret's first */
} enclave_violation;

typedef enum enclave_response {
  ENCLAVE_END_PROCESS = 0, /* wipe every arena, print the violation, abort(3) */
  ENCLAVE_GO_ON = 1
} enclave_response;

/* Sets what is asked about a violation; NULL ends the process, as without a handler. It runs on the
 * thread that found the violation, outside of all locks. */
void enclave_set_violation_handler(enclave_response (*handler)(const enclave_violation *, void *),
                                   void *context);

/* Looks at every canary and every free slot of an arena (under a cipher gate also at every ciphertext,
 * in windows of its own), and calls `each` (which may be NULL) with
 * what is wrong. `count` (which may be NULL) is how much that was. O(memory). */
enclave_status enclave_arena_check(enclave_arena *arena,
                                   void (*each)(const enclave_violation *, void *), void *context,
                                   size_t *count);

/* ---- Publishing ----------------------------------------------------------------------------- */

/* Publishes names, counts, sizes and states for memwatch, until enclave_publish_stop() or exit.
 * `name` is what memwatch calls the process; NULL: its command's name. ENCLAVE_STATS=1 in the
 * environment does the same when the first arena is made. */
enclave_status enclave_publish_start(const char *name);

/* Whether the page tells where chunks lie. With addresses memwatch can audit each arena; without, it
 * compares totals. */
typedef enum enclave_addresses {
  ENCLAVE_ADDRESSES_WHILE_DUMPABLE = 0, /* while others may read this process' maps anyway: prctl(2) */
  ENCLAVE_ADDRESSES_ALWAYS = 1,
  ENCLAVE_ADDRESSES_NEVER = 2
} enclave_addresses;

typedef struct enclave_publish_options {
  size_t struct_size;         /* sizeof(enclave_publish_options) */
  const char *name;           /* as above */
  enclave_addresses addresses;
  uint32_t tick_milliseconds; /* how fine the page's times are: 10 to 10,000 */
  uint32_t listed_secrets;    /* so many are listed one by one, the others counted under their labels */
  uint32_t listed_arenas;     /* so many are listed, the others counted */
} enclave_publish_options;

#define ENCLAVE_PUBLISH_OPTIONS_DEFAULT \
  { sizeof(enclave_publish_options), 0, ENCLAVE_ADDRESSES_WHILE_DUMPABLE, 100, 4096, 256 }

/* The same with options; NULL are the default ones. */
enclave_status enclave_publish_start_with(const enclave_publish_options *options);
void enclave_publish_stop(void);
/* Writes the counts as they are now, rather than at the next tick (100 ms). */
void enclave_publish_refresh(void);

/* ---- Call sites bound to an arena ----------------------------------------------------------- */

/*
 * With libenclave-malloc.so in the process (linked before libc, or LD_PRELOAD), a thread can have an
 * active arena: while it has, malloc, calloc, realloc of NULL, posix_memalign, aligned_alloc,
 * memalign, and whatever calls them (strdup, asprintf, getline, operator new), allocate there. free
 * and realloc know an arena's pointers in every thread and in every translation unit, whether an
 * arena is active or not. Where the arena has no memory, malloc returns NULL: nothing falls back to
 * the heap.
 *
 * What it costs in protection: code that calls malloc writes to what it gets, so the arena must be
 * open to it. Its gate is `none`, and then any stray read of the process reaches it at all times; or
 * it has a key gate and this thread has it open (enclave_arena_open), and then everything that the
 * thread runs meanwhile reaches it. It is locked, kept out of dumps and children, checked and wiped
 * in either case.
 */

/* Calls allocator(size) with the arena active, and returns what it returned. NULL with
 * ENCLAVE_ERROR_NO_INTERPOSER where the interposer is not in the process, and with
 * ENCLAVE_ERROR_CLOSED where the arena is closed to this thread.
 *
 * An allocator that does not come to this library (another malloc, or one whose free is not ours
 * too) ends the process with a message and abort(3): the secret would lie in ordinary memory. */
void *enclave_arena_call(enclave_arena *arena, void *(*allocator)(size_t), size_t size);

/* Makes an arena this thread's active one (NULL: none) and stores the one that was in `before`
 * (which may be NULL). The caller keeps the arena alive meanwhile. Errors as above. */
enclave_status enclave_set_active(enclave_arena *arena, enclave_arena **before);

#ifdef __cplusplus
}
#endif

#endif
