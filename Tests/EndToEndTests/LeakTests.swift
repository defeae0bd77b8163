// The pattern that fills every secret is only in the secrets: not on a screen, in an export, in the
// page or in memwatch's memory. Each channel has a positive control.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct LeakTests {
  /// The readable memory of a process, from gdb's gcore. (It omits memory that is excluded from
  /// dumps, but memwatch has none.)
  func memory(of pid: Int32, _ scratch: Scratch) throws -> Data {
    let result = try Launch(["gcore", "-a", "-o", scratch.file("core"), "\(pid)"]).run()
    guard let data = FileManager.default.contents(atPath: scratch.file("core.\(pid)")) else {
      throw Failed("gcore: \(result.error)")
    }
    return data
  }

  @Test func secretPatternAppearsInNoOutput() throws {
    let seed = SeededGenerator().seed
    let stats = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let peer = try Peer(stats: stats, seed: seed)
    let page = try peer.send("start always")
    for (slot, arguments) in [
      ("a", "alpha slab preferred pages"), ("b", "bravo isolated preferred pages"),
      ("c", "charlie slab off none"),
    ] {
      try peer.send("arena \(slot) \(arguments)")
      for size in [8, 32, 33, 500, 5000] { try peer.send("alloc \(slot) 4 \(size) fill") }
    }
    try peer.send("hold c")
    // Controls: the search finds the pattern in the publisher, and in each encoding.
    #expect(Pattern.found(seed, in: try memory(of: peer.pid, files)) > 30)
    let bytes = Pattern.bytes(seed)
    let hex = bytes.map { String(format: "%02x", $0) }.joined()
    for control in [
      Data(bytes), Data(bytes.reversed()), Data(hex.utf8),
      Data(Data(bytes).base64EncodedString().utf8),
      Data(bytes[5..<13]),
    ] { #expect(Pattern.found(seed, in: Data(repeating: 7, count: 100) + control) > 0) }

    #expect(Pattern.found(seed, in: try Data(contentsOf: URL(fileURLWithPath: page))) == 0)
    // Run every command. Files are written to the directory that is searched below.
    let target = "\(peer.pid)"
    let (before, after) = (files.file("before.json"), files.file("after.json"))
    let views = ["arenas", "labels", "map", "events", "audit", "host", "vaults", "history"]
    for arguments in [
      ["-1", target], ["snapshot", target], ["list"], ["list", "--json"],
      ["snapshot", target, "--format", "json", "-o", before],
      ["snapshot", target, "--format", "json", "-o", after], ["diff", before, after],
      ["diff", before, after, "--json"], ["snapshot", target, "--format", "csv"],
      ["snapshot", target, "--no-labels", "--format", "json"], ["audit", target],
      ["audit", target, "--json"], ["check", target], ["check", target, "--json"], ["host"],
      ["host", "--json"], ["record", target, "-o", files.file("a.record"), "--for", "300ms"],
      ["replay", "-1", files.file("a.record")], ["export"],
      ["export", "--textfile", files.path, "--once"],
    ]
      + views.flatMap({ view in
        ["text", "json", "csv", "svg"].map { ["snapshot", target, "--format", $0, "--view", view] }
      })
    {
      let result = try Launch([Programs.memwatch] + arguments, stats: stats).run()
      #expect([0, 6].contains(result.status), "\(arguments): \(result.error)")
      #expect(Pattern.found(seed, in: result.bytes + Data(result.error.utf8)) == 0)
    }
    let speech = try Launch(
      ["timeout", "5", Programs.memwatch, "--screen-reader", "-i", "100ms", target], stats: stats
    ).run()
    #expect(!speech.output.isEmpty && Pattern.found(seed, in: speech.bytes) == 0)

    let tmux = try Tmux(
      [Programs.memwatch, "\(peer.pid)", "-i", "100ms"], stats: stats, width: 200, height: 60,
      directory: files.path)
    try tmux.wait(for: "charlie")
    for keys in [
      ["j"], ["j"], ["?"], ["Escape"], ["m"], ["s"], ["w", "Enter"], ["Enter"], ["Enter"], ["3"],
      ["4"], ["5"], ["A"], ["6"], ["7"], ["8"], ["9"], ["1"], ["Tab"], ["1"], ["R", "Enter"],
      ["w", "BSpace", "BSpace", "BSpace", "j", "s", "o", "n", "Enter"],
      ["w", "BSpace", "BSpace", "BSpace", "s", "v", "g", "Enter"],
      ["4"], ["W", "BSpace", "BSpace", "BSpace", "c", "s", "v", "Enter"], ["2"], ["W", "Enter"],
      ["3"], ["W", "BSpace", "BSpace", "BSpace", "j", "s", "o", "n", "Enter"], ["1"], ["p"],
    ] {
      for key in keys { try tmux.keys(key) }
      let screen = try tmux.run(["capture-pane", "-p", "-e"]).bytes
      #expect(!screen.isEmpty && Pattern.found(seed, in: screen) == 0)
    }
    let endings = [".txt", ".json", ".svg", ".csv", ".record"]
    func exports(_ ending: String) throws -> [String] {
      try FileManager.default.contentsOfDirectory(atPath: files.path).filter {
        $0.hasPrefix("memwatch-") && $0.hasSuffix(ending)
      }
    }
    try eventually("the exports are there") {
      try endings.allSatisfy { try !exports($0).isEmpty }
        && exports(".json").contains { $0.contains("-map-") }
    }
    let memory = try memory(of: try tmux.viewer(), files)
    #expect(Pattern.found(seed, in: memory) == 0)
    let broker = try self.memory(of: try tmux.child(named: "memwatch \(peer.pid)"), files)
    #expect(Pattern.found(seed, in: broker) == 0)
    // The control: the same search finds texts that memwatch does hold.
    #expect(memory.range(of: Data("charlie".utf8)) != nil)
    try tmux.keys("Q")
    for name in try FileManager.default.contentsOfDirectory(atPath: files.path)
    where !name.hasPrefix("core") {
      let export = try Data(contentsOf: URL(fileURLWithPath: files.file(name)))
      #expect(export.count > 40 && Pattern.found(seed, in: export) == 0, "\(name)")
    }
  }

  /// memwatch opens `stat`, `status`, `limits`, `maps`, `cgroup` and its page; no memory, no
  /// environment, no command line.
  @Test func memwatchOpensNothingElseOfTheProcess() throws {
    let stats = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let peer = try Peer(stats: stats)
    try peer.send("start")
    let result = try Launch(
      [
        "strace", "-f", "-e", "trace=openat,open,process_vm_readv,ptrace", "-o",
        files.file("trace"), Programs.memwatch, "snapshot", "\(peer.pid)",
      ], stats: stats
    ).run()
    #expect(result.status == 0, "\(result.error)")
    let trace = try String(contentsOfFile: files.file("trace"), encoding: .utf8)
    let opened = trace.split(separator: "\n").filter { $0.contains("/proc/\(peer.pid)/") }
    #expect(opened.contains { $0.contains("/status\"") })
    for line in opened {
      let isAllowed = ["stat", "status", "limits", "maps", "smaps", "cgroup", "root"].contains {
        line.contains("/proc/\(peer.pid)/\($0)\"")
      }
      #expect(isAllowed, "\(line)")
    }
    #expect(!trace.contains("process_vm_readv") && !trace.contains("ptrace("))
    #expect(!trace.contains("/mem\"") && !trace.contains("environ\"") && !trace.contains("auxv\""))
  }
}
