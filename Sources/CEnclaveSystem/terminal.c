// Implements CEnclaveTerminal.h. A signal that would end the process is only delayed until the reader has
// restored the terminal; the reader waits only in poll(2), so the delay is short.

#define _GNU_SOURCE
#include "CEnclaveTerminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "CEnclaveSystem.h"
#include "CEnclaveWipe.h"

int64_t ces_is_terminal(int fd) { return isatty(fd); }

int64_t ces_read(int fd, void *bytes, size_t length) {
  ssize_t n;
  do n = read(fd, bytes, length); while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

void ces_await_input(int fd) {
  // poll(2) ignores negative descriptors and would wait forever. read(2) returns EBADF.
  if (fd < 0) return;
  struct pollfd input = {fd, POLLIN, 0};
  while (poll(&input, 1, -1) < 0 && errno == EINTR) {
  }
}

bool ces_has_input(int fd) {
  struct pollfd input = {fd, POLLIN, 0};
  return poll(&input, 1, 0) == 1;
}

bool ces_is_hung_up(int fd) {
  struct pollfd input = {fd, 0, 0};
  return poll(&input, 1, 0) == 1;
}

// --- The reader --------------------------------------------------------------------------------

/// In the order in which they are raised again: the ones that end the process first.
static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT};
enum { SIGNALS = sizeof signals / sizeof *signals, ENDING = 4 };

static uint32_t reader;  // the process that is reading; 0 if none
static int terminal;  // the caller's descriptor
static int input = -1;  // the same terminal, opened here, so that reads never block; -1: `terminal` is read
static bool is_registered;  // ces_terminal_restore_before_end runs at exit
static bool is_saved;  // `before` holds the settings to restore
static struct termios before;
static uint32_t is_echo_off;  // also while it is being turned off
static int waker = -1;  // eventfd(2), written by handlers in any thread
static uint32_t received;  // signals to deliver, as bits
static uint32_t handlers;  // running handlers
static struct {
  bool is_replaced;
  struct sigaction own;
} replaced[SIGNALS];

static int index_of(int signal) {
  int index = 0;
  while (index < SIGNALS && signals[index] != signal) index++;
  return index;
}

static void on_signal(int signal);

/// Whether the signal's action is still the reader's; false if somebody else has changed it since.
static bool has_replaced(int index) {
  struct sigaction now;
  return index < SIGNALS && replaced[index].is_replaced &&
         sigaction(signals[index], NULL, &now) == 0 && now.sa_handler == on_signal;
}

static void restore_action(int index) {
  if (has_replaced(index)) sigaction(signals[index], &replaced[index].own, NULL);
}

static void on_signal(int signal) {
  int error = errno;
  __atomic_add_fetch(&handlers, 1, __ATOMIC_SEQ_CST);
  int fd = __atomic_load_n(&waker, __ATOMIC_SEQ_CST);
  bool is_own = __atomic_load_n(&reader, __ATOMIC_RELAXED) == (uint32_t)getpid();
  if (is_own && fd >= 0) {
    __atomic_fetch_or(&received, 1u << index_of(signal), __ATOMIC_SEQ_CST);
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);
    (void)ignored;
  }
  __atomic_sub_fetch(&handlers, 1, __ATOMIC_SEQ_CST);
  if (!is_own || fd < 0) {
    // A forked child has no reader, or the reader has just finished. The raised signal is delivered when
    // this handler returns.
    if (!is_own) restore_action(index_of(signal));
    raise(signal);
  }
  errno = error;
}

static void replace_actions(void) {
  for (int i = 0; i < SIGNALS; i++) {
    struct sigaction *own = &replaced[i].own;
    if (sigaction(signals[i], NULL, own) != 0) continue;
    if (!(own->sa_flags & SA_SIGINFO) && own->sa_handler == SIG_IGN) continue;
    struct sigaction recording;
    memset(&recording, 0, sizeof recording);
    recording.sa_handler = on_signal;
    recording.sa_flags = SA_ONSTACK | SA_RESTART;
    sigfillset(&recording.sa_mask);
    replaced[i].is_replaced = true;
    sigaction(signals[i], &recording, NULL);
  }
}

static void restore_actions(void) {
  for (int i = 0; i < SIGNALS; i++) {
    restore_action(i);
    replaced[i].is_replaced = false;
  }
}

bool ces_terminal_replaced_action(int signal, struct sigaction *own) {
  int index = index_of(signal);
  if (!has_replaced(index)) return false;
  *own = replaced[index].own;
  return true;
}

bool ces_terminal_set_replaced_action(int signal, const struct sigaction *own) {
  int index = index_of(signal);
  if (!has_replaced(index)) return false;
  replaced[index].own = *own;
  return true;
}

