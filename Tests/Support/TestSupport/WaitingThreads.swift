import Foundation
import Testing

/// Runs a suite's tests on threads of their own, because they mostly wait for other processes: on the
/// threads that all tests share, one for each processor, they would keep the others from running.
public struct WaitingThreads: SuiteTrait, TestTrait, TestScoping {
  public var isRecursive: Bool { true }

  public func provideScope(
    for test: Test, testCase: Test.Case?,
    performing function: @Sendable () async throws -> Void
  ) async throws {
    try await withTaskExecutorPreference(Executor.shared) { try await function() }
  }

  private final class Executor: TaskExecutor {
    static let shared = Executor(threadCount: 4)

    /// The thread sanitizer sees this lock, unlike that of a `Mutex`.
    private let lock = NSLock()
    nonisolated(unsafe) private var jobs: [UnownedJob] = []
    private let count = DispatchSemaphore(value: 0)

    init(threadCount: Int) {
      for _ in 0..<threadCount {
        let thread = Thread { [self] in
          while true {
            count.wait()
            lock.withLock { jobs.removeFirst() }.runSynchronously(on: asUnownedTaskExecutor())
          }
        }
        (thread.name, thread.stackSize) = ("waiting", 8 << 20)
        thread.start()
      }
    }

    func enqueue(_ job: consuming ExecutorJob) {
      let job = UnownedJob(job)
      lock.withLock { jobs.append(job) }
      count.signal()
    }
  }
}

extension Trait where Self == WaitingThreads {
  public static var waitsForProcesses: Self { Self() }
}
