// New keys by the clock, for who asks for them.

#if Sodium
  public import Enclave
  import Synchronization

  extension Vault {
    /// Rotates now and then: at each interval from now on, by a thread of the library's, for as long
    /// as the vault lives. A rotation that throws is counted (`Statistics.failedRotations`) and goes on at
    /// the next interval; nothing is lost.
    ///
    /// - Parameter interval: of time that goes on while the machine is suspended; nil for no more of
    ///   it. At least a second. An earlier interval is forgotten.
    /// - Throws: `system` when there can be no thread; `inheritedByFork`.
    public func rotate(every interval: Duration?) throws(EnclaveError) {
      guard !arena.reference.isInherited else { throw .inheritedByFork }
      guard let interval else {
        timer.withLock { $0 = nil }
        return
      }
      let timer = RotationTimer(
        self, milliseconds: UInt64(min(max(1000, interval / .milliseconds(1)), 1e15)))
      self.timer.withLock { $0 = timer }
      do throws(SystemFailure) { try timer.start() } catch {
        self.timer.withLock { $0 = nil }
        throw .system(error)
      }
    }
  }

  /// What the thread of one vault knows. It looks at the clock each second, and keeps no vault alive.
  final class RotationTimer: @unchecked Sendable {
    private weak var vault: Vault?
    private let interval: UInt64
    /// In milliseconds since boot. The thread's alone.
    private var due: UInt64

    init(_ vault: Vault, milliseconds: UInt64) {
      self.vault = vault
      interval = milliseconds
      due = ProcessFacts.bootMilliseconds + milliseconds
    }

    func start() throws(SystemFailure) {
      let context = unsafe Unmanaged.passRetained(self)
      do {
        try perform(.startThread) {
          unsafe StatsPageCalls.startTicker(
            named: "enclave-rotate", everyMs: 1000, context: context.toOpaque()
          ) { context in
            let timer = unsafe Unmanaged<RotationTimer>.fromOpaque(context!)
            if unsafe asLibrary(timer.takeUnretainedValue().tick) { return 1 }
            unsafe timer.release()
            return 0
          }
        }
      } catch {
        unsafe context.release()
        throw error
      }
    }

    /// False when nobody wants it any more.
    private func tick() -> Bool {
      guard let vault, vault.timer.withLock({ $0 === self }) else { return false }
      let now = ProcessFacts.bootMilliseconds
      guard now >= due else { return true }
      due = now + interval
      do { try vault.rotate() } catch {
        vault.withCore { $0.statistics.failedRotations += 1 }
        // The vault was destroyed: there is nothing to rotate any more.
        if error == .destroyed { return false }
      }
      return true
    }
  }
#endif