/// Whether another process group owns the terminal. Always false if it is not the controlling terminal.
static bool is_in_background(void) {
  pid_t group = tcgetpgrp(terminal);
  return group > 0 && group != getpgrp();
}

void ces_terminal_restore_before_end(void) {
  int error = errno;
  if (__atomic_load_n(&is_echo_off, __ATOMIC_ACQUIRE) &&
      __atomic_load_n(&reader, __ATOMIC_RELAXED) == (uint32_t)getpid() && !is_in_background()) {
    tcsetattr(terminal, TCSANOW, &before);
  }
  errno = error;
}

/// Opens the controlling terminal again, if that is what this descriptor is; otherwise returns -1. O_NONBLOCK is a
/// property of an open file, and the caller's may be shared with other processes.
static int open_again(int fd) {
  unsigned own = 0, opened = 0;
  if (ioctl(fd, TIOCGDEV, &own) != 0) return -1;
  int made = open("/dev/tty", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (made >= 0 && (ioctl(made, TIOCGDEV, &opened) != 0 || opened != own)) {
    close(made);
    made = -1;
  }
  return made;
}

void ces_terminal_take(int fd) {
  uint32_t own = (uint32_t)getpid();
  for (;;) {
    uint32_t found = __atomic_load_n(&reader, __ATOMIC_RELAXED);
    if (found != own && __atomic_compare_exchange_n(&reader, &found, own, false, __ATOMIC_ACQUIRE,
                                                    __ATOMIC_RELAXED)) {
      // If the last reader was of another process, this is a child that was forked during the read.
      if (found != 0) restore_actions();
      break;
    }
    nanosleep(&(struct timespec){0, 10000000}, NULL);
  }
  terminal = fd;
  if (input >= 0) close(input);  // of the parent of a child that was forked during a read
  input = open_again(fd);
  is_saved = false;
  is_echo_off = received = handlers = 0;
  __atomic_store_n(&waker, -1, __ATOMIC_SEQ_CST);
  if (!is_registered) is_registered = ces_at_exit(ces_terminal_restore_before_end) == 0;
}

// --- Settings ----------------------------------------------------------------------------------

/// Writes to the terminal, or to standard error if the terminal was opened read-only. If the terminal's
/// output is stopped, waits only until a signal arrives.
static void show(const char *text, size_t length, int timeout) {
  int flags = fcntl(terminal, F_GETFL);
  int fd = flags >= 0 && (flags & O_ACCMODE) == O_RDONLY ? STDERR_FILENO : terminal;
  struct pollfd files[] = {{fd, POLLOUT, 0}, {waker, POLLIN, 0}};
  int ready;
  do ready = poll(files, 2, timeout);
  while (ready < 0 && errno == EINTR && !__atomic_load_n(&received, __ATOMIC_SEQ_CST));
  if (ready > 0 && files[0].revents) ces_write(fd, text, length);
}

int64_t ces_terminal_echo_off(const char *prompt, size_t length) {
  // If a stop came before the settings could be restored, the current ones are the read's own.
  if (!is_saved && tcgetattr(terminal, &before) < 0) return -errno;
  is_saved = true;
  int made = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (made < 0) return -errno;
  __atomic_store_n(&waker, made, __ATOMIC_SEQ_CST);
  replace_actions();
  struct sigaction stop;
  if (sigaction(SIGTTOU, NULL, &stop) == 0 && !(stop.sa_flags & SA_SIGINFO) &&
      stop.sa_handler == SIG_IGN && is_in_background()) {
    return -EIO;  // as read(2) would answer: another process group owns the terminal now
  }
  struct termios silent = before;
  silent.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON);
  // With VMIN 0 reads do not block: ^Z may drop input between poll(2) and read(2). After a stop, the shell may have
  // changed these settings, so `input` is read instead where it could be opened.
  silent.c_cc[VMIN] = 0;
  silent.c_cc[VTIME] = 0;
  __atomic_store_n(&is_echo_off, 1, __ATOMIC_RELEASE);
  // In the background this call stops the process. With SIGTTOU blocked it would instead change the
  // settings of the foreground process.
  sigset_t output, mask;
  sigemptyset(&output);
  sigaddset(&output, SIGTTOU);
  pthread_sigmask(SIG_UNBLOCK, &output, &mask);
  int result, error;
  do {
    result = tcsetattr(terminal, TCSANOW, &silent);
    // Earlier input was echoed and is not part of the passphrase.
    if (result == 0) result = tcflush(terminal, TCIFLUSH);
    error = errno;
  } while (result < 0 && error == EINTR && !__atomic_load_n(&received, __ATOMIC_SEQ_CST));
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  if (__atomic_load_n(&received, __ATOMIC_SEQ_CST)) return 0;  // ces_terminal_wait handles it
  if (result < 0) return -error;
  show(prompt, length, -1);
  return 0;
}

