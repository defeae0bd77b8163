// Held windows, for adopted programs: a secret stays open or closed for every thread until the next
// call, as with libsodium's sodium_mprotect_*.

import EnclaveStats
import EnclaveSystem

extension SecretHandle {
  /// Opens the secret for all threads, or closes it, until the next call. While it is open, it
  /// counts as a window that no thread owns: it is published and audited, and freeing the secret
  /// closes it first. Only for isolated secrets under a page gate.
  ///
  /// The slab's window counts say how far it is open now, so the caller must make sure that nothing
  /// else opens it.
  private func hold(_ wanted: Protection) throws(EnclaveError) {
    let arena = self.arena
    guard arena.gate.isOwn else { throw .inheritedByFork }
    if wanted != .closed { try enterHeld(arena, writing: wanted == .readWrite) }
    let before: Protection
    do throws(EnclaveError) {
      before = unsafe try arena.withShard(Int(slab.pointee.shard)) { shard throws(EnclaveError) in
        guard unsafe Slot.generation(of: Slab.slots(of: slab) + Int(slot)) == generation else {
          throw .destroyed
        }
        let before = unsafe slab.pointee.needed(.closed)
        if before == wanted { return before }
        if wanted != .closed {
          unsafe try arena.openPages(slab, writing: wanted == .readWrite, shard: &shard)
        }
        if before != .closed {
          unsafe arena.closePages(slab, writing: before == .readWrite, shard: &shard)
        }
        return before
      }
    } catch {
      if wanted != .closed {
        arena.gate.leaveHeld(writing: wanted == .readWrite, label: label, undone: true)
      }
      arena.recordFailedOpen(self, error)
      throw error
    }
    if before == wanted {
      if wanted != .closed {
        arena.gate.leaveHeld(writing: wanted == .readWrite, label: label, undone: true)
      }
      return
    }
    count(opened: wanted != .closed, closed: before != .closed)
    if before != .closed {
      arena.gate.leaveHeld(writing: before == .readWrite, label: label)
    }
  }

  private func enterHeld(_ arena: ArenaReference, writing: Bool) throws(EnclaveError) {
    while true {
      let entry: GateState.Entry
      do throws(SystemFailure) {
        entry = try arena.gate.enterHeld(writing: writing, label: label)
      } catch { throw .system(error) }
      if entry == .open { return }
      try arena.retryOrThrow(after: entry.rawValue, label: label)
    }
  }

  /// Updates the window count in the secret's own slot.
  private func count(opened: Bool, closed: Bool) {
    guard unsafe Slab.countsWindows(of: slab) else { return }
    var change: UInt64 = opened ? Slot.windowOpened : 0
    if closed { change &-= 1 }
    unsafe addRelaxed(change, to: &Slab.slots(of: slab)[Int(slot)].windows)
  }

  /// Holds the secret at a protection given as a number: 0 is closed, 1 readable, 2 writable.
  /// Returns false for any other number, and for a secret that cannot be held open.
  package func hold(_ protection: Int32) throws(EnclaveError) -> Bool {
    guard let wanted = Protection(rawValue: protection), canBeHeld else { return false }
    try hold(wanted)
    return true
  }

  private var canBeHeld: Bool { unsafe arena.hasPageGate && slab.pointee.isIsolated }

  /// Closes the secret if it is held open, then wipes and frees it.
  package func freeHeld() throws(EnclaveError) {
    if canBeHeld { try hold(.closed) }
    try free()
  }
}
