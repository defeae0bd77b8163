// Attacks on the cipher gate: changed, swapped and reused ciphertext is detected.

#if Sodium
  import CTestSupport
  import Foundation
  import Glibc
  import Synchronization
  import TestSupport
  import Testing

  @testable import Enclave
  @testable import EnclaveSystem

  extension CipherGateTests {
    /// A change to any bit of ciphertext, tag, nonce, size or generation is detected. Other secrets
    /// are unharmed.
    @Test(.sharedLocks, arguments: layouts) func everyChangedBitIsDetected(layout: Arena.Layout)
      throws
    {
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
        // It stays tampered, and is not decrypted again.
        #expect(throws: EnclaveError.tampered(label: "changed"), "\(what)") {
          try handle.openWindow(writing: true)
        }
        try secret.destroy()
      }
      for bit in 0..<24 * 8 {
        try expectTampered("bit \(bit)") { Self.slot(of: $0)[bit / 8] ^= 1 << (bit % 8) }
      }
      // Tag, counter and shard are bytes 16 to 44 of the secret's metadata.
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

    /// A check finds changed ciphertext that was not opened since, and continues with the others,
    /// also while secrets are allocated and freed.
    @Test(.sharedLocks, arguments: layouts) func aCheckFindsChangedCiphertext(layout: Arena.Layout)
      throws
    {
      let arena = try Self.arena(layout)
      var whole = try arena.allocate(byteCount: 24)
      try fill(&whole, from: 1)
      var kept = [
        SecretReference(try arena.allocate(byteCount: 24)),
        SecretReference(try arena.allocate(byteCount: 0)),
      ]
      #expect(try arena.check() == [])
      for label in ["first", "second"] as [Label] {
        var secret = try arena.allocate(byteCount: 24, label: label)
        try fill(&secret, from: 2)
        Self.slot(of: secret)[7] ^= 1
        kept.append(SecretReference(secret))
      }
      var found = try arena.check()
      #expect(
        found.map(\.kind) == [.tampered, .tampered] && found.map(\.label) == ["first", "second"])
      #expect(found.allSatisfy { $0.byteCount == 24 && $0.arena == "encrypted" })
      // Secrets that are freed or written meanwhile are not reported.
      let isOver = Atomic(false)
      let done = DispatchSemaphore(value: 0)
      Thread {
        while !isOver.load(ordering: .relaxed) {
          guard var secret = try? arena.allocate(byteCount: 24) else { continue }
          try? fill(&secret, from: 3)
          try? secret.destroy()
        }
        done.signal()
      }.start()
      for _ in 0..<200 {
        found = try arena.check()
        #expect(found.map(\.label) == ["first", "second"], "\(found)")
      }
      isOver.store(true, ordering: .relaxed)
      done.wait()
      #expect(try contents(whole)[0] == 1)
      #expect(arena.statistics.openWindows == 0)
      withExtendedLifetime(kept) {}
    }

    /// Reading a secret while its owner frees it, which wipes it, is not reported as tampering.
    @Test(.sharedLocks, arguments: layouts) func freeingIsNotTampering(layout: Arena.Layout) throws
    {
      let arena = try Self.arena(layout)
      var found: [Violation] = []
      for _ in 0..<1000 {
        var secret = try arena.allocate(byteCount: 24)
        try fill(&secret, from: 1)
        let handle = secret.handle
        nonisolated(unsafe) var owners = [SecretReference(secret)]
        let isFreed = Atomic(false)
        Thread {
          owners.removeAll()
          isFreed.store(true, ordering: .releasing)
        }.start()
        while !isFreed.load(ordering: .acquiring) {
          if let violation = try handle.checkCiphertext() { found.append(violation) }
        }
      }
      #expect(found.isEmpty, "\(found.count) violations")
    }

    /// Another secret's ciphertext and an older one of the same secret are rejected, even with
    /// their tags.
    @Test(.sharedLocks) func movedAndReplayedCiphertextIsRejected() throws {
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
      // Writing does not repair it: it stays tampered until it is freed.
      Self.slot(of: a).update(from: newer, count: 32)
      #expect(throws: EnclaveError.self) { try handle.openWindow(writing: false) }
      // Move everything of the other secret here.
      var c = try arena.allocate(byteCount: 32)
      try fill(&c, from: 4)
      Self.slot(of: c).update(from: Self.slot(of: b), count: 32)
      (known(c) + 16).copyMemory(from: known(b) + 16, byteCount: 28)
      let moved = c.handle
      #expect(throws: EnclaveError.self, "another's") { try moved.openWindow(writing: false) }
      #expect(try contents(b)[0] == 2)
    }

    /// An overflow in a window is reported by name when the window closes. With separate pages it
    /// faults.
    @Test func anOverflowInAWindowIsFound() async {
      await #expect(processExitsWith: .success) {
        let seen = CipherGateTests.Observed()
        ViolationHandler.set { violation in
          seen.note(violation)
          return .continueExecution
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

    @Test(.sharedLocks) func exhaustedNoncesAreAnError() throws {
      let arena = try Self.arena()
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      // (Only this thread's counter: others have their own.)
      arena.reference.cipher.useUpNonces()
      let handle = secret.handle
      #expect(throws: EnclaveError.noncesUsedUp) { try handle.openWindow(writing: true) }
      #expect(try contents(secret)[0] == 1)
    }

    /// No nonce repeats, over all threads and windows.
    @Test(.sharedLocks) func noncesAreNeverReused() throws {
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

    /// Readers see whole contents, old or new, and never an error while a writer works.
    @Test(.sharedLocks) func readersSeeWholeContentsDuringWrites() throws {
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
  }
#endif
