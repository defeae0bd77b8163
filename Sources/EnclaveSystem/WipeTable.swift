// Swift's view of the wipe table, which tells a signal handler what to wipe; see CEnclaveWipe.h.

internal import CEnclaveSystem

/// A chunk's entry in the wipe table.
@safe
package struct WipeEntry: BitwiseCopyable {
  let raw: UnsafeMutableRawPointer

  init(raw: UnsafeMutableRawPointer) { unsafe self.raw = unsafe raw }

  private var entry: UnsafeMutablePointer<ces_wipe_entry> {
    unsafe raw.assumingMemoryBound(to: ces_wipe_entry.self)
  }

  /// Adds an entry for a chunk that holds nothing yet.
  package init(data: UnsafeMutableRawPointer, gate: GateState) throws(SystemFailure) {
    var made: UnsafeMutableRawPointer?
    try perform(.extendWipeTable) {
      let entry = unsafe ces_wipe_add(data, gate.raw.assumingMemoryBound(to: ces_gate.self))
      unsafe made = unsafe entry.map { UnsafeMutableRawPointer($0) }
      return unsafe made == nil ? -12 : 0  // ENOMEM: mmap's answer
    }
    unsafe raw = unsafe made.unsafelyUnwrapped
  }

  /// Sets how many bytes may hold secrets. Call it before the first of them is written.
  package func setUsed(_ byteCount: Int) { unsafe ces_wipe_set_used(entry, byteCount) }

  /// Removes the entry of a wiped chunk that is about to be unmapped. Never returns while a
  /// signal's wipe is in progress.
  package func remove() { unsafe ces_wipe_remove(entry) }
}

package enum WipeTable {
  /// CES_WIPE_…; the stats page shows the same value.
  package static var status: UInt32 { ces_wipe_status() }

  /// Whether a signal's wipe has begun, which means that the process is ending.
  package static var hasBegun: Bool { ces_wipe_status() >= CES_WIPE_BEGUN }

  /// Makes a signal wipe before its current action. Returns false if the signal is ignored or
  /// handled by the application; then nothing changes.
  package static func install(signal: Int32, isFault: Bool) throws(SystemFailure) -> Bool {
    try perform(.installWipeHandler) { ces_wipe_install(signal, isFault) } > 0
  }

  package static func covers(signal: Int32) -> Bool { ces_wipe_covers(signal) }

  /// Prepares what all handlers need: the range of the library's code, and an alternate stack for
  /// this thread.
  package static func prepare() {
    ces_wipe_note_code()
    _ = ces_alternate_stack()
  }

  /// Where on the stats page a wipe records its status and its signal; nil stops that.
  package static func report(
    to words: (status: UnsafeMutableRawPointer, signal: UnsafeMutableRawPointer)?
  ) {
    unsafe ces_wipe_report_to(
      words?.status.assumingMemoryBound(to: UInt64.self),
      words?.signal.assumingMemoryBound(to: UInt64.self))
  }

  /// For a forked child, which has no stats page yet.
  package static func stopReporting() { ces_wipe_report_to(nil, nil) }

  /// Signals that terminate a process by default: signal(7).
  package static let terminationSignals: [Int32] = [
    Int32(CES_SIGNAL_HUP), Int32(CES_SIGNAL_INT), Int32(CES_SIGNAL_QUIT), Int32(CES_SIGNAL_PIPE),
    Int32(CES_SIGNAL_ALRM), Int32(CES_SIGNAL_TERM), Int32(CES_SIGNAL_USR1),
    Int32(CES_SIGNAL_USR2), Int32(CES_SIGNAL_XCPU), Int32(CES_SIGNAL_XFSZ),
  ]
  /// Signals of faults and of abort(3).
  package static let faultSignals: [Int32] = [
    Int32(CES_SIGNAL_ILL), Int32(CES_SIGNAL_TRAP), Int32(CES_SIGNAL_ABRT), Int32(CES_SIGNAL_BUS),
    Int32(CES_SIGNAL_FPE), Int32(CES_SIGNAL_SEGV), Int32(CES_SIGNAL_SYS),
  ]
}
