// The table behind CEnclaveWipe.h, and the handler that walks it.

#define _GNU_SOURCE
#include "CEnclaveWipe.h"

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "CEnclaveSystem.h"
#include "CEnclaveTerminal.h"

// --- The table ---------------------------------------------------------------------------------

enum { BLOCK_BYTES = 4096, BLOCK_ENTRIES = (BLOCK_BYTES - 8) / sizeof(ces_wipe_entry) };

typedef struct block {
  struct block *next;
  ces_wipe_entry entries[BLOCK_ENTRIES];
} block_t;
_Static_assert(sizeof(block_t) <= BLOCK_BYTES, "a page");

static int owner;                   // the process that the arenas are of, not its children
static block_t *blocks;             // only ever grows, at its head
static ces_wipe_entry *free_entry;  // under `table_lock`, as all changes but the handler's
static uint32_t table_lock;

ces_wipe_entry *ces_wipe_add(void *data, ces_gate *gate) {
  ces_process_lock(&table_lock);
  if (!free_entry) {
    block_t *block = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
      ces_spin_unlock(&table_lock);
      return NULL;
    }
    for (size_t i = 0; i < BLOCK_ENTRIES; i++) {
      block->entries[i].data = free_entry;
      free_entry = &block->entries[i];
    }
    block->next = blocks;
    __atomic_store_n(&blocks, block, __ATOMIC_RELEASE);
  }
  ces_wipe_entry *entry = free_entry;
  free_entry = entry->data;
  entry->data = data;
  entry->gate = gate;
  entry->used = 0;
  entry->late = 0;
  __atomic_store_n(&owner, getpid(), __ATOMIC_RELAXED);
  __atomic_store_n(&entry->state, CES_WIPE_LIVE, __ATOMIC_SEQ_CST);
  ces_spin_unlock(&table_lock);
  return entry;
}

void ces_wipe_remove(ces_wipe_entry *entry) {
  uint32_t live = CES_WIPE_LIVE;
  while (!__atomic_compare_exchange_n(&entry->state, &live, CES_WIPE_FREE, false,
                                      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    ces_sleep_ms(1000);  // a wipe has taken it: what comes next is the end of the process
    live = CES_WIPE_LIVE;
  }
  ces_process_lock(&table_lock);
  entry->data = free_entry;
  free_entry = entry;
  ces_spin_unlock(&table_lock);
}

// --- Status ------------------------------------------------------------------------------------

static uint32_t installed;  // handlers
static uint32_t wiper;      // the thread that wipes, 0 before
static uint32_t result;     // CES_WIPE_DONE or CES_WIPE_LEFT, 0 before
static uint64_t *status_word, *signal_word;

uint32_t ces_wipe_status(void) {
  uint32_t done = __atomic_load_n(&result, __ATOMIC_ACQUIRE);
  if (done) return done;
  if (__atomic_load_n(&wiper, __ATOMIC_RELAXED)) return CES_WIPE_BEGUN;
  return __atomic_load_n(&installed, __ATOMIC_RELAXED) ? CES_WIPE_INSTALLED : CES_WIPE_ABSENT;
}

void ces_wipe_report_to(uint64_t *status, uint64_t *signal) {
  __atomic_store_n(&signal_word, signal, __ATOMIC_RELEASE);
  __atomic_store_n(&status_word, status, __ATOMIC_RELEASE);
}

// --- Faults of the wipe itself -----------------------------------------------------------------
//
// Pages that another thread closes under the wipe, or that are no longer there, fault. For as long as
// it runs, this handler stands before all others: it opens what can be opened, and skips the rest.

static uint32_t guarded;  // the thread whose faults these are, 0 when there is none
static struct sigaction before_segv, before_bus;
static uintptr_t wiping_from, wiping_to;
static unsigned repairs;  // of this entry; pages under somebody else's key fault for ever
static sigjmp_buf skip;

static uint32_t this_thread(void) { return (uint32_t)syscall(SYS_gettid); }

static void on_own_fault(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)context;
  if (this_thread() != __atomic_load_n(&guarded, __ATOMIC_RELAXED)) {
    // Another thread's fault: its handler comes when this one has gone.
    for (uint32_t tries = 0; __atomic_load_n(&guarded, __ATOMIC_ACQUIRE) != 0;) {
      ces_back_off(tries++);
    }
    return;
  }
  uintptr_t at = (uintptr_t)info->si_addr;
  enum { MOST_REPAIRS = 4096 };
  if (at >= wiping_from && at < wiping_to && repairs++ < MOST_REPAIRS &&
      mprotect((void *)wiping_from, wiping_to - wiping_from, PROT_READ | PROT_WRITE) == 0) {
    return;
  }
  siglongjmp(skip, 1);
}

