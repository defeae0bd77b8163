// Signals and input from terminals, users and timers, and terminals with fewer features.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct TerminalSignalTests {
  /// The sequence that leaves full-screen mode (xterm's rmcup).
  static let leaves = "\u{1b}[?1049l"

  /// Starts memwatch on a line; also returns the process that draws.
  func watching(_ scratch: Scratch) throws -> (Peer, Line, viewer: Int32) {
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line([Programs.memwatch, "\(peer.pid)", "--interval", "50ms"], stats: scratch)
    try line.wait(for: "Memlock")
    let children = try Launch(["pgrep", "-P", "\(line.process.processIdentifier)"]).run().output
    return (peer, line, try #require(children.split(separator: "\n").first.flatMap { Int32($0) }))
  }

  enum Receiver: String, CaseIterable, Sendable { case broker, viewer }

  /// Signals that request termination end both processes, restore the terminal and print no error.
  @Test(
    arguments: [
      SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGPROF, SIGIO,
      SIGPWR,
    ], Receiver.allCases)
  func terminationSignalsRestoreTheScreen(signal: Int32, receiver: Receiver) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, line, viewer) = try watching(scratch)
    kill(receiver == .viewer ? viewer : line.process.processIdentifier, signal)
    try line.wait(for: Self.leaves)
    try line.waitForEnd()
    #expect(line.process.terminationReason == .exit, "it ends by itself")
    #expect(line.process.terminationStatus == 0)
    #expect(line.echoes && !line.text.contains("please report"), "\(line.text)")
    try eventually("both are gone") { kill(viewer, 0) != 0 }
    #expect(peer.process.isRunning)
  }

  /// A key sends the signal to both processes.
  @Test(arguments: ["\u{3}", "\u{1c}"]) func keysThatSendSignals(key: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    let tmux = try Tmux([Programs.memwatch, "\(peer.pid)", "--interval", "50ms"], stats: scratch)
    try tmux.wait(for: "alpha")
    try tmux.type(key)
    let end = try tmux.wait(for: "[STATUS 0]")
    try tmux.wait(for: "[ECHO ON]")
    #expect(!end.contains { $0.contains("alpha") })
  }

  /// memwatch continues and draws.
  @Test(arguments: [SIGWINCH, SIGCONT, SIGPIPE, SIGURG, SIGCHLD], Receiver.allCases)
  func otherSignalsDoNotEndIt(signal: Int32, receiver: Receiver) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, line, viewer) = try watching(scratch)
    kill(receiver == .viewer ? viewer : line.process.processIdentifier, signal)
    line.type("4")
    try line.wait(for: "publishing-started")
    line.type("1")
    try line.wait(for: "Memlock")
    line.type("Q")
    try line.wait(for: Self.leaves)
    try line.waitForEnd()
    #expect(line.process.terminationStatus == 0 && line.echoes)
    #expect(peer.process.isRunning)
  }

  /// After a stop from outside, the shell gets a working terminal. When memwatch continues, it sets
  /// the terminal up again.
  @Test(arguments: [SIGSTOP, SIGTSTP, SIGTTIN]) func stoppedFromOutside(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let tmux = try Tmux(["env", "PS1=ready# ", "bash", "--norc", "-i"], stats: scratch)
    try tmux.wait(for: "ready#")
    try tmux.type("\(Programs.memwatch) -i 50ms \(peer.pid)")
    try tmux.keys("Enter")
    try tmux.wait(for: "alpha")
    let shell = try tmux.child(named: "bash")
    func below(_ pid: Int32) throws -> Int32? {
      try Launch(["pgrep", "-P", "\(pid)", "memwatch"]).run().output.split(separator: "\n").first
        .flatMap { Int32($0) }
    }
    let broker = try #require(try below(shell))
    let viewer = try #require(try below(broker))
    kill(viewer, signal)
    try tmux.wait(for: "Stopped")
    try tmux.type("echo the shell $((6*7))")
    try tmux.keys("Enter")
    try tmux.wait(for: "the shell 42")
    try tmux.type("fg")
    try tmux.keys("Enter")
    // The complete screen, although the shell wrote over it.
    try eventually("the whole screen is there") {
      let text = try tmux.text()
      return text.contains("Memlock") && text.contains("alpha") && !text.contains("the shell 42")
    }
    // Keys are read one by one, and not echoed.
    try tmux.keys("6")
    try tmux.wait(for: "─── host ──")
    try tmux.keys("Q")
    try tmux.type("echo again $((6*7))")
    try tmux.keys("Enter")
    try tmux.wait(for: "again 42")
  }

  /// Every byte, and sequences that no key sends: none of them ends memwatch or remains on the
  /// screen.
  @Test func everyByteThatATerminalCanSend() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, line, _) = try watching(scratch)
    // Except those that send signals, quit, stop the output, or start a file name.
    let left: Set<UInt8> = [3, 26, 28, 19, UInt8(ascii: "q"), UInt8(ascii: "Q"), 22]
    for byte in UInt8.min...UInt8.max where !left.contains(byte) {
      line.type([byte])
      // Leave a prompt that may be open.
      line.type([27])
      line.take(65536)
    }
    for sequence in [
      "\u{1b}[200~x\u{1b}[201~", "\u{1b}[99;99;99M", "\u{1b}[<0;1;1M", "\u{1b}]11;?\u{7}",
      "\u{1b}P1$r\u{1b}\\", "\u{1b}[?62;c", "\u{1b}O", "\u{1b}[", "\u{1b}\u{1b}\u{1b}",
      "\u{1b}[1;5D", "\u{1b}[3~", "\u{1b}[2~", "\u{1b}[24~", "\u{1b}[I\u{1b}[O",
    ] {
      line.type(sequence + "\u{1b}\u{1b}")
      line.take(65536)
    }
    line.type([0xff, 0xc3, 0x28, 0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x80])
    // Invalid UTF-8 also discards bytes that arrive together with it.
    try eventually("it still answers") {
      line.type("\u{1b}\u{1b}1/zq")
      line.take(65536)
      return line.text.contains("search: ") && line.text.contains("zq")
    }
    line.type("\u{1b}")
    _ = poll(nil, 0, 100)
    line.type("Q")
    try line.wait(for: Self.leaves)
    try line.waitForEnd()
    let status = line.process.terminationStatus
    #expect(status == 0 && line.echoes, "\(status) \(line.text)")
    #expect(peer.process.isRunning)
  }

  // MARK: - Properties of the terminal

  /// The terminal's size takes precedence over exported LINES and COLUMNS.
  @Test func theTerminalsSizeOverridesLinesAndColumns() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    let tmux = try Tmux(
      ["env", "LINES=9", "COLUMNS=41", Programs.memwatch, "\(peer.pid)", "-i", "100ms"],
      stats: scratch)
    try tmux.wait(for: "alpha", String(repeating: "─", count: 100))
    try tmux.resize(80, 24)
    try eventually("it fits") {
      try tmux.screen().contains { $0 == String(repeating: "─", count: 80) }
    }
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 0]")
  }

  /// LINES and COLUMNS are used if the terminal has no size.
  @Test func linesAndColumnsApplyWithoutATerminalSize() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    let line = try Line(
      [Programs.memwatch, "\(peer.pid)"], stats: scratch,
      environment: ["LINES": "30", "COLUMNS": "64"], tellsSize: false)
    try line.wait(for: String(repeating: "─", count: 60))
    line.type("Q")
    try line.waitForEnd()
    #expect(!line.text.contains(String(repeating: "─", count: 65)))
  }

  /// Without cursor addressing, memwatch prints changes as lines, and says so.
  @Test(arguments: ["watch", "run", "demo", "replay"]) func aDumbTerminalGetsLines(command: String)
    throws
  {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred none")
    var arguments = [Programs.memwatch, command]
    switch command {
    case "watch": arguments += ["-i", "50ms", "\(peer.pid)"]
    case "run": arguments += ["-i", "50ms", "--", Programs.demo, "--seconds", "2"]
    case "demo": arguments += ["-i", "50ms"]
    default:
      let path = scratch.file("record")
      let made = try memwatch("record", "\(peer.pid)", "-o", path, "--for", "200ms", stats: scratch)
      try #require(made.status == 0, "\(made.error)")
      arguments.append(path)
    }
    let line = try Line(arguments, stats: scratch, environment: ["TERM": "dumb"])
    let arena = ["watch", "replay"].contains(command) ? "alpha" : "session-tokens"
    try line.wait(for: "arena \(arena)")
    var all = line.text
    if command == "watch" {
      try peer.send("arena b bravo slab off none")
      try line.wait(for: "arena bravo is new")
      all += line.text
      peer.kill()
    }
    // It also ends its sample process, which would otherwise keep the line open.
    if command == "demo" { kill(line.process.processIdentifier, SIGINT) }
    try line.waitForEnd()
    all += line.text
    #expect(all.contains("cannot place its cursor") || command != "watch")
    #expect(!all.unicodeScalars.contains("\u{1b}"), "\(all)")
    let status = line.process.terminationStatus
    switch command {
    case "watch": #expect(status == 5)
    case "demo": #expect(line.process.terminationReason == .uncaughtSignal && status == SIGINT)
    default: #expect(status == 0)
    }
    #expect(line.echoes)
  }
}
