#define _GNU_SOURCE
#include "CMemwatchNcurses.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

bool mwn_use_locale(void) {
  if (!setlocale(LC_ALL, "")) setlocale(LC_ALL, "C");
  return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

FILE *mwn_output_stream(void) {
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  return fd < 0 ? NULL : fdopen(fd, "w");
}

FILE *mwn_input_stream(void) {
  int fd = isatty(STDIN_FILENO) ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                                : open("/dev/tty", O_RDONLY | O_CLOEXEC);
  return fd < 0 ? NULL : fdopen(fd, "r");
}

int mwn_stream_descriptor(FILE *stream) { return fileno(stream); }

void mwn_fill_standard_streams(void) {
  for (int fd = 0; fd < 3; fd++) {
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
      // The lowest free number is the one that is missing.
      if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) return;
    }
  }
}

static volatile sig_atomic_t caught, continued;
static int input_fd = -1, output_fd = -1;

static volatile sig_atomic_t is_drawing;
void mwn_set_drawing(bool is) {
  // curses ignores SIGTSTP while it draws (lib_tstp.c). Blocked, it is delivered afterwards, unless it arrives before
  // curses has started to ignore it.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTSTP);
  sigprocmask(is ? SIG_BLOCK : SIG_UNBLOCK, &stop, NULL);
  is_drawing = is;
}

/// Restores the terminal, and ends the process by the signal. For signal handlers.
static void end_by(int signal) {
  mwn_restore_terminal();
  struct sigaction standard;
  memset(&standard, 0, sizeof standard);
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, NULL);
  raise(signal);
}

// curses retries a write that a signal interrupts, so a terminal that takes no output would block this
// process for ever. Then the handler ends the process, and the rest of the picture is lost.
static void catch (int signal) {
  caught = signal;
  if (!is_drawing || mwn_can_write(output_fd)) return;
  int error = errno;
  end_by(signal);
  errno = error;
}
static void on_continue(int signal) { continued = signal; }

// All that would end a process and that a terminal, a person, a timer or a limit sends (signal(7)).
// SIGXCPU is RLIMIT_CPU's and RLIMIT_RTTIME's.
static const int ending[] = {SIGINT,    SIGTERM, SIGHUP, SIGQUIT, SIGALRM,   SIGUSR1, SIGUSR2,
                             SIGVTALRM, SIGPROF, SIGIO,  SIGPWR,  SIGSTKFLT, SIGXCPU};

void mwn_catch_signals(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = catch;
  // Whoever started this program may have blocked them (a thread pool's worker does).
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) {
    sigaction(ending[i], &action, NULL);
    sigaddset(&set, ending[i]);
  }
  sigaddset(&set, SIGTSTP);
  sigaddset(&set, SIGCONT);
  sigaddset(&set, SIGWINCH);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  // curses puts the screen back after SIGTSTP alone, not after SIGSTOP, SIGTTIN and SIGTTOU.
  action.sa_handler = on_continue;
  sigaction(SIGCONT, &action, NULL);
  // A reader of our output that goes away is an error of write(2), not a reason to die.
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, NULL);
}

void mwn_release_signals(void) {
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) {
    struct sigaction action;
    if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler == catch) {
      action.sa_handler = SIG_DFL;
      sigaction(ending[i], &action, NULL);
    }
  }
}

int mwn_caught_signal(void) { return caught; }

bool mwn_was_continued(void) {
  if (!continued) return false;
  continued = 0;
  return true;
}

bool mwn_can_place_cursor(void) {
  int error;
  if (setupterm(NULL, STDOUT_FILENO, &error) != OK) return true;
  char *place = tigetstr("cup");
  bool can = place && place != (char *)-1;
  del_curterm(cur_term);
  return can;
}

static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l";
static const char mouse_off[] = "\033[?1000l\033[?1002l\033[?1003l\033[?1006l";

static struct termios saved;
static int has_saved;
static char leave[256];
static size_t leave_length;
static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};

bool mwn_can_write(int output) {
  struct pollfd fd = {.fd = output, .events = POLLOUT};
  return poll(&fd, 1, 0) == 1 && (fd.revents & POLLOUT);
}

void mwn_restore_terminal(void) {
  // What a terminal that takes nothing has not shown yet is let go: it must not hold an ending up.
  if (!mwn_can_write(output_fd)) tcflush(output_fd, TCOFLUSH);
  if (leave_length && mwn_can_write(output_fd) && write(output_fd, leave, leave_length) < 0) {
    /* nothing left to do */
  }
  if (has_saved) tcsetattr(input_fd, TCSANOW, &saved);
}

