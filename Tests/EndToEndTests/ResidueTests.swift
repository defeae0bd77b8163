// What is left of a secret: searched for by another process, in all memory, all threads' registers
// and the page, after every step of the API.
//
// The searcher holds only a masked pattern, and the bytes reach the publisher through a FIFO,
// straight into a secret: so whatever is found is the library's doing.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

/// 64 random bytes that are never in memory in clear for longer than it takes to send them.
struct Masked {
  private let masked: [UInt8]
  private static let mask: UInt8 = 0x5c

  init() { masked = (0..<64).map { _ in .random(in: 0...255) } }

  func send(through path: String) throws {
    let file = open(path, O_WRONLY)
    guard file >= 0 else { throw Failed("open \(path)") }
    defer { close(file) }
    for byte in masked {
      var clear = byte ^ Self.mask
      guard write(file, &clear, 1) == 1 else { throw Failed("write") }
    }
  }

  /// Where any 8 consecutive bytes of the pattern stand.
  func places(in bytes: UnsafeRawBufferPointer) -> [Int] {
    guard bytes.count >= 8 else { return [] }
    // Every eighth-byte window that starts with one of the pattern's windows.
    var windows: Set<UInt64> = []
    for start in 0...(masked.count - 8) {
      var word: UInt64 = 0
      for byte in 0..<8 { word |= UInt64(masked[start + byte]) << UInt64(8 * byte) }
      windows.insert(word)
    }
    // Reject most places by two bytes of a window, before hashing.
    var mayStart = [Bool](repeating: false, count: 65536)
    for window in windows { mayStart[Int(window & 0xffff)] = true }
    let mask = UInt64(0x0101_0101_0101_0101) &* UInt64(Self.mask)
    var found: [Int] = []
    var offset = 0
    while offset <= bytes.count - 8 {
      let word = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ mask
      if mayStart[Int(word & 0xffff)], windows.contains(word) {
        found.append(offset)
        offset += 64  // one place, not each of its windows
      } else {
        offset += 1
      }
    }
    return found
  }
}

