// A saboteur undoes one protection at a time without the library's knowledge; the audit finds it.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

/// A snapshot, whose audit ran just now.
func audited(_ peer: Peer, _ scratch: Scratch) throws -> [String: Any] {
  let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
  guard ended.status == 0 else { throw Failed("\(ended.status): \(ended.error)") }
  return try json(ended.output)
}

func findings(_ snapshot: [String: Any]) -> [[String: Any]] {
  (snapshot["audit"] as? [String: Any])?["findings"] as? [[String: Any]] ?? []
}

@Suite(.waitsForProcesses) struct SabotageTests {
  /// The saboteur's system calls, given a chunk's address and size.
  typealias Calls = @Sendable (_ address: UInt64, _ byteCount: UInt64) -> [String]

  struct Sabotage: CustomTestStringConvertible, Sendable {
    var what: String
    /// The kinds of the expected findings, all for arena `a`.
    var kinds: [String]
    var gate = "none"
    var layout = "slab"
    /// The seal state that the arena is brought into first.
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

  static let encrypted: [Sabotage] =
    common("cipher", "slab", .open) + common("cipher", "isolated", .open)
    + common("cipher", "slab", .frozen)
  /// Sealed without protection keys, if the kernel has mseal(2).
  static let encryptedAndSealed: [Sabotage] =
    common("cipher", "slab", .sealed) + common("cipher", "isolated", .sealed)
  static let canSeal = ct_mseal(0, 0) == 0

  /// If the processor has protection keys: this machine's or the emulated one's.
  static let keyed: [Sabotage] =
    common("key", "slab", .open) + common("key", "isolated", .frozen)
    + common("key", "slab", .sealed)

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

  /// Two arenas, `alpha` and `bravo`, with one secret each; an audit agrees with both. Returns the address and size of
  /// the chunk of `alpha`. (64 KiB of lockable memory are enough.)
  static func world(_ sabotage: Sabotage) throws -> (Peer, Scratch, UInt64, UInt64) {
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
    let before = try audited(peer, scratch)
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

  @Test(arguments: sabotages) func sabotageIsFound(sabotage: Sabotage) throws {
    let (peer, scratch, address, count) = try Self.world(sabotage)
    for call in sabotage.calls(address, count) {
      if sabotage.isRefused {
        #expect(throws: Failed.self) { try peer.send("call \(call)") }
      } else {
        try peer.send("call \(call)")
      }
    }
    let after = try audited(peer, scratch)
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
    let cleared = try audited(peer, scratch)
    #expect(findings(cleared).isEmpty)
    try peer.send("free a 1")
  }
}
