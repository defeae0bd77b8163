// Residue of secrets: another process searches all memory, all threads' registers and the page
// after every step of the API.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct ResidueTests {
  func start(_ gate: String, _ layout: String) throws -> (Peer, Scratch, Masked) {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha \(layout) preferred \(gate)")
    try peer.send("arena b bravo \(layout) preferred \(gate)")
    return (peer, scratch, Masked())
  }

  /// An encrypted secret is nowhere in clear after any operation of the vault. Decrypting restores
  /// it.
  @Test(arguments: ["aes", "xchacha"]) func encryptedSecretsLeaveNoPlaintext(cipher: String) throws
  {
    let (peer, scratch, pattern) = try start("none", "slab")
    do { try peer.send("vault v \(cipher)") } catch {
      #expect(cipher == "aes")
      try Test.cancel("this processor has no instructions for AES")
    }
    try pattern.send(to: peer, scratch)
    #expect(try pattern.search(peer.pid).memory.count == 1)
    try peer.send("encrypt v a 3")
    try peer.send("free a 1")
    var found = try pattern.search(peer.pid)
    #expect(found.memory.isEmpty && found.threads == 0)
    try peer.send("rotate v")
    found = try pattern.search(peer.pid)
    #expect(found.memory.isEmpty && found.threads == 0)
    try peer.send("decrypt v b")
    #expect(try pattern.search(peer.pid).memory.count == 1)
    try peer.send("free b 1")
    try peer.send("tamper v")
    #expect(throws: (any Error).self) { try peer.send("decrypt v b") }
    found = try pattern.search(peer.pid)
    #expect(found.memory.isEmpty && found.threads == 0)
  }

  /// After the wipe at exit nothing is left in arenas or vaults. The searcher inspects the process
  /// while it is stopped in an exit handler that runs after the library's.
  @Test(arguments: gates) func nothingIsLeftAtExit(gate: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("stop-at-exit")
    try peer.send("start")
    for (id, layout) in [("a", "slab"), ("b", "isolated")] {
      try peer.send("arena \(id) \(id == "a" ? "alpha" : "bravo") \(layout) preferred \(gate)")
    }
    let pattern = Masked()
    try pattern.send(to: peer, scratch)
    try peer.send("copy a b")
    try peer.send("vault v any")
    try peer.send("encrypt v a 3")
    #expect(try pattern.search(peer.pid).memory.count == 2)
    peer.post("exit")
    try eventually("it stands still") {
      try procText("/proc/\(peer.pid)/stat").contains(") T ")
    }
    let found = try pattern.search(peer.pid)
    #expect(found.memory.isEmpty && found.threads == 0)
    peer.signal(SIGCONT)
    peer.kill()
  }

  static let gates = ["pages", "none"]

  @Test(arguments: gates, ["slab", "isolated"])
  func noOperationLeavesResidue(gate: String, layout: String) throws {
    let (peer, scratch, pattern) = try start(gate, layout)
    func expect(_ count: Int, _ step: String) throws {
      let found = try pattern.search(peer.pid)
      // Only the secrets themselves may hold it: the expected number, each in a chunk.
      #expect(found.memory.count == count, "\(step): \(found.memory.map { String($0, radix: 16) })")
      #expect(found.threads == 0, "\(step): registers")
      let maps = try procText("/proc/\(peer.pid)/smaps")
      for place in found.memory {
        #expect(isExcludedFromDumps(place, maps), "\(step): outside of a chunk")
      }
    }
    try expect(0, "before")
    try pattern.send(to: peer, scratch)
    try expect(1, "received")
    try peer.send("touch a 3")
    try expect(1, "opened")
    try peer.send("copy a b")
    try expect(2, "copied")
    #expect(try peer.send("compare a b") == "true")
    try expect(2, "compared")
    #expect(try peer.send("check a") == "0")
    try expect(2, "checked")
    try peer.send("freeze b")
    try expect(2, "frozen")
    try peer.send("free b 1")
    try expect(1, "freed of a frozen arena")
    try peer.send("free a 1")
    try expect(0, "freed")
    try pattern.send(to: peer, scratch)
    try expect(1, "received again")
    try peer.send("destroy a")
    try expect(0, "destroyed")
    // The page itself, as a file.
    let page = try FileManager.default.contentsOfDirectory(atPath: scratch.path)
      .filter { $0 != "fifo" }
    for name in page {
      let data = FileManager.default.contents(atPath: scratch.file(name)) ?? Data()
      #expect(data.withUnsafeBytes { pattern.places(in: $0) }.isEmpty)
    }
    try peer.exit()
  }

  /// The search finds a pattern that is planted in the heap, on a stack or in a register.
  @Test(arguments: ["heap", "stack", "register"]) func aPlantedLeakIsFound(place: String) throws {
    let (peer, scratch, pattern) = try start("pages", "slab")
    try pattern.send(to: peer, scratch)
    try peer.send("plant a \(place)")
    let found = try pattern.search(peer.pid)
    if place == "register" {
      #expect(found.threads >= 1)
    } else {
      #expect(found.memory.count >= 2)
    }
    peer.kill()
  }

  /// Whether an address lies in a mapping that is excluded from dumps, which only chunks are.
  func isExcludedFromDumps(_ address: UInt, _ smaps: String) -> Bool {
    var isInside = false
    for line in smaps.split(separator: "\n") {
      let words = line.split(separator: " ")
      let range = words[0].split(separator: "-")
      if range.count == 2, let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16)
      {
        isInside = address >= low && address < high
      } else if isInside, line.hasPrefix("VmFlags:") {
        return words.contains("dd")
      }
    }
    return false
  }
}

#if Sodium
  /// Random operations in a process, which another process then searches for everything it ever
  /// wrote.
  @Suite(.serialized, .waitsForProcesses) struct ModelTests {
    /// The number of pattern words in a process's memory.
    private func found(_ pid: Int32, _ seed: UInt64, _ count: UInt64) throws -> Int {
      var found = 0
      try forEachRegion(of: pid) { bytes, _ in
        found += ct_patterns_in(bytes.baseAddress, bytes.count, seed, count)
      }
      return found
    }

    /// 100,000 operations in all; contents are compared at every step.
    @Test(arguments: ["none", "pages"], ["free", "wipe"])
    func operationsAgreeAndLeaveNothing(gate: String, end: String) throws {
      let seed = SeededGenerator().stream(0).seed >> 2 | 1
      let scratch = try Scratch(onTmpfs: true)
      let peer = try Peer(stats: scratch)
      try peer.send("start")
      let written = UInt64(try peer.send("model \(gate) 25000 \(seed)"))!
      #expect(written > 1000)
      // The control: the search finds live secrets.
      #expect(try found(peer.pid, seed, written) > 10)
      try peer.send("model \(end)")
      #expect(try found(peer.pid, seed, written) == 0, "seed \(seed)")
      if end == "wipe" {
        let answer = try peer.send("model use").split(separator: " ").map { Int($0)! }
        #expect(answer[0] > 20 && answer[0] == answer[1], "\(answer)")
        #expect(try found(peer.pid, seed, written) == 0, "seed \(seed)")
      }
    }
  }
#endif
