// ncursesw for Swift: the constants that do not import, and the two kinds of signals that a
// terminal program must handle in C. No policy.

#ifndef C_MEMWATCH_NCURSES_H
#define C_MEMWATCH_NCURSES_H

#define NCURSES_WIDECHAR 1  // must precede curses.h
#include <curses.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static const mmask_t mwn_wheel_up = BUTTON4_PRESSED, mwn_wheel_down = BUTTON5_PRESSED,
                     mwn_mouse_events = BUTTON1_PRESSED | BUTTON4_PRESSED | BUTTON5_PRESSED;
// (A macro or a variable, from build to build.)
static inline int mwn_color_count(void) { return COLORS; }
static const uint32_t mwn_bold = A_BOLD, mwn_reverse = A_REVERSE, mwn_dim = A_DIM;

/// Sends bytes to the terminal as they are, where it takes output now.
void mwn_send(const uint8_t *text, size_t length);

/// Whether the locale that the environment names is UTF-8 (setlocale(3), nl_langinfo(3)).
bool mwn_use_locale(void);

/// Streams for newterm(3X) over copies of the descriptors; NULL on failure.
FILE *mwn_output_stream(void);
/// Standard input where it is a terminal, else /dev/tty; NULL when there is neither.
FILE *mwn_input_stream(void);
int mwn_stream_descriptor(FILE *stream);

/// Opens /dev/null in place of standard streams that are closed, so that no file gets their number.
void mwn_fill_standard_streams(void);

/// Makes every signal that asks a process to end set a flag, and SIGCONT another. To be called before newterm(3X), which leaves
/// dispositions alone that are not the default.
void mwn_catch_signals(void);
/// Gives those signals back their default, until they are caught again.
void mwn_release_signals(void);
/// The last of these signals, or 0.
int mwn_caught_signal(void);

/// Whether curses is writing now. A signal that asks this process to end, and comes while the terminal takes
/// nothing of that, ends it at once, with the terminal restored.
void mwn_set_drawing(bool is);
/// Whether this process was stopped and goes on since this was asked last.
bool mwn_was_continued(void);

/// Whether the terminal of standard output can place its cursor (terminfo's `cup`); true where TERM is
/// not known.
bool mwn_can_place_cursor(void);

/// newterm(3X), which changes the terminal's modes; here they stay as they are until cbreak(3X).
SCREEN *mwn_new_terminal(FILE *output, FILE *input);

/// Restores the terminal when this process dies by a fault, then lets the fault do what it would
/// have done. To be called after newterm(3X).
void mwn_restore_on_fault(int input, int output);

/// Keeps the terminal's modes, and what leaves full-screen mode, so that this process can restore the
/// terminal when another one that draws on it has died.
void mwn_keep_terminal(void);
/// Never blocks: a terminal that is stopped, or whose other end reads no more, gets its modes back, and what
/// leaves full-screen mode only where it takes that.
void mwn_restore_terminal(void);

/// Asks the terminal to mark pasted text, or no more to: xterm's mode 2004, which terminals without it
/// ignore. It is switched off while this process is suspended, and by mwn_restore_terminal.
void mwn_bracket_paste(bool on);
/// Whether the terminal's description says that it marks pasted text (terminfo's `BE`).
bool mwn_knows_paste(void);

/// How many bytes can be read (ioctl_tty(2), FIONREAD).
int mwn_waiting_bytes(int input);

/// Whether the terminal takes output now.
bool mwn_can_write(int output);

/// Waits for input, and until the terminal takes output (`output` is -1: not for that).
/// 1: one of them; 0: time is up or a signal came; -1: the terminal is gone.
int mwn_wait(int input, int output, int milliseconds);

#endif
