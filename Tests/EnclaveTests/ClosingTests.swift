// Freezing, sealing, destroying: what is refused, what can no longer be changed, what is given back.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

let allGates: [Arena.Gate] = closingGates + [.none]

@Suite struct FreezeTests {
  @Test(arguments: allGates, [Arena.Layout.slab, .isolated])
  func aFrozenArenaCanOnlyBeRead(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      let arena = try Arena(
        "test",
        .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: allGates[number]))
      var secret = try arena.allocate(byteCount: 32)
      let other = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      // Not while somebody writes, in this thread or another.
      try secret.withMutableBytes { _ in
        do throws(EnclaveError) {
          try arena.freeze()
          exit(1)
        } catch { guard case .windowsOpen(1, _) = error else { exit(2) } }
        guard onAnotherThread({ (try? arena.freeze()) == nil }) else { exit(3) }
      }
      if arena.statistics.isFrozen { exit(4) }
      // Reading is no hindrance.
      try secret.withBytes { _ in try! arena.freeze() }
      try arena.freeze()
      guard arena.statistics.isFrozen else { exit(5) }
      if try contents(secret)[31] != 32 { exit(6) }
      do throws(AccessError<Never>) {
        try secret.withMutableBytes { (_) -> Void in exit(7) }
      } catch { if error != .access(.frozen) { exit(8) } }
      do throws(EnclaveError) {
        _ = try arena.allocate(byteCount: 8)
        exit(9)
      } catch { if error != .frozen { exit(10) } }
      // A fault where the API does not see it, in a window or not.
      if ct_try_write(at) == 0 { exit(11) }
      try secret.withBytes { _ in if ct_try_write(at) == 0 { exit(12) } }
      // Freeing wipes through the library's own window, and the slot stays empty.
      let otherAt = try address(of: other)
      try other.destroy()
      if arena.statistics.retiredSlots != 1 || arena.statistics.secretCount != 1 { exit(13) }
      if isSlab {
        try secret.withBytes { _ in
          let bytes = UnsafePointer<UInt8>(bitPattern: otherAt)!
          for offset in 0..<32 where bytes[offset] != 0 { exit(14) }
        }
      }
      try arena.destroy()
      do throws(EnclaveError) {
        try arena.freeze()
        exit(15)
      } catch { if error != .destroyed { exit(16) } }
    }
  }

  /// The twin: before it is frozen the same write goes through.
  @Test func beforeItIsFrozenItCanBeWritten() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      let secret = try arena.allocate(byteCount: 32)
      if ct_try_write(try address(of: secret)) != 0 { exit(1) }
    }
  }

  @Test func sealingNeedsAKeyGate() throws {
    for gate in [Arena.Gate.pages, .none] {
      let arena = try Arena("test", .init(lock: .preferred, gate: gate))
      #expect(throws: EnclaveError.sealNeedsKeyGate) { try arena.seal() }
      #expect(!arena.statistics.isFrozen, "nothing has changed")
    }
  }

  static let canSeal = closingGates.contains(.key) && Capability.seals.isAvailable

  @Test(
    .enabled(if: canSeal, "this machine has no protection keys, or its kernel no mseal"),
    arguments: [true, false])
  func sealedMappingsCannotBeChanged(isSealed: Bool) async {
    await #expect(processExitsWith: .success) { [isSealed = isSealed as Bool] in
      let attacks: [(String, @convention(c) (UInt, Int) -> Int32)] = [
        ("mprotect", ct_mprotect), ("discard locked", ct_discard_locked), ("mremap", ct_mremap),
        ("map over", ct_map_over), ("munmap", ct_munmap),
      ]
      for (index, (_, attack)) in attacks.enumerated() {
        let arena = try Arena("test", .init(lock: .preferred, gate: .key))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let page = try address(of: secret) & ~4095
        if isSealed {
          try arena.seal()
          guard arena.statistics.isSealed, arena.statistics.isFrozen else { exit(1) }
        } else {
          try arena.freeze()
        }
        // The twin, frozen and not sealed: every one of them goes through.
        let expected = isSealed ? -EPERM : 0
        if onAnotherThread({ attack(page, 4096) }) != expected { exit(Int32(10 + index)) }
        if isSealed {
          if attack(page, 4096) != expected { exit(Int32(20 + index)) }
          if try contents(secret)[31] != 32 { exit(Int32(30 + index)) }
        } else {
          _ = secret.leak()  // what is left of it is not the library's any more
          _ = Unmanaged.passRetained(arena)
        }
      }
    }
  }

  @Test(.enabled(if: canSeal, "this machine has no protection keys, or its kernel no mseal"))
  func aSealedArenaIsWipedAndGivenBack() async {
    await #expect(processExitsWith: .success) {
      let before = ProcessFacts.lockedBytes()!
      let arena = try Arena("test", .init(gate: .key))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      try arena.seal()
      if ProcessFacts.lockedBytes()! != before + 16384 { exit(1) }
      try arena.destroy()
      if ProcessFacts.lockedBytes()! != before { exit(2) }
      do throws(AccessError<Never>) {
        try secret.withBytes { (_) -> Void in exit(3) }
      } catch { if error != .access(.destroyed) { exit(4) } }
      // The addresses are still there, still closed, and hold nothing.
      if ct_try_read(at) != keyError { exit(5) }
      let file = open("/proc/self/mem", O_RDONLY)
      var bytes = [UInt8](repeating: 1, count: 4096)
      guard pread(file, &bytes, 4096, off_t(at & ~4095)) == 4096 else { exit(6) }
      if bytes.contains(where: { $0 != 0 }) { exit(7) }
    }
  }

  #if DEBUG
    @Test(.enabled(if: canSeal, "this machine has no protection keys, or its kernel no mseal"))
    func withoutSealsItIsATypedError() async {
      await #expect(processExitsWith: .success) {
        FaultPlan.fail(.sealChunk, errno: ENOSYS, times: 1000)
        let arena = try Arena("test", .init(lock: .preferred, gate: .key))
        _ = SharedSecret(try arena.allocate(byteCount: 32))
        do throws(EnclaveError) {
          try arena.seal()
          exit(1)
        } catch {
          guard case .unsupported(.seals, let failure) = error, failure.errno == ENOSYS else {
            exit(2)
          }
        }
        if arena.statistics.isFrozen { exit(3) }
        if Capability.seals.isAvailable { exit(4) }
      }
    }
  #endif
}

