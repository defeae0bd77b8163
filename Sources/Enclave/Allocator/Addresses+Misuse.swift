// What C's addresses need beyond a handle's: windows counted by secret, and addresses that are known
// to be a destroyed arena's.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// From now on windows to a secret's slot are counted, as they are where the process publishes:
  /// freeing it while one is open is noticed.
  func countWindows(of handle: SecretHandle) {
    if unsafe !Slab.countsWindows(of: handle.slab) { unsafe Slab.countWindows(of: handle.slab) }
  }

  /// Why a secret cannot be freed or resized: a window to it is open.
  func openWindows(of handle: SecretHandle) -> EnclaveError? {
    let slot = unsafe Slab.slots(of: handle.slab) + Int(handle.slot)
    let count = unsafe loadRelaxed(&slot.pointee.windows) & Slot.openNow
    return count == 0 ? nil : .windowsOpen(Int(count), label: labelText(handle.label))
  }

  /// The same for a slot that was claimed, which is given back then.
  func refusal(of handle: SecretHandle, _ slot: UnsafeMutablePointer<Slot>) -> EnclaveError? {
    guard let error = openWindows(of: handle) else { return nil }
    unsafe publish(handle.generation, to: &slot.pointee.generation)
    return error
  }
}

extension ArenaCore {
  /// Before the chunks of a destroyed arena are unmapped: the addresses of its live secrets are known
  /// as such until the memory is another arena's, and all others are nobody's.
  func markAddressesAsDestroyed() {
    for index in 0..<slabs.count {
      let slab = unsafe slabs[index].slab
      guard unsafe slab.pointee.byteCount > 0 else { continue }
      let owner = unsafe slab.pointee.live > 0 ? Slab.destroyed : nil
      unsafe PageOwners.set(owner, at: slab.pointee.base, slab.pointee.byteCount)
    }
  }
}

extension Slab {
  /// Stands in the table of pages for runs that were destroyed with live secrets in them. It has no
  /// slots, so that no address is found in it.
  nonisolated(unsafe) static let destroyed: UnsafeMutableRawPointer = {
    let slab = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<Slab>.size, alignment: 64)
    unsafe slab.initializeMemory(as: UInt8.self, repeating: 0, count: MemoryLayout<Slab>.size)
    return unsafe slab
  }()
}

extension SecretHandle {
  /// Whether an address was a destroyed arena's when it was last one's: its secrets were live then.
  package static func isDestroyed(_ address: UnsafeRawPointer) -> Bool {
    guard let owner = unsafe pageOwner(of: address) else { return false }
    return unsafe owner == Slab.destroyed
  }

  /// Whether an address lies in an arena.
  package static func isOwned(_ address: UnsafeRawPointer) -> Bool {
    guard let owner = unsafe pageOwner(of: address) else { return false }
    return unsafe owner != Slab.destroyed
  }
}
