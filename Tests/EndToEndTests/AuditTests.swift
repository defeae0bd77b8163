// Audits of what the page claims, and of settings that other code changes. In SabotageTests.swift,
// protections are undone.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct AuditTests {
  static let mayUnshare = (try? Launch(["unshare", "-Urpf", "true"]).run().status) == 0

  /// An idle arena is `encrypted`, which the kernel cannot confirm; an open one is shown as open.
  @Test func encryptedIsASeparateState() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab off cipher")
    try peer.send("alloc a 3 100")
    func state() throws -> (String?, String?) {
      let arenas = try audited(peer, scratch)["arenas"] as? [[String: Any]]
      return (arenas?.first?["protectionState"] as? String, arenas?.first?["gate"] as? String)
    }
    try eventually("it is encrypted") { try state() == ("encrypted", "cipher") }
    let text = try memwatch("snapshot", "\(peer.pid)", stats: scratch)
    #expect(text.output.contains("encrypted"), "\(text)")
    let audit = try memwatch("audit", "\(peer.pid)", stats: scratch)
    #expect(audit.status == 0 && audit.output.contains("the audit reads no contents"), "\(audit)")
    try peer.send("hold a")
    try eventually("it is open") { try state().0 == "read" || state().0 == "r-w" }
    let gated = try memwatch("check", "\(peer.pid)", "--require", "gated", stats: scratch)
    #expect(gated.status == 0, "\(gated)")
  }

  /// Separately mapped slabs, merged chunks and idle memory are closed, locked, without findings,
  /// and distinguished.
  @Test(
    .enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"),
    arguments: ["slab", "isolated"]) func everyKindOfPagesIsRight(layout: String) throws
  {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha \(layout) required pages")
    try peer.send("fault separatePages 1")
    // The first slab chunk stays merged: 4 pages.
    try peer.send("alloc a 5 300")
    try peer.send("alloc a 100 300")
    try peer.send("alloc a 1 20000")
    try peer.send("free a 1")
    try peer.send("touch a 3")
    var arena: [String: Any] = [:]
    try eventually("it is told") {
      arena = (try audited(peer, scratch)["arenas"] as! [[String: Any]])[0]
      return arena["secretCount"] as? Int == 105 && arena["idleBytes"] as? Int == 20480
    }
    let pages = (arena["bytesMapped"] as! Int) / 4096
    let merged = layout == "slab" ? 4 : 0
    #expect(arena["mergedPages"] as? Int == merged)
    #expect(arena["separatePages"] as? Int == pages - merged)
    #expect(arena["verdict"] as? String == "agrees" && arena["state"] as? String == "ok")
    #expect(findings(try audited(peer, scratch)).isEmpty)
    #expect(try memwatch("audit", "\(peer.pid)", stats: scratch).status == 0)
    peer.kill()
  }

  /// Settings about which the page claims nothing, but which affect pages.
  @Test(
    arguments: [("mergeable", 12, 13), ("huge-pages", 14, 15)], ["none", "pages", "key"])
  func settingsOfOtherCodeAreWarnings(setting: (kind: String, set: Int, unset: Int), gate: String)
    throws
  {
    // Without protection keys the library uses a page gate.
    let (peer, scratch, address, count) = try SabotageTests.world(
      .init(
        what: "", kinds: [], gate: gate == "key" && !SabotageTests.hasKeys ? "pages" : gate,
        calls: { _, _ in [] }))
    try peer.send("call madvise \(address) \(count) \(setting.set)")
    let after = try audited(peer, scratch)
    #expect(findings(after).map { $0["kind"] as! String } == [setting.kind])
    #expect(findings(after).map { $0["severity"] as! String } == ["warning"])
    let arenas = after["arenas"] as! [[String: Any]]
    #expect(arenas.map { $0["verdict"] as? String } == ["agrees", "agrees"])
    #expect(arenas.map { $0["state"] as? String } == ["warning", "ok"])
    let text = try memwatch("audit", "\(peer.pid)", stats: scratch)
    #expect(text.status == 0 && text.output.contains("\(setting.kind)  alpha"), "\(text)")
    try peer.send("call madvise \(address) \(count) \(setting.unset)")
    #expect(findings(try audited(peer, scratch)).isEmpty)
  }

  /// A setting of the whole process affects every arena.
  @Test func aProcessWhosePagesAreMergedIsWarnedOf() throws {
    let (peer, scratch, _, _) = try SabotageTests.world(
      .init(what: "", kinds: [], calls: { _, _ in [] }))
    try peer.send("merge")
    let after = try audited(peer, scratch)
    #expect(findings(after).map { $0["kind"] as! String } == ["mergeable", "mergeable"])
    #expect(Set(findings(after).map { $0["arenaId"] as! Int }) == [1, 2])
  }

  /// Locked memory outside arenas, and a debugger.
  @Test func otherLocksAndDebuggersAreReported() throws {
    let (peer, scratch, _, _) = try SabotageTests.world(
      .init(what: "", kinds: [], calls: { _, _ in [] }))
    let maps = try procText("/proc/\(peer.pid)/maps").split(separator: "\n")
    let heap = try #require(maps.first { $0.contains("[heap]") })
    let start = UInt64(heap.prefix { $0 != "-" }, radix: 16)!
    try peer.send("call mlock \(start) 8192")
    let locked = findings(try audited(peer, scratch))
    #expect(locked.map { $0["kind"] as? String } == ["other-locks"])
    #expect(locked[0]["severity"] as? String == "note")
    #expect(
      (locked[0]["causeMessage"] as? String)?.hasPrefix("8 KiB are locked by other code") == true)
    // The summary shows no note, so it shows no advice for one.
    let summary = try memwatch("snapshot", "\(peer.pid)", stats: scratch).output
    #expect(!summary.contains("fix now") && summary.contains("OK"), "\(summary)")
    try peer.send("call munlock \(start) 8192")
    let strace = Launch(["strace", "-o", "/dev/null", "-p", "\(peer.pid)"]).process()
    strace.standardError = FileHandle.nullDevice
    try strace.run()
    defer { kill(strace.processIdentifier, SIGTERM) }
    try eventually("strace is found") {
      findings(try audited(peer, scratch)).map { $0["kind"] as? String } == ["debugger"]
    }
  }

  /// A child has a copy of the arena, but not its lock.
  @Test func aChildWithACopyIsFound() throws {
    let (peer, scratch, address, count) = try SabotageTests.world(
      .init(what: "", kinds: [], calls: { _, _ in [] }))
    let harmless = Int32(try peer.send("fork"))!
    defer { kill(harmless, SIGKILL) }
    #expect(findings(try audited(peer, scratch)).isEmpty)
    try peer.send("call madvise \(address) \(count) 19")
    let child = Int32(try peer.send("fork"))!
    defer { kill(child, SIGKILL) }
    let found = findings(try audited(peer, scratch))
    #expect(
      found.map { $0["kind"] as! String }.sorted() == ["child-has-copy", "not-wiped-on-fork"])
    let kernel =
      found.first { $0["kind"] as? String == "child-has-copy" }?["kernelMessage"] as? String
    #expect(kernel?.contains("child \(child) has") == true)
  }

  /// Chunks and windows that change during the audit cause no finding.
  @Test(arguments: ["none", "pages"]) func churnCausesNoFinding(gate: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred \(gate)")
    try peer.send("arena b bravo isolated preferred \(gate)")
    try peer.send("churn a 1")
    try peer.send("churn b 1")
    for round in 0..<6 {
      try peer.send("arena c charlie \(round % 2 == 0 ? "slab" : "isolated") preferred \(gate)")
      try peer.send("alloc c 300 200")
      let now = try audited(peer, scratch)
      #expect(findings(now).isEmpty, "round \(round)")
      try peer.send("destroy c")
    }
  }

  /// For a process that is not dumpable, only totals can be compared; memwatch does that and
  /// reports it.
  @Test func aProcessThatIsNotDumpable() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab required none")
    try peer.send("alloc a 1 100")
    try peer.send("nodump")
    try eventually("the page notices") {
      let now = try audited(peer, scratch)
      return (now["process"] as? [String: Any])?["addresses"] as? String == "lost"
    }
    var command = [Programs.memwatch, "audit", "\(peer.pid)"]
    if Programs.isRoot {
      command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] + command
    }
    let ended = try Launch(command, stats: scratch).run()
    #expect(ended.status == 0, "\(ended.error)")
    #expect(ended.output.contains("totals only: totals agree"), "\(ended.output)")
    #expect(ended.output.contains("the process is not dumpable"), "\(ended.output)")
    #expect(ended.output.contains(#/alpha +n/a/#))
    try peer.send("munlock a")
    let differing = try Launch(command, stats: scratch).run()
    #expect(differing.output.contains("totals only: totals differ"), "\(differing.output)")
    #expect(differing.status == 6)
    // The verdict does not say OK.
    command[command.firstIndex(of: "audit")!] = "snapshot"
    let shown = try Launch(command, stats: scratch).run().output
    #expect(!shown.contains("OK: ") && shown.contains("totals only"))
  }

  @Test(.enabled(if: Programs.isRoot, "only root reads what is not dumpable"))
  func rootAuditsWhatIsNotDumpable() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start always")
    try peer.send("arena a alpha slab required none")
    try peer.send("alloc a 1 100")
    try peer.send("nodump")
    let ended = try memwatch("audit", "\(peer.pid)", stats: scratch)
    #expect(ended.status == 0 && ended.output.contains("1 agree, 0 differ, 0 n/a"), "\(ended)")
  }

  /// A process with its own user, pid and mount namespaces, as in a rootless container.
  @Test(.enabled(if: mayUnshare, "namespaces of one's own are not allowed here"))
  func aProcessInNamespacesOfItsOwn() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch, prefix: ["unshare", "-Urmpf", "--kill-child"])
    let page = try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 1 100")
    let ended = try memwatch("snapshot", "--file", page, "--format", "json", stats: scratch)
    #expect(ended.status == 0, "\(ended.error)")
    let snapshot = try json(ended.output)
    #expect((snapshot["process"] as! [String: Any])["state"] as? String == "live")
    #expect(findings(snapshot).isEmpty)
    #expect((snapshot["arenas"] as! [[String: Any]])[0]["verdict"] as? String == "agrees")
  }

  @Test func auditsCanBeSwitchedOff() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    let ended = try memwatch(
      "snapshot", "\(peer.pid)", "--format", "json", "--no-audit", stats: scratch)
    #expect(try json(ended.output)["audit"] is NSNull)
    let text = try memwatch("snapshot", "\(peer.pid)", "--no-audit", stats: scratch).output
    #expect(text.contains("not audited") && !text.contains("OK: "))
  }
}
