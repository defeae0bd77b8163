// A child may be forked at any moment, in the middle of any change that another thread makes.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct ForkTests {
  /// The first arena of the process is being made by another thread when the child is forked: the child
  /// makes its own.
  @Test(arguments: [SystemCall.watchExit, .mapForkPage])
  func aChildForkedDuringTheFirstArenaMakesItsOwn(call: SystemCall) async {
    await #expect(processExitsWith: .success) { [number = call.rawValue as UInt32] in
      FaultPlan.hold(SystemCall(rawValue: number)!)
      Thread { _ = try? Arena("first", .init(lock: .off)) }.start()
      while !FaultPlan.holdsThread { sched_yield() }
      let child = ct_fork()
      if child == 0 {
        let arena = try Arena("of a child", .init(lock: .off))
        _exit(arena.statistics.secretCount == 0 ? 0 : 1)
      }
      #expect(Self.end(of: child) == 0)
      FaultPlan.letGo()
    }
  }

  /// ENCLAVE_STATS=1 holds in a child that makes arenas of its own, as a daemon does after fork(2): it
  /// publishes beside its parent.
  @Test func aForkedChildPublishesBesideItsParent() async throws {
    let scratch = try Scratch(onTmpfs: true)
    await #expect(processExitsWith: .success) { [path = scratch.path as String] in
      setenv("ENCLAVE_STATS", "1", 1)
      setenv("ENCLAVE_STATS_DIR", path, 1)
      func pages() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path) }
      let arena = try Arena("parent", .init(lock: .off))
      #expect(try pages().count == 1)
      let child = ct_fork()
      if child == 0 {
        let own = try Arena("child", .init(lock: .off))
        let count = try pages().count
        withExtendedLifetime(own) {}
        _exit(count == 2 ? 0 : Int32(count) + 10)
      }
      #expect(Self.end(of: child) == 0)
      #expect(try pages().count >= 1)
      withExtendedLifetime(arena) {}
    }
  }

  /// The exit status of a child; nil when it has not ended after a minute, and is killed.
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

  /// Threads create, use and drop arenas, and end, while the process forks: no child waits for a lock
  /// of the library that a thread of its parent held. Each child drops an inherited arena, makes arenas
  /// of its own on two threads, and ends.
  ///
  /// Everything has run once before the first fork, and all threads are bare ones: a child inherits
  /// the locks of the Swift runtime and of Foundation as they are.
  @Test func aChildForkedAtAnyMomentEnds() async {
    await #expect(processExitsWith: .success) {
      Self.work()
      let first = try #require(Self.startThread(Self.work))
      pthread_join(first, nil)
      var probe: Arena? = try Arena("inherited", .init(lock: .off))
      probe = nil
      withExtendedLifetime(probe) {}
      let isOver = Atomic<Bool>(false)
      var threads: [pthread_t] = []
      for _ in 0..<6 {
        let thread = Self.startThread {
          while !isOver.load(ordering: .relaxed) {
            if let thread = Self.startThread(Self.work) { pthread_join(thread, nil) }
          }
        }
        threads.append(try #require(thread))
      }
      for round in 0..<200 {
        var inherited: Arena? = try Arena("inherited", .init(lock: .off))
        let child = ct_fork()
        if child == 0 {
          inherited = nil
          guard let one = Self.startThread(Self.work), let other = Self.startThread(Self.work)
          else { _exit(1) }
          _exit(pthread_join(one, nil) == 0 && pthread_join(other, nil) == 0 ? 0 : 2)
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

  @Sendable private static func work() {
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
