// Freezing, sealing and destroying: what is refused, what becomes immutable, what is returned.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// Gates under which a window shows the secret in place; under a cipher gate it shows a copy.
let gatesInPlace: [Arena.Gate] = closingGates + [.none]
let allGates: [Arena.Gate] = gatesInPlace + [.cipher]

/// Whether this machine allows to lock much memory.
let mayLockMuch = ((try? ProcessFacts.memlockLimit())?.soft ?? 0) >= 8 << 20
let mayLockLittle: Comment = "needs a memlock limit of 8 MiB"

@Suite struct FreezeTests {
  @Test(arguments: gatesInPlace, [Arena.Layout.slab, .isolated])
  func aFrozenArenaCanOnlyBeRead(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      let arena = try Arena(
        "test",
        .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: allGates[number]))
      var secret = try arena.allocate(byteCount: 32, label: "held")
      let other = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      // Freezing fails while any thread has a window for writing.
      try secret.withMutableBytes { _ in
        #expect(throws: EnclaveError.windowsOpen(1, label: "held"), "freezing in a window") {
          try arena.freeze()
        }
        let isRefused = onAnotherThread { (try? arena.freeze()) == nil }
        #expect(isRefused, "freezing from another thread")
      }
      #expect(!arena.statistics.isFrozen, "frozen although it was refused")
      // Windows for reading do not prevent it.
      try secret.withBytes { _ in try! arena.freeze() }
      try arena.freeze()
      #expect(arena.statistics.isFrozen, "frozen")
      #expect(try contents(secret)[31] == 32, "contents when frozen")
      #expect(throws: AccessError<Never>.access(.frozen), "a window for writing") {
        try secret.withMutableBytes { _ in Issue.record("a body that writes ran") }
      }
      #expect(throws: EnclaveError.frozen, "allocating") { _ = try arena.allocate(byteCount: 8) }
      // Writing without the API faults, in a window or not.
      #expect(ct_try_write(at) != 0, "a write without a window goes through")
      try secret.withBytes { _ in
        #expect(ct_try_write(at) != 0, "a write in a window for reading goes through")
      }
      // Freeing wipes through the library's own window, and the slot stays empty.
      let otherAt = try address(of: other)
      try other.destroy()
      #expect(arena.statistics.retiredSlots == 1, "retired slots")
      #expect(arena.statistics.secretCount == 1, "secrets")
      if isSlab {
        try secret.withBytes { _ in
          let start = UnsafeRawPointer(bitPattern: otherAt)
          let bytes = Array(UnsafeRawBufferPointer(start: start, count: 32))
          #expect(bytes == Array(repeating: 0, count: 32), "what a freed secret leaves: \(bytes)")
        }
      }
      try arena.destroy()
      #expect(throws: EnclaveError.destroyed, "freezing what is destroyed") {
        try arena.freeze()
      }
    }
  }

  /// The twin: before freezing, the same write succeeds.
  @Test func unfrozenArenasCanBeWritten() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      let secret = try arena.allocate(byteCount: 32)
      #expect(ct_try_write(try address(of: secret)) == 0, "it can be written")
    }
  }

  @Test func sealingNeedsAKeyGate() throws {
    for gate in [Arena.Gate.pages, .none] {
      let arena = try Arena("test", .init(lock: .preferred, gate: gate))
      #expect(throws: EnclaveError.sealNeedsKeyGate) { try arena.seal() }
      #expect(!arena.statistics.isFrozen, "nothing has changed")
    }
  }

  /// The gates whose arenas can be sealed here.
  static let sealingGates: [Arena.Gate] = {
    var gates = closingGates.filter { $0 == .key }
    #if Sodium
      gates.append(.cipher)
    #endif
    return gates
  }()

  static let canSeal = closingGates.contains(.key) && Capability.seals.isAvailable

  @Test(
    .enabled(if: Capability.seals.isAvailable, "this kernel has no mseal"),
    .enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"),
    arguments: sealingGates, [true, false])
  func sealedMappingsCannotBeChanged(gate: Arena.Gate, isSealed: Bool) async {
    let hasKey = gate == .key
    await #expect(processExitsWith: .success) {
      [isSealed = isSealed as Bool, hasKey = hasKey as Bool] in
      for number in 0..<Int32(CT_CHANGES) {
        let name = String(cString: ct_change_name(number))
        let arena = try Arena("test", .init(lock: .preferred, gate: hasKey ? .key : .cipher))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let page = UInt(bitPattern: secret.handle.address) & ~4095
        if isSealed {
          try arena.seal()
          #expect(arena.statistics.isSealed, "sealed")
          #expect(arena.statistics.isFrozen, "frozen")
        } else {
          try arena.freeze()
        }
        // The twin, frozen but not sealed: the calls succeed. (Some are invalid for locked pages.)
        let answer = onAnotherThread { ct_change(number, page) }
        if answer == CT_ABSENT { continue }
        if isSealed {
          #expect(answer == -EPERM, "\(name) from another thread")
          #expect(ct_change(number, page) == -EPERM, "\(name)")
          #expect(try contents(secret)[31] == 32, "after \(name)")
        } else {
          #expect(answer == 0 || answer == -EINVAL, "\(name) of a frozen arena: \(answer)")
          _ = secret.leak()  // its memory was taken from the library
          _ = Unmanaged.passRetained(arena)
        }
      }
    }
  }

  @Test(.enabled(if: canSeal, "this machine has no protection keys, or its kernel no mseal"))
  func aDestroyedSealedArenaIsWipedAndUnlocked() async {
    await #expect(processExitsWith: .success) {
      let before = ProcessFacts.lockedBytes()!
      let arena = try Arena("test", .init(gate: .key))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      try arena.seal()
      #expect(ProcessFacts.lockedBytes() == before + 16384, "locked bytes of a sealed arena")
      try arena.destroy()
      #expect(ProcessFacts.lockedBytes() == before, "locked bytes of a destroyed arena")
      #expect(throws: AccessError<Never>.access(.destroyed), "a window when destroyed") {
        try secret.withBytes { _ in Issue.record("a body ran on a destroyed arena") }
      }
      // The addresses are still mapped and closed, and hold zeros.
      #expect(ct_try_read(at) == keyError, "still closed")
      let file = open("/proc/self/mem", O_RDONLY)
      var bytes = [UInt8](repeating: 1, count: 4096)
      try #require(pread(file, &bytes, 4096, off_t(at & ~4095)) == 4096, "still there")
      #expect(bytes == Array(repeating: 0, count: 4096), "its page holds something")
    }
  }

  #if DEBUG
    @Test(.enabled(if: canSeal, "this machine has no protection keys, or its kernel no mseal"))
    func withoutSealsItIsATypedError() async {
      await #expect(processExitsWith: .success) {
        FaultPlan.fail(.sealChunk, errno: ENOSYS, times: 1000)
        let arena = try Arena("test", .init(lock: .preferred, gate: .key))
        _ = SecretReference(try arena.allocate(byteCount: 32))
        do throws(EnclaveError) {
          try arena.seal()
          Issue.record("sealing: no error")
        } catch {
          guard case .unsupported(.seals, let failure) = error else { throw error }
          #expect(failure.errno == ENOSYS, "\(failure)")
        }
        #expect(!arena.statistics.isFrozen, "frozen although sealing failed")
        #expect(!Capability.seals.isAvailable, "seals are available without mseal(2)")
      }
    }
  #endif
}

