// Violations that are detected, and their kinds.

import Enclave
import EnclaveSystem
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// Changes one byte at an offset from the start of a secret.
func overwrite(_ secret: inout Secret, at offset: Int) throws {
  try secret.withMutableBytes { bytes in
    bytes.withUnsafeMutableBytes {
      // Flip a bit, because a canary's byte may have any value.
      let place = $0.baseAddress! + offset
      place.storeBytes(of: place.load(as: UInt8.self) ^ 0x5a, as: UInt8.self)
    }
  }
}

@Suite struct HardeningTests {
  nonisolated(unsafe) static var seen: [Violation] = []

  struct Case: Sendable, CustomStringConvertible {
    var layout: Arena.Layout
    var size: Int
    var alignment = 16
    var offset: Int
    var kind: Violation.Kind?
    var description: String { "\(layout) \(size)/\(alignment) at \(offset)" }
  }

  static let cases: [Case] = [
    Case(layout: .slab, size: 32, offset: 32, kind: .overflow),  // the canary's first byte
    Case(layout: .slab, size: 32, offset: 47, kind: .overflow),  // and its last
    Case(layout: .slab, size: 30, offset: 30, kind: .overflow),  // the slack before it
    Case(layout: .slab, size: 40, alignment: 64, offset: 40, kind: .overflow),
    Case(layout: .slab, size: 0, offset: 0, kind: .overflow),
    Case(layout: .slab, size: 4096, offset: 4096, kind: .overflow),
    Case(layout: .slab, size: 32, offset: 31, kind: nil),  // within bounds
    Case(layout: .isolated, size: 32, offset: -1, kind: .underflow),
    Case(layout: .isolated, size: 32, offset: -16, kind: .underflow),
    Case(layout: .isolated, size: 30, offset: 30, kind: .overflow),
    Case(layout: .isolated, size: 32, offset: 0, kind: nil),
  ]

