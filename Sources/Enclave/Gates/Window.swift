// Opening and closing: what a window does on its way in and out.

import EnclaveSystem

extension SecretHandle {
  /// Opens a window; returns what closing it puts back. A system call under a page gate, else none.
  @inline(__always)
  package func openWindow(writing: Bool) throws(EnclaveError) -> UInt64 {
    let arena = self.arena
    let gate = arena.gate
    while true {
      let entry = gate.enter(writing: writing, label: label)
      if entry == 0 { break }
      do { try arena.wait(for: entry, label: label) } catch {
        arena.openFailed(self, error)
        throw error
      }
    }
    guard unsafe Slab.slots(of: slab)[Int(slot)].generation == generation else {
      gate.undo(writing: writing, label: label)
      throw .destroyed
    }
    if arena.hasPageGate { try openPages(arena, writing: writing) }
    var counted: UInt64 = 0
    if unsafe Slab.countsWindows(of: slab) {
      countWindow(Slot.windowOpened)
      counted = Self.isCounted
    }
    // Counted before: who frees it meanwhile is refused.
    let scratch =
      arena.hasCipherGate ? try openScratchOrUndo(arena, writing: writing, counted) : 0
    return scratch | counted | UInt64(gate.openKey(writing: writing))
  }

  @inline(__always)
  private func countWindow(_ change: UInt64) {
    unsafe addRelaxed(change, to: &Slab.slots(of: slab)[Int(slot)].windows)
  }

  /// Beside the key's bits: the window was counted in the secret's slot. (Publishing may start
  /// while it is open.)
  private static var isCounted: UInt64 { 1 << 32 }

  @inline(never)
  private func openScratchOrUndo(
    _ arena: ArenaReference, writing: Bool, _ counted: UInt64
  ) throws(EnclaveError) -> UInt64 {
    do { return try openScratch(arena, writing: writing) } catch {
      if counted != 0 { countWindow(0 &- Slot.windowOpened) }
      arena.gate.undo(writing: writing, label: label)
      arena.openFailed(self, error)
      throw error
    }
  }

  @inline(never)
  private func openPages(_ arena: ArenaReference, writing: Bool) throws(EnclaveError) {
    do throws(EnclaveError) {
      if arena.isInterruptedHere { throw .busy }
      unsafe try arena.withShard(Int(slab.pointee.shard)) { shard throws(EnclaveError) in
        unsafe try arena.openPages(slab, writing: writing, shard: &shard)
      }
    } catch {
      arena.gate.undo(writing: writing, label: label)
      arena.openFailed(self, error)
      throw error
    }
  }

  /// Closes a window. False when the contents were not there all the while, and what was done with them
  /// may have been done with zeros: `loss` says why.
  @inline(__always) @discardableResult
  package func closeWindow(writing: Bool, _ found: UInt64) -> Bool {
    let arena = self.arena
    let isWhole = !arena.gate.isWiped
    // In a forked child that was made inside of the body there is nothing to close but the key.
    arena.gate.closeKey(UInt32(truncatingIfNeeded: found))
    guard arena.gate.isOwn else { return false }
    if arena.hasCipherGate { closeScratch(arena, writing: writing, found) }
    if found & Self.isCounted != 0 { countWindow(.max) }
    if arena.hasPageGate {
      unsafe arena.withShard(Int(slab.pointee.shard)) { shard in
        unsafe arena.closePages(slab, writing: writing, shard: &shard)
      }
    }
    arena.gate.leave(writing: writing, label: label)
    return isWhole
  }

  /// Why a window's contents were lost: everything was wiped, or this is a child that was forked while
  /// it was open.
  package var loss: EnclaveError { arena.gate.isOwn ? .destroyed : .inheritedByFork }

  /// Runs a body in a window of its own, with where the bytes are. `destroyed` or `inheritedByFork`, and no result, when the
  /// contents were lost meanwhile.
  package func withWindow<R: ~Copyable>(
    writing: Bool, _ body: (UnsafeMutableRawPointer) throws(EnclaveError) -> R
  ) throws(EnclaveError) -> R {
    let found = try openWindow(writing: writing)
    let result: R
    do { result = unsafe try body(bytes(found)) } catch {
      closeWindow(writing: writing, found)
      throw error
    }
    guard closeWindow(writing: writing, found) else { throw loss }
    return result
  }

  /// Copies as many bytes as fit.
  func copy(into other: SecretHandle) throws(EnclaveError) {
    unsafe try withWindow(writing: false) { from throws(EnclaveError) in
      unsafe try other.withWindow(writing: true) { to throws(EnclaveError) in
        unsafe copySecret(from: from, to: to, byteCount: Int(min(byteCount, other.byteCount)))
      }
    }
  }
}