@Suite struct LifetimeTests {
  @Test(arguments: allGates) func destroyWaitsForWindows(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    let shared = SharedSecret(try arena.allocate(byteCount: 32, label: "held"))
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
    // Not at once, nor within its patience: how many windows, and whose.
    #expect(throws: EnclaveError.windowsOpen(1, label: "held")) { try arena.destroy() }
    // It never gives up early, wherever in a millisecond of the clock it began.
    var random = SeededGenerator()
    for _ in 0..<30 {
      let patience = Duration.microseconds(Int.random(in: 1...3000, using: &random))
      let start = ContinuousClock.now
      #expect(throws: EnclaveError.windowsOpen(1, label: "held")) {
        try arena.destroy(waitingUpTo: patience)
      }
      #expect(ContinuousClock.now - start >= patience)
    }
    // The arena is as before.
    #expect(try shared.withBytes { $0.byteCount } == 32)
    Thread {
      // Once it waits, the window ends.
      _ = poll(nil, 0, 20)
      release.signal()
    }.start()
    try arena.destroy(waitingUpTo: .seconds(20))
    ended.wait()
    #expect(throws: AccessError<Never>.access(.destroyed)) { try shared.withBytes { _ in } }
  }

  /// Two threads, every pair of what they can do, at all distances: no crash, no hang, typed errors
  /// alone, and nothing left behind.
  @Test(arguments: allGates, [Arena.Layout.slab, .isolated])
  func everyPairOfOperationsMayMeet(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      typealias Step = @Sendable (Arena, SharedSecret) throws -> Void
      let steps: [Step] = [
        { _, shared in try shared.withBytes { _ in } },
        { arena, _ in try arena.allocate(byteCount: 48).destroy() },
        { arena, _ in
          var secret = try arena.allocate(byteCount: 48)
          try secret.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        },
        { arena, _ in try arena.freeze() },
        { arena, _ in try arena.destroy() },
        { arena, _ in if try !arena.check().isEmpty { exit(90) } },
        { arena, _ in _ = arena.statistics },
      ]
      let before = ProcessFacts.lockedBytes()!
      for (first, second) in steps.indices.flatMap({ a in steps.indices.map { (a, $0) } }) {
        for round in 0..<12 {
          let arena = try Arena(
            "test",
            .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: allGates[number]))
          let shared = SharedSecret(try arena.allocate(byteCount: 48))
          let start = DispatchSemaphore(value: 0)
          let done = DispatchSemaphore(value: 0)
          // One starts earlier by a growing number of turns, then the other.
          let turns = round * 40
          let run: @Sendable (Int, Int) -> Void = { step, delay in
            for _ in 0..<delay { sched_yield() }
            do { try steps[step](arena, shared) } catch let error as EnclaveError {
              switch error {
              case .frozen, .destroyed, .windowsOpen: break
              default: exit(91)
              }
            } catch let error as AccessError<Never> {
              switch error {
              case .access(.frozen), .access(.destroyed): break
              default: exit(92)
              }
            } catch { exit(93) }
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
          if arena.statistics.bytesMapped != 0 { exit(94) }
          if arena.statistics.openWindows != 0 { exit(95) }
        }
      }
      if ProcessFacts.lockedBytes()! != before { exit(96) }
    }
  }

  /// A raw clone(2), which the C library does not see.
  @Test(arguments: allGates) func aRawCloneIsNoticed(gate: Arena.Gate) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) { [number = number as Int] in
      let arena = try Arena("test", .init(lock: .preferred, gate: allGates[number]))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      let pid = ct_raw_fork()
      if pid == 0 {
        do throws(EnclaveError) {
          _ = try arena.allocate(byteCount: 8)
          _exit(1)
        } catch { if error != .inheritedByFork { _exit(2) } }
        do throws(EnclaveError) {
          try arena.destroy()
          _exit(3)
        } catch { if error != .inheritedByFork { _exit(4) } }
        do throws(EnclaveError) {
          try arena.freeze()
          _exit(5)
        } catch { if error != .inheritedByFork { _exit(6) } }
        // The guards hold in the child, and there is nothing between them.
        let page = at & ~4095
        if ct_try_read(page - 4096) == 0 || ct_try_read(page + 16384) == 0 { _exit(7) }
        if allGates[number] == .none {
          for offset in 0..<32 where UnsafePointer<UInt8>(bitPattern: at)![offset] != 0 {
            _exit(8)
          }
        }
        // Something of its own works, under the same gate.
        guard let own = try? Arena("own", .init(lock: .preferred, gate: allGates[number])),
          var mine = try? own.allocate(byteCount: 16), (try? fill(&mine, from: 1)) != nil
        else { _exit(9) }
        do { try secret.destroy() } catch {
          if case EnclaveError.inheritedByFork = error { _exit(0) }
        }
        _exit(10)
      }
      var status: Int32 = 0
      waitpid(pid, &status, 0)
      if status != 0 { exit(status >> 8 & 0xff | 64) }
      if try contents(secret)[31] != 32 { exit(80) }
    }
  }
}
