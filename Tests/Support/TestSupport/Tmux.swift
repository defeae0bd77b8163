// A real terminal: tmux with a separate server.

import Foundation
import Glibc

public final class Tmux {
  /// Kept alive as long as the terminal.
  public var companions: [Peer] = []
  private let socket = "memwatch-test-\(UInt64.random(in: 0 ... .max))"

  /// Starts a command in a new terminal. When it has ended, the screen says `[STATUS n]`.
  public init(
    _ arguments: [String], stats: Scratch?, width: Int = 100, height: Int = 30,
    environment: [String: String] = [:], directory: String? = nil
  ) throws {
    let quoted = arguments.map { "'" + $0.replacingOccurrences(of: "'", with: "'\\''") + "'" }
      .joined(separator: " ")
    var launch = Launch([], stats: stats, environment: environment)
    launch.environment["TMUX"] = nil
    if launch.environment["LC_ALL"] == nil { launch.environment["LC_ALL"] = "C.UTF-8" }
    var variables = ""
    for name in ["ENCLAVE_STATS_DIR", "LC_ALL", "NO_COLOR", "XDG_RUNTIME_DIR"] {
      if let value = launch.environment[name] { variables += "export \(name)='\(value)';" }
    }
    let term = environment["TERM"] ?? "tmux-256color"
    variables += "export TERM='\(term)';"
    let place = directory.map { "cd '\($0)';" } ?? ""
    let script =
      "trap : INT QUIT; \(place) \(variables) \(quoted); echo \"[STATUS $?]\"; stty -a | grep -q ' echo ' && echo '[ECHO ON]'; exec tail -f /dev/null"
    // The server outlives its client. It must not inherit the descriptor with which Process notices
    // the end of its child, nor this thread's signal mask.
    let start = Launch([
      "python3", "-c",
      "import os,signal,sys; signal.pthread_sigmask(signal.SIG_SETMASK, []); os.closerange(3, 4096); os.execvp(sys.argv[1], sys.argv[1:])",
      "tmux", "-L", socket, "-u", "-f", "/dev/null", "new-session", "-d", "-x", "\(width)", "-y",
      "\(height)", "sh", "-c", script,
    ]).process()
    start.standardInput = FileHandle.nullDevice
    start.standardOutput = FileHandle.nullDevice
    start.standardError = FileHandle.nullDevice
    try start.run()
    start.waitUntilExit()
    guard start.terminationStatus == 0 else { throw Failed("tmux did not start") }
  }

  deinit { _ = try? run(["kill-server"]) }

  @discardableResult
  public func run(_ arguments: [String]) throws -> Ended {
    try Launch(["tmux", "-L", socket] + arguments, environment: ["LC_ALL": "C.UTF-8"]).run()
  }

  public func keys(_ keys: String...) throws { try run(["send-keys"] + keys) }
  /// Quits the screen, and waits for its end.
  public func quit() throws {
    try keys("Q")
    try wait(for: "[STATUS 0]")
  }

  public func type(_ text: String) throws { try run(["send-keys", "-l", "--", text]) }
  public func resize(_ width: Int, _ height: Int) throws {
    try run(["resize-window", "-x", "\(width)", "-y", "\(height)"])
  }

  /// The lines of the screen.
  public func screen() throws -> [String] {
    try run(["capture-pane", "-p"]).output.split(
      separator: "\n", omittingEmptySubsequences: false
    ).map(String.init)
  }

  public func text() throws -> String { try screen().joined(separator: "\n") }

  /// Waits until one screen holds all of these texts, each on a single line, and none of these words;
  /// returns it. What a later frame may bring or remove, and what a half-drawn frame may lack or still
  /// show, belongs here and not in an expectation.
  @discardableResult
  public func wait(
    for texts: String..., without words: Set<Substring> = [], within seconds: Double = 60
  ) throws -> [String] {
    var last: [String] = []
    do {
      let unwanted = words.isEmpty ? "" : ", without \(words.sorted())"
      try eventually("screen shows \(texts.joined(separator: ", "))\(unwanted)", within: seconds) {
        last = try screen()
        return texts.allSatisfy { text in last.contains { $0.contains(text) } }
          && last.allSatisfy { words.isDisjoint(with: $0.split(separator: " ")) }
      }
    } catch { throw Failed("\(error)\n" + last.joined(separator: "\n")) }
    return last
  }

  /// The pid of the program in the terminal (the shell's last child).
  public func child(named name: String) throws -> Int32 {
    let shell = try run(["display-message", "-p", "#{pane_pid}"]).output
      .trimmingCharacters(in: .whitespacesAndNewlines)
    var found: Int32?
    try eventually("\(name) runs in the terminal") {
      let children = try Launch(["pgrep", "-P", shell, "-f", name]).run().output
      found = children.split(separator: "\n").first.flatMap { Int32($0) }
      return found != nil
    }
    return found!
  }

  /// The confined process of the memwatch in the terminal, which reads and draws.
  public func viewer() throws -> Int32 {
    let broker = try child(named: "memwatch")
    var found: Int32?
    try eventually("there is a confined process") {
      let children = try Launch(["pgrep", "-P", "\(broker)", "memwatch"]).run().output
      found = children.split(separator: "\n").first.flatMap { Int32($0) }
      return found != nil
    }
    return found!
  }
}
