// Windows in difficult situations, one per run: in signal handlers, in threads that did not open them, in children.
// windows NAME: exits with 0 and prints the values that the test compares.

#include <enclave.h>

#include <err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static enclave_arena *make(enclave_gate gate, enclave_lock lock) {
  enclave_options options = ENCLAVE_OPTIONS_DEFAULT;
  options.lock = lock;
  options.gate = gate;
  enclave_arena *arena;
  if (enclave_arena_create("windows", &options, &arena)) errx(70, "%s", enclave_last_error());
  return arena;
}

static char *take(enclave_arena *arena, const char *label) {
  char *secret = enclave_allocate(arena, 32, 0, label);
  if (!secret) errx(70, "%s", enclave_last_error());
  return secret;
}

static void every(int microseconds, void (*handler)(int)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, NULL);
  // The test's runner may have started this with signals blocked.
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
  struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

// --- In handlers -------------------------------------------------------------------------------

static char *volatile watched;
static volatile sig_atomic_t opened, busy, gone, other;

static void open_watched(int signal) {
  (void)signal;
  char *secret = watched;
  if (!secret) return;
  enclave_window window = ENCLAVE_WINDOW_CLOSED;
  switch (enclave_open(secret, ENCLAVE_READ, &window)) {
    case ENCLAVE_OK:
      opened = opened + 1;
      enclave_close(&window);
      break;
    case ENCLAVE_ERROR_BUSY: busy = busy + 1; break;
    case ENCLAVE_ERROR_DESTROYED:
    case ENCLAVE_ERROR_NOT_OURS: gone = gone + 1; break;
    default: other = other + 1;
  }
}

/// The handler interrupts changes of the arena that it opens.
static int changing(enclave_gate gate) {
  every(50, open_watched);
  for (int round = 0; round < 2000; round++) {
    enclave_arena *arena = make(gate, ENCLAVE_LOCK_PREFERRED);
    char *secret = take(arena, "watched");
    watched = secret;
    if (round & 1) enclave_arena_freeze(arena);
    if (round & 2) enclave_arena_destroy(arena, 1000);
    watched = NULL;
    if (!(round & 2)) enclave_free(secret);
    enclave_arena_release(arena);
  }
  // A check that takes longer than the timer's interval, so that the handler certainly interrupts it.
  enclave_arena *arena = make(gate, ENCLAVE_LOCK_OFF);
  for (int i = 0; i < 20000; i++) watched = take(arena, "watched");
  for (int round = 0; round < 1000 && (round < 20 || !busy || !opened); round++) {
    size_t wrong = 0;
    if (enclave_arena_check(arena, NULL, NULL, &wrong) || wrong) errx(71, "%zu", wrong);
  }
  watched = NULL;
  enclave_statistics now = {.struct_size = sizeof now};
  enclave_arena_statistics(arena, &now);
  printf("busy %d opened %d other %d open %d\n", busy > 0, opened > 0, (int)other,
         (int)now.open_windows);
  return 0;
}

enum { ARENAS = 1500 };
static char *many[ARENAS];
static volatile sig_atomic_t next_secret;

static void *allocate_many(void *unused) {
  for (int i = 0; i < ARENAS; i++) many[i] = take(make(ENCLAVE_GATE_NONE, ENCLAVE_LOCK_OFF), "many");
  return unused;
}

static void open_next(int signal) {
  if (next_secret >= ARENAS) return;
  watched = many[next_secret++];
  open_watched(signal);
}

static volatile int stop;
/// Runs with signals blocked: only the main thread runs the handlers.
static void *use_heap(void *unused) {
  unsigned seed = 1;
  while (!stop) free(malloc(2000 + rand_r(&seed) % 50000));
  return unused;
}

static int start_heap_user(pthread_t *thread) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = pthread_create(thread, NULL, use_heap, NULL);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return error;
}

/// Each of the handler's windows is the thread's first to that arena, and the first is the thread's first of all. They
/// interrupt malloc and free.
static int first(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, allocate_many, NULL) || pthread_join(thread, NULL)) return 70;
  if (start_heap_user(&thread)) return 70;
  every(50, open_next);
  void *blocks[64] = {0};
  unsigned seed = 2;
  while (next_secret < ARENAS) {
    int at = rand_r(&seed) % 64;
    free(blocks[at]);
    blocks[at] = malloc(2000 + rand_r(&seed) % 50000);
  }
  stop = 1;
  pthread_join(thread, NULL);
  printf("opened %d busy %d other %d\n", (int)opened, (int)busy, (int)(other + gone));
  return 0;
}

/// Refused windows in handlers allocate nothing either.
static void open_for_writing(int signal) {
  (void)signal;
  enclave_window window = ENCLAVE_WINDOW_CLOSED;
  if (enclave_open(watched, ENCLAVE_READ_WRITE, &window) == ENCLAVE_ERROR_FROZEN) busy = busy + 1;
}