bool ces_is_wipes_handler(const void *handler) { return handler == (const void *)on_own_fault; }

static void guard_faults(void) {
  uint32_t nobody = 0, self = this_thread(), tries = 0;
  while (!__atomic_compare_exchange_n(&guarded, &nobody, self, false, __ATOMIC_ACQUIRE,
                                      __ATOMIC_RELAXED)) {
    if (nobody == self) _exit(128 + SIGABRT);  // a fault that the handler does not know
    ces_back_off(tries++);
    nobody = 0;
  }
  struct sigaction own;
  memset(&own, 0, sizeof own);
  own.sa_sigaction = on_own_fault;
  own.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &own, &before_segv);
  sigaction(SIGBUS, &own, &before_bus);
}

static void leave_faults(void) {
  sigaction(SIGSEGV, &before_segv, NULL);
  sigaction(SIGBUS, &before_bus, NULL);
  __atomic_store_n(&guarded, 0, __ATOMIC_RELEASE);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// --- The wipe ----------------------------------------------------------------------------------

/// Windows for writing, and frees, that threads other than this one have open.
static bool has_writers(const ces_gate *gate) {
  for (int i = 0; i < CES_THREADS; i++) {
    // This thread cannot go on before the handler does. (The shared number may be another's too.)
    if (i == ces_thread && i != CES_THREADS - 1) continue;
    ces_counters *counters = ces_gate_counters(gate, i);
    if (counters && ((ces_load_relaxed(&counters->writes) & CES_OPEN_MASK) != 0 ||
                  ces_load_relaxed32(&counters->wiping) != 0)) {
      return true;
    }
  }
  return false;
}

static void wipe_entry(ces_wipe_entry *entry, uint32_t keys) {
  size_t used = __atomic_load_n(&entry->used, __ATOMIC_ACQUIRE);
  if (used == 0) return;
  wiping_from = (uintptr_t)entry->data;
  wiping_to = wiping_from + used;
  repairs = 0;
  if (sigsetjmp(skip, 0) == 0) {
    // After a fault the kernel has closed all keys again.
    if (keys) ces_wrpkru(ces_rdpkru() & ~keys);
    // Without a key, pages are what closes it (or freezes it).
    if (entry->gate->key_bits == 0) mprotect(entry->data, used, PROT_READ | PROT_WRITE);
    ces_wipe(entry->data, used);
  }
  wiping_from = wiping_to = 0;
}

/// Takes what is live, and tells its users. The number of entries that were taken.
static size_t take_all(void) {
  size_t count = 0;
  for (block_t *block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block; block = block->next) {
    for (size_t i = 0; i < BLOCK_ENTRIES; i++) {
      ces_wipe_entry *entry = &block->entries[i];
      uint32_t live = CES_WIPE_LIVE;
      if (!__atomic_compare_exchange_n(&entry->state, &live, CES_WIPE_TAKEN, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        continue;
      }
      // In a forked child it is a copy of zeros, or not there at all.
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

/// Wipes what was taken (only what is `late`, when `again`); returns whether somebody may still be
/// writing.
static bool wipe_taken(uint32_t keys, bool again) {
  bool is_written = false;
  for (block_t *block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block; block = block->next) {
    for (size_t i = 0; i < BLOCK_ENTRIES; i++) {
      ces_wipe_entry *entry = &block->entries[i];
      if (__atomic_load_n(&entry->state, __ATOMIC_RELAXED) != CES_WIPE_TAKEN) continue;
      if (again && !entry->late) continue;
      // Looked at before the wipe: who leaves later is waited for.
      entry->late = entry->used != 0 && has_writers(entry->gate);
      wipe_entry(entry, keys);
      is_written |= entry->late != 0;
    }
  }
  return is_written;
}

static void report(int signal) {
  if (sigsetjmp(skip, 0) != 0) return;  // the page was truncated
  uint64_t *status = __atomic_load_n(&status_word, __ATOMIC_ACQUIRE);
  uint64_t *number = __atomic_load_n(&signal_word, __ATOMIC_ACQUIRE);
  if (number) ces_store_relaxed(number, (uint64_t)signal);
  if (status) ces_store_release(status, ces_wipe_status());
}

/// Wipes everything; the second and further threads wait until the first has done it.
static void wipe_everything(int signal) {
  uint32_t nobody = 0, self = this_thread();
  if (!__atomic_compare_exchange_n(&wiper, &nobody, self, false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE)) {
    if (nobody == self) return;  // a fault in the handler
    for (uint32_t tries = 0; __atomic_load_n(&result, __ATOMIC_ACQUIRE) == 0;) {
      ces_back_off(tries++);
    }
    return;
  }
  guard_faults();
  uint32_t keys = __atomic_load_n(&ces_pool_bits, __ATOMIC_RELAXED);
  uint32_t found = keys ? ces_rdpkru() : 0;

  bool is_written = false;
  // Chunks that came meanwhile are taken too; whoever adds one later sees that the wipe has begun.
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
  leave_faults();
}

// --- The interrupted thread --------------------------------------------------------------------
//
// A crash report prints the registers and the bytes that they point at, and a core dump holds them
// all. What is needed to find the way back through the stack is kept: the program counter, the stack
// pointer, a frame pointer that is one, and return addresses.

enum { CODE_RANGES = 256, FRAME_BYTES = 4096, RED_ZONE = 128 };
static struct {
  uintptr_t from, to;
} code[CODE_RANGES];
static size_t code_count;

static int note_object(struct dl_phdr_info *info, size_t size, void *unused) {
  (void)size, (void)unused;
  for (int i = 0; i < info->dlpi_phnum && code_count < CODE_RANGES; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    if (header->p_type != PT_LOAD || !(header->p_flags & PF_X)) continue;
    code[code_count].from = info->dlpi_addr + header->p_vaddr;
    code[code_count].to = code[code_count].from + header->p_memsz;
    code_count++;
  }
  return 0;
}

void ces_wipe_note_code(void) {
  code_count = 0;
  dl_iterate_phdr(note_object, NULL);
}

static bool is_code(uintptr_t word) {
  for (size_t i = 0; i < code_count; i++) {
    if (word >= code[i].from && word < code[i].to) return true;
  }
  return false;
}

/// Clears the words of [from, to) that are no addresses of code.
static void clear_stack(uintptr_t from, uintptr_t to) {
  from &= ~(uintptr_t)7;
  for (uintptr_t at = from; at < to; at += sizeof(uintptr_t)) {
    volatile uintptr_t *word = (volatile uintptr_t *)at;
    if (!is_code(*word)) *word = 0;
  }
}

static bool is_frame(uintptr_t frame, uintptr_t stack) {
  return frame >= stack && frame - stack < (8u << 20) && frame % sizeof(uintptr_t) == 0;
}

#if defined(__x86_64__)
/// The vector registers as the kernel saved them: everything but PKRU goes, which would come back
/// with all keys open. Intel SDM volume 1, 13.4; <asm/sigcontext.h>.
static void clear_vectors(struct _libc_fpstate *state) {
  if (!state) return;
  memset(state->_st, 0, sizeof state->_st);
  memset(state->_xmm, 0, sizeof state->_xmm);
  const uint32_t *software = (const uint32_t *)((const char *)state + 464);
  if (software[0] != 0x46505853u) return;  // FP_XSTATE_MAGIC1: there is more
  uint32_t size = software[4], a, b = 0, c, d, pkru_bytes = 0, pkru_at = 0;
  if (__get_cpuid_count(0xd, 9, &a, &b, &c, &d)) {
    pkru_bytes = a;
    pkru_at = b;
  }
  enum { LEGACY = 512, HEADER = 64 };
  for (uint32_t at = LEGACY + HEADER; at + 4 <= size; at++) {
    if (at >= pkru_at && at < pkru_at + pkru_bytes) continue;
    ((volatile char *)state)[at] = 0;
  }
}
#endif

static void clear_registers(ucontext_t *context) {
#if defined(__x86_64__)
  greg_t *registers = context->uc_mcontext.gregs;
  uintptr_t stack = (uintptr_t)registers[REG_RSP], frame = (uintptr_t)registers[REG_RBP];
  static const int general[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_R8,
                                REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  for (size_t i = 0; i < sizeof general / sizeof *general; i++) registers[general[i]] = 0;
  registers[REG_CR2] = 0;
  if (!is_frame(frame, stack)) registers[REG_RBP] = 0;
  clear_vectors(context->uc_mcontext.fpregs);
  uintptr_t red = RED_ZONE;
#elif defined(__aarch64__)
  uintptr_t stack = context->uc_mcontext.sp, frame = context->uc_mcontext.regs[29], red = 0;
  for (int i = 0; i < 29; i++) context->uc_mcontext.regs[i] = 0;
  context->uc_mcontext.fault_address = 0;
  if (!is_frame(frame, stack)) context->uc_mcontext.regs[29] = 0;
  struct fpsimd_context *vectors = (struct fpsimd_context *)context->uc_mcontext.__reserved;
  if (vectors->head.magic == FPSIMD_MAGIC) memset(vectors->vregs, 0, sizeof vectors->vregs);
#endif
  uintptr_t end = stack + 16;
  if (is_frame(frame, stack) && frame > end) {
    end = frame - stack < FRAME_BYTES ? frame : stack + FRAME_BYTES;
  } else if (frame == stack) {
    end = stack;  // a frame with nothing in it but the way back
  }
  clear_stack(stack, end);
  // Last: of a stack that ended here nothing lies below, and the attempt ends this function.
  clear_stack(stack - red, stack);
}

static void clear_interrupted(ucontext_t *context) {
  // The stack may have ended: then there is nothing to clear.
  guard_faults();
  if (sigsetjmp(skip, 0) == 0) clear_registers(context);
  leave_faults();
}

// --- Signals -----------------------------------------------------------------------------------

/// What a signal did before: to be done after the wipe, or before it where it is an application's.
typedef enum { ENDS, IS_RUNTIME, IS_APPLICATION } before_t;
static struct {
  before_t before;
  struct sigaction action;
} handled[NSIG];

static _Noreturn void end_by(int signal) {
  struct sigaction standard;
  memset(&standard, 0, sizeof standard);
  sigaction(signal, &standard, NULL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  syscall(SYS_tgkill, getpid(), this_thread(), signal);
  pthread_sigmask(SIG_UNBLOCK, &one, NULL);
  _exit(128 + signal);
}

static void call(const struct sigaction *action, int signal, siginfo_t *info, void *context) {
  if (action->sa_flags & SA_SIGINFO) {
    action->sa_sigaction(signal, info, context);
  } else {
    action->sa_handler(signal);
  }
}

static void on_signal(int signal, siginfo_t *info, void *context) {
  int error = errno;
  if (handled[signal].before == IS_APPLICATION) {
    call(&handled[signal].action, signal, info, context);
    struct sigaction now;
    if (handled[signal].action.sa_flags & SA_RESETHAND) {
      // Next time it would have ended the process.
      handled[signal].before = ENDS;
      errno = error;
      return;
    }
    // It dealt with it, unless it gave up and left the rest to the kernel.
    if (sigaction(signal, NULL, &now) == 0 &&
        ((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL)) {
      errno = error;
      return;
    }
  }
  sigset_t all;
  sigfillset(&all);
  static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  if (getpid() == __atomic_load_n(&owner, __ATOMIC_RELAXED)) {
    wipe_everything(signal);
    clear_interrupted(context);
  }
  ces_terminal_rescue();
  if (handled[signal].before == IS_RUNTIME) {
    call(&handled[signal].action, signal, info, context);
  }
  end_by(signal);
}

/// The Swift runtime's own crash handler prints and returns; it is one function for all these
/// signals, with these flags.
static bool is_runtime(const struct sigaction *action) {
  const int restorer = 0x04000000;  // the kernel's SA_RESTORER
  if ((action->sa_flags & ~restorer) != (SA_ONSTACK | SA_SIGINFO | SA_NODEFER)) return false;
  static const int signals[] = {SIGILL, SIGTRAP, SIGFPE, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction other;
    if (sigaction(signals[i], NULL, &other) != 0) return false;
    if (other.sa_sigaction == on_signal) other = handled[signals[i]].action;
    if (!(other.sa_flags & SA_SIGINFO) || other.sa_sigaction != action->sa_sigaction) return false;
  }
  return true;
}

/// A signal's action; while a passphrase is read, what stands behind the reader's handler.
static int look_up(int signal, struct sigaction *action) {
  return ces_terminal_covered(signal, action) ? 0 : sigaction(signal, NULL, action);
}

bool ces_wipe_covers(int signal) {
  struct sigaction now;
  return look_up(signal, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal;
}

int64_t ces_wipe_install(int signal, bool is_fault) {
  struct sigaction now;
  if (look_up(signal, &now) < 0) return -errno;
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal) return 1;
  bool is_default = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
  if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN) return 0;
  before_t before = is_default ? ENDS : is_runtime(&now) ? IS_RUNTIME : IS_APPLICATION;
  if (before == IS_APPLICATION && !is_fault) return 0;
  handled[signal].before = before;
  handled[signal].action = now;
  struct sigaction own;
  memset(&own, 0, sizeof own);
  own.sa_flags = SA_SIGINFO | SA_ONSTACK;
  if (before == IS_APPLICATION) {
    // An application's handler finds what it asked for.
    own.sa_mask = now.sa_mask;
    own.sa_flags = (now.sa_flags & ~SA_RESETHAND) | SA_SIGINFO;
  } else {
    sigfillset(&own.sa_mask);
    static const int faults[] = {SIGSEGV, SIGBUS};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&own.sa_mask, faults[i]);
    own.sa_flags |= SA_NODEFER;
  }
  own.sa_sigaction = on_signal;
  if (!ces_terminal_replace(signal, &own) && sigaction(signal, &own, NULL) < 0) return -errno;
  __atomic_add_fetch(&installed, 1, __ATOMIC_RELEASE);
  return 1;
}
