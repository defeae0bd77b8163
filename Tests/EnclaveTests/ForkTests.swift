// Forks while other threads are in the middle of any operation.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct ForkTests {
  /// A child that is forked while another thread creates the process's first arena can create its
  /// own.
  @Test(arguments: [SystemCall.watchExit, .mapForkPage])
  func aChildForkedDuringTheFirstArenaCanCreateOne(call: SystemCall) async {
    await #expect(processExitsWith: .success) { [number = call.rawValue as UInt32] in
      FaultPlan.hold(try #require(SystemCall(rawValue: number)))
      Thread { _ = try? Arena("first", .init(lock: .off)) }.start()
      while !FaultPlan.holdsThread { sched_yield() }
      let child = ct_fork()
      if child == 0 {
        _exit((try? Arena("of a child", .init(lock: .off))) == nil ? 1 : 0)
      }
      #expect(Self.end(of: child) == 0)
      FaultPlan.resume()
    }
  }

  /// A child inherits no lock of the Swift runtime that the publisher's thread holds.
  @Test func aForkWaitsForThePublishersThread() async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) { [path = scratch.path as String] in
      setenv("ENCLAVE_STATS_DIR", path, 1)
      var options = StatsPublisher.Options()
      options.tickMilliseconds = 10
      let publisher = try StatsPublisher.start(options)
      FaultPlan.hold(.readMemlockLimit)
      try eventually("a tick is held") { FaultPlan.holdsThread }
      try #require(
        pthread_atfork({ ForkTests.isForking.store(true, ordering: .releasing) }, nil, nil) == 0)
      let hasForked = Atomic<Bool>(false)
      let thread = Self.startThread {
        let child = ct_fork()
        if child == 0 { _exit(0) }
        hasForked.store(true, ordering: .releasing)
        _ = Self.end(of: child)
      }
      try eventually("it forks") { Self.isForking.load(ordering: .acquiring) }
      let end = ContinuousClock.now + .milliseconds(200)
      while ContinuousClock.now < end, !hasForked.load(ordering: .acquiring) { sched_yield() }
      let forkedDuringTick = hasForked.load(ordering: .acquiring)
      #expect(!forkedDuringTick, "it forked during a tick")
      FaultPlan.resume()
      pthread_join(try #require(thread), nil)
      let forkedInTheEnd = hasForked.load(ordering: .acquiring)
      #expect(forkedInTheEnd)
      publisher.stop()
    }
  }

  private static let isForking = Atomic<Bool>(false)

  /// With ENCLAVE_STATS=1, a forked child that creates arenas (such as a daemon) publishes its own
  /// page.
  @Test func aForkedChildPublishesBesideItsParent() async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) { [path = scratch.path as String] in
      setenv("ENCLAVE_STATS", "1", 1)
      setenv("ENCLAVE_STATS_DIR", path, 1)
      func pages() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path) }
      let arena = try Arena("parent", .init(lock: .off))
      let parents = try pages()
      #expect(parents.count == 1)
      let child = ct_fork_at_rest()
      if child == 0 {
        let own = try? Arena("child", .init(lock: .off))
        let count = (try? pages().count) ?? 0
        withExtendedLifetime(own) {}
        _exit(count == 2 ? 0 : 1)
      }
      #expect(Self.end(of: child) == 0)
      #expect(try pages().contains(parents[0]))
      withExtendedLifetime(arena) {}
    }
  }

  /// A child's reports and its exit status reach its parent.
  @Test func aChildsFailuresReachItsParent() async {
    await #expect(processExitsWith: .success) {
      for (isRight, code, signal, expected) in [
        (true, 0, 0, []), (false, 0, 0, ["not true: right"]),
        (false, 3, 0, ["not true: right", "it ended with status 3"]),
        (true, 0, SIGKILL, ["it ended by signal \(SIGKILL)"]),
      ] as [(Bool, Int32, Int32, [String])] {
        let report = try ChildReport()
        let child = report.fork()
        if child == 0 {
          report.expect(isRight, "right")
          report.expect(throws: EnclaveError.frozen, "an error") { throw EnclaveError.frozen }
          if signal != 0 { kill(getpid(), signal) }
          if code != 0 { _exit(code) }
          report.end()
        }
        let failures = report.failures(of: child)
        #expect(failures == expected, "\(failures)")
      }
    }
  }

  /// The exit status of a child; nil if it does not end within a minute, after which it is killed.
  static func end(of child: pid_t) -> Int32? {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline {
      var status: Int32 = 0
      if waitpid(child, &status, WNOHANG) == child { return status }
      sched_yield()
    }
    kill(child, SIGKILL)
    return nil
  }

  /// Threads create, use and drop arenas, and end, while the process forks. No child may wait for a
  /// lock of the library that a thread of its parent held. Each child drops an inherited arena,
  /// creates its own arenas on two threads, and ends.
  ///
  /// Everything runs once before the first fork, and all threads are plain pthreads, because a
  /// child also inherits the locks of the Swift runtime and of Foundation.
  @Test func aChildForkedAtAnyMomentEnds() async {
    await #expect(processExitsWith: .success) {
      Self.work()
      let first = try #require(Self.startThread({ Self.work() }))
      pthread_join(first, nil)
      let isOver = Atomic<Bool>(false)
      var threads: [pthread_t] = []
      for _ in 0..<6 {
        let thread = Self.startThread {
          while !isOver.load(ordering: .relaxed) {
            let thread = Self.startThread { Self.work() }
            if let thread { pthread_join(thread, nil) }
          }
        }
        threads.append(try #require(thread))
      }
      for round in 0..<200 {
        var inherited: Arena? = try Arena("inherited", .init(lock: .off))
        let child = ct_fork()
        if child == 0 {
          inherited = nil
          let threads = (0..<2).map { _ in Self.startThread { Self.work() } }
          _exit(threads.allSatisfy { $0 != nil && pthread_join($0!, nil) == 0 } ? 0 : 1)
        }
        withExtendedLifetime(inherited) {}
        let status = Self.end(of: child)
        #expect(status == 0, "child of round \(round)")
        if status == nil { break }
      }
      isOver.store(true, ordering: .relaxed)
      for thread in threads { pthread_join(thread, nil) }
    }
  }

  private static func work() {
    guard let arena = try? Arena("of a thread", .init(lock: .off)) else { return }
    for _ in 0..<8 { _ = try? arena.allocate(byteCount: 32) }
  }

  private final class Body {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
  }

  private static func startThread(_ run: @escaping () -> Void) -> pthread_t? {
    var thread = pthread_t()
    let body = Unmanaged.passRetained(Body(run))
    let result = pthread_create(
      &thread, nil,
      { body in
        Unmanaged<Body>.fromOpaque(body!).takeRetainedValue().run()
        return nil
      }, body.toOpaque())
    return result == 0 ? thread : nil
  }
}
