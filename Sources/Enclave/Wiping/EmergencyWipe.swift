// Wiping everything at once.

import EnclaveStats
import EnclaveSystem

/// Wiping without waiting for anyone.
public enum EmergencyWipe {
  /// Wipes every arena of the process now, including vaults' keys. The arenas stay mapped, as
  /// zeros; from then on every use of one throws `EnclaveError.destroyed`.
  ///
  /// It does not wait for windows: code with a window open reads zeros from then on, and gets
  /// `destroyed` instead of a result when the window closes. Any thread, outside signal handlers.
  /// O(memory in use).
  ///
  /// - Returns: what could not be wiped, by arena, for example pages that somebody unmapped.
  ///   Everything else has been wiped.
  @discardableResult
  public static func wipeEverything() -> [Failure] { Registry.wipeEverything() }

  /// Memory that could not be wiped.
  public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
    /// The arena's name.
    public let arena: String
    /// How many bytes: whole pages.
    public let byteCount: Int
    /// The first call that failed.
    public let reason: SystemFailure

    /// How much of which arena was not wiped, and why.
    public var description: String {
      "\(byteCount) bytes of arena \(arena) were not wiped: \(reason)"
    }

    /// Prints the failure to standard error, because no caller is left to report it to.
    func printToStandardError() { ProcessFacts.writeToStandardError("Enclave: \(self)\n") }
  }

  /// Signals that terminate a process by default: HUP, INT, QUIT, PIPE, ALRM, TERM, USR1, USR2,
  /// XCPU, XFSZ.
  public static var terminationSignals: [Int32] { WipeTable.terminationSignals }

  /// Makes signals that end the process wipe every arena first: `signals`, and faults (SEGV, BUS,
  /// ILL, FPE, TRAP, SYS, and abort's ABRT). Afterwards the signal has its usual effect.
  ///
  /// - Ignored signals stay ignored. A termination signal that the application handles is left to
  ///   the application. For faults, the application's handler runs first; if it returns with the
  ///   default action installed, everything is wiped and the process ends.
  /// - The Swift runtime's crash reporter runs after the wipe. Before it, the crashed thread's
  ///   registers and the innermost frame of its stack are cleared: the report shows the backtrace
  ///   and no secret.
  /// - A handler installed later replaces this one: see `coveredSignals`.
  /// - Windows for writing in other threads are waited for, 20 ms at most, and what they wrote is
  ///   wiped too.
  /// - From now on each thread gets an alternate signal stack (sigaltstack(2)) with its first
  ///   window, unless it has one; the calling thread gets one now. So a stack overflow is covered,
  ///   too.
  ///
  /// The handler is async-signal-safe. It takes some 0.1 ms per MiB in use, more under a page gate.
  /// SIGKILL, `_exit` and power loss wipe nothing.
  ///
  /// Calling this again adds signals and reinstalls replaced handlers. Any thread; best called
  /// before other threads exist. O(signals).
  ///
  /// - Throws: `EnclaveError.system` with sigaction(2)'s failure, for example for SIGKILL. Signals
  ///   before it in the list are installed.
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

  /// The signals whose current handler is this library's: termination signals and faults that
  /// `install` covered and nobody replaced. O(1) system calls.
  public static var coveredSignals: [Int32] {
    (1..<65).filter { WipeTable.covers(signal: $0) }
  }
}
