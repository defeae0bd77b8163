// Background work: failed locks are retried, and long calls do not block other threads.

import Enclave
import EnclaveSystem
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// Whether this user may make real-time threads. Tries it on a temporary thread.
private let mayBeRealTime: Bool = {
  let answer = DispatchSemaphore(value: 0)
  nonisolated(unsafe) var result: Int32 = -1
  Thread {
    var priority = sched_param(sched_priority: 1)
    result = pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority)
    answer.signal()
  }.start()
  answer.wait()
  return result == 0
}()

@Suite struct MaintenanceTests {
  // MARK: - Locking later

  struct Row: CustomTestStringConvertible, Sendable {
    var layout: Arena.Layout
    var gate: Arena.Gate
    var byteCount: Int
    var testDescription: String { "\(layout), \(gate), \(byteCount) bytes" }
  }

  /// Slab chunks, an isolated page, and a chunk that is locked in pieces.
  static let rows: [Row] = gatesInPlace.flatMap { gate in
    [
      Row(layout: .slab, gate: gate, byteCount: 40),
      Row(layout: .isolated, gate: gate, byteCount: 40),
      Row(layout: .isolated, gate: gate, byteCount: 700_000),
    ].filter { $0.byteCount <= mayLock }
  }
  static let mayLock: Int = {
    let soft = (try? ProcessFacts.memlockLimit())?.soft ?? 0
    return soft > 4 << 20 ? .max : 40
  }()