@Suite(.serialized) struct ResidueTests {
  /// Where the pattern is: addresses of memory, and the threads whose registers hold it.
  func search(_ pid: Int32, _ pattern: Masked) throws -> (memory: [UInt], threads: Int) {
    var places: [UInt] = []
    let maps = try procText("/proc/\(pid)/maps")
    let file = open("/proc/\(pid)/mem", O_RDONLY)
    guard file >= 0 else { throw Failed("open mem") }
    defer { close(file) }
    for line in maps.split(separator: "\n") {
      let range = line.split(separator: " ")[0].split(separator: "-")
      guard let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16),
        low < 1 << 47, !line.contains("[v"), high - low < 1 << 30
      else { continue }
      // Files that are mapped read-only are what they are on disk.
      if line.contains(" r-") && line.contains(" /") { continue }
      var buffer = [UInt8](repeating: 0, count: Int(high - low))
      // What cannot be read even so (guards of secret memory) is passed over.
      let count = pread(file, &buffer, buffer.count, off_t(low))
      guard count > 0 else { continue }
      buffer.withUnsafeBytes { raw in
        places += pattern.places(in: UnsafeRawBufferPointer(rebasing: raw[..<count]))
          .map { low + UInt($0) }
      }
    }
    var threads = 0
    for tid in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task") {
      var registers = [UInt8](repeating: 0, count: 16384)
      let count = ct_registers(Int32(tid)!, &registers, registers.count)
      guard count > 200 else { throw Failed("registers of \(tid): \(count)") }
      registers.withUnsafeBytes { raw in
        let part = UnsafeRawBufferPointer(rebasing: raw[..<count])
        if !pattern.places(in: part).isEmpty { threads += 1 }
      }
    }
    return (places, threads)
  }

  func start(_ gate: String, _ layout: String) throws -> (Peer, Scratch, Masked) {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha \(layout) preferred \(gate)")
    try peer.send("arena b bravo \(layout) preferred \(gate)")
    return (peer, scratch, Masked())
  }

  func receive(_ peer: Peer, _ scratch: Scratch, _ pattern: Masked) throws {
    let fifo = scratch.file("fifo")
    unlink(fifo)
    guard mkfifo(fifo, 0o600) == 0 else { throw Failed("mkfifo") }
    let done = DispatchSemaphore(value: 0)
    Thread {
      try? pattern.send(through: fifo)
      done.signal()
    }.start()
    try peer.send("receive a 64 \(fifo)")
    done.wait()
  }

  /// At rest nothing is left in clear, whatever the vault did with it; decrypting brings it back.
  @Test(arguments: ["aes", "xchacha"]) func nothingIsLeftOfWhatIsEncrypted(cipher: String) throws {
    let (peer, scratch, pattern) = try start("none", "slab")
    do { try peer.send("vault v \(cipher)") } catch {
      #expect(cipher == "aes")
      return
    }
    try receive(peer, scratch, pattern)
    #expect(try search(peer.pid, pattern).memory.count == 1)
    try peer.send("encrypt v a 3")
    try peer.send("free a 1")
    var found = try search(peer.pid, pattern)
    #expect(found.memory.isEmpty && found.threads == 0)
    try peer.send("rotate v")
    found = try search(peer.pid, pattern)
    #expect(found.memory.isEmpty && found.threads == 0)
    try peer.send("decrypt v b")
    #expect(try search(peer.pid, pattern).memory.count == 1)
    try peer.send("free b 1")
    try peer.send("tamper v")
    #expect(throws: (any Error).self) { try peer.send("decrypt v b") }
    found = try search(peer.pid, pattern)
    #expect(found.memory.isEmpty && found.threads == 0)
  }

  /// At exit nothing is left, in arenas or vaults; the searcher looks at the process while it stands
  /// still in a handler that runs after the library's.
  @Test(arguments: gates) func nothingIsLeftAtExit(gate: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("stop-at-exit")
    try peer.send("start")
    for (id, layout) in [("a", "slab"), ("b", "isolated")] {
      try peer.send("arena \(id) \(id == "a" ? "alpha" : "bravo") \(layout) preferred \(gate)")
    }
    let pattern = Masked()
    try receive(peer, scratch, pattern)
    try peer.send("copy a b")
    try peer.send("vault v any")
    try peer.send("encrypt v a 3")
    #expect(try search(peer.pid, pattern).memory.count == 2)
    peer.post("exit")
    try eventually("it stands still") {
      try procText("/proc/\(peer.pid)/stat").contains(") T ")
    }
    let found = try search(peer.pid, pattern)
    #expect(found.memory.isEmpty && found.threads == 0)
    peer.signal(SIGCONT)
    peer.kill()
  }

  static let gates = ["pages", "none"]

  @Test(arguments: gates, ["slab", "isolated"])
  func nothingIsLeft(gate: String, layout: String) throws {
    let (peer, scratch, pattern) = try start(gate, layout)
    func expect(_ count: Int, _ step: String) throws {
      let found = try search(peer.pid, pattern)
      // The one allowed place is the secret itself: as many as there are, each in a chunk.
      #expect(found.memory.count == count, "\(step): \(found.memory.map { String($0, radix: 16) })")
      #expect(found.threads == 0, "\(step): registers")
      let maps = try procText("/proc/\(peer.pid)/smaps")
      for place in found.memory {
        #expect(isExcludedFromDumps(place, maps), "\(step): outside of a chunk")
      }
    }
    try expect(0, "before")
    try receive(peer, scratch, pattern)
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
    try receive(peer, scratch, pattern)
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

  /// The search finds what is planted: in the heap, on a stack, in a register.
  @Test(arguments: ["heap", "stack", "register"]) func aPlantedLeakIsFound(place: String) throws {
    let (peer, scratch, pattern) = try start("pages", "slab")
    try receive(peer, scratch, pattern)
    try peer.send("plant a \(place)")
    let found = try search(peer.pid, pattern)
    if place == "register" {
      #expect(found.threads >= 1)
    } else {
      #expect(found.memory.count >= 2)
    }
    peer.kill()
  }

  /// Whether an address lies in a mapping that is kept out of dumps: a chunk.
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
