// Reads a passphrase from a terminal. Echo is off meanwhile, and is turned back on however the read ends.
//
// One thread of a process reads at a time; others wait in ces_terminal_take. While echo is off, handlers
// replace those of SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP and SIGCONT. (SIGTTIN and SIGTTOU are left
// alone: a handled call would be restarted forever.) The handlers record the signal and wake the reader,
// which restores the terminal and the previous handlers and then raises the signal again. Ignored signals
// stay ignored. The idea is from OpenBSD's readpassphrase(3).

#ifndef C_ENCLAVE_TERMINAL_H
#define C_ENCLAVE_TERMINAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t ces_is_terminal(int fd);
/// read(2), retried after EINTR.
int64_t ces_read(int fd, void *bytes, size_t length);
/// Waits (poll(2)) until a read would not block. Returns at once if poll fails.
void ces_await_input(int fd);
/// Whether a read would not block now.
bool ces_has_input(int fd);
/// Whether the other end is closed or the terminal is gone: no more input will come.
bool ces_is_hung_up(int fd);

/// Makes the calling thread the process's reader, of this terminal. Waits while another thread reads.
void ces_terminal_take(int fd);
/// Turns echo and line editing off (tcsetattr(3)), keeps signal keys, drops earlier input, and shows the
/// prompt. Waits while the terminal's output is stopped (^S), until a signal arrives. Returns 0 or -errno.
int64_t ces_terminal_echo_off(const char *prompt, size_t length);

enum : int32_t {
  CES_TERMINAL_INPUT = 0,  // input is available
  CES_TERMINAL_START_OVER = 1,  // the process was stopped and continued: call ces_terminal_echo_off again
  CES_TERMINAL_ENDED = 2,  // a signal arrived that ends the read; its handler has returned
};
/// Waits for input or a signal; delivers the signal. Returns CES_TERMINAL_….
int32_t ces_terminal_wait(void);
/// Reads a byte and returns 1. Returns 0 if there is none or a signal arrived (call ces_terminal_wait again),
/// or -errno.
int64_t ces_terminal_read(void *byte);

enum : int32_t {
  CES_KEY_TEXT,
  CES_KEY_LINE_END,
  CES_KEY_ERASE,
  CES_KEY_ERASE_WORD,
  CES_KEY_ERASE_LINE,
  CES_KEY_END,  // end of input
  CES_KEY_INTERRUPT,  // only if the terminal does not send a signal for it
};
/// Classifies a byte by the terminal's special characters and the usual ones.
int32_t ces_terminal_key(uint8_t byte);

/// Shows a newline, and restores the settings and handlers. Calling it again does nothing.
int64_t ces_terminal_restore(void);
/// Ends the read: restores if necessary, lets the next reader in, and raises the recorded signals.
void ces_terminal_release(void);

/// Restores the settings, for a process that is about to end. Async-signal-safe.
void ces_terminal_restore_before_end(void);
/// Whether a read has replaced a signal's action; if so, stores that action in `own`.
bool ces_terminal_replaced_action(int signal, struct sigaction *own);
/// Sets the action that the read will restore; false if no read has replaced the signal's action.
bool ces_terminal_set_replaced_action(int signal, const struct sigaction *own);

#endif
