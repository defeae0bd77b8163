// Failure injection for tests. Compiled into debug builds only, and controlled only by code of this
// package: no environment variable or file can turn it on.

#if ENCLAVE_FAULTS
  internal import CEnclaveSystem
  import Synchronization

  /// Makes chosen system calls fail without performing them.
  package enum FaultPlan {
    private struct Rule {
      var call: SystemCall
      var errno: Int32
      var skip: Int
      var times: Int
    }
    private static let rules = Mutex<[Rule]>([])
    private static let reached = Mutex<Set<SystemCall>>([])
    private static let armed = Atomic<Bool>(false)

    /// Fails `call` with `errno`: skips the next `skip` calls, then fails the following `times`.
    package static func fail(
      _ call: SystemCall, errno: Int32, after skip: Int = 0, times: Int = 1
    ) {
      rules.withLock { $0.append(Rule(call: call, errno: errno, skip: skip, times: times)) }
      armed.store(true, ordering: .releasing)
    }

    /// Reports success for `call` without performing it, which switches that protection off.
    package static func switchOff(_ call: SystemCall) { fail(call, errno: 0, times: .max) }

    /// Lets a thread that is created in a window inherit its creator's open keys.
    package static func letThreadsInheritKeys() { ces_pool_clear() }

    package static func clear() { rules.withLock { $0 = [] } }

    /// The calls that a rule has made fail.
    package static var failed: Set<SystemCall> { reached.withLock { $0 } }

    private static let held = Mutex<SystemCall?>(nil)
    private static let isHolding = Atomic<Bool>(false)

    /// Blocks the next thread that is about to make `call` until `resume` is called.
    package static func hold(_ call: SystemCall) {
      held.withLock { $0 = call }
      armed.store(true, ordering: .releasing)
    }

    /// Whether a thread is blocked.
    package static var holdsThread: Bool { isHolding.load(ordering: .acquiring) }

    package static func resume() { isHolding.store(false, ordering: .releasing) }

    private static func holdThread(at call: SystemCall) {
      let isChosen = held.withLock { held in
        guard held == call else { return false }
        held = nil
        return true
      }
      guard isChosen else { return }
      isHolding.store(true, ordering: .releasing)
      while holdsThread { ces_sleep_ms(1) }
    }

    static func answer(to call: SystemCall) -> Int64? {
      guard armed.load(ordering: .acquiring) else { return nil }
      holdThread(at: call)
      let errno: Int32? = rules.withLock { rules in
        guard let index = rules.firstIndex(where: { $0.call == call && $0.times > 0 }) else {
          return nil
        }
        if rules[index].skip > 0 {
          rules[index].skip -= 1
          return nil
        }
        rules[index].times -= 1
        return rules[index].errno
      }
      guard let errno else { return nil }
      reached.withLock { _ = $0.insert(call) }
      return -Int64(errno)
    }
  }
#endif
