// A terminal whose other end reads at a given rate, to simulate a slow or stalled line.

import Foundation
import Glibc

public final class Line {
  public let process: Process
  private let master: Int32
  private let slave: Int32
  private var read: [UInt8] = []
  /// The bytes read so far.
  public private(set) var byteCount = 0

  /// Starts a command on a terminal of 100x30, or on one without a size.
  public init(
    _ arguments: [String], stats: Scratch?, environment: [String: String] = [:],
    tellsSize: Bool = true
  ) throws {
    // pty(7); TIOCSPTLCK and TIOCGPTN of ioctl_tty(2).
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
    var lock: Int32 = 0
    var number: UInt32 = 0
    guard master >= 0, ioctl(master, 0x4004_5431, &lock) == 0,
      ioctl(master, 0x8004_5430, &number) == 0
    else { throw Failed("no pseudo-terminal") }
    slave = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY | O_CLOEXEC)
    guard slave >= 0 else { throw Failed("/dev/pts/\(number) does not open") }
    if tellsSize {
      var size = winsize(ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0)
      _ = ioctl(master, UInt(TIOCSWINSZ), &size)
    }
    _ = fcntl(master, F_SETFL, O_NONBLOCK)
    let usual = ["TERM": "xterm-256color", "LC_ALL": "C.UTF-8"]
    let launch = Launch(
      arguments, stats: stats, environment: usual.merging(environment) { $1 })
    process = launch.process()
    let terminal = FileHandle(fileDescriptor: slave, closeOnDealloc: false)
    process.standardInput = terminal
    process.standardOutput = terminal
    process.standardError = terminal
    try process.runUnblocked()
  }

  deinit {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    close(master)
    close(slave)
  }

  /// Types a text. Returns false if the line is full.
  @discardableResult
  public func type(_ text: String) -> Bool {
    write(master, Array(text.utf8), text.utf8.count) == text.utf8.count
  }

  /// Reads up to this many bytes that have arrived.
  public func take(_ count: Int) {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = Glibc.read(master, &bytes, count)
    guard got > 0 else { return }
    read += bytes[..<got]
    byteCount += got
  }

  /// Sends bytes, which need not be text.
  @discardableResult
  public func type(_ bytes: [UInt8]) -> Bool { write(master, bytes, bytes.count) == bytes.count }

  /// The output since the last text that was waited for.
  public var text: String { String(decoding: read, as: UTF8.self) }

  /// Reads up to `step` bytes every 10 ms until the command has ended.
  public func waitForEnd(step: Int = 65536) throws {
    try eventually("it ends") {
      take(step)
      return !process.isRunning
    }
  }

  /// Reads up to `step` bytes every 10 ms until a new occurrence of a text arrives.
  public func wait(for text: String, step: Int = 65536, within seconds: Double = 60) throws {
    read = []
    try waitForMore(text, step: step, within: seconds)
  }

  /// The same, but the text may have arrived after the last text that was waited for.
  public func waitForMore(_ text: String, step: Int = 65536, within seconds: Double = 60) throws {
    do {
      try eventually("the line shows \(text)", within: seconds) {
        take(step)
        return String(decoding: read, as: UTF8.self).contains(text)
      }
    } catch { throw Failed("\(error): \(self.text)") }
  }

  /// Reads until nothing has arrived for 100 ms, which is the end of a frame.
  public func waitForQuiet() throws {
    var (before, since) = (byteCount, ContinuousClock.now)
    try eventually("the line is quiet") {
      take(65536)
      if byteCount != before { (before, since) = (byteCount, ContinuousClock.now) }
      return ContinuousClock.now - since > .milliseconds(100)
    }
  }

  /// Stops the terminal's output, like ^S, or continues it.
  public func stop(_ isStopped: Bool) { tcflow(slave, isStopped ? TCOOFF : TCOON) }

  /// Makes the terminal larger. Send SIGWINCH to its processes: it is not their controlling
  /// terminal.
  public func resize(_ width: UInt16, _ height: UInt16) {
    var size = winsize(ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0)
    _ = ioctl(master, UInt(TIOCSWINSZ), &size)
  }

  /// Whether input is echoed, as in the terminal's original mode.
  public var echoes: Bool {
    var modes = termios()
    return tcgetattr(slave, &modes) == 0 && modes.c_lflag & tcflag_t(ECHO) != 0
  }
}
