// The cipher gate: idle contents are encrypted, changes are detected, and a window belongs to its
// thread.

#if Sodium
  import CTestSupport
  import Foundation
  import Glibc
  import Synchronization
  import TestSupport
  import Testing

  @testable import Enclave
  @testable import EnclaveSystem

  extension Trait where Self == ConditionTrait {
    /// For tests in the process of all tests, which share what it may lock.
    static var sharedLocks: Self {
      .enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK")
    }
  }

  @Suite struct CipherGateTests {
    static let layouts: [Arena.Layout] = [.slab, .isolated]
    /// One byte, one block, several blocks, more than half a scratch page, more than a page.
    static let sizes = [1, 15, 16, 17, 32, 100, 1008, 2032, 2033, 4096, 5000, 70_000]
      .filter { $0 <= 4096 || mayLockMuch }

    static func arena(_ layout: Arena.Layout = .slab) throws -> Arena {
      try Arena("encrypted", .init(layout: layout, lock: .off, gate: .cipher))
    }

    /// The bytes in the secret's slot.
    static func resting(_ secret: borrowing Secret) -> [UInt8] {
      Array(UnsafeRawBufferPointer(start: secret.handle.address, count: secret.byteCount))
    }

    static func slot(of secret: borrowing Secret) -> UnsafeMutablePointer<UInt8> {
      secret.handle.address.assumingMemoryBound(to: UInt8.self)
    }

    static func first(of secret: SecretReference) throws -> UInt8 {
      try secret.withBytes { bytes in bytes.withUnsafeBytes { $0[0] } }
    }

    final class Observed: Sendable {
      private let violations = Mutex<[Violation]>([])
      func note(_ violation: Violation) { violations.withLock { $0.append(violation) } }
      var all: [Violation] { violations.withLock { $0 } }
    }

    /// Changes a byte after a secret's end, in a window.
    static func flip(_ secret: inout Secret, at offset: Int) throws {
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { raw in
          (raw.baseAddress! + offset).assumingMemoryBound(to: UInt8.self).pointee ^= 0x10
        }
      }
    }

    // MARK: - Contents

    @Test(
      .sharedLocks, arguments: sizes,
      layouts) func contentsRestEncrypted(
        byteCount: Int, layout: Arena.Layout
      ) throws
    {
      let arena = try Self.arena(layout)
      var secret = try arena.allocate(byteCount: byteCount)
      #expect(try contents(secret) == Array(repeating: 0, count: byteCount), "zeros at first")
      let text = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 1) }
      var shown: UInt = 0
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes {
          $0.copyBytes(from: text)
          shown = UInt(bitPattern: $0.baseAddress!)
        }
      }
      let first = Self.resting(secret)
      #expect(try contents(secret) == text)
      #expect(byteCount < 15 || first != text)
      // The window's scratch memory is wiped. (If the secret is large, it is unmapped, and its
      // addresses may already be another test's.)
      if byteCount <= 65_536, ct_try_read(shown) == 0 {
        let place = UnsafeRawPointer(bitPattern: shown)
        let left = UnsafeRawBufferPointer(start: place, count: byteCount)
        #expect(left.allSatisfy { $0 == 0 })
      }
      // The same contents give another ciphertext, because the nonce differs.
      try secret.withMutableBytes { _ in }
      #expect(byteCount < 15 || Self.resting(secret) != first)
      #expect(try contents(secret) == text)
      #expect(try arena.check() == [])
      try secret.destroy()
      #expect(arena.statistics.corruptions == 0 && arena.statistics.openWindows == 0)
    }

    /// Secrets without bytes work.
    @Test(.sharedLocks) func emptySecretsWork() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 0)
      try secret.withMutableBytes { #expect($0.byteCount == 0) }
      try secret.withBytes { #expect($0.byteCount == 0) }
    }

    @Test(.sharedLocks) func copyingMovingResizingAndComparing() throws {
      let (arena, other) = (try Self.arena(), try Arena("plain", .init(lock: .off, gate: .none)))
      var secret = try arena.allocate(byteCount: 40)
      try fill(&secret, from: 1)
      let copy = try secret.copy(into: other)
      #expect(try contents(copy) == (1...40).map { UInt8($0) })
      let back = try copy.move(into: arena)
      #expect(try back.isEqual(to: secret))
      for byteCount in [41, 4000, 20, 0, 9] {
        try secret.resize(to: byteCount)
        let expected = (0..<byteCount).map { UInt8($0 < 20 && byteCount > 0 ? $0 + 1 : 0) }
        #expect(try contents(secret).prefix(9) == expected.prefix(9) || byteCount == 9)
      }
      #expect(try arena.check() == [])
    }

    /// Elements are aligned as under other gates, in shared and in separate scratch pages.
    @Test(.sharedLocks, arguments: layouts)
    func elementsAreAligned(layout: Arena.Layout) throws {
      let arena = try Self.arena(layout)
      var secret = try arena.allocate(byteCount: 4096)
      try secret.withMutableElements(of: UInt64.self) { $0[511] = 7 }
      #expect(try secret.withElements(of: UInt64.self) { $0[511] } == 7)
    }

    // MARK: - Windows

    @Test(.sharedLocks) func aWindowBelongsToItsThread() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      nonisolated(unsafe) let handle = secret.handle
      // Reading inside the thread's own window for writing shows the new contents.
      let found = try handle.openWindow(writing: true)
      handle.bytes(found).storeBytes(of: 99, as: UInt8.self)
      let inner = try handle.openWindow(writing: false)
      #expect(handle.bytes(inner) == handle.bytes(found))
      handle.closeWindow(writing: false, inner)
      // A second window for writing is refused, in this and other threads. Others read the old
      // contents.
      #expect(throws: EnclaveError.openForWriting) { try handle.openWindow(writing: true) }
      let refused = onAnotherThread {
        do throws(EnclaveError) {
          _ = try handle.openWindow(writing: true)
          return false
        } catch { return error == .openForWriting }
      }
      #expect(refused)
      let before = onAnotherThread { () -> UInt8 in
        guard let found = try? handle.openWindow(writing: false) else { return 0 }
        defer { handle.closeWindow(writing: false, found) }
        return handle.bytes(found).load(as: UInt8.self)
      }
      #expect(before == 1)
      #expect(handle.closeWindow(writing: true, found))
      #expect(try contents(secret)[0] == 99)
      #expect(arena.statistics.openWindows == 0 && arena.statistics.failedOpens == 2)
    }

    /// A signal handler that reads while its thread opens or closes a window gets the previous
    /// contents, and never the intermediate state of the scratch memory.
    @Test(.sharedLocks) func handlersNeverReadPartialContents() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let handle = secret.handle
      let slot = CipherSlot(
        at: Slab.cipherSlots(of: handle.slab) + Int(handle.slot) * CipherSlot.byteCount)
      let found = try handle.openWindow(writing: true)
      guard case .contents(let scratch) = slot.ownWindow else {
        throw Failed("no window of its own")
      }
      handle.bytes(found).storeBytes(of: 99, as: UInt8.self)
      // The state in which a handler may find a closing window: half of the contents are encrypted.
      slot.setBusy(true, scratch)
      let inner = try handle.openWindow(writing: false)
      #expect(handle.bytes(inner) != handle.bytes(found))
      #expect(handle.bytes(inner).load(as: UInt8.self) == 1)
      #expect(handle.closeWindow(writing: false, inner))
      #expect(throws: EnclaveError.openForWriting) { try handle.openWindow(writing: true) }
      slot.setBusy(false, scratch)
      #expect(handle.closeWindow(writing: true, found))
      #expect(try contents(secret)[0] == 99)
    }

    /// A stale handle, whose slot now holds another secret, does not affect that one.
    @Test(.sharedLocks) func aStaleHandleHasNoEffect() throws {
      let arena = try Self.arena()
      let stale = try arena.allocate(byteCount: 32)
      let handle = stale.handle
      try stale.destroy()
      var next = try arena.allocate(byteCount: 32)
      #expect(next.handle.address == handle.address, "the same slot")
      // Past the first look at the generation, as one that was overtaken: before anything was
      // written to the other, and after.
      for isWritten in [false, true] {
        if isWritten { try fill(&next, from: 7) }
        #expect(handle.openScratchQuickly(arena.reference) == 0, "written: \(isWritten)")
        for writing in [false, true] {
          #expect(throws: EnclaveError.destroyed, "written: \(isWritten)") {
            try handle.openScratch(arena.reference, writing: writing)
          }
        }
      }
      #expect(try contents(next)[0] == 7)
    }

    /// Sealed ciphertext stays when its secret is freed; that is no damage.
    @Test(
      .sharedLocks, .enabled(if: Capability.seals.isAvailable, "this kernel has no mseal"),
      arguments: layouts)
    func freedSealedSecretsAreNotReportedAsDamaged(layout: Arena.Layout) throws {
      let arena = try Self.arena(layout)
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      try arena.seal()
      try secret.destroy()
      #expect(try arena.check() == [])
      try arena.destroy()
    }

    /// Many windows of one thread, opened and closed in any order.
    @Test(.sharedLocks) func manyWindowsCloseInAnyOrder() throws {
      let arena = try Self.arena()
      var random = SeededGenerator()
      var secrets: [SecretReference] = []
      for number in 0..<40 {
        var secret = try arena.allocate(byteCount: 1 + number)
        try fill(&secret, from: UInt8(number))
        secrets.append(SecretReference(secret))
      }
      var open: [(SecretHandle, UInt64, UInt8)] = []
      for _ in 0..<2000 {
        if open.count < 25, Bool.random(using: &random) {
          let number = Int.random(in: 0..<40, using: &random)
          let handle = secrets[number].withSecret { $0.handle }
          open.append((handle, try handle.openWindow(writing: false), UInt8(number)))
        } else if !open.isEmpty {
          let (handle, found, first) = open.remove(
            at: Int.random(in: 0..<open.count, using: &random))
          #expect(handle.bytes(found).load(as: UInt8.self) == first)
          #expect(handle.closeWindow(writing: false, found))
        }
      }
      for (handle, found, _) in open { handle.closeWindow(writing: false, found) }
      #expect(arena.statistics.openWindows == 0)
    }

    /// What a thread left open when it ended goes with the arena, and is wiped.
    @Test(.enabled(if: mayLockMuch, mayLockLittle), arguments: [32, 70_000])
    func abandonedWindowsEndWithTheArena(byteCount: Int) async {
      await #expect(processExitsWith: .success) { [byteCount = byteCount as Int] in
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: byteCount)
        try fill(&secret, from: 1)
        nonisolated(unsafe) let handle = secret.handle
        var shown: [UInt] = []
        for _ in 0..<100 {
          let at = onAnotherThread { () -> UInt in
            guard let found = try? handle.openWindow(writing: false) else { return 0 }
            return UInt(bitPattern: handle.bytes(found))
          }
          if at != 0 { shown.append(at) }
          // When the thread has ended, its number is free and the arena can be destroyed.
          if byteCount > 4096, shown.count == 3 { break }
        }
        #expect(shown.count >= 3, "windows: \(shown.count)")
        try eventually("the windows are abandoned") {
          arena.statistics.abandonedWindows == arena.statistics.openWindows
        }
        try arena.destroy()
        for at in Set(shown) where byteCount <= 4096 {
          let left = UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: at), count: byteCount)
          #expect(left.allSatisfy { $0 == 0 }, "what was shown")
        }
        for at in Set(shown) where byteCount > 65_536 {
          #expect(ct_try_read(at) != 0, "what was shown is gone")
        }
        // The number is usable again.
        let other = try CipherGateTests.arena()
        var next = try other.allocate(byteCount: byteCount)
        try fill(&next, from: 2)
      }
    }

    /// A thread's pieces that another thread releases, as when an arena is destroyed with windows that nobody can
    /// close, are the thread's own again.
    @Test func piecesReleasedByAnotherThreadServeAgain() async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        func takeAll() -> [UInt32] {
          var runs: [UInt32] = []
          while case let run = scratchTake(pieces: 3, for: .max), run != 0 { runs.append(run) }
          return runs
        }
        let first = takeAll()
        #expect(first.count == 21, "64 pieces, in threes")
        onAnotherThread { for run in first.dropLast() { scratchGive(run) } }
        scratchGive(first[20])
        let second = takeAll()
        #expect(second == first)
        for run in second { scratchGive(run) }
        #expect(try contents(secret)[0] == 1)
      }
    }

    /// There can be eight windows to large secrets. A ninth fails, and the others keep working.
    @Test(.enabled(if: mayLockMuch, mayLockLittle)) func scratchMemoryIsBounded() async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        let secret = SecretReference(try arena.allocate(byteCount: 70_000))
        let handle = secret.withSecret { $0.handle }
        var open: [UInt64] = []
        for _ in 0..<8 { open.append(try handle.openWindow(writing: false)) }
        #expect(throws: EnclaveError.noScratch, "the ninth") {
          try handle.openWindow(writing: false)
        }
        for found in open { handle.closeWindow(writing: false, found) }
        #expect(try secret.withBytes { $0.byteCount } == 70_000, "afterwards")
        #expect(ScratchMemory.lockedBytes <= 2 * 4096, "what is kept: the key, and a page")
      }
    }

    #if DEBUG
      /// Scratch memory and keys are locked, or the call fails.
      @Test func scratchMemoryIsLocked() async {
        await #expect(processExitsWith: .success) {
          FaultPlan.fail(.lockChunk, errno: ENOMEM)
          #expect(throws: EnclaveError.self, "a key that is not locked") {
            _ = try CipherGateTests.arena()
          }
          let arena = try CipherGateTests.arena()
          let secret = SecretReference(try arena.allocate(byteCount: 32))
          FaultPlan.fail(.lockChunk, errno: ENOMEM)
          do throws(AccessError<Never>) {
            try secret.withBytes { _ in _ = Issue.record("it opened") }
          } catch {
            guard case .access(let cause) = error else { throw error }
            #expect(cause.isLockFailure, "\(cause)")
          }
          #expect(try CipherGateTests.first(of: secret) == 0, "the next time")
          #expect(arena.statistics.openWindows == 0, "windows")
        }
      }

      /// The scratch memory of threads that have ended makes room where a lock fails.
      @Test(arguments: ["window", "arena"]) func endedThreadsMakeRoom(use: String) async {
        await #expect(processExitsWith: .success) { [use = use as String] in
          let arena = try CipherGateTests.arena()
          let secret = SecretReference(try arena.allocate(byteCount: 32))
          // Twelve threads, all alive at once.
          @Sendable func open(threads: Int) {
            #expect(throws: Never.self) { try secret.withBytes { _ in } }
            if threads > 1 { onAnotherThread { open(threads: threads - 1) } }
          }
          onAnotherThread { open(threads: 12) }
          #expect(ScratchMemory.lockedBytes >= 13 * 4096, "a page each, and the key")
          try eventually("the threads have ended") {
            FaultPlan.fail(.lockChunk, errno: ENOMEM)
            if use == "arena" {
              _ = try? CipherGateTests.arena()
            } else {
              let large = try arena.allocate(byteCount: 3000)
              try large.withBytes { _ in }
            }
            return ScratchMemory.lockedBytes <= 5 * 4096
          }
          #expect(try CipherGateTests.first(of: secret) == 0, "and windows open")
        }
      }
    #endif

    /// Little lockable memory is enough for any number of secrets: 100,000 or CIPHER_SECRETS.
    @Test func manySecretsUnderASmallLimit() async {
      await #expect(processExitsWith: .success) {
        let now = try ProcessFacts.memlockLimit()
        var limit = rlimit(rlim_cur: 64 << 10, rlim_max: rlim_t(now.hard))
        try #require(setrlimit(__rlimit_resource_t(8), &limit) == 0)  // RLIMIT_MEMLOCK
        let count = ProcessInfo.processInfo.environment["CIPHER_SECRETS"].flatMap { Int($0) }
        let arena = try CipherGateTests.arena()
        var secrets: [SecretReference] = []
        for number in 0..<(count ?? 100_000) {
          var secret = try arena.allocate(byteCount: 32)
          if number % 1000 == 0 {
            try fill(&secret, from: UInt8(truncatingIfNeeded: number / 1000))
          }
          secrets.append(SecretReference(secret))
        }
        for number in stride(from: 0, to: secrets.count, by: 1000) {
          let first = try CipherGateTests.first(of: secrets[number])
          #expect(first == UInt8(truncatingIfNeeded: number / 1000), "\(number)")
        }
        #expect(arena.statistics.bytesLocked == 0, "ciphertext is not locked")
      }
    }
  }
#endif
