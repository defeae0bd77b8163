// Freezing, sealing, wiping and forking under a cipher gate.

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

    /// An arena can be both closed and sealed without a protection key.
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
        for number in 0..<Int32(CT_CHANGES) {
          let name = String(cString: ct_change_name(number))
          let answer = ct_change(number, page)
          if answer == CT_ABSENT { continue }
          #expect(answer == -EPERM, "\(name)")
          #expect(onAnotherThread { ct_change(number, page) } == -EPERM, "\(name) elsewhere")
        }
        #expect(try contents(secret)[31] == 32, "contents")
        // A freed secret cannot be opened any more, although its ciphertext remains.
        let freed = gone.handle
        try gone.destroy()
        #expect(throws: EnclaveError.destroyed, "freed") { try freed.openWindow(writing: false) }
        try arena.destroy()
        #expect(throws: EnclaveError.destroyed, "destroyed") {
          try handle.openWindow(writing: false)
        }
        let locked = ProcessFacts.lockedBytes()! - UInt64(ScratchMemory.lockedBytes)
        #expect(locked == before, "locked \(before), then \(locked)")
        // Only ciphertext without a key remains.
        let left = Array(
          UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: UInt(bitPattern: handle.address)), count: 32))
        #expect(left == ciphertext, "what is left")
      }
    }

    /// Contents in windows, the key, and writable ciphertext are wiped.
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

    /// Threads that read during a wipe get whole contents or `destroyed`, and never `tampered`.
    @Test(arguments: 1...5) func readersGetContentsOrAnErrorDuringAWipe(time: Int) async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 2048)
        try fill(&secret, from: 7)
        nonisolated(unsafe) let handle = secret.handle
        let whole = try contents(secret)
        let read = Atomic(0)
        let unlike = Atomic(0)
        let other = Atomic(0)
        let done = DispatchSemaphore(value: 0)
        for _ in 0..<3 {
          Thread {
            while true {
              do throws(EnclaveError) {
                let found = try handle.openWindow(writing: false)
                let bytes = Array(UnsafeRawBufferPointer(start: handle.bytes(found), count: 2048))
                // Wiped while the window was open: closing it fails.
                guard handle.closeWindow(writing: false, found) else { continue }
                if bytes != whole { unlike.add(1, ordering: .relaxed) }
                read.add(1, ordering: .relaxed)
              } catch {
                if error != .destroyed { other.add(1, ordering: .relaxed) }
                break
              }
            }
            done.signal()
          }.start()
        }
        try eventually("they read") { read.load(ordering: .relaxed) > 100 }
        EmergencyWipe.wipeEverything()
        for _ in 0..<3 { done.wait() }
        #expect(unlike.load(ordering: .relaxed) == 0, "contents")
        #expect(other.load(ordering: .relaxed) == 0, "errors")
      }
    }

    @Test func cipherGateChildHasNoContents() async {
      await #expect(processExitsWith: .success) {
        let arena = try CipherGateTests.arena()
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let handle = secret.handle
        let found = try handle.openWindow(writing: true)
        let report = try ChildReport()
        let child = report.fork()
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

    /// No text of a window is left on the stack, and nothing of the key.
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
        // Look for eight consecutive bytes of the text, or of text XOR ciphertext, which is the
        // keystream.
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

    /// Twice as much of the stack is cleared as the installed libsodium uses.
    @Test(arguments: [AEAD.aes256gcm, .chacha20poly1305, .xchacha20poly1305])
    func enoughOfTheStackIsCleared(cipher: AEAD) throws {
      guard cipher.isAvailable else { try Test.cancel("this processor has no AES instructions") }
      let number: Int32 =
        switch cipher {
        case .aes256gcm: 0
        case .chacha20poly1305: 1
        case .xchacha20poly1305: 2
        }
      let used = ct_cipher_stack(number)
      #expect(used > 128 && 2 * Int(used) <= cipher.residueBytes, "\(cipher): \(used)")
    }

    /// Nothing is left in the padding of the frames of the functions that clear.
    @Test func theStackIsClearedUpToTheCaller() {
      #expect(ct_words_left_on_stack(false) == 128)
      #expect(ct_words_left_on_stack(true) == 0)
    }
  }
#endif
