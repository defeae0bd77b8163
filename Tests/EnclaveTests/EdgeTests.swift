// Ranges up to their edges: wiped pages, guards, and the bytes that canaries cover.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

@Suite struct EdgeTests {
  /// The number of bytes that are not zero.
  private static func count(_ start: UInt, _ byteCount: Int) -> Int {
    UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: start), count: byteCount)
      .reduce(0) { $0 + ($1 == 0 ? 0 : 1) }
  }

  /// Freeing wipes every page of a secret, and wiping everything wipes every page that was ever
  /// used.
  @Test(arguments: [1, 2, 3, 4, 16]) func everyPageIsWiped(pages: Int) async {
    await #expect(processExitsWith: .success) { [pages = pages as Int] in
      let arena = try Arena("pages", .init(layout: .isolated, lock: .off, gate: .none))
      func make() throws -> (UnsafeMutableRawPointer, UInt) {
        let secret = try unsafe arena.allocate(byteCount: pages * 4096).leak()
        memset(secret, 0xff, pages * 4096)
        return (secret, UInt(bitPattern: secret))
      }
      let (freed, first) = try make()
      let (_, second) = try make()
      let written = EdgeTests.count(first, pages * 4096)
      #expect(written == pages * 4096, "\(written) bytes were written")
      try unsafe arena.free(freed)
      let left = EdgeTests.count(first, pages * 4096)
      #expect(left == 0, "\(left) bytes are left of what was freed")
      EmergencyWipe.wipeEverything()
      let rest = EdgeTests.count(second, pages * 4096)
      #expect(rest == 0, "\(rest) bytes are left after everything was wiped")
    }
  }

  @Test func everyPageOfASlabIsWiped() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("pages", .init(lock: .off, gate: .none))
      var places: [UInt] = []
      for _ in 0..<64 {
        let secret = try unsafe arena.allocate(byteCount: 1000).leak()
        memset(secret, 0xff, 1000)
        places.append(UInt(bitPattern: secret))
      }
      EmergencyWipe.wipeEverything()
      let left = places.map { EdgeTests.count($0, 1000) }
      #expect(left == Array(repeating: 0, count: 64), "bytes that are left: \(left)")
    }
  }

  /// The bytes just before and after an arena's pages are inaccessible under every gate. The
  /// control: those inside are accessible if the gate permits.
  @Test(arguments: gatesInPlace, [Arena.Layout.slab, .isolated])
  func bothGuardsAreClosed(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      let arena = try Arena(
        "guarded",
        .init(layout: isSlab ? .slab : .isolated, lock: .off, gate: allGates[number]))
      let secret = try arena.allocate(byteCount: 32)
      let start = try address(of: secret) & ~4095
      let end = start + UInt(arena.statistics.bytesMapped)
      try secret.withBytes { _ in
        #expect(ct_try_read(start) == 0, "the first byte can be read")
        for (name, outside) in [
          ("just before", start - 1), ("a page before", start - 4096), ("just behind", end),
          ("a page behind", end + 4095),
        ] {
          #expect(ct_try_read(outside) != 0, "\(name): it can be read")
          #expect(ct_try_write(outside) != 0, "\(name): it can be written")
        }
      }
      if allGates[number] == .none {
        #expect(ct_try_read(end - 1) == 0, "the last byte can be read")
      }
    }
  }

  /// A change to any bit of a canary, before or after the secret, is detected.
  @Test(arguments: [Arena.Layout.slab, .isolated]) func everyChangedCanaryBitIsDetected(
    layout: Arena.Layout
  ) throws {
    let arena = try Arena("canaries", .init(layout: layout, lock: .off, gate: .none))
    let secret = try arena.allocate(byteCount: 32)
    let start = UnsafeMutablePointer<UInt8>(bitPattern: try address(of: secret))!
    #expect(try arena.check().isEmpty)
    let behind = layout == .slab ? 32..<48 : 32..<32
    let before = layout == .slab ? 0..<0 : -16..<0
    for offset in Array(before) + Array(behind) {
      for bit in 0..<8 {
        start[offset] ^= 1 << bit
        #expect(try arena.check().map(\.offset) == [offset], "\(offset), bit \(bit)")
        start[offset] ^= 1 << bit
      }
    }
    #expect(try arena.check().isEmpty)
  }

  /// Also when the secret is freed.
  @Test func everyChangedCanaryBitIsDetectedWhenFreed() async {
    await #expect(processExitsWith: .success) {
      final class Observed: @unchecked Sendable { var offsets: [Int?] = [] }
      let seen = Observed()
      ViolationHandler.set { violation in
        seen.offsets.append(violation.offset)
        return .continueExecution
      }
      let arena = try Arena("canaries", .init(lock: .off, gate: .none))
      for offset in 32..<48 {
        for bit in 0..<8 {
          let secret = try unsafe arena.allocate(byteCount: 32).leak()
          secret.assumingMemoryBound(to: UInt8.self)[offset] ^= 1 << bit
          try unsafe arena.free(secret)
          #expect(seen.offsets == [offset], "\(offset), bit \(bit): \(seen.offsets)")
          seen.offsets = []
        }
      }
    }
  }
}
