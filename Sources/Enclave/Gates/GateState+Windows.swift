// Entering and leaving a gate, for windows and frees.

import EnclaveSystem

extension GateState {
  /// Enters a window. Returns the raw value of an `Entry`; 0 means open.
  @inline(__always)
  func enter(writing: Bool, label: UInt16) -> Int32 {
    unsafe gateEnter(raw, writing: writing, label: label)
  }

  /// Ends a window that was entered.
  @inline(__always)
  func leave(writing: Bool, label: UInt16) { unsafe gateLeave(raw, writing: writing, label: label) }

  /// Enters a free. Returns the raw value of an `Entry`; 0 means open.
  @inline(__always)
  func enterWipe() -> Int32 { unsafe gateEnterWipe(raw) }

  /// Ends a free that was entered.
  @inline(__always)
  func leaveWipe() { unsafe gateLeaveWipe(raw) }

  /// Opens the key for this thread. Returns the previous bits, which `closeKey` restores.
  @inline(__always)
  func openKey(writing: Bool) -> UInt32 { unsafe gateOpenKey(raw, writing: writing) }

  /// Restores the key's previous bits for this thread.
  @inline(__always)
  func closeKey(_ found: UInt32) { unsafe gateCloseKey(raw, found) }

  /// Whether the contents were wiped while windows were open.
  @inline(__always)
  var isWiped: Bool { unsafe gateIsWiped(raw) }

  /// Whether this thread has the key open for writing.
  var isKeyOpen: Bool { unsafe gateIsKeyOpen(raw) }

  /// Whether the arena belongs to this process and not to its parent. Two loads.
  @inline(__always)
  var isOwn: Bool { unsafe gateIsOwn(raw) }

  /// The raw value of the `Access`; 0 means open.
  @inline(__always)
  var accessCode: UInt32 { unsafe gateAccess(raw) }

  /// Whether the arena is frozen, even while `access` is `changing`.
  @inline(__always)
  var isFrozen: Bool { unsafe gateIsFrozen(raw) }

  /// This thread's number, 0 to 63.
  @inline(__always)
  static var thread: Int { threadNumber() }
}
