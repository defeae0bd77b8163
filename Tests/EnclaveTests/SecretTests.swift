// The life of a secret: allocated, written, read, compared, copied, freed.

import Enclave
import EnclaveSystem
import Foundation
import Testing

/// Fills a secret with ascending bytes.
func fill(_ secret: inout Secret, from first: UInt8 = 0) throws {
  try secret.withMutableBytes { bytes in
    for offset in 0..<bytes.byteCount {
      bytes.storeBytes(
        of: first &+ UInt8(truncatingIfNeeded: offset), toByteOffset: offset, as: UInt8.self)
    }
  }
}

func contents(_ secret: borrowing Secret) throws -> [UInt8] {
  try secret.withBytes { bytes in
    (0..<bytes.byteCount).map { bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
  }
}

@Suite struct SecretTests {
  @Test(arguments: [Arena.Layout.slab, .isolated], [Arena.Gate.pages, .none])
  func writtenBytesAreReadBack(layout: Arena.Layout, gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(layout: layout, lock: .preferred, gate: gate))
    for size in [0, 1, 15, 16, 17, 32, 33, 1000, 4095, 4096, 4097, 70_000] {
      var secret = try arena.allocate(byteCount: size)
      #expect(try contents(secret) == Array(repeating: 0, count: size), "zeros at first")
      try fill(&secret, from: 3)
      #expect(try contents(secret) == (0..<size).map { UInt8(truncatingIfNeeded: $0 + 3) })
      try secret.destroy()
    }
    #expect(arena.statistics.secretCount == 0)
    #expect(arena.statistics.bytesInUse == 0)
  }

  @Test(arguments: [Arena.Layout.slab, .isolated])
  func alignsTheFirstByte(layout: Arena.Layout) throws {
    let arena = try Arena("test", .init(layout: layout, lock: .preferred))
    for shift in 0...12 {
      let secret = try arena.allocate(byteCount: 40, alignment: 1 << shift)
      let address = try secret.withBytes { bytes in
        bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
      }
      #expect(address % (1 << shift) == 0)
    }
  }

  /// Sizes that fill their slot, with strides that are not multiples of the alignment.
  @Test(arguments: [32, 64, 256, 4096])
  func overalignedDataStaysClearOfTheCanary(alignment: Int) throws {
    let arena = try Arena("test", .init(lock: .off, gate: .none))
    for size in [32, 48, 96, 192, 384] {
      var kept: [SecretReference] = []
      for _ in 0..<12 {
        var secret = try arena.allocate(byteCount: size, alignment: alignment)
        try fill(&secret, from: 1)
        kept.append(SecretReference(secret))
      }
      #expect(try arena.check().isEmpty, "\(size) bytes aligned to \(alignment)")
    }
    #expect(arena.statistics.corruptions == 0)
  }

  @Test func refusesImpossibleSizes() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    for (size, alignment) in [(-1, 16), (1 << 40, 16), (8, 3), (8, 0), (8, 8192)] {
      #expect(throws: EnclaveError.invalidSize(byteCount: size, alignment: alignment)) {
        _ = try arena.allocate(byteCount: size, alignment: alignment)
      }
    }
  }

  @Test func freedMemoryIsZeroWhenItIsUsedAgain() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    for _ in 0..<300 {
      var secret = try arena.allocate(byteCount: 48)
      #expect(try contents(secret).allSatisfy { $0 == 0 })
      try fill(&secret, from: 77)
      try secret.destroy()
    }
  }

  @Test func comparesAndCopies() throws {
    let a = try Arena("a", .init(lock: .preferred))
    let b = try Arena("b", .init(layout: .isolated, lock: .preferred))
    var first = try a.allocate(byteCount: 100)
    try fill(&first)
    var second = try first.copy(into: b)
    #expect(try first.isEqual(to: second))
    try second.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: 99, as: UInt8.self) }
    #expect(try !first.isEqual(to: second))
    // A prefix is not equal.
    var other = try a.allocate(byteCount: 99)
    try fill(&other)
    #expect(try !first.isEqual(to: other))
    #expect(try !other.isEqual(to: first))
  }

  @Test func bodyErrorsComeThroughAndCloseTheWindow() throws {
    struct Boom: Error, Equatable {}
    let arena = try Arena("test", .init(lock: .preferred))
    var secret = try arena.allocate(byteCount: 8)
    #expect(throws: AccessError<Boom>.body(Boom())) {
      try secret.withBytes { (_: RawSpan) throws(Boom) -> Void in throw Boom() }
    }
    #expect(arena.statistics.openWindows == 0)
    do {
      try secret.withMutableBytes { (_: inout MutableRawSpan) throws(Boom) -> Void in throw Boom() }
      Issue.record("the body's error was lost")
    } catch { #expect(error == .body(Boom())) }
    #expect(arena.statistics.openWindows == 0)
    try arena.destroy()
  }

  /// An operation on two secrets, of which the second cannot be opened.
  @Test func anErrorBetweenTwoWindowsClosesTheFirst() throws {
    let (arena, gone) = (
      try Arena("test", .init(lock: .preferred)), try Arena("gone", .init(lock: .preferred))
    )
    let secret = try arena.allocate(byteCount: 16)
    let other = try gone.allocate(byteCount: 16)
    try gone.destroy()
    #expect(throws: EnclaveError.destroyed) { _ = try secret.isEqual(to: other) }
    #expect(throws: EnclaveError.destroyed) { _ = try secret.copy(into: gone) }
    #expect(arena.statistics.openWindows == 0)
    try arena.destroy()
  }

  @Test func windowsNest() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let a = try arena.allocate(byteCount: 16)
    var b = try arena.allocate(byteCount: 16)
    try a.withBytes { outer in
      try! b.withMutableBytes { inner in
        inner.storeBytes(of: 9, toByteOffset: 0, as: UInt8.self)
        #expect(arena.statistics.openWindows == 2)
      }
      #expect(outer.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == 0)
      return
    }
    #expect(arena.statistics.openWindows == 0)
  }

  @Test func anArenaLivesWhileASecretDoes() throws {
    var arena: Arena? = try Arena("test", .init(lock: .preferred))
    var secret = try arena!.allocate(byteCount: 16)
    arena = nil
    try fill(&secret)
    #expect(try contents(secret)[15] == 15)
  }

  @Test func destroyingAnArenaEndsItsSecrets() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let secret = try arena.allocate(byteCount: 16)
    let shared = SecretReference(try arena.allocate(byteCount: 16, file: "held", line: 3))
    try shared.withBytes { _ in
      _ = #expect(throws: EnclaveError.windowsOpen(1, label: "held:3")) {
        try arena.destroy()
      }
    }
    try arena.destroy()
    #expect(arena.statistics.bytesMapped == 0)
    #expect(throws: AccessError<Never>.access(.destroyed)) { try secret.withBytes { _ in } }
    #expect(throws: AccessError<Never>.access(.destroyed)) { try shared.withBytes { _ in } }
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
  }

  @Test func capacityIsALimit() throws {
    let arena = try Arena("test", .init(lock: .preferred, capacity: 32768))
    var kept: [SecretReference] = []
    var refused: EnclaveError?
    for _ in 0..<2000 where refused == nil {
      do { kept.append(SecretReference(try arena.allocate(byteCount: 32))) } catch {
        refused = error
      }
    }
    #expect(refused == .capacity(inUse: 32768, limit: 32768))
    #expect(kept.count == 8 * 85)
    kept.removeLast()
    _ = try arena.allocate(byteCount: 32)
  }

  /// The layout fits 170,000 secrets of 32 bytes in 8 MiB; this allocates a tenth of that.
  @Test func slabsAreDense() throws {
    let arena = try Arena("test", .init(lock: .off))
    var kept: [SecretReference] = []
    for _ in 0..<17_000 { kept.append(SecretReference(try arena.allocate(byteCount: 32))) }
    #expect(arena.statistics.bytesMapped <= 1 << 20)
  }

  @Test func descriptionsHoldNoContents() throws {
    let arena = try Arena("shop", .init(lock: .preferred))
    var secret = try arena.allocate(byteCount: 16)
    try secret.withMutableBytes { bytes in
      for offset in 0..<16 { bytes.storeBytes(of: 0x41, toByteOffset: offset, as: UInt8.self) }
    }
    let shared = SecretReference(secret)
    let texts = ["\(arena)", "\(shared)", String(reflecting: shared), "\(EnclaveError.frozen)"]
    for text in texts { #expect(!text.contains("AAAA")) }
  }

  @Test func manyThreadsUseOneArena() async throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let shared = SecretReference(try arena.allocate(byteCount: 64))
    await withTaskGroup(of: Int.self) { group in
      for worker in 0..<4 {
        group.addTask {
          var wrong = 0
          for round in 0..<400 {
            let size = 16 + (round * 37 + worker) % 300
            guard var secret = try? arena.allocate(byteCount: size) else { return 1000 }
            let mark = UInt8(truncatingIfNeeded: worker * 50 + round)
            try? fill(&secret, from: mark)
            let expected = (0..<size).map { mark &+ UInt8(truncatingIfNeeded: $0) }
            if (try? contents(secret)) != expected { wrong += 1 }
            if (try? shared.withBytes { $0.byteCount }) != 64 { wrong += 1 }
          }
          return wrong
        }
      }
      for await wrong in group { #expect(wrong == 0) }
    }
    #expect(arena.statistics.secretCount == 1)
    #expect(arena.statistics.openWindows == 0)
  }

  /// The advice to free something makes no sense for an empty arena.
  @Test func theErrorForATinyCapacityNamesThePageSize() throws {
    for capacity in [100, 0, -5] {
      do {
        _ = try Arena("small", .init(lock: .off, gate: .none, capacity: capacity))
        Issue.record("it was made")
      } catch {
        let text = "\(error)"
        #expect(text.contains("capacity of \(capacity) bytes") && text.contains("pages of"))
        #expect(!text.contains("free secrets"))
      }
    }
    _ = try Arena("small", .init(lock: .off, gate: .none, capacity: Page.size)).allocate(
      byteCount: 16)
  }

  // MARK: - From other memory

  static let bytes = [UInt8](1...100)

  @Test(arguments: allGates) func bytesAreCopiedIn(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    let bytes = Self.bytes
    let copy = try arena.allocate(copying: bytes.span.bytes)
    #expect(try contents(copy) == bytes)
    #expect(try contents(arena.allocate(copying: bytes)) == bytes)
    #expect(try contents(arena.allocate(copying: bytes[10..<20])) == [UInt8](11...20))
    #expect(try contents(arena.allocate(copying: Data(bytes))) == bytes)
    #expect(try contents(arena.allocate(copying: "größe".utf8)) == [UInt8]("größe".utf8))
    // Not contiguous.
    #expect(try contents(arena.allocate(copying: bytes.reversed())) == bytes.reversed())
    #expect(try arena.allocate(copying: []).byteCount == 0)
    let none: [UInt8] = []
    let empty = try arena.allocate(copying: none.span.bytes)
    #expect(empty.byteCount == 0)
    #expect(arena.statistics.openWindows == 0)
  }

  @Test func theSourceIsWiped() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    var bytes = Self.bytes
    #expect(try contents(arena.allocate(wiping: &bytes)) == Self.bytes)
    #expect(bytes == [UInt8](repeating: 0, count: 100))
    var empty: [UInt8] = []
    #expect(try arena.allocate(wiping: &empty).byteCount == 0)
    // If allocating fails, the source is not wiped.
    let full = try Arena("full", .init(lock: .off, gate: .none, capacity: Page.size))
    var large = [UInt8](repeating: 7, count: 5000)
    #expect(throws: EnclaveError.self) { _ = try full.allocate(wiping: &large) }
    #expect(large.allSatisfy { $0 == 7 })
  }

  @Test func secretsAreComparedWithBytes() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let secret = try arena.allocate(copying: Self.bytes)
    func isEqual(_ bytes: [UInt8]) throws -> Bool { try secret.isEqual(to: bytes.span.bytes) }
    #expect(try isEqual(Self.bytes))
    for index in [0, 50, 99] {
      var other = Self.bytes
      other[index] ^= 0x80
      #expect(try !isEqual(other))
    }
    #expect(try !isEqual(Self.bytes.dropLast()))
    let none: [UInt8] = []
    let emptyIsEqual = try arena.allocate(byteCount: 0).isEqual(to: none.span.bytes)
    #expect(emptyIsEqual)
  }

  /// An error that is caught as `any Error` has the same description.
  @Test func errorsExplainThemselvesAsAnyError() throws {
    let arena = try Arena("test", .init(lock: .off))
    var secret = try arena.allocate(byteCount: 1)
    try arena.freeze()
    do {
      try secret.withMutableBytes { _ in }
      Issue.record("a frozen arena was written")
    } catch let error as any Error { #expect("\(error)" == "\(EnclaveError.frozen)") }
    do { _ = try arena.allocate(byteCount: -1) } catch let error as any Error {
      #expect("\(error)".contains("-1 bytes") && String(describing: error).contains("2 GiB"))
    }
  }

  /// Collections with and without contiguous bytes.
  @Test func secretsAreComparedWithCollections() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let secret = SecretReference(try arena.allocate(copying: "token".utf8))
    func isEqual(_ bytes: some Collection<UInt8>) throws -> Bool { try secret.isEqual(to: bytes) }
    for text in ["token", "tokem", "toke", "tokens", "", "Token"] {
      let isRight = text == "token"
      #expect(try isEqual(text.utf8) == isRight)
      #expect(try isEqual(Array(text.utf8)) == isRight)
      #expect(try isEqual(Data(text.utf8)) == isRight)
      #expect(try isEqual(Array(text.utf8.reversed()).reversed()) == isRight)
      #expect(try isEqual(Array(text.utf8).lazy.map { $0 }) == isRight)
    }
    #expect(try SecretReference(arena.allocate(byteCount: 0)).isEqual(to: [UInt8]()))
    #expect(arena.name == "test" && arena.statistics.openWindows == 0)
    try arena.destroy()
    #expect(throws: EnclaveError.destroyed) { try secret.isEqual(to: "token".utf8) }
  }

  @Test func aReferenceReadsAndComparesAsASecretDoes() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    let reference = SecretReference(try arena.allocate(copying: Self.bytes))
    let bytes = Self.bytes
    let isEqual = try reference.isEqual(to: bytes.span.bytes)
    #expect(isEqual)
    let (count, first) = try reference.withElements(of: UInt32.self) { ($0.count, $0[0]) }
    #expect(count == 25 && first.littleEndian == 0x0403_0201)
  }

  @Test(arguments: allGates, [Arena.Layout.slab, .isolated])
  func secretsAreResized(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      let arena = try Arena(
        "test", .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: allGates[number]))
      var secret = try arena.allocate(copying: Self.bytes)
      for (size, expected) in [
        (112, Self.bytes + [UInt8](repeating: 0, count: 12)), (40, [UInt8](1...40)),
        (5000, [UInt8](1...40) + [UInt8](repeating: 0, count: 4960)), (0, []), (3, [0, 0, 0]),
      ] {
        try secret.resize(to: size)
        #expect(secret.byteCount == size)
        #expect(try contents(secret) == expected)
      }
      try secret.withMutableBytes { $0.storeBytes(of: 9, as: UInt8.self) }
      #expect(throws: EnclaveError.invalidSize(byteCount: -1, alignment: 16)) {
        try secret.resize(to: -1)
      }
      try arena.freeze()
      #expect(throws: EnclaveError.frozen) { try secret.resize(to: 2) }
      #expect(try contents(secret) == [9, 0, 0])
      #expect(arena.statistics.secretCount == 1)
      #expect(try arena.check().isEmpty)
    }
  }
}
