// Slow, stopped and closed terminal lines, and signals: memwatch ends and restores the terminal.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct TerminalLineTests {
  @Test func closedInputIsTakenFromTheTerminal() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    let tmux = try Tmux(
      ["sh", "-c", "\(Programs.memwatch) \(peer.pid) <&-"], stats: scratch)
    try tmux.wait(for: "alpha")
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 0]")
  }

  @Test func aHangUpEndsMemwatch() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    let pid = try tmux.child(named: "memwatch")
    try tmux.run(["kill-server"])
    try eventually("memwatch ends") { kill(pid, 0) != 0 }
    #expect(peer.process.isRunning)
  }

  /// At about 10 kB/s keys take effect, and the final state is shown.
  @Test func aSlowTerminalShowsTheFinalState() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line(
      [Programs.memwatch, "\(peer.pid)", "--interval", "50ms"], stats: scratch)
    try line.wait(for: "Memlock", step: 100)
    for turn in 0..<100 {
      line.type(turn % 2 == 0 ? "?" : "1")
      line.take(100)
      _ = poll(nil, 0, 5)
    }
    line.type("4")
    try line.wait(for: "publishing-started", step: 100)
    line.type("1Q")
    try line.waitForEnd(step: 100)
    #expect(line.process.terminationStatus == 0 && line.echoes)
  }

  /// While the terminal is stopped (^S), sampling continues, keys are read, and little processor
  /// time is used.
  @Test(arguments: [true, false]) func aStoppedTerminalDoesNotStopSampling(isEndedMeanwhile: Bool)
    throws
  {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line(
      [Programs.memwatch, "\(peer.pid)", "--interval", "1s"], stats: scratch)
    try line.wait(for: "Memlock")
    // A frame that is being written when the line stops waits with it.
    try line.waitForQuiet()
    line.stop(true)
    let viewer = try Launch(["pgrep", "-P", "\(line.process.processIdentifier)"]).run().output
      .split(separator: "\n").first.flatMap { Int32($0) }
    func ticks() throws -> Int {
      let stat = try String(contentsOfFile: "/proc/\(try #require(viewer))/stat", encoding: .utf8)
      let fields = stat[stat.lastIndex(of: ")")!...].split(separator: " ")
      return Int(fields[12])! + Int(fields[13])!
    }
    line.type("4")
    let before = try ticks()
    for _ in 0..<300 {
      line.take(65536)
      _ = poll(nil, 0, 10)
    }
    // Of about 300. A debug build uses ten for three samples and a list of events.
    #expect(try ticks() - before < 150)
    if isEndedMeanwhile {
      kill(line.process.processIdentifier, SIGTERM)
    } else {
      line.stop(false)
      try line.wait(for: "publishing-started")
      line.type("Q")
    }
    try line.waitForEnd()
    #expect(line.process.terminationStatus == 0 && line.echoes)
  }

  private func viewer(of line: Line) throws -> Int32 {
    let children = try Launch(["pgrep", "-P", "\(line.process.processIdentifier)"]).run().output
    return try #require(children.split(separator: "\n").first.flatMap { Int32($0) })
  }

  /// A stopped terminal is resized: curses would redraw it when reading a key, and block.
  @Test(arguments: [SIGTERM, SIGHUP], [true, false])
  func aStoppedTerminalMayBeResized(signal: Int32, isForViewer: Bool) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line(
      [Programs.memwatch, "\(peer.pid)", "--interval", "50ms"], stats: scratch)
    try line.wait(for: "Memlock")
    let viewer = try viewer(of: line)
    func switches() throws -> Int {
      let status = try procText("/proc/\(viewer)/status")
      return Int(status.firstMatch(of: /\nvoluntary_ctxt_switches:\s+(\d+)/)!.1)!
    }
    // It wakes for each sample.
    func samplesGoOn(within seconds: Double = 60) throws {
      let before = try switches()
      try eventually("it does not wait for the terminal", within: seconds) {
        try switches() > before + 5
      }
    }
    // A frame that is being written when the line stops waits with it, so stop between two frames.
    for tries in 1... {
      line.stop(true)
      do {
        try samplesGoOn(within: 5)
        break
      } catch {
        guard tries < 10 else { throw error }
      }
      line.stop(false)
      try samplesGoOn()
    }
    for turn in 1...3 {
      line.resize(UInt16(100 + turn), UInt16(30 + turn))
      kill(viewer, SIGWINCH)
      line.type("4")
      try samplesGoOn()
    }
    kill(isForViewer ? viewer : line.process.processIdentifier, signal)
    try line.waitForEnd()
    #expect(line.process.terminationReason == .exit && line.process.terminationStatus == 0)
    #expect(line.echoes)
  }

  /// While nobody reads the output it waits, and continues afterwards. A signal to either process
  /// still ends it.
  @Test(arguments: [nil, SIGTERM, SIGHUP, SIGINT], [true, false])
  func aStalledTerminalContinuesLater(signal: Int32?, isForViewer: Bool) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line(
      [Programs.memwatch, "\(peer.pid)", "--interval", "50ms"], stats: scratch)
    try line.wait(for: "Memlock")
    // Each key redraws the whole screen, until the line is full.
    for _ in 0..<300 {
      line.type("\u{c}")
      _ = poll(nil, 0, 5)
    }
    #expect(!line.echoes)
    guard let signal else {
      line.type("4")
      try line.wait(for: "publishing-started")
      line.type("Q")
      try line.waitForEnd()
      #expect(line.process.terminationStatus == 0 && line.echoes)
      return
    }
    kill(try isForViewer ? viewer(of: line) : line.process.processIdentifier, signal)
    try eventually("it ends") { !line.process.isRunning }
    // It ends by itself, through its broker, or by the signal.
    let status = line.process.terminationStatus
    let hasExited = line.process.terminationReason == .exit
    #expect(hasExited ? [0, 128 + signal].contains(status) : status == signal)
    #expect(line.echoes)
    #expect(peer.process.isRunning)
  }

  /// A stop while the screen is being drawn takes effect afterwards.
  @Test func aStopWhileDrawingIsNotLost() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line(
      PassphraseTests.session + ["env", "PS1=ready# ", "bash", "--norc", "-i"], stats: scratch)
    try line.wait(for: "ready#")
    line.type("'\(Programs.memwatch)' -i 50ms \(peer.pid)\r")
    try line.wait(for: "Memlock")
    func children(of pid: Int32) throws -> [Int32] {
      try Launch(["pgrep", "-P", "\(pid)"]).run().output.split(separator: "\n").compactMap {
        Int32($0)
      }
    }
    var viewer = line.process.processIdentifier
    while let child = try children(of: viewer).last { viewer = child }
    // Until the line is full, and drawing waits.
    for _ in 0..<300 {
      line.type("\u{c}")
      _ = poll(nil, 0, 5)
    }
    kill(viewer, SIGTSTP)
    try line.wait(for: "Stopped")
    line.type("fg\r")
    try line.wait(for: "Memlock")
    line.type("Q")
    try line.wait(for: "ready#")
    line.type("exit\r")
    try line.waitForEnd()
  }

  @Test(arguments: [SIGTERM, SIGHUP])
  func signalsRestoreTheTerminal(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    kill(try tmux.child(named: "memwatch"), signal)
    let end = try tmux.wait(for: "[STATUS")
    try tmux.wait(for: "[ECHO ON]")
    #expect(!end.contains { $0.contains("session-tokens") })
  }

  /// If the confined process dies, its broker restores the terminal and reports it.
  @Test(arguments: [SIGSEGV, SIGABRT, SIGKILL, SIGSYS])
  func aCrashRestoresTheTerminal(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    kill(try tmux.viewer(), signal)
    let end = try tmux.wait(for: "[STATUS 1]")
    #expect(end.contains { $0.contains("ended by signal \(signal)") })
    try tmux.wait(for: "[ECHO ON]")
    #expect(!end.contains { $0.contains("session-tokens") })
  }
}
