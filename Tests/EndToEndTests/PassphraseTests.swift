// A program that asks for a passphrase at its own terminal, and gets signals, keys or exit
// meanwhile.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct PassphraseTests {
  /// The command prefix that starts a session leader with the terminal as its controlling one, and
  /// no signal blocked or ignored.
  static let session = [
    "python3", "-c",
    """
    import fcntl, os, signal, sys, termios
    child = os.fork()
    if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 127)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in range(1, 32):
        if number not in (9, 19): signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(sys.argv[1], sys.argv[1:])
    """,
  ]

  /// A program on its controlling terminal, started by a shell that prints how it ended.
  private func asking(_ modes: String = "") throws -> (Line, pid: Int32) {
    let script = """
      trap : HUP INT QUIT TERM; ulimit -c 0; '\(Programs.publisher)' ask \(modes); echo "[STATUS $?]"
      """
    let line = try Line(Self.session + ["bash", "--norc", "-c", script], stats: nil)
    return (line, try Self.waitForPrompt(line))
  }

  /// Waits for the prompt. Returns the program's pid.
  private static func waitForPrompt(_ line: Line) throws -> Int32 {
    try line.wait(for: "Passphrase: ")
    #expect(!line.echoes)
    let pid = line.text.split(separator: "[pid ").last.flatMap { Int32($0.prefix { $0 != "]" }) }
    return try #require(pid)
  }

  static let endings = ["", "wipe", "blocked", "wipe blocked"]

  /// The terminal is restored, and the signal ends the program.
  @Test(arguments: [SIGHUP, SIGINT, SIGQUIT, SIGTERM], endings)
  func signalsEndThePrompt(signal: Int32, modes: String) throws {
    let (line, pid) = try asking(modes)
    line.type("secret")
    kill(pid, signal)
    try line.wait(for: "[STATUS \(128 + signal)]")
    #expect(line.echoes)
    #expect(line.text.hasPrefix("\r\n") && !line.text.contains("secret"))
  }

  /// ^C and ^\.
  @Test(arguments: [("\u{3}", 128 + SIGINT), ("\u{1c}", 128 + SIGQUIT)])
  func interruptKeysEndThePrompt(key: String, status: Int32) throws {
    let (line, _) = try asking()
    line.type("secret" + key)
    try line.wait(for: "[STATUS \(status)]")
    #expect(line.echoes)
  }

  /// Signals that only the emergency wipe handles.
  @Test(arguments: [SIGSEGV, SIGABRT, SIGUSR1, SIGALRM])
  func theWipeRestoresTheTerminal(signal: Int32) throws {
    let (line, pid) = try asking("wipe")
    kill(pid, signal)
    try line.wait(for: "[STATUS \(128 + signal)]")
    #expect(line.echoes)
  }

  /// exit(3) in another thread restores the terminal too.
  @Test func exitRestoresTheTerminal() throws {
    let script = "'\(Programs.publisher)' ask exit; echo \"[STATUS $?]\""
    let line = try Line(Self.session + ["bash", "--norc", "-c", script], stats: nil)
    try line.wait(for: "[STATUS 3]")
    #expect(line.echoes)
  }

  /// A program that handles the signal continues without a passphrase, and still handles it.
  @Test(arguments: [SIGINT, SIGTERM]) func theProgramsOwnSignalHandlerStillRuns(signal: Int32)
    throws
  {
    let (line, pid) = try asking("handle twice")
    line.type("sec")
    kill(pid, signal)
    try line.wait(for: "[ended ")
    try line.waitForMore("Passphrase: ")
    #expect(!line.echoes)
    kill(pid, signal)
    try line.wait(for: "[handled \(signal) 2]")
    try line.waitForMore("[STATUS 0]")
    #expect(line.echoes)
  }

  /// If a handler for ^Z does not stop the program, the prompt is repeated.
  @Test func thePromptIsRepeatedIfAHandlerDoesNotStop() throws {
    let (line, _) = try asking("handle")
    line.type("wrong\u{1a}")
    try line.wait(for: "Passphrase: ")
    line.type("right\n")
    try line.wait(for: "[got right]")
    try line.waitForMore("[handled \(SIGTSTP) 1]")
    #expect(line.echoes)
  }

  @Test func ignoredSignalsStayIgnored() throws {
    let (line, pid) = try asking("ignore")
    kill(pid, SIGINT)
    line.type("\u{3}right\n")
    try line.wait(for: "[got right]")
    try line.waitForMore("[STATUS 0]")
  }

  /// An emergency wipe that is installed during the prompt also handles these signals.
  @Test func aWipeInstalledDuringThePromptHandlesSignals() throws {
    let (line, pid) = try asking("wipe-late")
    try line.waitForMore("[covers true]")
    kill(pid, SIGTERM)
    try line.wait(for: "[STATUS \(128 + SIGTERM)]")
    #expect(line.echoes)
  }

  /// A child that is forked during the prompt dies normally of a signal, and does not change the
  /// terminal.
  @Test func aForkedChildLeavesTheTerminalAlone() throws {
    let (line, _) = try asking("fork")
    try line.waitForMore("[child ")
    try eventually("its pid is there") {
      line.take(4096)
      return line.text.split(separator: "[child ").last?.contains("]") == true
    }
    let child = try #require(
      line.text.split(separator: "[child ").last.flatMap { Int32($0.prefix { $0 != "]" }) })
    kill(child, SIGTERM)
    try line.wait(for: "[child ended \(SIGTERM)]")
    #expect(!line.echoes)
    line.type("right\n")
    try line.wait(for: "[got right]")
  }

  /// Input after the line is left for the next reader.
  @Test func inputAfterTheLineIsLeft() throws {
    let (line, _) = try asking("rest")
    line.type("right\nbehind\n")
    try line.wait(for: "[got right]")
    try line.waitForMore("[rest behind]")
  }

  /// Input that does not fit is discarded, so that no shell shows or runs it.
  @Test func tooLongInputIsDiscarded() throws {
    let (line, _) = try asking("limit 4 rest")
    line.type("12345678\nbehind\n")
    try line.wait(for: "[ended 4]")
    try line.waitForMore("[rest behind]")
    #expect(!line.text.contains("567"))
  }

  /// A stop between the arrival of input and its read: the read does not wait for more input, which
  /// would be echoed.
  @Test func aStopBeforeAReadStartsOver() throws {
    let line = try Line(
      Self.session + ["env", "PS1=ready# ", "bash", "--norc", "-i"], stats: nil)
    try line.wait(for: "ready#")
    line.type("'\(Programs.publisher)' ask held\r")
    let pid = try Self.waitForPrompt(line)
    line.type("wrong")
    try line.wait(for: "[holding]")
    kill(pid, SIGSTOP)
    try line.wait(for: "Stopped")
    try line.waitForMore("ready#")
    line.type("\u{15}fg\r")
    try line.wait(for: "ask held\r\n")
    kill(pid, SIGUSR1)
    try line.waitForMore("Passphrase: ")
    try eventually("the echo is off") { !line.echoes }
    line.type("right\n")
    try line.wait(for: "[got right]")
    line.type("exit\r")
    try line.waitForEnd()
  }

  enum Stop: CaseIterable, Sendable { case key, stop, terminalStop, input, output }

  /// After a stop and continue in a shell it prompts again, and discards earlier input.
  @Test(arguments: Stop.allCases, [false, true]) func thePromptReturnsAfterAStop(
    by stop: Stop, blocked: Bool
  ) throws {
    let line = try Line(
      Self.session + ["env", "PS1=ready# ", "bash", "--norc", "-i"], stats: nil)
    try line.wait(for: "ready#")
    line.type("'\(Programs.publisher)' ask \(blocked ? "blocked" : "")\r")
    let pid = try Self.waitForPrompt(line)
    line.type("wrong")
    switch stop {
    case .key: line.type("\u{1a}")
    case .stop: kill(pid, SIGSTOP)
    case .terminalStop: kill(pid, SIGTSTP)
    case .input: kill(pid, SIGTTIN)
    case .output: kill(pid, SIGTTOU)
    }
    try line.wait(for: "Stopped")
    try line.waitForMore("ready#")
    // (The shell edits its line without the terminal's echo.)
    // The shell gets input that was typed but not read before the stop: erase it with ^U.
    line.type("\u{15}stty -a | grep -q ' echo ' && echo echo is $((0+1))\r")
    try line.wait(for: "echo is 1\r\n")
    try line.waitForMore("ready#")
    // In the background it is stopped at once.
    line.type("bg; until grep -q State:.T /proc/\(pid)/status; do :; done; echo again $((40+2))\r")
    try line.wait(for: "again 42")
    try line.waitForMore("ready#")
    line.type("fg\r")
    try line.wait(for: "Passphrase: ")
    try eventually("the echo is off") { !line.echoes }
    line.type("right\n")
    // If another thread handles SIGCONT late, the prompt comes once more, and discards this.
    var prompts = 1
    try eventually("the passphrase is read") {
      if (try? line.waitForMore("[got right]", within: 0.2)) != nil { return true }
      if line.text.ranges(of: "Passphrase: ").count > prompts {
        prompts += 1
        line.type("right\n")
      }
      return false
    }
    try line.waitForMore("ready#")
    line.type("exit\r")
    try line.waitForEnd()
  }
}
