// Windows that belong to no thread (see CEnclaveHeld.h), and gates that a forked child inherits.

internal import CEnclaveSystem

extension GateState {
  /// Counts a window that belongs to no thread. Allocates its counters on first use.
  package func enterHeld(writing: Bool, label: UInt16) throws(SystemFailure) -> Entry {
    while true {
      let entry = unsafe Entry(rawValue: ces_held_enter(raw, writing, UInt32(label)))!
      guard entry == .noCounters else { return entry }
      try perform(.extendCounts) {
        unsafe ces_held_counters_make(
          raw.assumingMemoryBound(to: ces_gate.self), UInt32(label))
      }
    }
  }

  /// Ends the count of such a window. `undone`: it was counted but could not be opened.
  package func leaveHeld(writing: Bool, label: UInt16, undone: Bool = false) {
    unsafe ces_held_leave(raw, writing, UInt32(label), undone)
  }

  /// In a forked child: makes the gate belong to this process. The caller holds the registry's
  /// lock.
  package func inherit(generation: UInt64) {
    unsafe ces_gate_inherit(raw.assumingMemoryBound(to: ces_gate.self), generation)
  }

  /// In a forked child that inherits arenas: resets thread numbers and the signal wipe's owner.
  package static func inheritProcess() {
    ces_threads_inherit()
    ces_wipe_inherit()
  }
}
