// Opening and closing windows.

import EnclaveSystem

extension SecretHandle {
  /// Opens a window. Returns the value that `closeWindow` needs. One system call under a page gate,
  /// otherwise none.
  @inline(__always)
  package func openWindow(writing: Bool) throws(EnclaveError) -> UInt64 {
    let arena = self.arena
    let gate = arena.gate
    while true {
      let entry = gate.enter(writing: writing, label: label)
      if entry == 0 { break }
      do { try arena.retryOrThrow(after: entry, label: label) } catch {
        arena.recordFailedOpen(self, error)
        throw error
      }
    }
    guard unsafe Slot.generation(of: Slab.slots(of: slab) + Int(slot)) == generation else {
      gate.undoEntry(writing: writing, label: label)
      throw .destroyed
    }
    if arena.hasPageGate { try openPages(arena, writing: writing) }
    var counted: UInt64 = 0
    if unsafe Slab.countsWindows(of: slab) {
      countWindow(Slot.windowOpened)
      counted = Self.isCounted
    }
    // The window is counted by now, so freeing the secret is refused.
    var scratch: UInt64 = 0
    if arena.hasCipherGate {
      if !writing { scratch = openScratchQuickly(arena) }
      if scratch == 0 { scratch = try openScratchOrUndo(arena, writing: writing, counted) }
    }
    return scratch | counted | UInt64(gate.openKey(writing: writing))
  }

  @inline(__always)
  private func countWindow(_ change: UInt64) {
    unsafe addRelaxed(change, to: &Slab.slots(of: slab)[Int(slot)].windows)
  }

  /// A flag above the key's bits: the window was counted in the secret's slot. (Publishing may
  /// start while it is open.)
  private static var isCounted: UInt64 { 1 << 32 }

  @inline(never)
  private func openScratchOrUndo(
    _ arena: ArenaReference, writing: Bool, _ counted: UInt64
  ) throws(EnclaveError) -> UInt64 {
    do { return try openScratch(arena, writing: writing) } catch {
      if counted != 0 { countWindow(0 &- Slot.windowOpened) }
      arena.gate.undoEntry(writing: writing, label: label)
      arena.recordFailedOpen(self, error)
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
      arena.gate.undoEntry(writing: writing, label: label)
      arena.recordFailedOpen(self, error)
      throw error
    }
  }

  /// Closes a window. Returns false if the contents were lost while it was open, so that the body
  /// may have used zeros; `lossReason` says why.
  @inline(__always) @discardableResult
  package func closeWindow(writing: Bool, _ found: UInt64) -> Bool {
    let arena = self.arena
    let isIntact = !arena.gate.isWiped
    // In a child forked inside the body, only the key remains to be closed.
    arena.gate.closeKey(UInt32(truncatingIfNeeded: found))
    guard arena.gate.isOwn else { return false }
    if arena.hasCipherGate, writing || !closeScratchQuickly(arena, found) {
      closeScratch(arena, writing: writing, found)
    }
    if found & Self.isCounted != 0 { countWindow(.max) }
    if arena.hasPageGate {
      unsafe arena.withShard(Int(slab.pointee.shard)) { shard in
        unsafe arena.closePages(slab, writing: writing, shard: &shard)
      }
    }
    arena.gate.leave(writing: writing, label: label)
    return isIntact
  }

  /// Why a window's contents were lost: everything was wiped, or this is a child that was forked
  /// while the window was open.
  package var lossReason: EnclaveError { arena.gate.isOwn ? .destroyed : .inheritedByFork }

  /// Runs a body in a new window, with the address of the bytes. Throws `destroyed` or
  /// `inheritedByFork` instead of returning a result if the contents were lost meanwhile.
  package func withWindow<R: ~Copyable>(
    writing: Bool, _ body: (UnsafeMutableRawPointer) throws(EnclaveError) -> R
  ) throws(EnclaveError) -> R {
    let found = try openWindow(writing: writing)
    let result: R
    do { result = unsafe try body(bytes(found)) } catch {
      closeWindow(writing: writing, found)
      throw error
    }
    guard closeWindow(writing: writing, found) else { throw lossReason }
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
