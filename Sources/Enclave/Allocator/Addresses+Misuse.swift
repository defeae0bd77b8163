// What addresses in C need beyond a handle: windows counted per secret, and a record of addresses
// that belonged to a destroyed arena.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// Starts counting windows of a secret's slot, as for a process that publishes, so that freeing
  /// the secret while one is open is detected.
  func startCountingWindows(of handle: SecretHandle) {
    if unsafe !Slab.countsWindows(of: handle.slab) {
      unsafe Slab.startCountingWindows(of: handle.slab)
    }
  }

  /// The error for freeing or resizing a secret while a window to it is open; nil if none is.
  func openWindows(of handle: SecretHandle) -> EnclaveError? {
    let slot = unsafe Slab.slots(of: handle.slab) + Int(handle.slot)
    let count = unsafe loadRelaxed(&slot.pointee.windows) & Slot.openNow
    return count == 0 ? nil : .windowsOpen(Int(count), label: labelText(handle.label))
  }

  /// The same for a slot that the caller has claimed; on an error the claim is released.
  func refusal(of handle: SecretHandle, _ slot: UnsafeMutablePointer<Slot>) -> EnclaveError? {
    guard let error = openWindows(of: handle) else { return nil }
    unsafe publish(handle.generation, to: &slot.pointee.generation)
    return error
  }
}

extension ArenaCore {
  /// Called before the chunks of a destroyed arena are unmapped. Addresses of slabs with live
  /// secrets are marked as destroyed until another arena uses the memory; all others become
  /// unowned.
  func markAddressesAsDestroyed() {
    for index in 0..<slabs.count {
      let slab = unsafe slabs[index].slab
      guard unsafe slab.pointee.byteCount > 0,
        unsafe chunks[Int(slab.pointee.chunk)].isMapped
      else { continue }
      let owner = unsafe slab.pointee.live > 0 ? Slab.destroyed : nil
      unsafe PageOwners.set(owner, at: slab.pointee.base, slab.pointee.byteCount)
    }
  }
}

extension Slab {
  /// The owner of slabs that were destroyed with live secrets, in the page table. It has no slots,
  /// so no address is ever found in it.
  nonisolated(unsafe) static let destroyed: UnsafeMutableRawPointer = {
    let slab = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<Slab>.size, alignment: 64)
    unsafe slab.initializeMemory(as: UInt8.self, repeating: 0, count: MemoryLayout<Slab>.size)
    return unsafe slab
  }()
}

extension SecretHandle {
  /// Whether the last owner of an address was an arena that was destroyed while secrets lived in
  /// its slab.
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
