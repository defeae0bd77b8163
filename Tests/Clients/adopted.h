// Shared by the files of the client "adopted".

#ifndef ADOPTED_H
#define ADOPTED_H

#include <gcrypt.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

static inline void set(volatile unsigned char *address, unsigned char value) { *address = value; }
static inline unsigned char get(volatile unsigned char *address) { return *address; }

/// Runs a function in a new thread, and waits for its end.
void *elsewhere(void *(*body)(void *), void *argument);
/// Prints "ok".
void ok(void);

// adopted_forks.c
void forks(void), storm(void), handlers(void), heap_handlers(void), nested(void), many_freed(void), ended(void), signalled(void);
// adopted_daemons.c
void held(void), poorer(void), closes(void), sandboxed(void), sandboxed_again(void), sandboxed_thread(void), sandboxed_root(void), sandboxed_at_once(void);

#endif
