// Windows that belong to no thread: see CEnclaveHeld.h.

internal import CEnclaveSystem

extension GateState {
  /// Counts such a window in. Makes room for its count where there is none yet.
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

  /// Counts it out; `undone`: it could not be opened after all.
  package func leaveHeld(writing: Bool, label: UInt16, undone: Bool = false) {
    unsafe ces_held_leave(raw, writing, UInt32(label), undone)
  }
}