int32_t ces_terminal_key(uint8_t byte) {
  const cc_t *keys = before.c_cc;
  if (byte == '\n' || byte == '\r') return CES_KEY_LINE_END;
  // _POSIX_VDISABLE is 0 and means that the special character is disabled.
  if (byte == 0) return CES_KEY_TEXT;
  if (byte == keys[VERASE] || byte == 8 || byte == 127) return CES_KEY_ERASE;
  if (byte == keys[VWERASE] || byte == 23) return CES_KEY_ERASE_WORD;
  if (byte == keys[VKILL] || byte == 21) return CES_KEY_ERASE_LINE;
  if (byte == keys[VEOF] || byte == 4) return CES_KEY_END;
  if (!(before.c_lflag & ISIG) && (byte == keys[VINTR] || byte == 3)) return CES_KEY_INTERRUPT;
  return CES_KEY_TEXT;
}

int64_t ces_terminal_read(void *byte) {
  ssize_t n = read(input >= 0 ? input : terminal, byte, 1);
  if (n >= 0) return n;
  // In the background, with SIGTTIN blocked, read(2) fails with EIO; ces_terminal_wait handles that.
  return errno == EINTR || errno == EAGAIN || (errno == EIO && is_in_background()) ? 0 : -errno;
}

int64_t ces_terminal_restore(void) {
  if (waker < 0) return 0;
  int64_t result = 0;
  if (is_echo_off && !is_in_background()) {
    show("\n", 1, 0);
    if (tcsetattr(terminal, TCSANOW, &before) < 0) {
      result = -errno;
    } else {
      is_saved = false;
    }
  }
  __atomic_store_n(&is_echo_off, 0, __ATOMIC_RELEASE);
  restore_actions();
  int made = waker;
  __atomic_store_n(&waker, -1, __ATOMIC_SEQ_CST);
  // A handler that has loaded `waker` may write to it; a later one raises its signal itself.
  for (uint32_t tries = 0; __atomic_load_n(&handlers, __ATOMIC_SEQ_CST) != 0;) ces_back_off(tries++);
  close(made);
  return result;
}

// --- Signals -----------------------------------------------------------------------------------

/// Delivers a signal. If it stops or ends the process, that happens before this returns.
static void deliver(int signal) {
  struct sigaction now;
  sigset_t one, mask;
  sigemptyset(&one);
  sigaddset(&one, signal);
  if (sigaction(signal, NULL, &now) != 0) return;
  bool is_default = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
  if (is_default || ces_wipe_covers(signal)) {
    pthread_sigmask(SIG_UNBLOCK, &one, &mask);
    raise(signal);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return;
  }
  // An application's handler runs in a thread that the application allows.
  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  if (sigismember(&mask, signal)) {
    kill(getpid(), signal);
  } else {
    raise(signal);
  }
}

/// Delivers the received signals. Returns whether one of them ends the read.
static bool deliver_received(void) {
  uint32_t bits = __atomic_exchange_n(&received, 0, __ATOMIC_SEQ_CST);
  for (int i = 0; i < SIGNALS; i++) {
    if (bits & 1u << i) deliver(signals[i]);
  }
  return bits & ((1u << ENDING) - 1);
}

int32_t ces_terminal_wait(void) {
  for (;;) {
    if (__atomic_load_n(&received, __ATOMIC_SEQ_CST)) {
      ces_terminal_restore();
      return deliver_received() ? CES_TERMINAL_ENDED : CES_TERMINAL_START_OVER;
    }
    struct pollfd files[] = {{terminal, POLLIN, 0}, {waker, POLLIN, 0}};
    int ready = poll(files, 2, -1);
    if (ready < 0 && errno == EINTR) continue;
    if (files[1].revents && ready > 0) continue;
    if (is_in_background()) {
      // Stopped by something other than ^Z, and continued: input now belongs to the shell.
      ces_terminal_restore();
      return deliver_received() ? CES_TERMINAL_ENDED : CES_TERMINAL_START_OVER;
    }
    return CES_TERMINAL_INPUT;
  }
}

void ces_terminal_release(void) {
  ces_terminal_restore();
  uint32_t left = __atomic_exchange_n(&received, 0, __ATOMIC_SEQ_CST);
  if (input >= 0) close(input);
  input = -1;
  __atomic_store_n(&reader, 0, __ATOMIC_RELEASE);
  for (int i = 0; i < SIGNALS; i++) {
    if (left & 1u << i) deliver(signals[i]);
  }
}
