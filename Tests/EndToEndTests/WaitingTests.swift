// Waiting for a publisher that starts late or never; and terminal input other than keys.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct WaitingTests {
  /// memwatch returns the command's exit status, whether or not the command published.
  @Test(
    arguments: [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)] as [(String, Int32)],
    [false, true])
  func aCommandThatNeverPublishes(ended: (String, Int32), onScreen: Bool) throws {
    let (script, status) = ended
    let scratch = try Scratch(onTmpfs: true)
    let command = [Programs.memwatch, "run", "--", "sh", "-c", "echo so it says; \(script)"]
    if onScreen {
      let tmux = try Tmux(command, stats: scratch)
      try tmux.wait(for: "[STATUS \(status)]", "before memwatch saw it publish", "so it says")
    } else {
      let result = try Launch(command, stats: scratch).run()
      #expect(result.status == status, "\(result)")
      #expect(result.error.contains("before memwatch saw it publish"))
    }
  }

  /// Without a screen, after the summary: a signal goes to the command, and its end is memwatch's.
  @Test(arguments: [SIGTERM, SIGINT, SIGHUP, SIGUSR1])
  func signalsReachTheCommand(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let output = scratch.file("output")
    try Data().write(to: URL(filePath: output))
    let run = Launch(
      [Programs.memwatch, "run", "--", Programs.demo, "--seconds", "600"], stats: scratch
    ).process()
    run.standardInput = FileHandle.nullDevice
    run.standardOutput = FileHandle(forWritingAtPath: output)
    run.standardError = FileHandle.nullDevice
    try run.runUnblocked()
    let pid = run.processIdentifier
    defer { kill(pid, SIGKILL) }
    try eventually("the summary is there") {
      try String(contentsOfFile: output, encoding: .utf8).contains("session-tokens")
    }
    // Both stop, and both continue.
    let command = try #require(
      Launch(["pgrep", "-P", "\(pid)", "-f", "enclave-demo"]).run().output
        .split(separator: "\n").first.flatMap { Int32($0) })
    func areStopped() throws -> [Bool] {
      try [pid, command].map { try procText("/proc/\($0)/stat").contains(") T ") }
    }
    kill(pid, SIGTSTP)
    try eventually("both stop", within: 20) { try areStopped() == [true, true] }
    kill(pid, SIGCONT)
    try eventually("both continue", within: 20) { try areStopped() == [false, false] }
    // Whoever stops the command alone also continues it alone.
    kill(command, SIGSTOP)
    try eventually("it stops") { try areStopped()[1] }
    kill(command, SIGCONT)
    try eventually("it continues") { try !areStopped()[1] }
    kill(pid, signal)
    try eventually("it ends") { !run.isRunning }
    #expect(run.terminationReason == .exit && run.terminationStatus == 128 + signal)
    #expect(kill(command, 0) == -1 && errno == ESRCH)
  }

  /// Also a command that does not publish, or not yet: it decides how it ends.
  @Test(arguments: [[], ["--check"]], [(SIGTERM, false), (SIGINT, true), (SIGHUP, true)])
  func signalsReachACommandThatDoesNotPublish(
    options: [String], sent: (signal: Int32, toGroup: Bool)
  ) throws {
    let (signal, toGroup) = sent
    let scratch = try Scratch(onTmpfs: true)
    let output = scratch.file("output")
    try Data().write(to: URL(filePath: output))
    // (A signal to the group arrives twice: from its sender and from memwatch.)
    let script = """
      import signal, sys
      def end(*_):
        signal.signal(\(signal), signal.SIG_IGN)
        sys.exit(7)
      signal.signal(\(signal), end)
      print('ready', flush=True)
      while True: signal.pause()
      """
    let run = Launch(
      ["python3", "-c", "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"]
        + [Programs.memwatch, "run"] + options + ["--", "python3", "-c", script], stats: scratch
    ).process()
    run.standardInput = FileHandle.nullDevice
    run.standardOutput = FileHandle(forWritingAtPath: output)
    run.standardError = FileHandle.nullDevice
    try run.runUnblocked()
    defer { kill(run.processIdentifier, SIGKILL) }
    try eventually("it has its handler") {
      try String(contentsOfFile: output, encoding: .utf8).contains("ready")
    }
    let pid = run.processIdentifier
    func isStopped() throws -> Bool { try procText("/proc/\(pid)/stat").contains(") T ") }
    kill(pid, SIGTSTP)
    try eventually("it stops") { try isStopped() }
    kill(pid, SIGCONT)
    try eventually("it continues") { try !isStopped() }
    // As systemd, timeout(1) and a terminal signal: the whole group.
    kill(toGroup ? -pid : pid, signal)
    try eventually("it ends") { !run.isRunning }
    // (6: nothing was checked.)
    #expect(run.terminationReason == .exit && run.terminationStatus == (options.isEmpty ? 7 : 6))
  }

  /// While the command runs there is a screen, and keys work.
  @Test func runShowsThatItWaits() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      [Programs.memwatch, "run", "--", "sh", "-c", "echo so it says; exec tail -f /dev/null"],
      stats: scratch)
    try tmux.wait(for: "WAITING", "ENCLAVE_STATS=1")
    try tmux.keys("o")
    try tmux.wait(for: "so it says")
    try tmux.keys("Q")
    try tmux.wait(for: "leave process")
    try tmux.keys("n")
    try tmux.wait(for: "[STATUS 143]")
  }

  /// `-W` shows a screen until the publisher appears.
  @Test func watchWaitsForAName() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      [Programs.memwatch, "watch", "test-publisher", "-W", "10m", "-i", "100ms"], stats: scratch)
    try tmux.wait(for: "for test-publisher")
    try tmux.keys("?")
    try tmux.wait(for: "next line")
    try tmux.keys("q")
    try tmux.wait(for: "WAITING")
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    try tmux.wait(for: "Memlock")
    tmux.companions = [peer]
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 0]")
  }

  @Test func watchReportsThatNobodyPublished() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      [Programs.memwatch, "watch", "nobody-here", "-W", "300ms"], stats: scratch)
    try tmux.wait(for: "[STATUS 2]", "no process publishes a stats page as nobody-here")
  }

  /// A shorter interval takes effect before a long one has elapsed.
  @Test func anIntervalTakesEffectAtOnce() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let tmux = try Tmux([Programs.memwatch, "\(peer.pid)", "-i", "1h"], stats: scratch)
    tmux.companions = [peer]
    try tmux.wait(for: "every 3600 s")
    try peer.send("arena b bravo slab off none")
    for _ in 0..<17 { try tmux.keys("-") }
    try tmux.wait(for: "bravo")
  }

  /// Pasted text triggers no command, with bracketed paste and without.
  @Test(arguments: [["-p"], []]) func pastedTextIsNoCommand(options: [String]) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let files = try Scratch()
    let tmux = try Tmux(
      [
        "env", "TERM=\(options.isEmpty ? "screen" : "tmux-256color")", Programs.memwatch,
        "\(peer.pid)", "-i", "100ms",
      ], stats: scratch, directory: files.path)
    tmux.companions = [peer]
    try tmux.wait(for: "alpha")
    try tmux.run(["set-buffer", "wq\nQ and so on"])
    try tmux.run(["paste-buffer"] + options)
    try tmux.wait(for: "pasted text ignored")
    #expect(try FileManager.default.contentsOfDirectory(atPath: files.path).isEmpty)
    // In a prompt it is text, and does not submit it.
    try tmux.keys("/")
    // Otherwise the key and the paste may arrive in one read.
    try tmux.wait(for: "search:")
    try tmux.run(["paste-buffer"] + options)
    try tmux.wait(for: "search: wqQ and so on")
    try tmux.keys("Escape")
    try tmux.wait(for: "? help")
    // Keys with Alt, and sequences that are not keys.
    try tmux.keys("M-q")
    try tmux.type("\u{1b}[<0;5;5M\u{1b}]0;Q\u{7}\u{1b}[27;5;113~")
    try tmux.keys("6")
    try tmux.wait(for: "─── host ──")
    try tmux.quit()
  }

  /// Bracketed paste is switched on, and off again when memwatch leaves the terminal.
  @Test(arguments: ["quit", "suspend", "crash"]) func marksOfPastesEnd(end: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none", "alloc a 10 40")
    let line = try Line([Programs.memwatch, "\(peer.pid)"], stats: scratch)
    try line.wait(for: "Memlock")
    #expect(line.text.contains("\u{1b}[?2004h"))
    let viewer = try Launch(["pgrep", "-P", "\(line.process.processIdentifier)"]).run().output
      .split(separator: "\n").first.flatMap { Int32($0) }
    let pid = try #require(viewer)
    switch end {
    case "quit": line.type("Q")
    case "crash": kill(pid, SIGKILL)
    default:
      kill(pid, SIGTSTP)
      try line.wait(for: "\u{1b}[?2004l")
      // Continue both processes, as a shell does.
      kill(line.process.processIdentifier, SIGCONT)
      kill(pid, SIGCONT)
      try eventually("it marks pastes again") {
        line.take(65536)
        return line.text.contains("\u{1b}[?2004h")
      }
      kill(pid, SIGKILL)
    }
    try line.wait(for: "\u{1b}[?2004l")
    try line.waitForEnd()
  }

  /// Relative and invalid times in a replay.
  @Test func replayJumpsToTimes() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    let file = scratch.file("record")
    let made = try memwatch(
      "record", "\(peer.pid)", "-o", file, "-i", "100ms", "--for", "2s", stats: scratch)
    try #require(made.status == 0, "\(made.error)")
    let tmux = try Tmux([Programs.memwatch, "replay", file, "-i", "1h"], stats: scratch)
    try tmux.wait(for: "[replay 1/")
    func go(_ time: String, _ text: String) throws {
      try tmux.keys("t")
      try tmux.wait(for: "go to")
      try tmux.type(time)
      try tmux.keys("Enter")
      try tmux.wait(for: text)
    }
    try tmux.wait(for: ",/. earlier/later", "t time")
    try go("+1ms", "[replay 2/")
    try go("+1ms", "[replay 3/")
    try go("-1ms", "[replay 2/")
    try go("tomorrow", "no time: 14:02")
    try go("+1h", "the record ends here")
    try go("-1h", "[replay 1/")
  }
}