static volatile sig_atomic_t marks_paste;
static struct sigaction suspend;

static void send(const char *text, size_t length) {
  if (mwn_can_write(output_fd) && write(output_fd, text, length) < 0) {
    /* it takes nothing */
  }
}

void mwn_send(const uint8_t *text, size_t length) { send((const char *)text, length); }

void mwn_bracket_paste(bool on) {
  marks_paste = on;
  if (on) {
    send(paste_on, sizeof paste_on - 1);
  } else {
    send(paste_off, sizeof paste_off - 1);
  }
}

bool mwn_knows_paste(void) {
  char *text = tigetstr("BE");
  return text && text != (char *)-1;
}

int mwn_waiting_bytes(int input) {
  int count = 0;
  return ioctl(input, FIONREAD, &count) == 0 ? count : 0;
}

// curses' handler puts the terminal's own screen back, stops, and comes back here.
static void on_suspend(int signal) {
  if (marks_paste) send(paste_off, sizeof paste_off - 1);
  suspend.sa_handler(signal);
  if (marks_paste) send(paste_on, sizeof paste_on - 1);
}

static void on_fault(int signal) { end_by(signal); }

static void add(const char *name) {
  char *text = tigetstr((char *)name);
  if (!text || text == (char *)-1) return;
  size_t length = strlen(text);
  if (leave_length + length > sizeof leave) return;
  memcpy(leave + leave_length, text, length);
  leave_length += length;
}

static void keep(int input, int output) {
  input_fd = input;
  output_fd = output;
  leave_length = 0;
  memcpy(leave, paste_off, sizeof paste_off - 1);
  leave_length = sizeof paste_off - 1;
  memcpy(leave + leave_length, mouse_off, sizeof mouse_off - 1);
  leave_length += sizeof mouse_off - 1;
  add("sgr0");
  add("cnorm");
  add("rmkx");
  add("rmcup");
  // newterm(3X) kept the modes of before; def_shell_mode(3X) has them as well.
  if (!has_saved && tcgetattr(input, &saved) == 0) has_saved = 1;
  saved.c_lflag |= ECHO | ICANON | ISIG | IEXTEN;
  saved.c_iflag |= ICRNL;
  saved.c_oflag |= OPOST | ONLCR;
}

void mwn_keep_terminal(void) {
  int input = isatty(STDIN_FILENO) ? STDIN_FILENO : open("/dev/tty", O_RDONLY | O_CLOEXEC);
  int error;
  if (input >= 0 && setupterm(NULL, STDOUT_FILENO, &error) == OK) keep(input, STDOUT_FILENO);
}

void mwn_restore_on_fault(int input, int output) {
  keep(input, output);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_fault;
  action.sa_flags = SA_RESETHAND | SA_NODEFER;
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigaction(faults[i], &action, NULL);
  if (sigaction(SIGTSTP, NULL, &suspend) == 0 && suspend.sa_handler != SIG_DFL &&
      suspend.sa_handler != SIG_IGN && suspend.sa_handler != on_suspend) {
    action = suspend;
    action.sa_handler = on_suspend;
    sigaction(SIGTSTP, &action, NULL);
  }
}

SCREEN *mwn_new_terminal(FILE *output, FILE *input) {
  struct termios before;
  bool is_known = tcgetattr(fileno(input), &before) == 0;
  // LINES and COLUMNS of the environment count only where the terminal does not tell its size (a serial
  // line): exported once, they outlive every resize (curs_util(3X)).
  struct winsize size;
  if (ioctl(fileno(output), TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
    // (use_env(3X) would do, but then curses misses resizes.)
    unsetenv("LINES");
    unsetenv("COLUMNS");
  }
  SCREEN *screen = newterm(NULL, output, input);
  if (is_known) tcsetattr(fileno(input), TCSANOW, &before);
  return screen;
}

int mwn_wait(int input, int output, int milliseconds) {
  struct pollfd fds[2] = {{.fd = input, .events = POLLIN}, {.fd = output, .events = POLLOUT}};
  int n = poll(fds, 2, milliseconds);
  if (n < 0) return errno == EINTR ? 0 : -1;
  for (int i = 0; i < 2; i++) {
    if (fds[i].revents & (POLLHUP | POLLERR | POLLNVAL)) return -1;
  }
  return n > 0;
}
