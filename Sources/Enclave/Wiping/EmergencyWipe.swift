// Wiping everything at once.

import EnclaveStats
import EnclaveSystem

/// Wiping that does not wait for anybody.
public enum EmergencyWipe {
  /// Wipes every arena of the process, vaults' keys included, now. They stay mapped, as zeros; from
  /// now on each use of one throws `EnclaveError.destroyed`.
  ///
  /// It waits for no window: whoever has one open reads zeros from now on, and gets `destroyed`
  /// instead of a result when it closes. Any thread, outside of signal handlers. O(memory in use).
  ///
  /// - Returns: what could not be wiped, by arena: pages that something else unmapped, say. Whatever
  ///   else there is has been wiped then.
  @discardableResult
  public static func wipeEverything() -> [Failure] { Registry.wipeEverything() }

  /// Memory that could not be wiped.
  public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
    /// The arena's name.
    public let arena: String
    /// How much of it, in bytes: whole pages.
    public let byteCount: Int
    /// The call that failed first.
    public let reason: SystemFailure

    /// How much of which arena was not wiped, and why.
    public var description: String {
      "\(byteCount) bytes of arena \(arena) were not wiped: \(reason)"
    }

    /// Says so on standard error: nobody is left to be told.
    func complain() { ProcessFacts.complain("Enclave: \(self)\n") }
  }

  /// Signals that end a process that does nothing about them: HUP, INT, QUIT, PIPE, ALRM, TERM, USR1,
  /// USR2, XCPU, XFSZ.
  public static var terminationSignals: [Int32] { WipeTable.terminationSignals }

  /// Has signals that end the process wipe every arena first: `signals`, and faults (SEGV, BUS, ILL,
  /// FPE, TRAP, SYS, and abort's ABRT). Then the signal does what it would have done.
  ///
  /// - What is ignored stays ignored. A termination signal that the application handles stays the
  ///   application's alone. A fault's handler of the application's runs first; when it returns with the
  ///   signal's disposition at default, everything is wiped and the process ends.
  /// - The Swift runtime's crash reporter runs after the wipe, and the crashed thread's registers
  ///   and the innermost frame of its stack are cleared before: the report shows the way through the
  ///   stack, and no secret.
  /// - Handlers that are installed later take a signal away: `coveredSignals` tells.
  /// - What other threads write in windows that they have open is waited for, 20 ms at most, and
  ///   wiped too.
  /// - From now on each thread gets an alternate signal stack (sigaltstack(2)) with its first window,
  ///   unless it has one; the calling thread gets one now. So a stack that overflows is wiped for,
  ///   too.
  ///
  /// The handler is async-signal-safe. It takes some 0.1 ms for each MiB in use, and more under a
  /// page gate. SIGKILL, `_exit` and power loss wipe nothing.
  ///
  /// Calling it again adds signals, and takes back those that were taken away. Any thread; best
  /// before there are others. O(signals).
  ///
  /// - Throws: `EnclaveError.system` with sigaction(2)'s answer, for example for SIGKILL: what came
  ///   before it in the list is in place then.
  public static func install(
    signals: [Int32] = EmergencyWipe.terminationSignals
  ) throws(EnclaveError) {
    WipeTable.prepare()
    do throws(SystemFailure) {
      for signal in signals { _ = try WipeTable.install(signal: signal, isFault: false) }
      for signal in WipeTable.faultSignals {
        _ = try WipeTable.install(signal: signal, isFault: true)
      }
    } catch { throw .system(error) }
    Registry.refresh()
  }

  /// The signals of which this library has the handler now: termination signals and faults that
  /// `install` took and nobody took away. O(1) system calls.
  public static var coveredSignals: [Int32] {
    (1..<65).filter { WipeTable.covers(signal: $0) }
  }
}
