// Audits of claims: a saboteur undoes one protection at a time without the library's knowledge.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct AuditTests {
  /// The saboteur's system calls, given a chunk's address and size.
  typealias Calls = @Sendable (_ address: UInt64, _ byteCount: UInt64) -> [String]

  struct Sabotage: CustomTestStringConvertible, Sendable {
    var what: String
    /// The kinds of the expected findings, all for arena `a`.
    var kinds: [String]
    var gate = "none"
    var layout = "slab"
    /// Commands of the test publisher that bring the arena into its seal state.
    var seal = Seal.open
    var calls: Calls
    var undo: Calls?
    /// Whether the kernel refuses the calls, so that nothing changes.
    var isRefused = false
    var testDescription: String { "\(what), gate \(gate), \(layout), \(seal)" }
  }

  enum Seal: String, Sendable { case open, frozen, sealed }

  /// The sabotage of each layout under each gate in each seal state.
  static func common(_ gate: String, _ layout: String, _ seal: Seal) -> [Sabotage] {
    var all: [Sabotage] = []
    func add(
      _ what: String, _ kinds: [String], _ calls: @escaping Calls, undo: Calls? = nil,
      isRefused: Bool = false
    ) {
      all.append(
        Sabotage(
          what: what, kinds: kinds, gate: gate, layout: layout, seal: seal, calls: calls,
          undo: undo, isRefused: isRefused))
    }
    // mlock(2) of closed pages fails with ENOMEM, also if the key is closed.
    var relock: Calls?
    if gate == "none" || gate == "cipher" { relock = { at, count in ["mlock \(at) \(count)"] } }
    add("munlock", ["not-locked"], { ["munlock \($0) \($1)"] }, undo: relock)
    add(
      "MADV_DODUMP", ["in-core-dumps"], { ["madvise \($0) \($1) 17"] },
      undo: { ["madvise \($0) \($1) 16"] })
    // Cannot be undone under a seal: MADV_WIPEONFORK discards pages in a child.
    let isSealed = seal == .sealed
    var rewipe: Calls?
    if !isSealed { rewipe = { at, count in ["madvise \(at) \(count) 18"] } }
    add(
      "MADV_KEEPONFORK", ["not-wiped-on-fork"], { ["madvise \($0) \($1) 19"] }, undo: rewipe)
    func protect(_ protection: Int) -> Calls {
      { address, _ in ["mprotect \(address) 4096 \(protection)"] }
    }
    func refusable(_ what: String, _ kinds: [String], _ calls: @escaping Calls, undo: Calls?) {
      add(
        what, isSealed ? [] : kinds, calls, undo: isSealed ? nil : undo, isRefused: isSealed)
    }
    refusable(
      "no guard behind", ["guard-missing"], { ["mprotect \($0 + $1) 4096 3"] },
      undo: { ["mprotect \($0 + $1) 4096 0"] })
    refusable(
      "no guard in front", ["guard-missing"], { at, _ in ["munmap \(at - 4096) 4096"] }, undo: nil)
    refusable("munmap", ["not-mapped"], { ["munmap \($0 + $1 - 4096) 4096"] }, undo: nil)
    let (opened, closed): ([String], Int) =
      switch (gate, seal) {
      case ("pages", _): (["open-pages"], 0)
      case ("none", .frozen), ("cipher", .frozen), ("cipher", .sealed): (["writable"], 1)
      default: ([], 3)
      }
    refusable("mprotect to r-w", opened, protect(3), undo: protect(closed))
    refusable(
      "mprotect to r-x", ["executable"] + (gate == "pages" ? opened : []), protect(5),
      undo: protect(closed))
    if gate == "key" {
      refusable(
        "another key", ["key-differs"], { ["pkey_mprotect \($0) \($1) 0"] }, undo: nil)
    }
    return all
  }

  static let sabotages: [Sabotage] =
    ["none", "pages"].flatMap { gate in
      ["slab", "isolated"].flatMap { layout in
        [Seal.open, .frozen].flatMap { common(gate, layout, $0) }
      }
    } + special

  /// Sealed without protection keys, if the kernel has mseal(2).
  static let encrypted: [Sabotage] =
    common("cipher", "slab", .open) + common("cipher", "isolated", .open)
    + common("cipher", "slab", .frozen)
  static let encryptedAndSealed: [Sabotage] =
    common("cipher", "slab", .sealed) + common("cipher", "isolated", .sealed)
  static let canSeal = ct_mseal(0, 0) == 0

  /// If the processor has protection keys: this machine's or the emulated one's.
  static let keyed: [Sabotage] =
    common("key", "slab", .open) + common("key", "isolated", .frozen)
    + common("key", "slab", .sealed)

  static let mayUnshare = (try? Launch(["unshare", "-Urpf", "true"]).run().status) == 0
  static let hasKeys = (try? procText("/proc/cpuinfo").contains(" ospke")) == true

  static let special: [Sabotage] = [
    // The audit ignores the flag that keeps mappings of a page gate separate.
    Sabotage(
      what: "MADV_NOHUGEPAGE", kinds: [], gate: "pages",
      calls: { ["madvise \($0) \($1) 15"] }),
    Sabotage(
      what: "two things", kinds: ["in-core-dumps", "not-locked"],
      calls: { ["munlock \($0) \($1)", "madvise \($0) \($1) 17"] },
      undo: { ["mlock \($0) \($1)", "madvise \($0) \($1) 16"] }),
  ]

  private func snapshot(_ peer: Peer, _ scratch: Scratch) throws -> [String: Any] {
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    guard ended.status == 0 else { throw Failed("\(ended.status): \(ended.error)") }
    return try json(ended.output)
  }

  private func findings(_ snapshot: [String: Any]) -> [[String: Any]] {
    (snapshot["audit"] as? [String: Any])?["findings"] as? [[String: Any]] ?? []
  }

  /// A limit of locked memory that root or this user certainly has.
  private func world(_ sabotage: Sabotage) throws -> (Peer, Scratch, UInt64, UInt64) {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    for (slot, name) in [("a", "alpha"), ("b", "bravo")] {
      try peer.send("arena \(slot) \(name) \(sabotage.layout) required \(sabotage.gate)")
      try peer.send("alloc \(slot) 1 100")
    }
    switch sabotage.seal {
    case .open: break
    case .frozen: try peer.send("freeze a")
    case .sealed: try peer.send("seal a")
    }
    let before = try snapshot(peer, scratch)
    #expect(findings(before).isEmpty)
    let arenas = before["arenas"] as! [[String: Any]]
    #expect(arenas.map { $0["verdict"] as? String } == ["agrees", "agrees"])
    #expect(arenas.map { $0["state"] as? String } == ["ok", "ok"])
    let chunk = (arenas[0]["chunks"] as! [[String: Any]])[0]
    return (peer, scratch, UInt64(chunk["address"] as! Int), UInt64(chunk["dataBytes"] as! Int))
  }

  @Test(.enabled(if: hasKeys, "this processor has no protection keys"), arguments: keyed)
  func sabotageUnderAKeyIsFound(sabotage: Sabotage) throws {
    try sabotageIsFound(sabotage: sabotage)
  }

  @Test(arguments: encrypted) func sabotageOfCiphertextIsFound(sabotage: Sabotage) throws {
    try sabotageIsFound(sabotage: sabotage)
  }

  @Test(.enabled(if: canSeal, "this kernel has no mseal"), arguments: encryptedAndSealed)
  func sabotageOfSealedCiphertextIsFound(sabotage: Sabotage) throws {
    try sabotageIsFound(sabotage: sabotage)
  }

  /// An idle arena is `encrypted`, which the kernel cannot confirm; an open one is shown as open.
  @Test func encryptedIsASeparateState() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab off cipher")
    try peer.send("alloc a 3 100")
    func state() throws -> (String?, String?) {
      let arenas = try snapshot(peer, scratch)["arenas"] as? [[String: Any]]
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

  @Test(arguments: sabotages) func sabotageIsFound(sabotage: Sabotage) throws {
    let (peer, scratch, address, count) = try world(sabotage)
    for call in sabotage.calls(address, count) {
      if sabotage.isRefused {
        #expect(throws: Failed.self) { try peer.send("call \(call)") }
      } else {
        try peer.send("call \(call)")
      }
    }
    let after = try snapshot(peer, scratch)
    #expect(findings(after).map { $0["kind"] as! String }.sorted() == sabotage.kinds)
    #expect(findings(after).allSatisfy { $0["arenaId"] as? Int == 1 })
    let arenas = after["arenas"] as! [[String: Any]]
    let isClean = sabotage.kinds.isEmpty
    #expect(arenas.map { $0["verdict"] as? String } == [isClean ? "agrees" : "differs", "agrees"])
    #expect(arenas.map { $0["state"] as? String } == [isClean ? "ok" : "differs", "ok"])
    // No other finding reports the same in other words.
    let problems = (after["problems"] as! [[String: Any]]).filter {
      $0["severity"] as? String != "note"
    }
    #expect(problems.count == sabotage.kinds.count)
    let text = try memwatch("audit", "\(peer.pid)", stats: scratch)
    for kind in sabotage.kinds { #expect(text.output.contains("\(kind)  alpha")) }
    #expect(text.status == (isClean ? 0 : 6), "\(text)")
    // The row is the kernel's answer: not all of it is locked any more.
    if sabotage.kinds == ["not-locked"] {
      #expect(text.output.contains(#/alpha +differs +\S+ KiB +(none|\S+ KiB) /#), "\(text.output)")
    }
    #expect(text.output.contains(#/bravo +agrees +\S+ KiB +all /#), "\(text.output)")
    guard let undo = sabotage.undo else { return peer.kill() }
    for call in undo(address, count) { try peer.send("call \(call)") }
    let cleared = try snapshot(peer, scratch)
    #expect(findings(cleared).isEmpty)
    try peer.send("free a 1")
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
      arena = (try snapshot(peer, scratch)["arenas"] as! [[String: Any]])[0]
      return arena["secretCount"] as? Int == 105 && arena["idleBytes"] as? Int == 20480
    }
    let pages = (arena["bytesMapped"] as! Int) / 4096
    let merged = layout == "slab" ? 4 : 0
    #expect(arena["mergedPages"] as? Int == merged)
    #expect(arena["separatePages"] as? Int == pages - merged)
    #expect(arena["verdict"] as? String == "agrees" && arena["state"] as? String == "ok")
    #expect(findings(try snapshot(peer, scratch)).isEmpty)
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
    let (peer, scratch, address, count) = try world(
      Sabotage(
        what: "", kinds: [], gate: gate == "key" && !Self.hasKeys ? "pages" : gate,
        calls: { _, _ in [] }))
    try peer.send("call madvise \(address) \(count) \(setting.set)")
    let after = try snapshot(peer, scratch)
    #expect(findings(after).map { $0["kind"] as! String } == [setting.kind])
    #expect(findings(after).map { $0["severity"] as! String } == ["warning"])
    let arenas = after["arenas"] as! [[String: Any]]
    #expect(arenas.map { $0["verdict"] as? String } == ["agrees", "agrees"])
    #expect(arenas.map { $0["state"] as? String } == ["warning", "ok"])
    let text = try memwatch("audit", "\(peer.pid)", stats: scratch)
    #expect(text.status == 0 && text.output.contains("\(setting.kind)  alpha"), "\(text)")
    try peer.send("call madvise \(address) \(count) \(setting.unset)")
    #expect(findings(try snapshot(peer, scratch)).isEmpty)
  }

  /// A setting of the whole process affects every arena.
  @Test func aProcessWhosePagesAreMergedIsWarnedOf() throws {
    let (peer, scratch, _, _) = try world(Sabotage(what: "", kinds: [], calls: { _, _ in [] }))
    try peer.send("merge")
    let after = try snapshot(peer, scratch)
    #expect(findings(after).map { $0["kind"] as! String } == ["mergeable", "mergeable"])
    #expect(Set(findings(after).map { $0["arenaId"] as! Int }) == [1, 2])
  }

  /// Locked memory outside arenas, and a debugger.
  @Test func otherLocksAndDebuggersAreReported() throws {
    let (peer, scratch, _, _) = try world(Sabotage(what: "", kinds: [], calls: { _, _ in [] }))
    let maps = try procText("/proc/\(peer.pid)/maps").split(separator: "\n")
    let heap = try #require(maps.first { $0.contains("[heap]") })
    let start = UInt64(heap.prefix { $0 != "-" }, radix: 16)!
    try peer.send("call mlock \(start) 8192")
    let locked = findings(try snapshot(peer, scratch))
    #expect(locked.map { $0["kind"] as? String } == ["other-locks"])
    #expect(locked[0]["severity"] as? String == "note")
    #expect(
      (locked[0]["causeMessage"] as? String)?.hasPrefix("8 KiB are locked by other code") == true)
    try peer.send("call munlock \(start) 8192")
    let strace = Launch(["strace", "-o", "/dev/null", "-p", "\(peer.pid)"]).process()
    strace.standardError = FileHandle.nullDevice
    try strace.run()
    defer { kill(strace.processIdentifier, SIGTERM) }
    try eventually("strace is found") {
      findings(try snapshot(peer, scratch)).map { $0["kind"] as? String } == ["debugger"]
    }
  }

  /// A child has a copy of the arena, but not its lock.
  @Test func aChildWithACopyIsFound() throws {
    let (peer, scratch, address, count) = try world(
      Sabotage(what: "", kinds: [], calls: { _, _ in [] }))
    let harmless = Int32(try peer.send("fork"))!
    defer { kill(harmless, SIGKILL) }
    #expect(findings(try snapshot(peer, scratch)).isEmpty)
    try peer.send("call madvise \(address) \(count) 19")
    let child = Int32(try peer.send("fork"))!
    defer { kill(child, SIGKILL) }
    let found = findings(try snapshot(peer, scratch))
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
      let now = try snapshot(peer, scratch)
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
      let now = try snapshot(peer, scratch)
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
