// Answers say what a process is, and what to do, once.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized) struct AnswerTests {
  /// A thread of the kernel, by its flag in /proc/PID/stat (PF_KTHREAD).
  static let kernelThread: Int32? = {
    guard let stat = try? procText("/proc/2/stat"), let end = stat.lastIndex(of: ")") else {
      return nil
    }
    let fields = stat[end...].split(separator: " ")
    return fields.count > 7 && (UInt64(fields[7]) ?? 0) & 0x20_0000 != 0 ? 2 : nil
  }()

  @Test(
    .enabled(if: kernelThread != nil, "no thread of the kernel is seen from this pid namespace"),
    arguments: ["audit", "check", "snapshot"])
  func aKernelThreadHasNoMemory(command: String) throws {
    let ended = try memwatch(command, "2", stats: try Scratch(onTmpfs: true))
    #expect(ended.status == 2 && ended.error.contains("is a thread of the kernel"), "\(ended)")
    #expect(ended.output.isEmpty)
  }

  @Test(arguments: ["audit", "check", "snapshot"]) func aZombieHasEnded(command: String) throws {
    let parent = Launch([
      "python3", "-c",
      """
      import os, sys
      child = os.fork()
      if child == 0: os._exit(0)
      os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
      print(child, flush=True); sys.stdin.read()
      """,
    ]).process()
    let (input, output) = (Pipe(), Pipe())
    parent.standardInput = input
    parent.standardOutput = output
    try parent.run()
    defer { kill(parent.processIdentifier, SIGKILL) }
    let text = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
    let child = text.trimmingCharacters(in: .whitespacesAndNewlines)
    let ended = try memwatch(command, child, stats: try Scratch(onTmpfs: true))
    #expect(ended.status == 2 && ended.error.contains("process \(child) has ended"), "\(ended)")
    #expect(ended.error.contains("zombie") && ended.output.isEmpty, "\(ended)")
  }

  @Test func aNameMayBeANumber() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start numbered")
    let ended = try memwatch("snapshot", "2000000000", stats: scratch)
    #expect(ended.status == 0 && ended.output.contains("pid \(peer.pid)"), "\(ended.error)")
    // A number that is not written as process ids are is a name.
    let other = try memwatch("snapshot", "007", stats: scratch)
    #expect(other.status == 2 && other.error.contains("publishes a stats page as 007"), "\(other)")
  }

  /// Limits that two arenas need are one limit, and one line.
  @Test(.enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
  func oneFixCoversAllArenas() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 1 << 20),
      "arena a alpha slab preferred none", "alloc a 1500 40",
      "arena b bravo slab preferred none", "alloc b 800 40",
      "arena c charlie isolated preferred none", "alloc c 1 40")
    func problems() throws -> [[String: Any]] {
      let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
      return try json(ended.output)["problems"] as! [[String: Any]]
    }
    let before = try problems()
    #expect(before.count > 1)
    let fixes = Set(before.compactMap { $0["fix"] as? String })
    #expect(fixes.count == 1, "\(fixes)")
    let text = try memwatch("snapshot", "\(peer.pid)", stats: scratch).output
    #expect(text.matches(of: #/fix now: /#).count == 1)
    #expect(text.matches(of: #/to keep: /#).count == 1)
    let pasted = try Launch(["sh", "-c", try #require(fixes.first)]).run()
    #expect(pasted.status == 0, "\(pasted.error)")
    try eventually("everything is locked, and stays so") { try problems().isEmpty }
  }

  /// Memory that holds nothing cannot leak, and asks for no room.
  @Test(.enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
  func anArenaWithoutSecretsIsNoProblem() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 1 << 20),
      "arena a alpha slab preferred none", "alloc a 20000 40", "free a 20000")
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    let problems = try json(ended.output)["problems"] as! [[String: Any]]
    #expect(problems.allSatisfy { $0["severity"] as? String != "problem" }, "\(problems)")
    // The next chunk is 256 KiB: twice that, and what is locked, to a power of two.
    for case let fix as String in problems.map({ $0["fix"] ?? NSNull() }) {
      #expect(fix.contains("--memlock=1048576:"), "\(fix)")
    }
  }
}