static int refused(void) {
  enclave_arena *arena = make(ENCLAVE_GATE_NONE, ENCLAVE_LOCK_OFF);
  watched = take(arena, "frozen");
  if (enclave_arena_freeze(arena)) return 70;
  pthread_t thread;
  if (start_heap_user(&thread)) return 70;
  every(50, open_for_writing);
  void *blocks[64] = {0};
  unsigned seed = 2;
  while (busy < 2000) {
    int at = rand_r(&seed) % 64;
    free(blocks[at]);
    blocks[at] = malloc(2000 + rand_r(&seed) % 50000);
    enclave_statistics now = {.struct_size = sizeof now};
    enclave_arena_statistics(arena, &now);
  }
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  stop = 1;
  pthread_join(thread, NULL);
  enclave_statistics now = {.struct_size = sizeof now};
  enclave_arena_statistics(arena, &now);
  printf("counted %d\n", (int)now.failed_opens == busy);
  return 0;
}

// --- In other threads --------------------------------------------------------------------------

static enclave_window window = ENCLAVE_WINDOW_CLOSED;
static enclave_status status;
static char *own;

static void *close_elsewhere(void *unused) {
  enclave_window mine = ENCLAVE_WINDOW_CLOSED;
  if (own && enclave_open(own, ENCLAVE_READ, &mine)) errx(70, "%s", enclave_last_error());
  status = enclave_close(&window);
  if (own && enclave_close(&mine)) errx(70, "%s", enclave_last_error());
  return unused;
}

static int elsewhere(enclave_gate gate) {
  enclave_arena *arena = make(gate, ENCLAVE_LOCK_PREFERRED);
  char *secret = take(arena, "victim"), *second = take(arena, "other");
  for (int round = 0; round < 2; round++) {
    own = round ? second : NULL;
    if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) return 70;
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_elsewhere, NULL) || pthread_join(thread, NULL)) return 70;
    secret[0] = 1;  // it is still open
    printf("%d %d ", status, enclave_close(&window));
  }
  enclave_statistics now = {.struct_size = sizeof now};
  enclave_arena_statistics(arena, &now);
  printf("%d %d\n", (int)now.open_windows, enclave_arena_destroy(arena, 0));
  return 0;
}

static void *leave_open(void *secret) {
  if (enclave_open(secret, ENCLAVE_READ_WRITE, &window)) errx(70, "%s", enclave_last_error());
  return NULL;
}

static int left_open(enclave_gate gate) {
  enclave_arena *arena = make(gate, ENCLAVE_LOCK_PREFERRED);
  char *secret = take(arena, "victim");
  pthread_t thread;
  if (pthread_create(&thread, NULL, leave_open, secret) || pthread_join(thread, NULL)) return 70;
  enclave_status frozen = enclave_arena_freeze(arena);
  printf("%d %s\n", frozen, enclave_last_error());
  // A new thread with the same number does not change that.
  own = secret;
  if (pthread_create(&thread, NULL, close_elsewhere, NULL) || pthread_join(thread, NULL)) return 70;
  printf("%d ", status);
  printf("%d\n", enclave_arena_destroy(arena, 0));
  enclave_arena_release(arena);
  return 0;
}

// --- In children -------------------------------------------------------------------------------

static int forked(enclave_gate gate) {
  enclave_arena *arena = make(gate, ENCLAVE_LOCK_PREFERRED);
  char *secret = take(arena, "victim");
  if (enclave_open(secret, ENCLAVE_READ, &window)) return 70;
  pid_t child = fork();
  if (child == 0) {
    enclave_status closed = enclave_close(&window);
    _exit(closed == ENCLAVE_ERROR_INHERITED && enclave_close(&window) == ENCLAVE_OK ? 0 : 1 + closed);
  }
  int ended = 0;
  waitpid(child, &ended, 0);
  printf("child %d parent %d\n", WEXITSTATUS(ended), enclave_close(&window));
  return 0;
}

int main(int count, char **arguments) {
  const char *name = count > 1 ? arguments[1] : "", *word = count > 2 ? arguments[2] : "none";
  enclave_gate gate = strcmp(word, "none") == 0  ? ENCLAVE_GATE_NONE
                      : strcmp(word, "key") == 0 ? ENCLAVE_GATE_KEY : ENCLAVE_GATE_PAGES;
  if (strcmp(name, "changing") == 0) return changing(gate);
  if (strcmp(name, "first") == 0) return first();
  if (strcmp(name, "refused") == 0) return refused();
  if (strcmp(name, "elsewhere") == 0) return elsewhere(gate);
  if (strcmp(name, "left-open") == 0) return left_open(gate);
  if (strcmp(name, "forked") == 0) return forked(gate);
  errx(64, "%s", name);
}
