// Messages describe a process and the remedy, exactly once.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct AnswerTests {
  /// `record` would write to a file, which must not exist afterwards.
  private func asked(_ command: String, _ target: String, _ scratch: Scratch) throws -> Ended {
    let file = scratch.file("record")
    let output = command == "record" ? ["--output", file, "--for", "1s"] : []
    let ended = try Launch([Programs.memwatch, command, target] + output, stats: scratch).run()
    #expect(!FileManager.default.fileExists(atPath: file))
    return ended
  }

  /// A kernel thread, recognised by its flag in /proc/PID/stat (PF_KTHREAD).
  static let kernelThread: Int32? = {
    guard let stat = try? procText("/proc/2/stat"), let end = stat.lastIndex(of: ")") else {
      return nil
    }
    let fields = stat[end...].split(separator: " ")
    return fields.count > 7 && (UInt64(fields[7]) ?? 0) & 0x20_0000 != 0 ? 2 : nil
  }()

  @Test(
    .enabled(if: kernelThread != nil, "no thread of the kernel is seen from this pid namespace"),
    arguments: ["audit", "check", "snapshot", "record", "watch"])
  func aKernelThreadHasNoMemory(command: String) throws {
    let ended = try asked(command, "2", try Scratch(onTmpfs: true))
    #expect(ended.status == 2 && ended.error.contains("is a kernel thread"), "\(ended)")
    #expect(ended.output.isEmpty)
  }

  @Test(arguments: ["audit", "check", "snapshot", "record", "watch"])
  func aZombieIsReportedAsEnded(command: String) throws {
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
    let ended = try asked(command, child, try Scratch(onTmpfs: true))
    #expect(ended.status == 2 && ended.error.contains("process \(child) has ended"), "\(ended)")
    #expect(ended.error.contains("zombie") && ended.output.isEmpty, "\(ended)")
  }

  /// The first process of another namespace is shown with its pid in this namespace.
  @Test(
    .enabled(if: AuditTests.mayUnshare, "needs user and pid namespaces"),
    arguments: ["snapshot", "audit", "check", "watch", "record"])
  func processOneOfAnotherNamespace(command: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch, prefix: ["unshare", "-Urpf", "--kill-child"])
    try peer.send("start")
    try peer.send("arena a alpha slab off none")
    let inside = try procText("/proc/\(peer.pid)/task/\(peer.pid)/children")
      .trimmingCharacters(in: .whitespacesAndNewlines)
    let file = scratch.file("record")
    let options = command == "record" ? ["--output", file, "--for", "100ms"] : []
    for target in ["test-publisher", inside] {
      try? FileManager.default.removeItem(atPath: file)
      let ended = try Launch([Programs.memwatch, command, target] + options, stats: scratch).run()
      #expect(ended.status == 0, "\(command) \(target): \(ended)")
      if ["snapshot", "watch"].contains(command) {
        #expect(ended.output.contains("pid \(inside)"), "\(ended.output)")
      }
    }
    let other = try Launch([Programs.memwatch, command, "1"] + options, stats: scratch).run()
    #expect(other.status != 0, "the first process of this namespace does not publish")
  }

  /// The argument of `run` is a command, even if it is a number.
  @Test func aCommandMayBeANumber() throws {
    // (Where a directory of PATH may not be searched, the answer is EACCES: execvp(3).)
    let ended = try memwatch(
      "run", "--", "2000000000", stats: try Scratch(onTmpfs: true),
      environment: ["PATH": "/usr/bin:/bin"])
    #expect(ended.status == 127 && ended.error.contains("2000000000"), "\(ended)")
  }

  @Test func pageCountIsWordedCorrectly() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    let one = try memwatch("snapshot", "nobody-of-this-name", stats: scratch)
    #expect(one.error.contains("\(scratch.path): contains 1 page\n"), "\(one.error)")
    let other = try Peer(stats: scratch)
    try other.send("start")
    let two = try memwatch("snapshot", "nobody-of-this-name", stats: scratch)
    #expect(two.error.contains("\(scratch.path): contains 2 pages\n"), "\(two.error)")
    _ = peer
  }

  /// What is wrong with a requirement is told: its value, or that there is none of that name.
  @Test(arguments: [
    ("headroom=lots", "headroom=lots: lots is not a number of bytes"),
    ("headroom=1KB", "1KB is not a number of bytes"),
    ("headroom=-1", "-1 is not a number of bytes"),
    ("headroom=99999999999GiB", "99999999999GiB is not a number of bytes"),
    ("headroom", "headroom needs a value: headroom=SIZE"),
    ("headroom=", "headroom= needs a value: headroom=SIZE"),
    ("no-open-longer-than=5", "5 is not a number with a unit"),
    ("arena=", "arena= needs a value: arena=NAME"), ("locked=yes", "locked takes no value"),
    ("lokced", "unknown requirement lokced; valid requirements: locked, nodump"),
  ])
  func aMistakeInARequirementIsNamed(text: String, message: String) throws {
    let scratch = try Scratch()
    for arguments in [["check", "nobody"], ["run", "--check"]] {
      let rest = arguments[0] == "run" ? ["--", "true"] : []
      let ended = try Launch(
        [Programs.memwatch] + arguments + ["--require", text] + rest, stats: scratch
      ).run()
      #expect(ended.status == 64 && ended.error.contains(message), "\(arguments): \(ended)")
    }
    let policy = scratch.file("policy")
    try (text + "\n").write(toFile: policy, atomically: true, encoding: .utf8)
    let ended = try memwatch("check", "nobody", "--policy", policy, stats: scratch)
    #expect(ended.status == 64 && ended.error.contains(message), "\(ended)")
  }

  /// Root without the capabilities that it would need, as in a container.
  @Test(.enabled(if: Programs.isRoot, "needs root, to give capabilities up"))
  func rootIsNotAdvisedToUseRoot() throws {
    let copy = try Unprivileged()
    let other = [
      "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all",
      "--inh-caps=-all",
    ]
    let peer = try Peer(stats: nil, prefix: other, program: copy.place.file("test-publisher"))
    try peer.send("start")
    let ended = try Launch([
      "setpriv", "--bounding-set=-all", "--inh-caps=-all", Programs.memwatch, "snapshot",
      "\(peer.pid)",
    ]).run()
    #expect(ended.status == 3, "\(ended)")
    #expect(ended.error.contains("This is root without the host's capabilities"), "\(ended.error)")
    #expect(!ended.error.contains("or as root"), "\(ended.error)")
    try peer.exit()
  }

  @Test func aNameMayBeANumber() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start numbered")
    let ended = try memwatch("snapshot", "2000000000", stats: scratch)
    #expect(ended.status == 0 && ended.output.contains("pid \(peer.pid)"), "\(ended.error)")
    // A number in another form than process ids have is a name.
    let other = try memwatch("snapshot", "007", stats: scratch)
    #expect(other.status == 2 && other.error.contains("publishes a stats page as 007"), "\(other)")
  }

  /// If two arenas need a higher limit, one line gives the limit for both.
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
    let fixes = Set(before.compactMap { $0["advice"] as? String })
    #expect(fixes.count == 1, "\(fixes)")
    let text = try memwatch("snapshot", "\(peer.pid)", stats: scratch).output
    let count = before.count { $0["advice"] as? String != nil }
    #expect(text.matches(of: #/fix now/#).count == 1)
    #expect(text.matches(of: #/to keep/#).count == 1)
    #expect(text.contains("fix now, for \(count) problems: "))
    let pasted = try Launch(["sh", "-c", try #require(fixes.first)]).run()
    #expect(pasted.status == 0, "\(pasted.error)")
    try eventually("everything is locked, and stays so") { try problems().isEmpty }
  }

  /// The advised limit leaves no room for an arena without secrets, although its spares are
  /// unlocked.
  @Test(.enabled(if: Programs.mayLimit(to: 8 << 20), "needs a hard memlock limit of 8 MiB"))
  func anArenaWithoutSecretsIsNoProblem() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 3 << 20, hard: 8 << 20),
      // Twelve chunks, which are all that may be locked.
      "arena b bravo slab required none", "alloc b 2688 1000",
      "arena a alpha slab preferred none", "alloc a 20000 40", "free a 20000")
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    let document = try json(ended.output)
    let arenas = document["arenas"] as! [[String: Any]]
    let idle = try #require(arenas.compactMap { $0["idleBytes"] as? Int }.max())
    #expect(idle > 1 << 20, "with them the limit would be the next power of two")
    let problems = document["problems"] as! [[String: Any]]
    #expect(problems.allSatisfy { $0["severity"] as? String != "problem" }, "\(problems)")
    // The limit: twice the next chunk of 256 KiB plus the locked bytes, rounded up to a power of
    // two.
    let fixes = problems.compactMap { $0["advice"] as? String }
    #expect(!fixes.isEmpty && fixes.allSatisfy { $0.contains("--memlock=4194304:") }, "\(fixes)")
  }

  /// What a cipher gate locks beside its arena counts in the peak too.
  @Test func thePeakIsNotBelowWhatIsLocked() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred cipher", "alloc a 3 40", "touch a 3")
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    let document = try json(ended.output)
    let memlock = document["memlock"] as! [String: Any]
    let locked = try #require(memlock["lockedByArenasBytes"] as? Int)
    let arenas = (document["arenas"] as! [[String: Any]]).compactMap { $0["bytesLocked"] as? Int }
    #expect(locked > arenas.reduce(0, +), "the memory of windows is locked")
    let peak = try #require(memlock["peakLockedByArenasBytes"] as? Int)
    #expect(peak >= locked)
  }
}
