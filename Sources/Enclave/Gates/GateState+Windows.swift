// An arena's gate: what windows and frees do to it.

import EnclaveSystem

extension GateState {
  /// Counts a window in: an `Entry` as a number, 0 is open.
  @inline(__always)
  func enter(writing: Bool, label: UInt16) -> Int32 {
    unsafe gateEnter(raw, writing: writing, label: label)
  }

  @inline(__always)
  func leave(writing: Bool, label: UInt16) { unsafe gateLeave(raw, writing: writing, label: label) }

  /// Counts a free in: an `Entry` as a number.
  @inline(__always)
  func enterWipe() -> Int32 { unsafe gateEnterWipe(raw) }

  @inline(__always)
  func leaveWipe() { unsafe gateLeaveWipe(raw) }

  /// Opens the key for this thread; returns what `closeKey` puts back.
  @inline(__always)
  func openKey(writing: Bool) -> UInt32 { unsafe gateOpenKey(raw, writing: writing) }

  @inline(__always)
  func closeKey(_ found: UInt32) { unsafe gateCloseKey(raw, found) }

  /// Whether the contents were wiped under windows that were open.
  @inline(__always)
  var isWiped: Bool { unsafe gateIsWiped(raw) }

  /// Whether this thread has the key open for writing.
  var isKeyOpen: Bool { unsafe gateIsKeyOpen(raw) }

  /// Whether this process made the arena. Two loads.
  @inline(__always)
  var isOwn: Bool { unsafe gateIsOwn(raw) }

  /// The access as a number, 0 is open.
  @inline(__always)
  var accessCode: UInt32 { unsafe gateAccess(raw) }

  /// Frozen, also while the access is being changed.
  @inline(__always)
  var isFrozen: Bool { unsafe gateIsFrozen(raw) }

  /// This thread's number, 0 to 63.
  @inline(__always)
  static var thread: Int { threadNumber() }
}
