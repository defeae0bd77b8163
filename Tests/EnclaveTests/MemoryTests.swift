// Memory of freed secrets is reused, and returned to the system.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// Allocates secrets until the arena refuses.
private func fill(_ arena: Arena, _ byteCount: Int) -> [SecretReference] {
  var kept: [SecretReference] = []
  while let secret = try? arena.allocate(byteCount: byteCount) {
    kept.append(SecretReference(secret))
  }
  return kept
}

/// Uses memcmp(3), because a loop over every byte is slow in debug builds.
private func isZero(_ secret: borrowing Secret) throws -> Bool {
  let zeros = [UInt8](repeating: 0, count: 5000)
  return try secret.withBytes { bytes in
    unsafe bytes.withUnsafeBytes { unsafe memcmp($0.baseAddress!, zeros, $0.count) == 0 }
  }
}

/// A generator with the same numbers in each run.
@Suite struct MemoryTests {
  static let sizes = [16, 48, 64, 200, 1000, 4000, 5000, 40_000]

  @Test(
    .enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"), arguments: allGates,
    [Arena.Layout.slab, .isolated])
  func freedMemoryServesEverySize(gate: Arena.Gate, layout: Arena.Layout) throws {
    let arena = try Arena(
      "test", .init(layout: layout, lock: .preferred, gate: gate, capacity: 65536))
    for first in [32] + Self.sizes {
      var kept = fill(arena, first)
      #expect(kept.count > 0)
      kept = []
      for size in Self.sizes {
        var secret = try arena.allocate(byteCount: size)
        #expect(try contents(secret).allSatisfy { $0 == 0 })
        try fill(&secret)
        try secret.destroy()
      }
    }
    #expect(arena.statistics.bytesMapped <= 65536)
    #expect(try arena.check().isEmpty)
  }

