// Who can touch what, and when: gates, windows, threads, signals.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// The gates that close something on this machine.
let closingGates: [Arena.Gate] =
  Capability.protectionKeys.isAvailable ? [.key, .pages] : [.pages]

let mapError: Int32 = 1  // SEGV_MAPERR
let keyError: Int32 = 4  // SEGV_PKUERR

/// Runs a body on a thread of its own and waits for it.
func onAnotherThread<R: Sendable>(_ body: @escaping @Sendable () -> R) -> R {
  nonisolated(unsafe) var result: R?
  let done = DispatchSemaphore(value: 0)
  Thread {
    result = body()
    done.signal()
  }.start()
  done.wait()
  return result!
}

// Faults are survived by a handler of the whole process: each test is a process of its own.
@Suite struct GateTests {
  @Test(arguments: closingGates, [Arena.Layout.slab, .isolated])
  func anIdleArenaIsClosedToEveryThread(gate: Arena.Gate, layout: Arena.Layout) async {
    let (isKey, isSlab) = (gate == .key, layout == .slab)
    await #expect(processExitsWith: .success) {
      [isKey = isKey as Bool, isSlab = isSlab as Bool] in
      let arena = try Arena(
        "test",
        .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: isKey ? .key : .pages))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      if ct_try_read(at) == 0 || ct_try_write(at) == 0 { exit(1) }
      if onAnotherThread({ ct_try_read(at) }) == 0 { exit(2) }
      if isKey, ct_try_read(at) != keyError { exit(3) }
      // The positive control: in a window both are as they should be.
      try secret.withBytes { _ in
        if ct_try_read(at) != 0 { exit(4) }
        if ct_try_write(at) == 0 { exit(5) }
        let others = onAnotherThread { ct_try_read(at) }
        // A key opens for this thread alone; pages are open for all.
        if isKey ? others == 0 : others != 0 { exit(6) }
      }
      try secret.withMutableBytes { _ in
        if ct_try_write(at) != 0 { exit(7) }
        if isKey, onAnotherThread({ ct_try_write(at) }) == 0 { exit(8) }
      }
      if ct_try_read(at) == 0 { exit(9) }
    }
  }

  #if DEBUG
    /// The twins: without the mechanism the same reads go through.
    @Test(arguments: closingGates) func withoutTheMechanismItIsOpen(gate: Arena.Gate) async {
      let isKey = gate == .key
      await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
        FaultPlan.switchOff(isKey ? .tagChunk : .closeWindow)
        FaultPlan.switchOff(.closeNewChunk)
        let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
        let secret = try arena.allocate(byteCount: 32)
        if ct_try_read(try address(of: secret)) != 0 { exit(1) }
      }
    }
  #endif

  @Test(arguments: closingGates) func windowsNestBothWays(gate: Arena.Gate) async {
    let isKey = gate == .key
    await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
      var a = try arena.allocate(byteCount: 32)
      var b = try arena.allocate(byteCount: 32)
      let (atA, atB) = (try address(of: a), try address(of: b))
      // Reading inside of writing: what is written to stays writable, as copying needs it.
      try a.withMutableBytes { _ in
        try! b.withBytes { _ in
          if ct_try_write(atA) != 0 || ct_try_read(atB) != 0 { exit(1) }
        }
        if ct_try_write(atA) != 0 { exit(2) }
      }
      if ct_try_read(atA) == 0 { exit(3) }
      // Writing inside of reading: writable for that long.
      try a.withBytes { _ in
        if ct_try_write(atA) == 0 { exit(4) }
        try! b.withMutableBytes { _ in
          if ct_try_write(atB) != 0 { exit(5) }
        }
        if ct_try_write(atB) == 0 { exit(6) }
        if ct_try_read(atA) != 0 { exit(7) }
      }
      if ct_try_read(atA) == 0 || ct_try_read(atB) == 0 { exit(8) }
      if arena.statistics.openWindows != 0 { exit(9) }
    }
  }

  nonisolated(unsafe) static var shared: SharedSecret?
  nonisolated(unsafe) static var handlerSaw: UInt8 = 0

  @Test(arguments: closingGates) func aWindowInAHandlerInsideAWindow(gate: Arena.Gate) async {
    let isKey = gate == .key
    await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 7)
      let at = try address(of: secret)
      let shared = SharedSecret(secret)
      GateTests.shared = shared
      ct_on_signal { _ in
        try! GateTests.shared!.withBytes { bytes in
          GateTests.handlerSaw = bytes.unsafeLoad(as: UInt8.self)
        }
      }
      try shared.withBytes { bytes in
        raise(SIGUSR2)
        if GateTests.handlerSaw != 7 { exit(1) }
        // The handler's window is gone, this one is not.
        if bytes.unsafeLoad(as: UInt8.self) != 7 { exit(2) }
      }
      if ct_try_read(at) == 0 { exit(3) }
      raise(SIGUSR2)
      if ct_try_read(at) == 0 { exit(4) }
      if arena.statistics.openWindows != 0 { exit(5) }
    }
  }

  /// A handler starts with every key closed, and a jump out of it leaves them so: it fails closed.
  @Test(.enabled(if: closingGates.contains(.key), "this processor has no protection keys"))
  func aJumpOutOfAHandlerLeavesItClosed() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .key))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 7)
      let at = try address(of: secret)
      GateTests.shared = SharedSecret(secret)
      let jumped = ct_jump_out(
        { _ in
          try! GateTests.shared!.withBytes { _ in _ = raise(SIGUSR1) }
        }, nil)
      if jumped != 1 { exit(1) }
      if ct_try_read(at) == 0 { exit(2) }
      // Later windows are as ever.
      let first = try GateTests.shared!.withBytes { $0.unsafeLoad(as: UInt8.self) }
      if first != 7 { exit(3) }
      if ct_try_read(at) == 0 { exit(4) }
      // The window that never ended is told to whoever wants to destroy the arena.
      do throws(EnclaveError) {
        try arena.destroy()
        exit(5)
      } catch { if case .windowsOpen(1, _) = error { exit(0) } }
      exit(6)
    }
  }

  /// How a thread is born.
  enum Birth: Int, CaseIterable { case pthread, dispatch, task, foundation }

  @Test(
    .enabled(if: closingGates.contains(.key), "this processor has no protection keys"),
    arguments: Birth.allCases, [true, false])
  func threadsBornInAWindowDoNotKeepIt(birth: Birth, isProtected: Bool) async {
    let number = birth.rawValue
    await #expect(processExitsWith: .success) {
      [number = number as Int, isProtected = isProtected as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: .key))
      var secret = try arena.allocate(byteCount: 32)
      let at = try address(of: secret)
      #if DEBUG
        if !isProtected { FaultPlan.switchOffBirths() }
      #else
        if !isProtected { exit(0) }
      #endif
      let saw: Int32 = try secret.withMutableBytes { _ in
        let birth = Birth(rawValue: number)!
        nonisolated(unsafe) var saw: Int32 = -1
        let done = DispatchSemaphore(value: 0)
        switch birth {
        case .pthread:
          var thread = pthread_t()
          final class Box: @unchecked Sendable {
            let at: UInt
            var saw: Int32 = -1
            init(_ at: UInt) { self.at = at }
          }
          let box = Box(at)
          pthread_create(
            &thread, nil,
            { raw in
              let box = Unmanaged<Box>.fromOpaque(raw!).takeUnretainedValue()
              box.saw = ct_try_read(box.at)
              return nil
            }, Unmanaged.passUnretained(box).toOpaque())
          pthread_join(thread, nil)
          return box.saw
        case .dispatch:
          // More at a time than the pool has threads: some are born for it.
          let hold = DispatchSemaphore(value: 0)
          for _ in 0..<16 {
            DispatchQueue.global().async {
              if ct_try_read(at) == 0 { saw = 0 }
              done.signal()
              hold.wait()
            }
          }
          for _ in 0..<16 { done.wait() }
          for _ in 0..<16 { hold.signal() }
          done.signal()
          if saw == -1 { saw = keyError }
        case .task:
          Task.detached {
            saw = ct_try_read(at)
            done.signal()
          }
        case .foundation:
          Thread {
            saw = ct_try_read(at)
            done.signal()
          }.start()
        }
        done.wait()
        return saw
      }
      // Which thread a pool's threads are born from is the runtime's choice.
      if !isProtected, [.task, .dispatch].contains(Birth(rawValue: number)) { exit(0) }
      // The twin: born with the library's eyes closed, the thread can read.
      if isProtected ? saw != keyError : saw != 0 { exit(1) }
    }
  }

  /// Keys separate: B open for writing neither opens A nor lets A be changed.
  @Test(.enabled(if: closingGates.contains(.key), "this processor has no protection keys"))
  func aWindowToOneArenaDoesNotOpenAnother() async {
    await #expect(processExitsWith: .success) {
      let a = try Arena("a", .init(lock: .preferred, gate: .key, keySharing: .never))
      let frozen = try Arena("frozen", .init(lock: .preferred, gate: .key))
      let b = try Arena("b", .init(lock: .preferred, gate: .key))
      let secretA = try a.allocate(byteCount: 32)
      let secretF = try frozen.allocate(byteCount: 32)
      var secretB = try b.allocate(byteCount: 32)
      let (atA, atF) = (try address(of: secretA), try address(of: secretF))
      try frozen.seal()
      try secretB.withMutableBytes { _ in
        if ct_try_read(atA) != keyError { exit(1) }
        if ct_try_write(atF) != keyError { exit(2) }
        let page = atF & ~4095
        for discard in [ct_discard(page, 4096), ct_discard_locked(page, 4096)]
        where discard != -EPERM { exit(3) }
      }
    }
  }

  /// Any number of arenas; a frozen one never shares with a writable one.
  @Test(.enabled(if: closingGates.contains(.key), "this processor has no protection keys"))
  func alikeArenasShareKeys() async {
    await #expect(processExitsWith: .success) {
      var arenas: [Arena] = []
      var secrets: [SharedSecret] = []
      for _ in 0..<40 {
        let arena = try Arena("many", .init(lock: .preferred, gate: .key))
        secrets.append(SharedSecret(try arena.allocate(byteCount: 16)))
        arenas.append(arena)
      }
      let keys = Set(arenas.map { $0.statistics.protectionKey! })
      if keys.count != 12 { exit(1) }
      // Freezing an arena that shares moves it to another key, with its contents.
      try arenas[0].freeze()
      let frozen = arenas[0].statistics.protectionKey!
      if keys.contains(frozen) { exit(2) }
      try secrets[0].withBytes { _ in }
      for arena in arenas[1..<20] { try arena.freeze() }
      let cold = Set(arenas[0..<20].map { $0.statistics.protectionKey! })
      let warm = Set(arenas[20...].map { $0.statistics.protectionKey! })
      if !cold.isDisjoint(with: warm) { exit(3) }
      // A key of its own, or a typed error.
      var own: [Arena] = []
      while true {
        do throws(EnclaveError) {
          own.append(try Arena("own", .init(gate: .key, keySharing: .never)))
          let key = own.last!.statistics.protectionKey!
          if cold.contains(key) || warm.contains(key) { exit(4) }
          if own.count > 15 { exit(5) }
        } catch {
          guard case .unsupported(.protectionKeys, let failure) = error, failure.errno == ENOSPC
          else { exit(6) }
          break
        }
      }
      // A destroyed arena's key is used again.
      if !own.isEmpty {
        own.removeLast()
        own.append(try Arena("own", .init(gate: .key, keySharing: .never)))
      }
      for (index, secret) in secrets.enumerated() {
        do { try secret.withBytes { _ in } } catch { exit(Int32(10 + index)) }
      }
    }
  }

  #if DEBUG
    /// With no key, one, or all of them left: everything works, with an honest state.
    @Test(arguments: [0, 1, 15]) func withFewKeysLeft(keys: Int) async {
      await #expect(processExitsWith: .success) { [keys = keys as Int] in
        FaultPlan.fail(.allocateKey, errno: ENOSPC, after: keys, times: 1000)
        let available = closingGates.contains(.key) ? keys : 0
        var arenas: [Arena] = []
        for _ in 0..<5 {
          let arena = try Arena("automatic", .init(lock: .preferred))
          var secret = try arena.allocate(byteCount: 32)
          try fill(&secret, from: 3)
          let at = try address(of: secret)
          if ct_try_read(at) == 0 { exit(1) }
          if try contents(secret)[0] != 3 { exit(2) }
          try arena.freeze()
          if try contents(secret)[31] != 34 { exit(3) }
          do throws(AccessError<Never>) {
            try secret.withMutableBytes { _ in }
            exit(4)
          } catch { if error != .access(.frozen) { exit(5) } }
          arenas.append(arena)
          try secret.destroy()
        }
        let keyed = arenas.filter { $0.statistics.protectionKey != nil }.count
        // One key, which the first arena froze: a writable one may not share it.
        if keyed != (available == 0 ? 0 : available == 1 ? 1 : 5) { exit(6) }
        do throws(EnclaveError) {
          let arena = try Arena("key", .init(gate: .key))
          if available < 15 { exit(7) }
          _ = arena
        } catch {
          guard available < 15, case .unsupported(.protectionKeys, _) = error else { exit(8) }
        }
      }
    }
  #endif
}