  /// Without publishing. The first retry fails too, in the middle of a large chunk.
  @Test(arguments: rows.indices) func locksAreTriedAgain(row: Int) async {
    await #expect(processExitsWith: .success) { [row = row as Int] in
      let row = Self.rows[row]
      let before = ProcessFacts.lockedBytes() ?? 0
      let arena = try Arena(
        "later", .init(layout: row.layout, lock: .preferred, gate: row.gate))
      FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 1000)
      var secret = try arena.allocate(byteCount: row.byteCount)
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 7) }
      }
      #expect(arena.statistics.bytesLocked == 0, "nothing is locked")
      try eventually("there is a thread") { Self.threads().contains("enclave-locks") }
      FaultPlan.clear()
      FaultPlan.fail(.lockChunk, errno: ENOMEM, after: row.byteCount > 262_144 ? 1 : 0)
      try eventually("all is locked") {
        arena.statistics.bytesLocked == arena.statistics.bytesMapped
      }
      // The kernel's count equals the arena's: nothing is locked twice, or stays locked after a
      // failed try.
      let kernel = Int(ProcessFacts.lockedBytes() ?? 0) - Int(before)
      #expect(kernel == arena.statistics.bytesLocked, "the kernel counts \(kernel)")
      try eventually("the thread ends") { !Self.threads().contains("enclave-locks") }
      try secret.withBytes { bytes in
        bytes.withUnsafeBytes { #expect($0.allSatisfy { $0 == 7 }, "contents") }
      }
      // The next failure starts the thread again.
      FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 1000)
      let second = try arena.allocate(byteCount: Self.mayLock > 4096 ? 200_000 : 4096)
      FaultPlan.clear()
      try eventually("all is locked") {
        arena.statistics.bytesLocked == arena.statistics.bytesMapped
      }
      try second.destroy()
    }
  }

  /// Truncating the page ends publishing, but not the retries.
  @Test func locksAreTriedAgainWithoutThePage() async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) { [path = scratch.path as String] in
      setenv("ENCLAVE_STATS_DIR", path, 1)
      let publisher = try StatsPublisher.start()
      FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 1000)
      let arena = try Arena("later", .init(lock: .preferred, gate: .none))
      let secret = try arena.allocate(byteCount: 40)
      let page = publisher.path!
      #expect(chmod(page, 0o600) == 0 && truncate(page, 0) == 0, "truncate: \(errno)")
      try eventually("the page is lost") { !publisher.isPublishing }
      FaultPlan.clear()
      try eventually("all is locked") {
        arena.statistics.bytesLocked == arena.statistics.bytesMapped
      }
      try secret.destroy()
    }
  }

  // MARK: - Long calls

  /// While one thread is in a long system call, others can create, use and destroy arenas.
  @Test(arguments: [
    SystemCall.allocateMetadata, .createPage, .allocatePage, .startThread, .reserveChunk,
    .lockChunk,
    .unmapChunk,
  ])
  func longCallsBlockNoOtherThread(call: SystemCall) async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) {
      [path = scratch.path as String, number = call.rawValue as UInt32] in
      alarm(60)  // ends a process that hangs
      setenv("ENCLAVE_STATS_DIR", path, 1)
      try Self.useAnArena()
      let call = try #require(SystemCall(rawValue: number))
      FaultPlan.hold(call)
      let ended = DispatchSemaphore(value: 0)
      Thread {
        if [.createPage, .allocatePage, .startThread].contains(call) {
          try? StatsPublisher.start().keepUntilExit()
        } else {
          try? Self.useAnArena()
        }
        ended.signal()
      }.start()
      while !FaultPlan.holdsThread { sched_yield() }
      try Self.useAnArena()
      FaultPlan.resume()
      ended.wait()
    }
  }

  /// While an arena is being destroyed or frozen, nobody waits for it, unless the answer depends on
  /// the result.
  @Test(arguments: [SystemCall.unmapChunk, .freezeChunk])
  func closingAnArenaBlocksNoOtherThread(call: SystemCall) async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) {
      [path = scratch.path as String, number = call.rawValue as UInt32] in
      alarm(60)  // ends a process that hangs
      setenv("ENCLAVE_STATS_DIR", path, 1)
      try StatsPublisher.start().keepUntilExit()
      let call = try #require(SystemCall(rawValue: number))
      let arena = try Arena("held", .init(lock: .preferred, gate: .none))
      let shared = SecretReference(try arena.allocate(byteCount: 32))
      let large = SecretReference(try arena.allocate(byteCount: 100_000))
      FaultPlan.hold(call)
      let ended = DispatchSemaphore(value: 0)
      Thread {
        #expect(throws: Never.self) {
          if call == .unmapChunk { try arena.destroy() } else { try arena.freeze() }
        }
        ended.signal()
      }.start()
      while !FaultPlan.holdsThread { sched_yield() }
      let expected: EnclaveError = call == .unmapChunk ? .destroyed : .frozen
      #expect(throws: expected) { _ = try arena.allocate(byteCount: 48) }
      #expect(throws: expected) { _ = try arena.allocate(byteCount: 200_000) }
      if call == .unmapChunk {
        #expect(throws: AccessError<Never>.access(.destroyed)) { try shared.withBytes { _ in } }
      }
      #expect(arena.statistics.secretCount == 2)
      Registry.refresh()
      FaultPlan.resume()
      ended.wait()
      #expect(arena.statistics.bytesMapped == 0 || call == .freezeChunk)
      if call == .freezeChunk { try large.withBytes { #expect($0.byteCount == 100_000) } }
    }
  }

  /// A real-time thread that waits for another sleeps. Otherwise RLIMIT_RTTIME, which limits
  /// running without a pause, would end the process.
  @Test(
    .enabled(if: mayBeRealTime, "needs CAP_SYS_NICE or RLIMIT_RTPRIO, for sched_setscheduler(2)"),
    arguments: [SystemCall.openWindow, .closeWindow])
  func aRealTimeWaiterSleeps(call: SystemCall) async {
    await #expect(processExitsWith: .success) { [number = call.rawValue as UInt32] in
      alarm(60)
      let call = try #require(SystemCall(rawValue: number))
      let arena = try Arena("shared", .init(lock: .preferred, gate: .pages))
      let secret = try arena.allocate(byteCount: 32)
      let shared = SecretReference(secret)
      FaultPlan.hold(call)
      let ended = DispatchSemaphore(value: 0)
      Thread {
        try? shared.withBytes { _ in }
        ended.signal()
      }.start()
      while !FaultPlan.holdsThread { sched_yield() }
      var limit = rlimit(rlim_cur: 200_000, rlim_max: 400_000)  // microseconds
      try #require(setrlimit(__rlimit_resource_t(15), &limit) == 0)  // RLIMIT_RTTIME
      let status = Mutex<String?>(nil)
      Thread {
        var priority = sched_param(sched_priority: 1)
        if pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority) == 0 {
          let place = try? FileManager.default.destinationOfSymbolicLink(
            atPath: "/proc/thread-self")
          status.withLock { $0 = place.map { "/proc/\($0)/status" } }
          try? shared.withBytes { _ in }
        }
        ended.signal()
      }.start()
      func field(_ name: String) -> Substring? {
        guard let path = status.withLock({ $0 }),
          let text = try? String(contentsOfFile: path, encoding: .utf8)
        else { return nil }
        let line = text.split(separator: "\n").first { $0.hasPrefix(name + ":\t") }
        return line?.split(separator: "\t").last
      }
      // It sleeps until it is woken, without polling.
      try eventually("it sleeps", within: 50) { field("State") == "S (sleeping)" }
      let end = ContinuousClock.now + .milliseconds(500)
      let before = field("voluntary_ctxt_switches").flatMap { Int($0) }
      while ContinuousClock.now < end { _ = poll(nil, 0, 50) }
      let after = field("voluntary_ctxt_switches").flatMap { Int($0) }
      let naps = try #require(after) - #require(before)
      #expect(naps < 50, "\(naps) naps")
      FaultPlan.resume()
      ended.wait()
      ended.wait()
    }
  }

  /// Publishing an arena races with its removal from the page and with the end of publishing.
  @Test func arenasAreDestroyedWhileTheyArePublished() async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) { [path = scratch.path as String] in
      setenv("ENCLAVE_STATS_DIR", path, 1)
      Thread { while true { Registry.refresh() } }.start()
      for _ in 0..<300 {
        let publisher = try StatsPublisher.start()
        for _ in 0..<5 {
          let arena = try Arena("brief", .init(lock: .off, gate: .none))
          _ = try arena.allocate(byteCount: 32)
          try arena.destroy()
        }
        publisher.stop()
      }
    }
  }

  /// A descriptor that the program closed and reused is not read, and another one is opened.
  @Test func aReusedDescriptorOfTheStatusIsNotRead() async {
    await #expect(processExitsWith: .success) {
      #expect(KeptStatus.read() == nil)
      KeptStatus.keep()
      #expect(KeptStatus.read().flatMap { SystemCallFilter($0) } != nil)
      let descriptor = try #require(
        try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
          Int32($0)
        }
        .first { Files.link("/proc/self/fd/\($0)") == "/proc/\(getpid())/status" })
      let other = open("/dev/null", O_RDONLY)
      #expect(dup2(other, descriptor) == descriptor)
      #expect(KeptStatus.read() == nil)
      KeptStatus.keep()
      #expect(KeptStatus.read().flatMap { SystemCallFilter($0) } != nil)
      #expect(Files.link("/proc/self/fd/\(descriptor)") == "/dev/null")
    }
  }

  // MARK: - Tools

  static func useAnArena() throws {
    let arena = try Arena("used", .init(layout: .isolated, lock: .preferred, gate: .none))
    let secret = try arena.allocate(byteCount: 32)
    try secret.destroy()
    try arena.destroy()
  }

  static func threads() -> [String] {
    let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
    return tasks.compactMap {
      try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)
        .trimmingCharacters(in: .newlines)
    }
  }
}
