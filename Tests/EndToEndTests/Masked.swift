// A pattern to search a process for. The searcher only holds it masked, and the bytes reach the
// publisher through a FIFO, directly into a secret. So the library is responsible for every copy
// that is found.

import CTestSupport
import Foundation
import Glibc
import TestSupport

/// Passes the memory of a process, mapping by mapping, with the addresses.
func forEachRegion(of pid: Int32, _ body: (UnsafeRawBufferPointer, UInt) -> Void) throws {
  let maps = try procText("/proc/\(pid)/maps")
  let file = open("/proc/\(pid)/mem", O_RDONLY)
  guard file >= 0 else { throw Failed("open mem") }
  defer { close(file) }
  for line in maps.split(separator: "\n") {
    let range = line.split(separator: " ")[0].split(separator: "-")
    guard let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16),
      low < 1 << 47, !line.contains("[v"), high - low < 1 << 30
    else { continue }
    // Skip files that are mapped read-only.
    if line.contains(" r-") && line.contains(" /") { continue }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(high - low), alignment: 16)
    defer { buffer.deallocate() }
    // Skip memory that cannot be read even so (guards of secret memory).
    let count = pread(file, buffer.baseAddress!, buffer.count, off_t(low))
    guard count > 0 else { continue }
    body(UnsafeRawBufferPointer(rebasing: buffer[..<count]), low)
  }
}

/// 64 random bytes that are in memory in clear only while they are sent.
struct Masked: Sendable {
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

  /// Sends it into a new secret of a publisher's arena `a`.
  func send(to peer: Peer, _ scratch: Scratch) throws {
    try send(through: scratch) { try peer.send("receive a 64 \($0)") }
  }

  /// Sends it through a new FIFO, and passes the FIFO's path to the reader.
  func send(through scratch: Scratch, to tell: (String) throws -> Void) throws {
    let fifo = scratch.file("fifo")
    unlink(fifo)
    guard mkfifo(fifo, 0o600) == 0 else { throw Failed("mkfifo") }
    let done = DispatchSemaphore(value: 0)
    Thread {
      try? send(through: fifo)
      done.signal()
    }.start()
    try tell(fifo)
    done.wait()
  }

  /// The offsets of any 8 consecutive bytes of the pattern.
  func places(in bytes: UnsafeRawBufferPointer) -> [Int] {
    guard let base = bytes.baseAddress else { return [] }
    var offsets = [Int](repeating: 0, count: 256)
    let count = ct_places(base, bytes.count, masked, masked.count, Self.mask, &offsets, 256)
    return Array(offsets[..<min(count, 256)])
  }

  /// The addresses of the pattern in a process's memory.
  func memory(of pid: Int32) throws -> [UInt] {
    var places: [UInt] = []
    try forEachRegion(of: pid) { bytes, low in
      places += self.places(in: bytes).map { low + UInt($0) }
    }
    return places
  }

  /// The addresses of the pattern, and the number of threads whose registers hold it.
  func search(_ pid: Int32) throws -> (memory: [UInt], threads: Int) {
    let places = try memory(of: pid)
    var threads = 0
    for tid in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task") {
      var registers = [UInt8](repeating: 0, count: 16384)
      let count = ct_registers(Int32(tid)!, &registers, registers.count)
      guard count > 200 else { throw Failed("registers of \(tid): \(count)") }
      registers.withUnsafeBytes { raw in
        let part = UnsafeRawBufferPointer(rebasing: raw[..<count])
        if !self.places(in: part).isEmpty { threads += 1 }
      }
    }
    return (places, threads)
  }
}