  @Test(arguments: cases) func writesOutOfBoundsAreNamed(attack: Case) async {
    let index = Self.cases.firstIndex { $0.description == attack.description }!
    await #expect(processExitsWith: .success) { [index = index as Int] in
      let attack = HardeningTests.cases[index]
      ViolationHandler.set { violation in
        HardeningTests.seen.append(violation)
        return .continueExecution
      }
      let arena = try Arena("shop", .init(layout: attack.layout, lock: .preferred))
      var secret = try arena.allocate(
        byteCount: attack.size, alignment: attack.alignment, label: "till")
      try overwrite(&secret, at: attack.offset)
      // Found by a check, and again when the secret is freed.
      let looked = try arena.check()
      try secret.destroy()
      guard let kind = attack.kind else {
        #expect(looked == [], "\(looked)")
        #expect(HardeningTests.seen == [], "\(HardeningTests.seen)")
        return
      }
      let expected = Violation(
        kind: kind, arena: "shop", label: "till", byteCount: attack.size, offset: attack.offset)
      #expect(looked == [expected], "found by looking: \(looked)")
      #expect(HardeningTests.seen == [expected], "found when freed: \(HardeningTests.seen)")
      #expect(arena.statistics.corruptions == 1, "counted corruptions")
      // Damage does not come back with the slot.
      let again = try arena.allocate(byteCount: attack.size, alignment: attack.alignment)
      try again.destroy()
      #expect(HardeningTests.seen.count == 1, "found again: \(HardeningTests.seen)")
      let found = try arena.check()
      #expect(found == [], "found by looking again: \(found)")
    }
  }

  @Test func doubleFreesAndForeignPointersAreNamed() async {
    await #expect(processExitsWith: .success) {
      ViolationHandler.set { violation in
        HardeningTests.seen.append(violation)
        return .continueExecution
      }
      let arena = try Arena("shop", .init(lock: .preferred))
      let other = try Arena("other", .init(lock: .preferred))
      let address = try arena.allocate(byteCount: 32).leak()
      try arena.free(address)
      try arena.free(address)
      let foreign = try other.allocate(byteCount: 32).leak()
      try arena.free(foreign)
      let middle = try arena.allocate(byteCount: 32).leak()
      try arena.free(middle + 8)
      let kinds = HardeningTests.seen.map(\.kind)
      #expect(kinds == [.doubleFree, .foreignPointer, .foreignPointer], "\(kinds)")
      let arenas = HardeningTests.seen.map(\.arena)
      #expect(arenas == ["shop", "shop", "shop"], "\(arenas)")
      // Live secrets are unharmed, and can still be freed.
      try arena.free(middle)
      try other.free(foreign)
      #expect(HardeningTests.seen.count == 3, "\(HardeningTests.seen)")
      #expect(arena.statistics.secretCount == 0, "secrets of the first")
      #expect(other.statistics.secretCount == 0, "secrets of the other")
    }
  }

  /// Two threads free the same address: one succeeds, and the other gets a violation.
  @Test(arguments: allGates) func onlyOneOfTwoConcurrentFreesSucceeds(gate: Arena.Gate) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) { [number = number as Int] in
      let reports = Mutex<[Violation.Kind]>([])
      ViolationHandler.set { violation in
        reports.withLock { $0.append(violation.kind) }
        return .continueExecution
      }
      let arena = try Arena("shop", .init(lock: .preferred, gate: allGates[number]))
      let rounds = 200
      for _ in 0..<rounds {
        nonisolated(unsafe) let address = try arena.allocate(byteCount: 32).leak()
        let done = DispatchSemaphore(value: 0)
        Thread {
          try? arena.free(address)
          done.signal()
        }.start()
        try arena.free(address)
        done.wait()
      }
      let kinds = reports.withLock { $0 }
      #expect(kinds.count == rounds, "\(kinds.count) reports")
      #expect(Set(kinds) == [.doubleFree], "\(Set(kinds))")
      #expect(arena.statistics.secretCount == 0, "secrets")
      #expect(arena.statistics.corruptions == 0, "corruptions")
      let found = try arena.check()
      #expect(found == [], "\(found)")
    }
  }

  @Test(arguments: gatesInPlace) func writesAfterFreeAreFound(gate: Arena.Gate) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) { [number = number as Int] in
      let arena = try Arena("shop", .init(lock: .preferred, gate: allGates[number]))
      var keeper = try arena.allocate(byteCount: 32)
      let stale = try arena.allocate(byteCount: 32)
      let at = try address(of: stale)
      try stale.destroy()
      #expect(try arena.check() == [], "before the write")
      // Write through a window to a neighbour in the same page.
      try keeper.withMutableBytes { _ in
        UnsafeMutablePointer<UInt8>(bitPattern: at)![3] = 1
      }
      let found = try arena.check()
      #expect(found.map(\.kind) == [.writeAfterFree], "\(found)")
      #expect(found.map(\.label) == [nil], "\(found)")
    }
  }

  /// By default every arena is wiped and the process ends.
  @Test func aViolationEndsTheProcess() async throws {
    let scratch = try Scratch()
    let path = scratch.file("left")
    await #expect(processExitsWith: .failure) { [path = path as String] in
      let arena = try Arena("shop", .init(lock: .preferred, gate: .none))
      let vault = try Arena("vault", .init(lock: .preferred, gate: .none))
      var kept = try vault.allocate(byteCount: 32)
      try fill(&kept, from: 1)
      HardeningTests.kept = try address(of: kept)
      HardeningTests.path = path
      // The handler of the last signal reports what is left in memory when the process ends.
      for number in [SIGILL, SIGTRAP, SIGABRT] {
        signal(number) { _ in
          let bytes = UnsafePointer<UInt8>(bitPattern: HardeningTests.kept)!
          let file = open(HardeningTests.path, O_CREAT | O_WRONLY, 0o600)
          write(file, bytes, 32)
          _exit(EXIT_FAILURE)
        }
      }
      var secret = try arena.allocate(byteCount: 32)
      try overwrite(&secret, at: 32)
      try secret.destroy()
    }
    #expect(FileManager.default.contents(atPath: path) == Data(count: 32))
  }
  nonisolated(unsafe) static var kept: UInt = 0
  nonisolated(unsafe) static var path = ""

  @Test(arguments: [Arena.Layout.slab, .isolated]) func rangesAreChecked(layout: Arena.Layout)
    throws
  {
    let arena = try Arena("shop", .init(layout: layout, lock: .preferred))
    for (size, alignment) in [(32, 16), (30, 16), (40, 64), (5000, 16)] {
      let secret = try arena.allocate(byteCount: size, alignment: alignment)
      let at = UnsafeRawPointer(bitPattern: try address(of: secret))!
      func contains(_ offset: Int, _ count: Int) -> Bool {
        arena.contains(UnsafeRawBufferPointer(start: at + offset, count: count))
      }
      #expect(contains(0, size) && contains(size - 1, 1) && contains(3, 8) && contains(0, 0))
      #expect(!contains(0, size + 1) && !contains(-1, 1) && !contains(size, 1))
      try secret.destroy()
      #expect(!contains(0, 1), "freed")
    }
    let plain = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
    defer { plain.deallocate() }
    #expect(!arena.contains(UnsafeRawBufferPointer(start: plain, count: 8)))
  }
}
