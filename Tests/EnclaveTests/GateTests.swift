// Access through gates: windows, threads, signals.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// The gates of this machine that close memory.
let closingGates: [Arena.Gate] =
  Capability.protectionKeys.isAvailable ? [.key, .pages] : [.pages]

let mapError: Int32 = 1  // SEGV_MAPERR
let keyError: Int32 = 4  // SEGV_PKUERR

/// Runs a body on a new thread and waits for it.
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

// Each test is a separate process, because the handler that survives faults is process-wide.
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
      #expect(ct_try_read(at) != 0, "idle: no reading")
      #expect(ct_try_write(at) != 0, "idle: no writing")
      #expect(onAnotherThread({ ct_try_read(at) }) != 0, "idle: no reading by another thread")
      if isKey { #expect(ct_try_read(at) == keyError, "idle: the key refuses it") }
      // The positive control: in a window both accesses succeed.
      try secret.withBytes { _ in
        #expect(ct_try_read(at) == 0, "a window for reading: reading")
        #expect(ct_try_write(at) != 0, "a window for reading: no writing")
        let isOpenToOthers = onAnotherThread { ct_try_read(at) } == 0
        #expect(isOpenToOthers == !isKey, "a key opens for this thread alone; pages for all")
      }
      try secret.withMutableBytes { _ in
        #expect(ct_try_write(at) == 0, "a window for writing: writing")
        if isKey {
          let others = onAnotherThread { ct_try_write(at) }
          #expect(others != 0, "a window for writing: no writing by another thread")
        }
      }
      #expect(ct_try_read(at) != 0, "after the windows")
    }
  }

  #if DEBUG
    /// The twins: without the mechanism the same reads succeed.
    @Test(arguments: closingGates) func memoryIsReadableWithoutTheMechanism(gate: Arena.Gate) async
    {
      let isKey = gate == .key
      await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
        FaultPlan.switchOff(isKey ? .tagChunk : .closeWindow)
        FaultPlan.switchOff(.closeNewChunk)
        let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
        let secret = try arena.allocate(byteCount: 32)
        #expect(ct_try_read(try address(of: secret)) == 0, "it can be read")
      }
    }
  #endif

  @Test(arguments: closingGates) func windowsNestInEitherOrder(gate: Arena.Gate) async {
    let isKey = gate == .key
    await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
      var a = try arena.allocate(byteCount: 32)
      var b = try arena.allocate(byteCount: 32)
      let (atA, atB) = (try address(of: a), try address(of: b))
      // Reading inside writing: the contents stay writable, which copying needs.
      try a.withMutableBytes { _ in
        try! b.withBytes { _ in
          #expect(ct_try_write(atA) == 0, "the outer one stays writable")
          #expect(ct_try_read(atB) == 0, "the inner one is readable")
        }
        #expect(ct_try_write(atA) == 0, "writable after the inner window")
      }
      #expect(ct_try_read(atA) != 0, "closed after writing")
      // Writing inside reading: writable until the inner window ends.
      try a.withBytes { _ in
        #expect(ct_try_write(atA) != 0, "the outer one is not writable")
        try! b.withMutableBytes { _ in
          #expect(ct_try_write(atB) == 0, "the inner one is writable")
        }
        #expect(ct_try_write(atB) != 0, "not writable after the inner window")
        #expect(ct_try_read(atA) == 0, "readable after the inner window")
      }
      #expect(ct_try_read(atA) != 0, "the outer one is closed after both windows")
      #expect(ct_try_read(atB) != 0, "the inner one is closed after both windows")
      #expect(arena.statistics.openWindows == 0, "windows that are counted as open")
    }
  }

  nonisolated(unsafe) static var shared: SecretReference?
  nonisolated(unsafe) static var handlerSaw: UInt8 = 0

  @Test(arguments: closingGates) func aWindowInAHandlerInsideAWindow(gate: Arena.Gate) async {
    let isKey = gate == .key
    await #expect(processExitsWith: .success) { [isKey = isKey as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: isKey ? .key : .pages))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 7)
      let at = try address(of: secret)
      let shared = SecretReference(secret)
      GateTests.shared = shared
      ct_on_signal { _ in
        try! GateTests.shared!.withBytes { bytes in
          GateTests.handlerSaw = bytes.unsafeLoad(as: UInt8.self)
        }
      }
      try shared.withBytes { bytes in
        raise(SIGUSR2)
        #expect(GateTests.handlerSaw == 7, "the handler read the secret")
        let first = bytes.unsafeLoad(as: UInt8.self)
        #expect(first == 7, "the handler's window is gone, this one is not")
      }
      #expect(ct_try_read(at) != 0, "closed after the window")
      GateTests.handlerSaw = 0
      raise(SIGUSR2)
      #expect(GateTests.handlerSaw == 7, "the handler read the secret, in its own window alone")
      #expect(ct_try_read(at) != 0, "closed after the handler's window")
      #expect(arena.statistics.openWindows == 0, "windows that are counted as open")
    }
  }

  /// A handler starts with every key closed. After a jump out of it they stay closed.
  @Test(.enabled(if: closingGates.contains(.key), "this processor has no protection keys"))
  func aJumpOutOfAHandlerLeavesItClosed() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .key))
      var secret = try arena.allocate(byteCount: 32, label: "held")
      try fill(&secret, from: 7)
      let at = try address(of: secret)
      GateTests.shared = SecretReference(secret)
      let jumped = ct_jump_out(
        { _ in
          try! GateTests.shared!.withBytes { _ in _ = raise(SIGUSR1) }
        }, nil)
      #expect(jumped == 1, "it jumped")
      #expect(ct_try_read(at) != 0, "closed after the jump")
      // Later windows work normally.
      let first = try GateTests.shared!.withBytes { $0.unsafeLoad(as: UInt8.self) }
      #expect(first == 7, "a later window reads the secret")
      #expect(ct_try_read(at) != 0, "closed after a later window")
      // Destroying the arena reports the window that never ended.
      #expect(throws: EnclaveError.windowsOpen(1, label: "held"), "the window that never ended") {
        try arena.destroy()
      }
    }
  }

  /// How a thread is created.
  enum ThreadCreation: Int, CaseIterable { case pthread, dispatch, task, foundation }

  /// The twins switch the protection off, which only debug builds can. Pools have no twin, because
  /// the runtime chooses the thread that creates a pool's threads.
  static var creations: [(ThreadCreation, isProtected: Bool)] {
    var all = ThreadCreation.allCases.map { ($0, isProtected: true) }
    #if DEBUG
      all += [(.pthread, isProtected: false), (.foundation, isProtected: false)]
    #endif
    return all
  }

  @Test(
    .enabled(if: closingGates.contains(.key), "this processor has no protection keys"),
    arguments: creations)
  func threadsCreatedInAWindowStartClosed(creation: ThreadCreation, isProtected: Bool) async {
    let number = creation.rawValue
    await #expect(processExitsWith: .success) {
      [number = number as Int, isProtected = isProtected as Bool] in
      let arena = try Arena("test", .init(lock: .preferred, gate: .key))
      var secret = try arena.allocate(byteCount: 32)
      let at = try address(of: secret)
      #if DEBUG
        if !isProtected { FaultPlan.letThreadsInheritKeys() }
      #endif
      let saw: Int32 = try secret.withMutableBytes { _ in
        let creation = ThreadCreation(rawValue: number)!
        nonisolated(unsafe) var saw: Int32 = -1
        let done = DispatchSemaphore(value: 0)
        switch creation {
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
          // More tasks than the pool has threads, so that it creates some.
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
      // The twin: without the protection the thread can read.
      #expect(saw == (isProtected ? keyError : 0), "the thread's read answered \(saw)")
    }
  }

  /// Keys separate arenas: a window for writing to B neither opens A nor makes it writable.
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
        #expect(ct_try_read(atA) == keyError, "A cannot be read")
        #expect(ct_try_write(atF) == keyError, "the sealed arena cannot be written")
        let page = atF & ~4095
        #expect(ct_discard(page, 4096) == -EPERM, "nor discarded")
        #expect(ct_discard_locked(page, 4096) == -EPERM, "nor discarded while locked")
      }
    }
  }

  /// There can be any number of arenas. A frozen one never shares a key with a writable one.
  @Test(.enabled(if: closingGates.contains(.key), "this processor has no protection keys"))
  func arenasOfOneKindShareKeys() async {
    await #expect(processExitsWith: .success) {
      var arenas: [Arena] = []
      var secrets: [SecretReference] = []
      for _ in 0..<40 {
        let arena = try Arena("many", .init(lock: .preferred, gate: .key))
        secrets.append(SecretReference(try arena.allocate(byteCount: 16)))
        arenas.append(arena)
      }
      let keys = Set(arenas.map { $0.statistics.protectionKey! })
      #expect(keys.count == 12, "\(keys.count) keys")
      // Freezing an arena that shares a key moves it to another key, and keeps its contents.
      try arenas[0].freeze()
      let frozen = arenas[0].statistics.protectionKey!
      #expect(!keys.contains(frozen), "a frozen arena shares with writable ones")
      try secrets[0].withBytes { _ in }
      for arena in arenas[1..<20] { try arena.freeze() }
      let cold = Set(arenas[0..<20].map { $0.statistics.protectionKey! })
      let warm = Set(arenas[20...].map { $0.statistics.protectionKey! })
      #expect(cold.isDisjoint(with: warm), "frozen \(cold), writable \(warm)")
      // An exclusive key, or a typed error.
      var own: [Arena] = []
      while own.count < 16 {
        do throws(EnclaveError) {
          own.append(try Arena("own", .init(gate: .key, keySharing: .never)))
          let key = own.last!.statistics.protectionKey!
          #expect(!cold.contains(key) && !warm.contains(key), "key \(key) is shared")
        } catch {
          guard case .unsupported(.protectionKeys, let failure) = error else { throw error }
          #expect(failure.errno == ENOSPC, "\(failure)")
          break
        }
      }
      #expect(own.count < 16, "there are 15 keys")
      // A destroyed arena's key is reused.
      if !own.isEmpty {
        own.removeLast()
        own.append(try Arena("own", .init(gate: .key, keySharing: .never)))
      }
      for (index, secret) in secrets.enumerated() {
        #expect(throws: Never.self, "arena \(index)") { try secret.withBytes { _ in } }
      }
    }
  }

  #if DEBUG
    /// With no key, one, or all keys left, everything works and reports an honest state.
    @Test(arguments: [0, 1, 15]) func arenasWorkWithFewProtectionKeysLeft(keys: Int) async {
      await #expect(processExitsWith: .success) { [keys = keys as Int] in
        FaultPlan.fail(.allocateKey, errno: ENOSPC, after: keys, times: 1000)
        let available = closingGates.contains(.key) ? keys : 0
        var arenas: [Arena] = []
        for _ in 0..<5 {
          let arena = try Arena("automatic", .init(lock: .preferred))
          var secret = try arena.allocate(byteCount: 32)
          try fill(&secret, from: 3)
          let at = try address(of: secret)
          #expect(ct_try_read(at) != 0, "idle: closed")
          #expect(try contents(secret)[0] == 3, "contents")
          try arena.freeze()
          #expect(try contents(secret)[31] == 34, "contents when frozen")
          #expect(throws: AccessError<Never>.access(.frozen), "writing when frozen") {
            try secret.withMutableBytes { _ in }
          }
          arenas.append(arena)
          try secret.destroy()
        }
        let keyed = arenas.filter { $0.statistics.protectionKey != nil }.count
        // The first arena froze with the only key, which a writable arena must not share.
        #expect(
          keyed == (available == 0 ? 0 : available == 1 ? 1 : 5), "\(keyed) arenas have a key")
        do throws(EnclaveError) {
          _ = try Arena("key", .init(gate: .key))
          #expect(available == 15, "no error with \(available) keys")
        } catch {
          guard case .unsupported(.protectionKeys, _) = error else { throw error }
          #expect(available < 15, "\(error)")
        }
      }
    }
  #endif
}
