// Arenas as a service: metrics, logs, publishing and destruction.

import CoreMetrics
import Enclave
import EnclaveService
import Foundation
import Glibc
import InMemoryLogging
import Logging
import MetricsTestKit
import ServiceLifecycle
import ServiceLifecycleTestKit
import Synchronization
import Testing

/// Not every machine may lock what the tests use.
func makeArena(_ name: Label = "test") throws -> Arena {
  try Arena(name, .init(lock: .preferred))
}

/// Polls until a condition holds.
private func eventually(_ what: String, _ condition: () -> Bool) async throws {
  let deadline = ContinuousClock.now + .seconds(60)
  while !condition() {
    try #require(ContinuousClock.now < deadline, "not in time: \(what)")
    try await Task.sleep(for: .milliseconds(5))
  }
}

private final class Count: Sendable {
  private let count = Mutex(0)
  var value: Int { count.withLock { $0 } }
  func add() { count.withLock { $0 += 1 } }
}

@Suite(.serialized) struct ServiceTests {
  private func options(_ metrics: TestMetrics, publishes: Bool = false) -> ArenaService.Options {
    var options = ArenaService.Options()
    options.publishing = publishes ? .init() : nil
    options.metrics = metrics
    options.interval = .milliseconds(10)
    return options
  }

  private func logger(_ handler: InMemoryLogHandler) -> Logger {
    Logger(label: "test") { _ in handler }
  }

  /// Runs a body while the service runs, which then shuts down gracefully.
  private func running(_ service: ArenaService, _ body: () async throws -> Void) async throws {
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        try await body()
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
  }

  /// Waits for the service's first look, which is the zero from which it counts.
  private func firstLook(_ metrics: TestMetrics) async throws {
    try await eventually("a first look") {
      !metrics.recorders(label: "memwatch_arena_secrets").isEmpty
    }
  }