@Suite struct LifetimeTests {
  @Test(arguments: allGates) func destroyWaitsForWindows(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    let shared = SecretReference(try arena.allocate(byteCount: 32, label: "held"))
    let opened = DispatchSemaphore(value: 0)
    let release = DispatchSemaphore(value: 0)
    let ended = DispatchSemaphore(value: 0)
    Thread {
      try! shared.withBytes { _ in
        opened.signal()
        release.wait()
      }
      ended.signal()
    }.start()
    opened.wait()
    // It fails at once and after waiting, and reports how many windows are open.
    #expect(throws: EnclaveError.windowsOpen(1, label: "held")) { try arena.destroy() }
    // It never stops waiting early, at whatever fraction of a millisecond it started.
    var random = SeededGenerator()
    for _ in 0..<30 {
      let patience = Duration.microseconds(Int.random(in: 1...3000, using: &random))
      let start = ContinuousClock.now
      #expect(throws: EnclaveError.windowsOpen(1, label: "held")) {
        try arena.destroy(waitingUpTo: patience)
      }
      #expect(ContinuousClock.now - start >= patience)
    }
    // The arena is unchanged.
    #expect(try shared.withBytes { $0.byteCount } == 32)
    Thread {
      // End the window once the other thread waits.
      _ = poll(nil, 0, 20)
      release.signal()
    }.start()
    try arena.destroy(waitingUpTo: .seconds(20))
    ended.wait()
    #expect(throws: AccessError<Never>.access(.destroyed)) { try shared.withBytes { _ in } }
  }

  /// Under a page gate, closing a window closes its pages: not while they are being wiped.
  @Test(arguments: [false, true]) func aWindowMayCloseDuringAWipe(isExit: Bool) async {
    await #expect(processExitsWith: .success) { [isExit = isExit as Bool] in
      let arena = try Arena("large", .init(layout: .isolated, lock: .off, gate: .pages))
      var secret = try arena.allocate(byteCount: 32 << 20)
      try secret.withMutableBytes {
        $0.withUnsafeMutableBytes { _ = memset($0.baseAddress!, 1, $0.count) }
      }
      let shared = SecretReference(secret)
      let (opened, ended) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
      Thread {
        try? shared.withBytes { bytes in
          bytes.withUnsafeBytes { raw in
            opened.signal()
            // Close it as soon as the wipe has begun.
            while loadRelaxed(raw.baseAddress!) != 0 {}
          }
        }
        ended.signal()
      }.start()
      opened.wait()
      if isExit { exit(EXIT_SUCCESS) }
      #expect(EmergencyWipe.wipeEverything().isEmpty, "what was left")
      ended.wait()
    }
  }

  /// Two threads run every pair of operations at varying offsets: no crash, no hang, only typed
  /// errors, and no leak.
  @Test(arguments: allGates, [Arena.Layout.slab, .isolated])
  func everyPairOfOperationsMayRunConcurrently(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      typealias Step = @Sendable (Arena, SecretReference) throws -> Void
      let steps: [Step] = [
        { _, shared in try shared.withBytes { _ in } },
        { arena, _ in try arena.allocate(byteCount: 48).destroy() },
        { arena, _ in
          var secret = try arena.allocate(byteCount: 48)
          try secret.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        },
        { arena, _ in try arena.freeze() },
        { arena, _ in try arena.destroy() },
        { arena, _ in
          let found = try arena.check()
          #expect(found == [], "\(found)")
        },
        { arena, _ in _ = arena.statistics },
      ]
      let before = ProcessFacts.lockedBytes()!
      for (first, second) in steps.indices.flatMap({ a in steps.indices.map { (a, $0) } }) {
        for round in 0..<12 {
          let arena = try Arena(
            "test",
            .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: allGates[number]))
          let shared = SecretReference(try arena.allocate(byteCount: 48))
          let start = DispatchSemaphore(value: 0)
          let done = DispatchSemaphore(value: 0)
          // One thread starts earlier by a growing number of turns, then the other.
          let turns = round * 40
          let run: @Sendable (Int, Int) -> Void = { step, delay in
            for _ in 0..<delay { sched_yield() }
            do { try steps[step](arena, shared) } catch let error as EnclaveError {
              switch error {
              case .frozen, .destroyed, .windowsOpen: break
              default: Issue.record(error, "steps \(first) and \(second)")
              }
            } catch let error as AccessError<Never> {
              switch error {
              case .access(.frozen), .access(.destroyed): break
              default: Issue.record(error, "steps \(first) and \(second)")
              }
            } catch { Issue.record(error, "steps \(first) and \(second)") }
          }
          Thread {
            start.wait()
            run(second, round % 2 == 0 ? turns : 0)
            done.signal()
          }.start()
          start.signal()
          run(first, round % 2 == 0 ? 0 : turns)
          done.wait()
          try? arena.destroy()
          #expect(arena.statistics.bytesMapped == 0, "mapped after steps \(first) and \(second)")
          #expect(arena.statistics.openWindows == 0, "open after steps \(first) and \(second)")
        }
      }
      let locked = ProcessFacts.lockedBytes()! - UInt64(ScratchMemory.lockedBytes)
      #expect(locked == before, "locked bytes in the end")
    }
  }

  /// A raw clone(2) bypasses the C library.
  @Test(arguments: gatesInPlace) func aRawCloneIsNoticed(gate: Arena.Gate) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) { [number = number as Int] in
      let arena = try Arena("test", .init(lock: .preferred, gate: allGates[number]))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      let report = try ChildReport()
      let pid = ct_raw_fork_at_rest()
      if pid == 0 {
        report.expect(throws: EnclaveError.inheritedByFork, "allocating") {
          _ = try arena.allocate(byteCount: 8)
        }
        report.expect(throws: EnclaveError.inheritedByFork, "destroying") { try arena.destroy() }
        report.expect(throws: EnclaveError.inheritedByFork, "freezing") { try arena.freeze() }
        // In the child the guards are in effect, and nothing is between them.
        let page = at & ~4095
        report.expect(ct_try_read(page - 4096) != 0, "the guard in front is closed")
        report.expect(ct_try_read(page + 16384) != 0, "the guard behind is closed")
        if allGates[number] == .none {
          let bytes = UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: at), count: 32)
          report.expect(bytes.allSatisfy { $0 == 0 }, "the contents are gone")
        }
        // The child's own arena works, under the same gate.
        report.expectNoError("an arena of its own") {
          let own = try Arena("own", .init(lock: .preferred, gate: allGates[number]))
          var mine = try own.allocate(byteCount: 16)
          try fill(&mine, from: 1)
        }
        do throws(EnclaveError) {
          try secret.destroy()
          report.fail("destroying an inherited secret: no error")
        } catch { report.expect(error == .inheritedByFork, "destroying a secret: \(error)") }
        report.end()
      }
      let failures = report.failures(of: pid)
      #expect(failures == [], "\(failures)")
      #expect(try contents(secret)[31] == 32, "the parent's contents")
    }
  }
}
