// Reading a passphrase from a terminal: echo off, and back on whatever happens meanwhile.
//
// One thread of a process reads at a time; a second one waits in ces_terminal_take. While the echo
// is off, handlers stand before those of SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP and SIGCONT (not
// of SIGTTIN and SIGTTOU, after which a handled call would be restarted for ever). They note the
// signal and wake the reader, which restores the terminal and the handlers, and only then raises the
// signal again: it does what it would have done. What is ignored stays ignored. The idea is
// readpassphrase(3)'s of OpenBSD.

#ifndef C_ENCLAVE_TERMINAL_H
#define C_ENCLAVE_TERMINAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t ces_is_terminal(int fd);
/// read(2), again after EINTR.
int64_t ces_read(int fd, void *bytes, size_t length);
/// poll(2) until a read does not block (or tells why it fails); returns at once when poll fails.
void ces_await_input(int fd);
/// Whether a read would not block now.
bool ces_has_input(int fd);
/// Whether nothing will ever come any more.
bool ces_is_hung_up(int fd);

/// Makes the calling thread the reader of this terminal. Waits for another thread's reading.
void ces_terminal_take(int fd);
/// tcsetattr(3): no echo and no line editing, signals as they were; drops what was typed before, then
/// shows the prompt (without waiting for a terminal whose output is stopped, if a signal comes).
int64_t ces_terminal_silence(const char *prompt, size_t length);

enum : int32_t {
  CES_TERMINAL_INPUT = 0,       // there is something to read
  CES_TERMINAL_START_OVER = 1,  // stopped and continued: ces_terminal_silence is to be called again
  CES_TERMINAL_ENDED = 2,       // by a signal whose handler returned
};
/// Waits for input, and does what signals ask for. CES_TERMINAL_….
int32_t ces_terminal_wait(void);
/// A byte, 1; or 0, when it is gone or a signal has come, and ces_terminal_wait is to be called again.
int64_t ces_terminal_read(void *byte);

enum : int32_t {
  CES_KEY_TEXT,
  CES_KEY_LINE_END,
  CES_KEY_ERASE,
  CES_KEY_ERASE_WORD,
  CES_KEY_ERASE_LINE,
  CES_KEY_END,        // of the input
  CES_KEY_INTERRUPT,  // only of a terminal that sends no signal for it
};
/// What a byte means: the terminal's own special characters, and the usual ones.
int32_t ces_terminal_key(uint8_t byte);

/// Shows a newline, and puts the settings and the handlers back. Calling it again does nothing.
int64_t ces_terminal_restore(void);
/// The same where it has not been done; then lets the next reader in, and raises what was noted.
void ces_terminal_release(void);

/// Puts the settings back, when the process is about to end. Async-signal-safe.
void ces_terminal_rescue(void);
/// Whether the reader's handler stands before a signal's own, which is copied then.
bool ces_terminal_covered(int signal, struct sigaction *own);
/// Has the reader put this back instead of a signal's own; false when it does not cover the signal.
bool ces_terminal_replace(int signal, const struct sigaction *own);

#endif
