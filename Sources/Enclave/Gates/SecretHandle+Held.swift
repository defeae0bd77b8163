// A protection that stays: open or closed for every thread until some thread says otherwise, as
// libsodium's sodium_mprotect_* have it. For adopted programs.

import EnclaveStats
import EnclaveSystem

extension SecretHandle {
  /// Opens the secret to all threads, or closes it, until the next call. It is a window that no thread
  /// owns: the page counts it, the audit knows it, and freeing the secret closes it first. Under a page
  /// gate, of a secret with pages of its own.
  ///
  /// How far it is held open now is what its slab's windows say: nobody else opens it (the caller sees
  /// to that).
  private func hold(_ wanted: Protection) throws(EnclaveError) {
    let arena = self.arena
    guard arena.gate.isOwn else { throw .inheritedByFork }
    if wanted != .closed { try enterHeld(arena, writing: wanted == .readWrite) }
    let before: Protection
    do throws(EnclaveError) {
      before = unsafe try arena.withShard(Int(slab.pointee.shard)) { shard throws(EnclaveError) in
        guard unsafe Slab.slots(of: slab)[Int(slot)].generation == generation else {
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
      arena.openFailed(self, error)
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
      try arena.wait(for: entry.rawValue, label: label)
    }
  }

  /// In the secret's own slot.
  private func count(opened: Bool, closed: Bool) {
    guard unsafe Slab.countsWindows(of: slab) else { return }
    var change: UInt64 = opened ? Slot.windowOpened : 0
    if closed { change &-= 1 }
    unsafe addRelaxed(change, to: &Slab.slots(of: slab)[Int(slot)].windows)
  }

  /// The same by number: 0 closed, 1 for reading, 2 for reading and writing. False where there is no such
  /// protection, and for a secret that cannot be held open.
  package func hold(_ protection: Int32) throws(EnclaveError) -> Bool {
    guard let wanted = Protection(rawValue: protection), canBeHeld else { return false }
    try hold(wanted)
    return true
  }

  private var canBeHeld: Bool { unsafe arena.hasPageGate && slab.pointee.isIsolated }

  /// Closes it if it is held open, then wipes and frees it.
  package func freeHeld() throws(EnclaveError) {
    if canBeHeld { try hold(.closed) }
    try free()
  }
}