  @Test func arenasAreMeasuredAndThenDestroyed() async throws {
    let metrics = TestMetrics()
    let arena = try makeArena("measured")
    var secrets = [try SecretReference(arena.allocate(byteCount: 100, label: "a"))]
    let other = try makeArena("measured")
    secrets.append(try SecretReference(other.allocate(byteCount: 20, label: "b")))
    let log = InMemoryLogHandler()
    let service = ArenaService([arena, other], logger: logger(log), options: options(metrics))
    try await running(service) {
      // Two of one name are one series.
      try await eventually("the gauge") {
        let gauge = try? metrics.expectGauge(
          "memwatch_arena_used_bytes", [("arena", "measured")])
        return gauge?.lastValue == 120
      }
      #expect(
        try metrics.expectGauge("memwatch_arena_secrets", [("arena", "measured")]).lastValue == 2)
      // Made once.
      #expect(metrics.recorders(label: "memwatch_arena_secrets").count == 1)
    }
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
    #expect(throws: EnclaveError.destroyed) { _ = try other.allocate(byteCount: 1) }
    #expect(log.entries.isEmpty, "\(log.entries)")
    #expect(secrets.count == 2)
  }

  @Test func failuresAreCountedAndLogged() async throws {
    let metrics = TestMetrics()
    let log = InMemoryLogHandler()
    let arena = try makeArena("failing")
    let service = ArenaService([arena], logger: logger(log), options: options(metrics))
    let operation = [("arena", "failing"), ("operation", "allocate")]
    try await running(service) {
      try await firstLook(metrics)
      try arena.freeze()
      #expect(throws: EnclaveError.frozen) { _ = try arena.allocate(byteCount: 1) }
      try await eventually("the counter") {
        metrics.counterTotal(label: "memwatch_arena_failures_total", dimensions: operation) == 1
      }
    }
  }

  @Test(arguments: [false, true]) func violationsAreLogged(logsLabels: Bool) async throws {
    let log = InMemoryLogHandler()
    let arena = try Arena("misused", .init(lock: .off, gate: .none))
    var options = options(TestMetrics())
    options.response = .continueExecution
    options.logsLabels = logsLabels
    let service = ArenaService([arena], logger: logger(log), options: options)
    let metrics = try #require(options.metrics as? TestMetrics)
    try await running(service) {
      try await firstLook(metrics)
      try misuse(arena)
    }
    let entry = try #require(log.entries.first)
    #expect(entry.level == .critical && log.entries.count == 1)
    #expect(
      entry.metadata["arena"] == "misused" && entry.metadata["kind"] == "overflow"
        && entry.metadata["offset"] == "32" && entry.metadata["bytes"] == "32")
    #expect(entry.metadata["label"] == (logsLabels ? "too short" : nil))
  }

  @Test func theServicePublishesWhileItRuns() async throws {
    let directory = "/dev/shm/enclave-server-test-\(getpid())"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    defer { try? FileManager.default.removeItem(atPath: directory) }
    setenv("ENCLAVE_STATS_DIR", directory, 1)
    let arena = try makeArena()
    let service = ArenaService(
      [arena], logger: logger(InMemoryLogHandler()),
      options: options(TestMetrics(), publishes: true))
    func pages() -> Int {
      (try? FileManager.default.contentsOfDirectory(atPath: directory).count) ?? 0
    }
    try await running(service) {
      try await eventually("a page") { pages() > 0 }
    }
    #expect(pages() == 0)
  }

  @Test func anUnsuitableDirectoryIsLogged() async throws {
    setenv("ENCLAVE_STATS_DIR", "/proc/self/no-directory", 1)
    defer { unsetenv("ENCLAVE_STATS_DIR") }
    let log = InMemoryLogHandler()
    let arena = try makeArena("unwatched")
    let service = ArenaService(
      [arena], logger: logger(log), options: options(TestMetrics(), publishes: true))
    try await running(service) {
      try await eventually("a line in the log") { !log.entries.isEmpty }
      #expect(arena.statistics.secretCount == 0)
    }
    #expect(log.entries.count == 1 && log.entries.first?.level == .warning)
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
  }

  /// One byte behind a secret: found when it is freed.
  private func misuse(_ arena: Arena) throws {
    var secret = try arena.allocate(byteCount: 32, label: "too short")
    try secret.withMutableBytes { bytes in
      bytes.withUnsafeMutableBytes {
        ($0.baseAddress! + 32).assumingMemoryBound(to: UInt8.self).pointee ^= 0xff
      }
    }
    try secret.destroy()
  }

  @Test(arguments: [false, true]) func theProgramsOwnHandlerIsCalledAndKept(
    changesMeanwhile: Bool
  ) async throws {
    let (own, other) = (Count(), Count())
    ViolationHandler.set { _ in
      own.add()
      return .continueExecution
    }
    defer { ViolationHandler.set(nil) }
    let log = InMemoryLogHandler()
    let arena = try Arena("misused", .init(lock: .off, gate: .none))
    let after = try Arena("after", .init(lock: .off, gate: .none))
    // It would end the process, if the program's handler were not asked.
    let metrics = TestMetrics()
    let service = ArenaService([arena], logger: logger(log), options: options(metrics))
    try await running(service) {
      try await firstLook(metrics)
      try misuse(arena)
      if changesMeanwhile {
        ViolationHandler.set { _ in
          other.add()
          return .continueExecution
        }
      }
    }
    try misuse(after)
    #expect(log.entries.count == 1)
    #expect(own.value == (changesMeanwhile ? 1 : 2))
    #expect(other.value == (changesMeanwhile ? 1 : 0))
  }

  private struct Failing: Service {
    struct Failure: Error {}
    func run() async throws { throw Failure() }
  }

  /// Counts when another service has ended.
  private struct Counted: Service {
    let service: ArenaService
    let ended = Count()
    func run() async throws {
      defer { ended.add() }
      try await service.run()
    }
  }

  /// Uses a secret until it is cancelled and another service has ended.
  private struct Using: Service {
    let secret: SecretReference
    let ended: Count
    let found = Count()
    func run() async throws {
      try? await gracefulShutdown()
      // (In a cancelled task, nothing sleeps.)
      await Task.detached {
        try? await eventually("the other service has ended") { ended.value > 0 }
      }.value
      if (try? secret.withBytes { $0.byteCount }) == 1 { found.add() }
    }
  }

  /// A group whose service fails cancels all others at once, in no order.
  @Test func arenasOutliveServicesThatStillUseThem() async throws {
    let arena = try makeArena("used")
    let log = InMemoryLogHandler()
    let service = ArenaService([arena], logger: logger(log), options: options(TestMetrics()))
    let counted = Counted(service: service)
    let using = Using(
      secret: SecretReference(try arena.allocate(byteCount: 1)), ended: counted.ended)
    let group = ServiceGroup(
      services: [counted, using, Failing()], logger: logger(InMemoryLogHandler()))
    await #expect(throws: Failing.Failure.self) { try await group.run() }
    #expect(counted.ended.value == 1 && using.found.value == 1)
    _ = try arena.allocate(byteCount: 1)
    try await service.destroyArenas()
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
    #expect(log.entries.isEmpty)
  }

  /// Waiting for a window leaves the threads of the pool to those who have it open.
  @Test func waitingForWindowsBlocksNoThread() async throws {
    let arena = try makeArena("waited")
    let secret = SecretReference(try arena.allocate(byteCount: 1))
    let (opened, mayEnd) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
    Thread {
      try? secret.withBytes { _ in
        opened.signal()
        mayEnd.wait()
      }
    }.start()
    try await eventually("a window") { arena.statistics.openWindows == 1 }
    var options = options(TestMetrics())
    options.patience = .seconds(300)
    // More services than the pool has threads: each waits for the window.
    let services = (0..<ProcessInfo.processInfo.activeProcessorCount + 2).map { _ in
      ArenaService([arena], logger: logger(InMemoryLogHandler()), options: options)
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
      let (begun, ended) = (Count(), Count())
      for service in services {
        group.addTask {
          begun.add()
          defer { ended.add() }
          try await service.destroyArenas()
        }
      }
      // If they kept their threads, the last could begin only after the first had lost patience.
      try await eventually("all wait") { begun.value == services.count }
      #expect(ended.value == 0)
      mayEnd.signal()
      try await group.waitForAll()
    }
  }

  @Test func aWindowThatStaysOpenIsReported() async throws {
    let log = InMemoryLogHandler()
    let arena = try makeArena("held")
    let after = try makeArena("after")
    let secret = SecretReference(try arena.allocate(byteCount: 1))
    var options = options(TestMetrics())
    options.patience = .milliseconds(10)
    let service = ArenaService([arena, after], logger: logger(log), options: options)
    let ended = DispatchSemaphore(value: 0)
    Thread { try? secret.withBytes { _ in ended.wait() } }.start()
    try await eventually("a window") { arena.statistics.openWindows == 1 }
    defer { ended.signal() }
    await testGracefulShutdown { trigger in
      trigger.triggerGracefulShutdown()
      await #expect(throws: EnclaveError.self) { try await service.run() }
    }
    #expect(log.entries.count == 1 && log.entries.first?.metadata["arena"] == "held")
    // The others are destroyed all the same.
    #expect(throws: EnclaveError.destroyed) { _ = try after.allocate(byteCount: 1) }
  }
}
