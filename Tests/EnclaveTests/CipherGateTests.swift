// The cipher gate: what rests is ciphertext, what is changed is found, and a window is its thread's.

#if Sodium
  import CTestSupport
  import Foundation
  import Glibc
  import Synchronization
  import TestSupport
  import Testing

  @testable import Enclave
  @testable import EnclaveSystem

  @Suite struct CipherGateTests {
    static let layouts: [Arena.Layout] = [.slab, .isolated]
    /// A byte, a block, more than one, more than a scratch page's half, more than a page.
    static let sizes = [1, 15, 16, 17, 32, 100, 1008, 2032, 2033, 4096, 5000, 70_000]
      .filter { $0 <= 4096 || mayLockMuch }

    static func arena(_ layout: Arena.Layout = .slab) throws -> Arena {
      try Arena("encrypted", .init(layout: layout, lock: .off, gate: .cipher))
    }

    /// What lies in the slot.
    static func resting(_ secret: borrowing Secret) -> [UInt8] {
      Array(UnsafeRawBufferPointer(start: secret.handle.address, count: secret.byteCount))
    }

    static func slot(of secret: borrowing Secret) -> UnsafeMutablePointer<UInt8> {
      secret.handle.address.assumingMemoryBound(to: UInt8.self)
    }

    static func first(of secret: SecretReference) throws -> UInt8 {
      try secret.withBytes { bytes in bytes.withUnsafeBytes { $0[0] } }
    }

    final class Seen: Sendable {
      private let violations = Mutex<[Violation]>([])
      func note(_ violation: Violation) { violations.withLock { $0.append(violation) } }
      var all: [Violation] { violations.withLock { $0 } }
    }

    /// Changes a byte behind a secret's end, in a window.
    static func flip(_ secret: inout Secret, at offset: Int) throws {
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { raw in
          (raw.baseAddress! + offset).assumingMemoryBound(to: UInt8.self).pointee ^= 0x10
        }
      }
    }

    // MARK: - What it is for

    @Test(arguments: sizes, layouts) func contentsRestEncrypted(
      byteCount: Int, layout: Arena.Layout
    ) throws {
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
      // What the window showed is wiped, or gone where it was large.
      if ct_try_read(shown) == 0 {
        let place = UnsafeRawPointer(bitPattern: shown)
        let left = UnsafeRawBufferPointer(start: place, count: byteCount)
        #expect(left.allSatisfy { $0 == 0 })
      } else {
        #expect(byteCount > 65_536)
      }
      // The same contents again are other ciphertext: no nonce comes twice.
      try secret.withMutableBytes { _ in }
      #expect(byteCount < 15 || Self.resting(secret) != first)
      #expect(try contents(secret) == text)
      #expect(try arena.check() == [])
      try secret.destroy()
      #expect(arena.statistics.corruptions == 0 && arena.statistics.openWindows == 0)
    }

    /// Nothing is there to be encrypted.
    @Test func zeroBytes() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 0)
      try secret.withMutableBytes { #expect($0.byteCount == 0) }
      try secret.withBytes { #expect($0.byteCount == 0) }
    }

    @Test func copyingMovingResizingAndComparing() throws {
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

    /// Elements are aligned as elsewhere, in pieces and in pages of their own.
    @Test(arguments: layouts) func elements(layout: Arena.Layout) throws {
      let arena = try Self.arena(layout)
      var secret = try arena.allocate(byteCount: 4096)
      try secret.withMutableElements(of: UInt64.self) { $0[511] = 7 }
      #expect(try secret.withElements(of: UInt64.self) { $0[511] } == 7)
    }

    // MARK: - Windows

    @Test func aWindowIsItsThreads() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      nonisolated(unsafe) let handle = secret.handle
      // Reading in one's own window for writing shows what was written.
      let found = try handle.openWindow(writing: true)
      handle.bytes(found).storeBytes(of: 99, as: UInt8.self)
      let inner = try handle.openWindow(writing: false)
      #expect(handle.bytes(inner) == handle.bytes(found))
      handle.closeWindow(writing: false, inner)
      // A second one for writing is refused, here and elsewhere; others read what was there before.
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

    /// A signal handler that reads while its thread's own window is being opened or closed: what was there
    /// before, and never what lies in the scratch memory at that moment.
    @Test func aHandlerNeverSeesWorkInProgress() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let handle = secret.handle
      let slot = CipherSlot(
        at: Slab.cipherSlots(of: handle.slab) + Int(handle.slot) * CipherSlot.byteCount)
      let found = try handle.openWindow(writing: true)
      guard case .contents(let scratch) = slot.own else { throw Failed("no window of its own") }
      handle.bytes(found).storeBytes(of: 99, as: UInt8.self)
      // As the handler finds it while the window is closed: its contents are half encrypted.
      slot.setWorking(true, scratch)
      let inner = try handle.openWindow(writing: false)
      #expect(handle.bytes(inner) != handle.bytes(found))
      #expect(handle.bytes(inner).load(as: UInt8.self) == 1)
      #expect(handle.closeWindow(writing: false, inner))
      #expect(throws: EnclaveError.openForWriting) { try handle.openWindow(writing: true) }
      slot.setWorking(false, scratch)
      #expect(handle.closeWindow(writing: true, found))
      #expect(try contents(secret)[0] == 99)
    }

    /// A handle whose secret was freed, while its slot serves another: it does no harm there.
    @Test func aStaleHandleHarmsNobody() throws {
      let arena = try Self.arena()
      let stale = try arena.allocate(byteCount: 32)
      let handle = stale.handle
      try stale.destroy()
      var next = try arena.allocate(byteCount: 32)
      #expect(next.handle.address == handle.address, "the same slot")
      // Past the first look at the generation, as one that was overtaken: before anything was written to the
      // other, and after.
      for isWritten in [false, true] {
        if isWritten { try fill(&next, from: 7) }
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
      .enabled(if: Capability.seals.isAvailable, "this kernel has no mseal"), arguments: layouts)
    func whatIsSealedAndFreedIsNoDamage(layout: Arena.Layout) throws {
      let arena = try Self.arena(layout)
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      try arena.seal()
      try secret.destroy()
      #expect(try arena.check() == [])
      try arena.destroy()
    }

    /// Many windows of one thread, opened and closed in any order.
    @Test func manyWindows() throws {
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
    func whatWasLeftOpenGoesWithTheArena(byteCount: Int) async {
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
          // The thread's number is free once it has ended; then the arena can go.
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
        // And serves again.
        let other = try CipherGateTests.arena()
        var next = try other.allocate(byteCount: byteCount)
        try fill(&next, from: 2)
      }
    }

    /// Eight windows to large secrets, and no ninth; the others go on.
    @Test(.enabled(if: mayLockMuch, mayLockLittle)) func scratchMemoryEnds() async {
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
      /// Scratch memory and keys are locked, or there are none.
      @Test func whatIsOpenIsLocked() async {
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
    #endif

    /// A little lockable memory serves any number of secrets.
    @Test func aHundredThousandSecretsUnderASmallLimit() async {
      await #expect(processExitsWith: .success) {
        let now = try ProcessFacts.memlockLimit()
        var limit = rlimit(rlim_cur: 64 << 10, rlim_max: rlim_t(now.hard))
        try #require(setrlimit(__rlimit_resource_t(8), &limit) == 0)  // RLIMIT_MEMLOCK
        let arena = try CipherGateTests.arena()
        var secrets: [SecretReference] = []
        for number in 0..<100_000 {
          var secret = try arena.allocate(byteCount: 32)
          if number % 1000 == 0 { try fill(&secret, from: UInt8(number / 1000)) }
          secrets.append(SecretReference(secret))
        }
        for number in stride(from: 0, to: 100_000, by: 1000) {
          #expect(
            try CipherGateTests.first(of: secrets[number]) == UInt8(number / 1000), "\(number)")
        }
        #expect(arena.statistics.bytesLocked == 0, "ciphertext is not locked")
      }
    }

    // MARK: - Attacks

    /// Each bit of ciphertext, tag, nonce, size and generation is noticed; nobody else is harmed.
    @Test(arguments: layouts) func everyBitCounts(layout: Arena.Layout) throws {
      let arena = try Self.arena(layout)
      var other = try arena.allocate(byteCount: 24)
      try fill(&other, from: 50)
      func expectTampered(_ what: String, _ change: (borrowing Secret) -> Void) throws {
        var secret = try arena.allocate(byteCount: 24, label: "changed")
        try fill(&secret, from: 1)
        change(secret)
        let handle = secret.handle
        #expect(throws: EnclaveError.tampered(label: "changed"), "\(what)") {
          try handle.openWindow(writing: false)
        }
        // It stays so, and is not decrypted again.
        #expect(throws: EnclaveError.tampered(label: "changed"), "\(what)") {
          try handle.openWindow(writing: true)
        }
        try secret.destroy()
      }
      for bit in 0..<24 * 8 {
        try expectTampered("bit \(bit)") { Self.slot(of: $0)[bit / 8] ^= 1 << (bit % 8) }
      }
      // tag, counter and shard: bytes 16 to 44 of what is known.
      for bit in 0..<28 * 8 {
        try expectTampered("known bit \(bit)") {
          let known =
            Slab.cipherSlots(of: $0.handle.slab) + Int($0.handle.slot) * CipherSlot.byteCount
          let byte = (known + 16 + bit / 8).assumingMemoryBound(to: UInt8.self)
          byte.pointee ^= 1 << (bit % 8)
        }
      }
      #expect(try contents(other) == (50..<74).map { UInt8($0) })
      #expect(arena.statistics.openWindows == 0)
    }

    /// Another secret's ciphertext, and an older one of the same: not even with their own tags.
    @Test func ciphertextBelongsToItsPlaceAndTime() throws {
      let arena = try Self.arena()
      var a = try arena.allocate(byteCount: 32)
      var b = try arena.allocate(byteCount: 32)
      try fill(&a, from: 1)
      try fill(&b, from: 2)
      func known(_ secret: borrowing Secret) -> UnsafeMutableRawPointer {
        Slab.cipherSlots(of: secret.handle.slab) + Int(secret.handle.slot) * CipherSlot.byteCount
      }
      let older = Self.resting(a)
      try fill(&a, from: 3)
      let newer = Self.resting(a)
      Self.slot(of: a).update(from: older, count: 32)
      let handle = a.handle
      #expect(throws: EnclaveError.self, "an older one") { try handle.openWindow(writing: false) }
      // Written anew it is whole again? No: it stays what it is, until it is freed.
      Self.slot(of: a).update(from: newer, count: 32)
      #expect(throws: EnclaveError.self) { try handle.openWindow(writing: false) }
      // All that belongs to the other's, moved here.
      var c = try arena.allocate(byteCount: 32)
      try fill(&c, from: 4)
      Self.slot(of: c).update(from: Self.slot(of: b), count: 32)
      (known(c) + 16).copyMemory(from: known(b) + 16, byteCount: 28)
      let moved = c.handle
      #expect(throws: EnclaveError.self, "another's") { try moved.openWindow(writing: false) }
      #expect(try contents(b)[0] == 2)
    }

    /// What is written past a secret's end in a window is noticed when it closes, by name; in pages of its
    /// own it is a fault.
    @Test func anOverflowInAWindowIsFound() async {
      await #expect(processExitsWith: .success) {
        let seen = CipherGateTests.Seen()
        ViolationHandler.set { violation in
          seen.note(violation)
          return .goOn
        }
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 32, label: "long")
        var neighbour = try arena.allocate(byteCount: 32)
        try fill(&neighbour, from: 9)
        for offset in 32..<48 {
          try CipherGateTests.flip(&secret, at: offset)
        }
        let found: [Violation] = seen.all
        let offsets: [Int] = found.compactMap { $0.offset }
        let isNamed = found.allSatisfy { $0.kind == .overflow && $0.label == "long" }
        #expect(offsets == Array(32..<48), "\(offsets)")
        #expect(isNamed, "\(found)")
        #expect(arena.statistics.corruptions == 16, "counted")
        #expect(try contents(neighbour)[31] == 40, "the neighbour")
        let isolated = try CipherGateTests.arena(.isolated)
        let last = try isolated.allocate(byteCount: 32)
        let end = try address(of: last) + 32
        try last.withBytes { _ in
          #expect(ct_try_read(end) != 0, "the byte behind pages of its own")
        }
      }
    }

    @Test func noncesAreUsedUp() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      // (On this thread's counter: others have theirs.)
      arena.reference.cipher.useUp()
      let handle = secret.handle
      #expect(throws: EnclaveError.noncesUsedUp) { try handle.openWindow(writing: true) }
      #expect(try contents(secret)[0] == 1)
    }

    /// Over threads and windows: none twice.
    @Test func noNonceComesTwice() throws {
      let arena = try Self.arena()
      struct Nonce: Hashable {
        var shard: UInt32
        var counter: UInt64
      }
      let all = Mutex<[Nonce]>([])
      let threads = 6
      let done = DispatchSemaphore(value: 0)
      for _ in 0..<threads {
        Thread {
          defer { done.signal() }
          guard var secret = try? arena.allocate(byteCount: 8) else { return }
          for number in 0..<500 {
            try? fill(&secret, from: UInt8(truncatingIfNeeded: number))
            let known =
              Slab.cipherSlots(of: secret.handle.slab)
              + Int(secret.handle.slot) * CipherSlot.byteCount
            let nonce = Nonce(
              shard: (known + 40).load(as: UInt32.self),
              counter: (known + 32).load(as: UInt64.self))
            all.withLock { $0.append(nonce) }
          }
        }.start()
      }
      for _ in 0..<threads { done.wait() }
      let nonces = all.withLock { $0 }
      #expect(nonces.count == threads * 500)
      #expect(Set(nonces).count == nonces.count)
    }

    /// Readers meet a writer: whole contents, old or new, and never an error.
    @Test func readersMeetAWriter() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 512)
      nonisolated(unsafe) let handle = secret.handle
      let isOver = Atomic(false)
      let torn = Atomic(0)
      let failed = Atomic(0)
      let read = Atomic(0)
      let done = DispatchSemaphore(value: 0)
      for _ in 0..<3 {
        Thread {
          while !isOver.load(ordering: .relaxed) {
            guard let found = try? handle.openWindow(writing: false) else {
              failed.add(1, ordering: .relaxed)
              continue
            }
            let bytes = UnsafeRawBufferPointer(start: handle.bytes(found), count: 512)
            if !bytes.allSatisfy({ $0 == bytes[0] }) { torn.add(1, ordering: .relaxed) }
            read.add(1, ordering: .relaxed)
            handle.closeWindow(writing: false, found)
          }
          done.signal()
        }.start()
      }
      for number in 0..<20_000 {
        try secret.withMutableBytes { bytes in
          bytes.withUnsafeMutableBytes {
            _ = $0.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: number))
          }
        }
      }
      isOver.store(true, ordering: .relaxed)
      for _ in 0..<3 { done.wait() }
      #expect(torn.load(ordering: .relaxed) == 0 && failed.load(ordering: .relaxed) == 0)
      #expect(read.load(ordering: .relaxed) > 0)
    }

    // MARK: - Freezing, sealing, ending

    static let canSeal = Capability.seals.isAvailable

    @Test(arguments: layouts) func aFrozenArenaCanOnlyBeRead(layout: Arena.Layout) async {
      let isSlab = layout == .slab
      await #expect(processExitsWith: .success) { [isSlab = isSlab as Bool] in
        let arena = try CipherGateTests.arena(isSlab ? .slab : .isolated)
        var secret = try arena.allocate(byteCount: 32)
        let other = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let handle = secret.handle
        let held = try handle.openWindow(writing: true)
        #expect(throws: EnclaveError.self, "while somebody writes") { try arena.freeze() }
        handle.closeWindow(writing: true, held)
        try arena.freeze()
        #expect(try contents(secret)[31] == 32, "contents")
        #expect(throws: EnclaveError.frozen, "writing") { try handle.openWindow(writing: true) }
        #expect(ct_try_write(UInt(bitPattern: handle.address)) != 0, "the ciphertext")
        try other.destroy()
        #expect(arena.statistics.retiredSlots == 1, "retired")
        try arena.destroy()
        #expect(throws: EnclaveError.destroyed, "afterwards") {
          try handle.openWindow(writing: false)
        }
      }
    }

    /// Closed and sealed at once, without a protection key.
    @Test(.enabled(if: canSeal, "this kernel has no mseal"), arguments: layouts)
    func aSealedArenaIsWipedByItsKey(layout: Arena.Layout) async {
      let isSlab = layout == .slab
      await #expect(processExitsWith: .success) { [isSlab = isSlab as Bool] in
        let before = ProcessFacts.lockedBytes()!
        let arena = try Arena(
          "sealed", .init(layout: isSlab ? .slab : .isolated, gate: .cipher))
        var secret = try arena.allocate(byteCount: 32)
        let gone = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let handle = secret.handle
        let page = UInt(bitPattern: handle.address) & ~4095
        let ciphertext = CipherGateTests.resting(secret)
        try arena.seal()
        #expect(arena.statistics.isSealed && arena.statistics.isFrozen, "states")
        let attacks: [(String, @convention(c) (UInt, Int) -> Int32)] = [
          ("mprotect", ct_mprotect), ("discard locked", ct_discard_locked), ("mremap", ct_mremap),
          ("map over", ct_map_over), ("munmap", ct_munmap),
        ]
        for (name, attack) in attacks {
          #expect(attack(page, 4096) == -EPERM, "\(name)")
          #expect(onAnotherThread { attack(page, 4096) } == -EPERM, "\(name) elsewhere")
        }
        #expect(try contents(secret)[31] == 32, "contents")
        // A freed one cannot be opened any more, though its ciphertext stays.
        let freed = gone.handle
        try gone.destroy()
        #expect(throws: EnclaveError.destroyed, "freed") { try freed.openWindow(writing: false) }
        try arena.destroy()
        #expect(throws: EnclaveError.destroyed, "destroyed") {
          try handle.openWindow(writing: false)
        }
        let locked = ProcessFacts.lockedBytes()! - UInt64(ScratchMemory.lockedBytes)
        #expect(locked == before, "locked \(before), then \(locked)")
        // What stays is ciphertext without a key.
        let left = Array(
          UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: UInt(bitPattern: handle.address)), count: 32))
        #expect(left == ciphertext, "what is left")
      }
    }

    /// Everything is wiped: contents in windows, the key, and what can be written of the ciphertext.
    @Test(arguments: layouts) func everythingIsWiped(layout: Arena.Layout) async {
      let isSlab = layout == .slab
      await #expect(processExitsWith: .success) { [isSlab = isSlab as Bool] in
        let arena = try CipherGateTests.arena(isSlab ? .slab : .isolated)
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let handle = secret.handle
        let found = try handle.openWindow(writing: true)
        EmergencyWipe.wipeEverything()
        let shown = UnsafeRawBufferPointer(start: handle.bytes(found), count: 32)
        #expect(shown.allSatisfy { $0 == 0 }, "in the window")
        handle.bytes(found).storeBytes(of: 7, as: UInt8.self)
        #expect(!handle.closeWindow(writing: true, found), "the window says so")
        #expect(CipherGateTests.resting(secret).allSatisfy { $0 == 0 }, "in the slot")
        #expect(throws: EnclaveError.destroyed, "afterwards") {
          try handle.openWindow(writing: false)
        }
      }
    }

    @Test func aChildHasNothing() async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let handle = secret.handle
        let found = try handle.openWindow(writing: true)
        let report = try ChildReport()
        let child = ct_fork()
        if child == 0 {
          let shown = UnsafeRawBufferPointer(start: handle.bytes(found), count: 32)
          report.expect(shown.allSatisfy { $0 == 0 }, "the window's contents")
          report.expect(!handle.closeWindow(writing: true, found), "closing says so")
          report.expect(throws: EnclaveError.inheritedByFork, "opening") {
            _ = try handle.openWindow(writing: false)
          }
          report.expectNoError("one of its own") {
            let own = try CipherGateTests.arena()
            var mine = try own.allocate(byteCount: 32)
            try fill(&mine, from: 5)
            report.expect(try contents(mine)[0] == 5, "its contents")
          }
          report.end()
        }
        let failures = report.failures(of: child)
        #expect(failures == [], "\(failures)")
        #expect(handle.closeWindow(writing: true, found), "the parent's window")
        #expect(try contents(secret)[31] == 32, "the parent's contents")
      }
    }

    /// Text that was in a window is nowhere else, and nothing of the key is on the stack.
    @Test func nothingIsLeftOnTheStack() async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 256)
        try secret.withMutableBytes { bytes in
          bytes.withUnsafeMutableBytes { raw in
            for index in 0..<256 { raw[index] = UInt8(truncatingIfNeeded: index &* 37 &+ 11) }
          }
        }
        try secret.withBytes { _ in }
        // Eight bytes in a row of the text, or of its complement with the ciphertext: the keystream.
        let resting = CipherGateTests.resting(secret)
        let text = (0..<256).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 11) }
        let keystream = zip(text, resting).map { $0 ^ $1 }
        var marker = 0
        withUnsafeMutableBytes(of: &marker) { here in
          let end = UInt(bitPattern: here.baseAddress!)
          let stack = Array(
            UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: end - 16_384), count: 16_000)
          )
          for (name, bytes) in [("text", text), ("keystream", keystream)] {
            for start in stride(from: 0, to: 248, by: 8) {
              let found = Data(stack).range(of: Data(bytes[start..<start + 8]))
              #expect(found == nil, "\(name) from \(start) is on the stack")
            }
          }
        }
      }
    }
  }
#endif
