// memwatch inspected from outside: the descriptors of its confined process, and its reports about
// missing kernel features.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct ViewerTests {
  private func fact(_ name: String, _ pid: Int32) throws -> String {
    let text = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
    let line = text.split(separator: "\n").first { $0.hasPrefix(name + ":") }
    return line.map { $0.dropFirst(name.count + 1).trimmingCharacters(in: .whitespaces) } ?? ""
  }

  @Test func theViewerHoldsOnlyNeededDescriptors() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try Peer.watched(scratch)
    try tmux.wait(for: "alpha")
    try tmux.keys("5")
    try tmux.wait(for: "audited at")
    let viewer = try tmux.viewer()
    #expect(try fact("Threads", viewer) == "1")
    #expect(try fact("NoNewPrivs", viewer) == "1")
    #expect(try fact("Seccomp", viewer) == "2")
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
      #expect(try UInt64(fact(set, viewer), radix: 16) == 0, "\(set)")
    }
    if Programs.isRoot { #expect(try UInt64(fact("CapBnd", viewer), radix: 16) == 0) }
    let allowed = [
      "/dev/pts/", "/dev/tty", "/dev/null", "socket:", "pipe:", "/proc/\(peer.pid)/stat",
      "/proc/\(peer.pid)/limits", "/proc/\(peer.pid)/cgroup", "/proc/sys/vm/max_map_count",
      scratch.path,
    ]
    let files = FileManager.default
    for name in try files.contentsOfDirectory(atPath: "/proc/\(viewer)/fd") {
      guard let path = try? files.destinationOfSymbolicLink(atPath: "/proc/\(viewer)/fd/\(name)")
      else { continue }
      #expect(allowed.contains { path.hasPrefix($0) }, "\(path)")
      var isDirectory: ObjCBool = false
      _ = files.fileExists(atPath: path, isDirectory: &isDirectory)
      #expect(!isDirectory.boolValue, "\(path)")
    }
    // The broker has no page open.
    let broker = try tmux.child(named: "memwatch")
    for name in try files.contentsOfDirectory(atPath: "/proc/\(broker)/fd") {
      let path = try? files.destinationOfSymbolicLink(atPath: "/proc/\(broker)/fd/\(name)")
      #expect(path?.hasSuffix(".page") != true)
    }
    #expect(try fact("Threads", broker) == "1")
  }

  /// Every command that reads data is confined: each loads a filter.
  @Test(
    arguments: [
      ["-1", "PID"], ["list"], ["snapshot", "PID", "--format", "json"], ["audit", "PID"],
      ["check", "PID"], ["host"], ["record", "PID", "-o", "RECORD", "--for", "100ms"],
      ["export"], ["export", "--textfile", "FILES", "--once"],
    ])
  func everyCommandIsConfined(arguments: [String]) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer.publishing(scratch)
    defer { peer.kill() }
    let trace = scratch.file("trace")
    let files = try Scratch()
    let placeholders = [
      "RECORD": scratch.file("record"), "FILES": files.path, "PID": "\(peer.pid)",
    ]
    let result = try Launch(
      ["strace", "-f", "-o", trace, "-e", "trace=seccomp,landlock_restrict_self,openat,pread64"]
        + [Programs.memwatch]
        + arguments.map { placeholders[$0] ?? $0 },
      stats: scratch
    ).run()
    #expect([0, 6].contains(result.status), "\(result.error)")
    let lines = try String(contentsOfFile: trace, encoding: .utf8).split(separator: "\n")
    let filter = try #require(
      lines.lastIndex { $0.contains("seccomp(SECCOMP_SET_MODE_FILTER") && $0.hasSuffix("= 0") })
    #expect(
      lines[..<filter].contains { $0.contains("landlock_restrict_self") }
        == ConfinementTests.hasLandlock)
    let viewer = try #require(lines[filter].split(separator: " ").first)
    let later = lines[filter...].filter { $0.hasPrefix(viewer + " ") }
    #expect(
      !later.contains { $0.contains("openat(") && !$0.contains("EPERM") }, "nothing is opened")
    // Only that process reads pages, and only after that.
    let magic = "\"ENCLAVE\\1"
    #expect(later.contains { $0.contains(magic) } == (arguments != ["host"]))
    #expect(lines.allSatisfy { !$0.contains(magic) || later.contains($0) })
  }

  /// Missing kernel features are reported, and the other mechanisms are used.
  @Test(arguments: [
    ("landlock_create_ruleset", "ENOSYS", "Landlock"), ("seccomp", "EINVAL", "seccomp"),
  ])
  func missingMechanismsAreReported(call: String, error: String, name: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer.publishing(scratch)
    let strace = [
      "strace", "-f", "-o", "/dev/null", "-e", "trace=\(call)", "-e",
      "inject=\(call):error=\(error)",
    ]
    let result = try Launch(
      strace + [Programs.memwatch, "snapshot", "\(peer.pid)"], stats: scratch
    ).run()
    #expect(result.status == 0 && result.output.contains("alpha"))
    #expect(result.error.contains("the sandbox is incomplete: \(name)"))
    let host = try Launch(
      strace + [Programs.memwatch, "host"], stats: scratch
    ).run().output
    let line = try #require(host.split(separator: "\n").first { $0.contains("memwatch's sandbox") })
    #expect(line.hasPrefix("! bad") && line.contains("no new privileges"))
    #expect(!line.contains(name))
    let tmux = try Tmux(strace + [Programs.memwatch, "\(peer.pid)"], stats: scratch)
    try tmux.wait(for: "the sandbox is incomplete")
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 0]")
  }

  /// Without its broker the confined process reports what it cannot open, and can be quit.
  @Test func theViewerEndsWithItsBroker() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try Peer.watched(scratch)
    try tmux.wait(for: "alpha")
    let viewer = try tmux.viewer()
    kill(try tmux.child(named: "memwatch"), SIGKILL)
    try eventually("it ends with its parent") { kill(viewer, 0) != 0 }
  }

  /// The screen can switch to another process, whose page and files also come from the broker.
  @Test func switchesToAnotherProcess() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (first, tmux) = try Peer.watched(scratch, ["--open-limit", "300ms"])
    let second = try Peer(stats: scratch)
    for command in ["start", "arena b bravo slab off none", "alloc b 1 40", "hold b"] {
      try second.send(command)
    }
    try tmux.wait(for: "alpha")
    try tmux.keys("8")
    try tmux.wait(for: "\(second.pid)")
    // The list may contain other publishers of the machine.
    func selected() throws -> [Substring] {
      // (The view's tab is in reverse video too.)
      try tmux.run(["capture-pane", "-p", "-e"]).output.split(separator: "\n")
        .filter { $0.contains("[7m") || $0.contains(";7m") }
    }
    var atKey: [Substring]?
    try eventually("the second is selected") {
      let now = try selected()
      if now.contains(where: { $0.contains(" \(second.pid) ") }) { return true }
      // Wait for each key's effect before sending the next.
      if atKey != now {
        atKey = now
        try tmux.keys("j")
      }
      return false
    }
    try tmux.keys("Enter")
    try tmux.wait(for: "pid \(second.pid)")
    try tmux.wait(for: "bravo")
    try tmux.wait(for: "bravo: open for")
    #expect(first.process.isRunning)
  }

  @Test func filesAreCreatedInTheStartDirectory() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try Peer.watched(scratch)
    try tmux.wait(for: "alpha")
    for (typed, answer) in [
      ("/tmp/elsewhere.txt", "not in the directory that memwatch was started in (EPERM)"),
      ("../elsewhere.txt", "not in the directory that memwatch was started in (EPERM)"),
      ("here.txt", "wrote here.txt"), ("here.txt", "does not overwrite"),
    ] {
      try tmux.keys("w", "C-u")
      try tmux.type(typed)
      try tmux.keys("Enter")
      try tmux.wait(for: answer)
    }
    #expect(FileManager.default.fileExists(atPath: scratch.file("here.txt")))
    let names = try FileManager.default.contentsOfDirectory(atPath: scratch.path)
    #expect(!names.contains { $0.hasSuffix(".tmp") })
    #expect(!FileManager.default.fileExists(atPath: "/tmp/elsewhere.txt"))
  }
}

extension Peer {
  static func publishing(_ scratch: Scratch) throws -> Peer {
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab off none")
    return peer
  }

  /// A publisher of one arena, `alpha`, and memwatch beside it.
  static func watched(_ scratch: Scratch, _ options: [String] = []) throws -> (Peer, Tmux) {
    let peer = try Peer.publishing(scratch)
    let tmux = try Tmux(
      [Programs.memwatch, "\(peer.pid)", "--interval", "100ms"] + options, stats: scratch,
      directory: scratch.path)
    tmux.companions = [peer]
    return (peer, tmux)
  }
}
