// Windows that belong to no thread (see CEnclaveHeld.h), and gates that forked children inherit.

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

  /// In a forked child: the gate is this process' from now on. The caller holds the registry's lock.
  package func inherit(generation: UInt64) {
    unsafe ces_gate_inherit(raw.assumingMemoryBound(to: ces_gate.self), generation)
  }

  /// In a forked child that inherits: threads and the wipe of signals begin anew.
  package static func inheritProcess() {
    ces_threads_inherit()
    ces_wipe_inherit()
  }
}
