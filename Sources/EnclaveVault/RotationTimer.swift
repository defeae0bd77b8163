// Periodic key rotation.

#if Sodium
  public import Enclave
  import Synchronization

  extension Vault {
    /// Rotates at a fixed interval from now on, on a thread of the library, for as long as the
    /// vault lives. A failed rotation is counted (`Statistics.failedRotations`) and resumed at the
    /// next interval; nothing is lost.
    ///
    /// - Parameter interval: replaces an earlier interval; nil stops the timer. Rounded to
    ///   milliseconds; less than a second counts as a second. Time in suspend counts.
    /// - Throws: `system` if the thread cannot be created (pthread_create(3)); `inheritedByFork`.
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

  /// The timer of one vault. Its thread checks the clock every second and does not retain the
  /// vault.
  final class RotationTimer: @unchecked Sendable {
    private weak var vault: Vault?
    private let interval: UInt64
    /// The next rotation, in milliseconds since boot. Used only by the timer's thread.
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

    /// Returns false when the timer is no longer needed.
    private func tick() -> Bool {
      guard let vault, vault.timer.withLock({ $0 === self }) else { return false }
      let now = ProcessFacts.bootMilliseconds
      guard now >= due else { return true }
      due = now + interval
      do { try vault.rotate() } catch {
        vault.withCore { $0.statistics.failedRotations += 1 }
        // The vault was destroyed: nothing is left to rotate.
        if error == .destroyed { return false }
      }
      return true
    }
  }
#endif