  @Test(arguments: allGates) func aDrainedArenaReturnsItsMemory(gate: Arena.Gate) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) { [number = number as Int] in
      let arena = try Arena("test", .init(lock: .off, gate: allGates[number]))
      var generator = SeededGenerator(for: "aDrainedArenaReturnsItsMemory")
      var kept: [SecretReference] = []
      for _ in 0..<40_000 {
        kept.append(
          SecretReference(
            try arena.allocate(byteCount: Int.random(in: 16...1015, using: &generator))))
      }
      let peak = arena.statistics.bytesMapped
      #expect(peak > 20 << 20)
      kept.shuffle(using: &generator)
      while !kept.isEmpty { kept.removeLast() }
      let left = arena.statistics.bytesMapped
      #expect(left <= max(2 << 20, peak / 8))
      // Returned pages cannot be read.
      #expect(try arena.check().isEmpty)
      _ = try arena.allocate(byteCount: 100)
    }
  }

  /// Sizes around the number of pages in a slab chunk.
  @Test(arguments: [Arena.Layout.slab, .isolated], [15, 16, 17, 63, 64, 65, 512, 1000])
  func largeSecretsReturnTheirPages(layout: Arena.Layout, pages: Int) throws {
    let arena = try Arena("test", .init(layout: layout, lock: .off, gate: .pages))
    for byteCount in [pages * 4096, pages * 4096 - 1] {
      var secret = try arena.allocate(byteCount: byteCount)
      try fill(&secret)
      try secret.destroy()
      #expect(arena.statistics.bytesMapped == (pages <= 512 ? pages * 4096 : 0))
      #expect(arena.statistics.idleBytes == arena.statistics.bytesMapped)
      #expect(try arena.check().isEmpty)
    }
    try arena.trim()
    #expect(arena.statistics.bytesMapped == 0)
  }

  @Test func manyIsolatedSecretsReturnTheirPages() throws {
    let arena = try Arena("test", .init(layout: .isolated, lock: .off, gate: .none))
    var kept: [SecretReference] = []
    for _ in 0..<2000 { kept.append(SecretReference(try arena.allocate(byteCount: 100))) }
    #expect(arena.statistics.bytesMapped == 2000 * 4096)
    kept = []
    #expect(arena.statistics.bytesMapped <= 2 << 20)
  }

  /// Under a limit of 64 KiB.
  @Test func aDrainedArenaDoesNotBlockOthers() async {
    await #expect(processExitsWith: .success) {
      try #require(ct_drop_lock_capability() == 0)
      var limit = rlimit(rlim_cur: 65536, rlim_max: 65536)
      setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
      let first = try Arena("first")
      let second = try Arena("second")
      for size in [32, 300, 5000] {
        var kept = fill(first, size)
        #expect(kept.count > 0)
        kept = []
        // Idle memory is less than half of the limit; another arena can use the rest.
        #expect(first.statistics.bytesLocked < 32768)
        var other = fill(second, 100)
        #expect(other.count > 0 && second.statistics.bytesLocked >= 32768)
        other = []
        #expect(second.statistics.bytesLocked < 32768)
      }
    }
  }

  @Test func churnMapsNothing() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .off, gate: .none))
      // A live set larger than the bound of idle memory, so that memory is returned at all.
      var kept: [SecretReference] = []
      for _ in 0..<4000 { kept.append(SecretReference(try arena.allocate(byteCount: 1024))) }
      let sizes = [16, 100, 1000, 4000]
      var some: [SecretReference] = []
      func breathe() throws {
        for size in sizes { try arena.allocate(byteCount: size).destroy() }
        for index in 0..<400 {
          some.append(SecretReference(try arena.allocate(byteCount: sizes[index % 4])))
        }
        some.removeAll(keepingCapacity: true)
      }
      try breathe()
      let before = (SystemCall.reserveChunk.count, SystemCall.unmapChunk.count)
      for _ in 0..<100 { try breathe() }
      #expect(SystemCall.reserveChunk.count == before.0)
      #expect(SystemCall.unmapChunk.count == before.1)
    }
  }

  @Test(arguments: allGates) func frozenArenasKeepTheirPages(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .off, gate: gate))
    var kept: [SecretReference] = []
    for _ in 0..<3000 { kept.append(SecretReference(try arena.allocate(byteCount: 1000))) }
    let mapped = arena.statistics.bytesMapped
    try arena.freeze()
    kept = []
    #expect(arena.statistics.bytesMapped == mapped)
    #expect(arena.statistics.retiredSlots == 3000)
    try arena.destroy()
    #expect(arena.statistics.bytesMapped == 0)
  }

  /// A handle that C code kept stays stale, whatever its pages are used for now.
  @Test func staleHandlesStayStale() throws {
    let arena = try Arena("test", .init(lock: .off, gate: .none, capacity: 16384))
    let stale = try arena.reference.allocate(byteCount: 32, alignment: 16, label: "stale")
    try stale.free()
    for size in [16, 48, 4000, 32, 5000, 32] {
      let kept = fill(arena, size)
      #expect(!stale.isLive)
      #expect(kept.count > 0)
      #expect(throws: EnclaveError.self) { _ = try stale.openWindow(writing: false) }
    }
  }

  @Test func manyThreadsGrowAndDrainOneArena() async throws {
    let arena = try Arena("test", .init(lock: .off, capacity: 4 << 20))
    let seeded = SeededGenerator()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for thread in 0..<6 {
        group.addTask {
          var generator = seeded.stream(thread)
          for round in 0..<30 {
            var kept: [SecretReference] = []
            for _ in 0..<150 {
              let size = Int.random(in: 1...5000, using: &generator)
              var secret: Secret
              do throws(EnclaveError) { secret = try arena.allocate(byteCount: size) } catch {
                guard case .capacity = error else { throw error }
                continue
              }
              #expect(try isZero(secret))
              try secret.withMutableBytes { bytes in
                unsafe bytes.withUnsafeMutableBytes {
                  _ = unsafe memset($0.baseAddress!, Int32(round + 1), $0.count)
                }
              }
              kept.append(SecretReference(secret))
            }
          }
        }
      }
      try await group.waitForAll()
    }
    #expect(arena.statistics.secretCount == 0)
    #expect(try arena.check().isEmpty)
    #expect(arena.statistics.bytesMapped <= 2 << 20)
  }
}
