// Races at a gate: the last handle and the Arena object, a signal's wipe during a change, violation
// handlers, forks in a window, a refused memory barrier, and waiting for locks.

import CEnclaveSystem
import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct GateProtocolTests {
  // MARK: - The last handle

  /// One thread releases the Arena object while another frees the last secrets of the arena,
  /// destroyed or not: the arena is freed exactly once, by the last of them.
  @Test(arguments: allGates, [true, false])
  func theArenaObjectMayBeReleasedWhileSecretsAreFreed(gate: Arena.Gate, isDestroyed: Bool) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) {
      [number = number as Int, isDestroyed = isDestroyed as Bool] in
      final class Shared: @unchecked Sendable {
        var arena: Arena?
        var secrets: [SecretReference] = []
        let freed = Atomic<Int>(0)
        let start = DispatchSemaphore(value: 0)
        let done = DispatchSemaphore(value: 0)
      }
      ct_perturb_heap()  // overwrites freed memory, to expose a use after free
      // Keeps them from being deinitialized when Foundation ends a thread, after the thread sanitizer
      // has: it does not survive that.
      var kept: [Shared] = []
      for round in 0..<400 {
        let shared = Shared()
        kept.append(shared)
        let arena = try Arena("dropped", .init(lock: .off, gate: allGates[number]))
        for _ in 0..<64 {
          shared.secrets.append(SecretReference(try arena.allocate(byteCount: 32)))
        }
        if isDestroyed { try arena.destroy() }
        shared.arena = consume arena
        Thread {
          shared.start.wait()
          while !shared.secrets.isEmpty {
            shared.secrets.removeLast()
            shared.freed.add(1, ordering: .relaxed)
          }
          shared.done.signal()
        }.start()
        shared.start.signal()
        while shared.freed.load(ordering: .relaxed) < round % 60 {}
        shared.arena = nil
        shared.done.wait()
      }
    }
  }

  // MARK: - Signals

  /// A signal wipes during another thread's check, while a writing thread delays the wipe: after
  /// the check ends, no window opens any more.
  ///
  /// Repeated, because the reader has only 20 ms to notice a failure.
  @Test(.serialized, arguments: 0..<40) func aConcurrentChangeDoesNotUndoASignalsWipe(time: Int)
    async
  {
    await #expect(processExitsWith: .signal(SIGTERM)) {
      for signal in [SIGTERM, SIGALRM] { Glibc.signal(signal, SIG_DFL) }
      var all = sigset_t()
      sigfillset(&all)
      pthread_sigmask(SIG_UNBLOCK, &all, nil)
      let arena = try Arena("checked", .init(lock: .off, gate: .none))
      nonisolated(unsafe) var secrets: [SecretReference] = []
      for _ in 0..<1000 { secrets.append(SecretReference(try arena.allocate(byteCount: 4096))) }
      let written = SecretReference(try arena.allocate(byteCount: 32))
      nonisolated(unsafe) let handle = written.withSecret { $0.handle }
      try EmergencyWipe.install(signals: [SIGTERM])
      let opened = DispatchSemaphore(value: 0)
      nonisolated(unsafe) var isWiped: Int32 = 0
      // Delays the wipe by 20 ms.
      Thread {
        _ = try? handle.openWindow(writing: true)
        opened.signal()
        while true { _ = poll(nil, 0, 1000) }
      }.start()
      opened.wait()
      // Usually in a check. (If a check undid the wipe, the reader would get in during the pauses.)
      Thread {
        while true {
          for _ in 0..<4 { _ = try? arena.check() }
          _ = poll(nil, 0, 1)
        }
      }.start()
      Thread {
        while true {
          do throws(AccessError<Never>) {
            try secrets[0].withBytes { _ in if isWiped != 0 { _exit(42) } }
          } catch { if case .access(.destroyed) = error { isWiped = 1 } }
        }
      }.start()
      _ = poll(nil, 0, 20)
      kill(getpid(), SIGTERM)
      while true { _ = poll(nil, 0, 1000) }
    }
  }

  // MARK: - Violation handlers

  static let found = [
    "overflow", "overflow isolated", "double free", "stale free", "foreign free", "resize",
  ]
  static let uses = ["check", "destroy", "wipe", "exit"]

  /// A violation handler runs without any lock that its calls to the library could wait for.
  @Test(arguments: found, uses) func aViolationHandlerMayUseTheLibrary(what: String, use: String)
    async
  {
    await #expect(processExitsWith: .success) { [what = what as String, use = use as String] in
      alarm(60)  // ends a process that deadlocks
      final class Observed: @unchecked Sendable { var count = 0 }
      let seen = Observed()
      let arena = try Arena(
        "shop",
        .init(layout: what == "overflow isolated" ? .isolated : .slab, lock: .off, gate: .none))
      ViolationHandler.set { _ in
        seen.count += 1
        switch use {
        case "check": _ = try? arena.check()
        case "destroy": try? arena.destroy()
        case "wipe": EmergencyWipe.wipeEverything()
        default: exit(0)
        }
        return .continueExecution
      }
      let address = try unsafe arena.allocate(byteCount: 30).leak()
      let foreign = UnsafeMutableRawPointer.allocate(byteCount: 16, alignment: 16)
      switch what {
      case "double free":
        try arena.free(address)
        try arena.free(address)
      case "stale free":
        let handle = SecretHandle.live(startingAt: address)!
        try arena.free(address)
        try handle.free()
      case "foreign free": try arena.free(foreign)
      case "resize":
        (address + 30).assumingMemoryBound(to: UInt8.self).pointee ^= 1  // whatever its canary is
        _ = try SecretHandle.live(startingAt: address)!.resize(to: 31)
      default:
        (address + 30).assumingMemoryBound(to: UInt8.self).pointee ^= 1  // whatever its canary is
        try arena.free(address)
      }
      // Reached if the handler did not end the process.
      #expect(use != "exit", "the handler's exit did not end the process")
      #expect(seen.count == 1, "\(seen.count) violations")
    }
  }

  // MARK: - Children

  /// A closure that continues in a child which it forked read zeros, so it gets no result.
  @Test(arguments: allGates, [true, false])
  func aChildForkedInAWindowGetsNoResult(gate: Arena.Gate, isWriting: Bool) async {
    let number = allGates.firstIndex(of: gate)!
    await #expect(processExitsWith: .success) {
      [number = number as Int, isWriting = isWriting as Bool] in
      let arena = try Arena("forked", .init(lock: .off, gate: allGates[number]))
      var secret = try arena.allocate(byteCount: 32)
      var child: Int32 = -1
      let report = try ChildReport()
      do throws(AccessError<Never>) {
        if isWriting {
          try secret.withMutableBytes { _ in child = report.fork() }
        } else {
          try secret.withBytes { _ in child = report.fork() }
        }
        if child == 0 {
          report.fail("the child got a result")
          report.end()
        }
      } catch {
        guard child == 0 else { throw error }
        report.expect(error == .access(.inheritedByFork), "\(error)")
        report.end()
      }
      let failures = report.failures(of: child)
      #expect(failures == [], "\(failures)")
      #expect(arena.statistics.openWindows == 0, "windows that are counted as open")
    }
  }

  // MARK: - The barrier

  /// If a filter that was set later refuses membarrier(2), freezing, destroying, wiping everything
  /// and the wipe at exit still work, and the failure is counted.
  @Test(arguments: ["freeze", "destroy", "wipe", "exit"])
  func wipingWorksWithoutMembarrier(what: String) async {
    await #expect(processExitsWith: .success) { [what = what as String] in
      // Registered before the library's own handler, so it runs after that.
      if what == "exit" {
        atexit {
          let first = UnsafePointer<UInt8>(bitPattern: GateProtocolTests.at)![0]
          #expect(first == 0, "not wiped at exit")
          _exit(first == 0 && GateProtocolTests.exits ? EXIT_SUCCESS : EXIT_FAILURE)
        }
      }
      let arena = try Arena("kept", .init(lock: .off, gate: .none))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 1)
      GateProtocolTests.at = try address(of: secret)
      try #require(ct_refuse_call(ct_membarrier_number()) == 0, "refusing the call")
      switch what {
      case "freeze":
        try arena.freeze()
        #expect(try contents(secret)[0] == 1, "contents when frozen")
      case "destroy":
        try arena.destroy()
        #expect(arena.statistics.bytesMapped == 0, "still mapped")
      case "wipe":
        EmergencyWipe.wipeEverything()
        let first = UnsafePointer<UInt8>(bitPattern: GateProtocolTests.at)![0]
        #expect(first == 0, "not wiped")
      default:
        GateProtocolTests.exits = true
        exit(EXIT_FAILURE)  // the handler changes it to success if the secret is wiped
      }
      #expect(SystemCall.barrier.failureCount == 1, "counted failures")
    }
  }
  nonisolated(unsafe) static var at: UInt = 0
  nonisolated(unsafe) static var exits = false

  /// Pages that cannot be opened for wiping are reported: by an error of wipeEverything, and at
  /// exit on standard error. All other pages are wiped.
  @Test(arguments: ["wipe", "exit"]) func unwipedPagesAreReported(what: String) async throws {
    let result = await #expect(
      processExitsWith: .success, observing: [\.standardErrorContent]
    ) { [what = what as String] in
      let arena = try Arena("partly", .init(lock: .off, gate: .none))
      let first = try unsafe arena.allocate(byteCount: 4000).leak()
      let second = try unsafe arena.allocate(byteCount: 4000).leak()
      let (low, high) = (
        min(UInt(bitPattern: first), UInt(bitPattern: second)),
        max(UInt(bitPattern: first), UInt(bitPattern: second))
      )
      UnsafeMutablePointer<UInt8>(bitPattern: high)!.pointee = 1
      GateProtocolTests.at = high & ~4095
      try #require(high & ~4095 != low & ~4095, "two pages")
      try #require(
        munmap(UnsafeMutableRawPointer(bitPattern: low & ~4095), 4096) == 0, "unmapping")
      // The exit wipes and reports on standard error, so the arena must still exist.
      if what == "exit" { exit(EXIT_SUCCESS) }
      let failures = EmergencyWipe.wipeEverything()
      try #require(failures.count == 1, "\(failures)")
      #expect(failures[0].arena == "partly", "\(failures)")
      #expect(failures[0].byteCount == 4096, "\(failures)")
      #expect(failures[0].reason.errno == ENOMEM, "\(failures)")
      let beside = UnsafePointer<UInt8>(bitPattern: high)!.pointee
      #expect(beside == 0, "the page beside it was not wiped")
      _exit(EXIT_SUCCESS)  // skips the wipe at exit
    }
    let error = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(
      error.contains("4096 bytes of arena partly were not wiped") == (what == "exit"), "\(error)")
  }

  // MARK: - Waiting

  /// Each of many sleepers is woken, also without membarrier(2), and in a child that was forked
  /// while its parent's threads slept.
  @Test(arguments: [true, false], [true, false])
  func sleepersAreWoken(hasBarrier: Bool, inChild: Bool) async {
    await #expect(processExitsWith: .success) { [hasBarrier, inChild] in
      alarm(60)
      _ = try Arena("registers the barrier", .init(lock: .preferred, gate: .none))
      if !hasBarrier { try #require(ct_refuse_call(ct_membarrier_number()) == 0) }
      func takeTurns(_ count: Int) throws {
        nonisolated(unsafe) let word = makeLockWord()
        let sleepers = ces_sleepers_of(word)!
        let turns = Atomic<Int>(0)
        lock(word)
        for _ in 0..<count {
          Thread {
            lock(word)
            turns.add(1, ordering: .relaxed)
            unlock(word)
          }.start()
        }
        try eventually("all of them sleep") { ces_load_relaxed32(sleepers) == count }
        if inChild, count == 5 {
          let child = ct_fork()
          if child == 0 {
            do {
              try #require(ces_load_relaxed32(sleepers) == 0)
              try takeTurns(3)
              _exit(0)
            } catch {
              _exit(1)
            }
          }
          var status: Int32 = 0
          waitpid(child, &status, 0)
          #expect(status == 0, "the child")
        }
        unlock(word)
        try eventually("each had its turn") {
          turns.load(ordering: .relaxed) == count && ces_load_relaxed32(sleepers) == 0
        }
      }
      try takeTurns(5)
    }
  }

  /// A thread whose first window is in a destructor of thread-specific data gives its number back.
  @Test func endingThreadsGiveTheirNumbersBack() async {
    await #expect(processExitsWith: .success) {
      final class Late {
        let secret: SecretReference
        let ended: DispatchSemaphore
        init(_ secret: SecretReference, _ ended: DispatchSemaphore) {
          (self.secret, self.ended) = (secret, ended)
        }
        deinit {
          #expect(throws: Never.self) { try secret.withBytes { _ in } }
          ended.signal()
        }
      }
      let arena = try Arena("late", .init(lock: .off, gate: .none))
      let secret = SecretReference(try arena.allocate(byteCount: 32))
      let ended = DispatchSemaphore(value: 0)
      for _ in 0..<100 {
        Thread { Thread.current.threadDictionary["late"] = Late(secret, ended) }.start()
        ended.wait()
      }
      try eventually("numbers are free again") { onAnotherThread { threadNumber() } < 8 }
    }
  }

  /// A thread that waits for a lock sleeps, and so leaves the processor to the holder at any
  /// priority.
  @Test func waitingForALockTakesNoProcessorTime() throws {
    nonisolated(unsafe) let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    word.initialize(to: 0)
    defer { word.deallocate() }
    lock(word)
    let started = DispatchSemaphore(value: 0)
    let done = DispatchSemaphore(value: 0)
    nonisolated(unsafe) var used = timespec()
    Thread {
      started.signal()
      lock(word)
      unlock(word)
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used)
      done.signal()
    }.start()
    started.wait()
    // Not a delay: the processor time that the waiter must not use.
    let end = ContinuousClock.now + .milliseconds(500)
    while ContinuousClock.now < end { _ = poll(nil, 0, 50) }
    unlock(word)
    done.wait()
    #expect(used.tv_sec == 0 && used.tv_nsec < 200_000_000, "\(used.tv_nsec) ns of 500 ms")
  }

  @Test func waitingForAChangeTakesLittleProcessorTime() async throws {
    nonisolated(unsafe) var used = timespec()
    let done = DispatchSemaphore(value: 0)
    Thread {
      let end = ContinuousClock.now + .milliseconds(500)
      var tries: UInt32 = 0
      while ContinuousClock.now < end { ProcessFacts.backOff(&tries) }
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used)
      done.signal()
    }.start()
    done.wait()
    #expect(used.tv_sec == 0 && used.tv_nsec < 200_000_000, "\(used.tv_nsec) ns of 500 ms")
  }
}
