// The location of a secret, as Swift and C handles hold it, and the lookup of a secret by its
// address.

import EnclaveStats
import EnclaveSystem

/// The location of a secret, valid for one generation of its slot. Trivial: copying it grants no
/// access.
///
/// A handle has 32 bytes. With 16 bytes (slot, generation and size, with the rest read from the
/// slot) a window took 9.1 ns instead of 8.5 and an allocation 40 instead of 42; with 10,000 live
/// secrets there was no difference (minima of 36 runs). A handle of 16 bytes would also need to be
/// dereferenced before its arena is known to exist.
@safe
package struct SecretHandle: BitwiseCopyable {
  let slab: UnsafeMutablePointer<Slab>
  package let address: UnsafeMutableRawPointer
  let generation: UInt32
  package let byteCount: UInt32
  let slot: UInt16
  let label: UInt16

  var arena: ArenaReference { unsafe slab.pointee.arena }
}

extension SecretHandle {
  /// The slab and slot that contain an address; nil outside every arena's slots. No lock.
  private static func slot(
    at address: UnsafeRawPointer
  ) -> (slab: UnsafeMutablePointer<Slab>, slot: Int)? {
    guard let owner = unsafe pageOwner(of: address) else { return nil }
    let slab = unsafe owner.assumingMemoryBound(to: Slab.self)
    let offset = unsafe address - UnsafeRawPointer(slab.pointee.base)
    let slot = unsafe slab.pointee.slot(at: offset)
    return unsafe slot < Int(slab.pointee.slotCount) ? (slab, slot) : nil
  }

  /// The live secret in a slot. Its generation is read first and once: a caller that claims the
  /// slot with this generation knows that the other fields have not changed since.
  init?(live slab: UnsafeMutablePointer<Slab>, slot: Int) {
    let entry = unsafe Slab.slots(of: slab) + slot
    generation = unsafe Slot.generation(of: entry)
    guard Slot.isLive(generation) else { return nil }
    unsafe self.slab = unsafe slab
    unsafe address = unsafe Slab.dataStart(of: slab, slot)
    byteCount = unsafe loadField(&entry.pointee.byteCount)
    self.slot = UInt16(slot)
    label = unsafe loadField(&entry.pointee.label)
  }

  /// The live secret that starts at an address. O(1), no lock.
  package static func live(startingAt address: UnsafeMutableRawPointer) -> SecretHandle? {
    guard let (slab, slot) = unsafe slot(at: address),
      let handle = unsafe SecretHandle(live: slab, slot: slot),
      unsafe handle.address == address
    else { return nil }
    return handle
  }

  /// The live secret that contains an address range. O(1), no lock.
  package static func live(at range: UnsafeRawBufferPointer) -> SecretHandle? {
    guard let start = range.baseAddress, let (slab, slot) = unsafe slot(at: start),
      let handle = unsafe SecretHandle(live: slab, slot: slot)
    else { return nil }
    let offset = unsafe start - UnsafeRawPointer(handle.address)
    return offset >= 0 && offset <= Int(handle.byteCount) - range.count ? handle : nil
  }

  /// The arena that owns an address, and whether the address is in a live secret; nil if there is
  /// none.
  static func locate(
    of address: UnsafeRawPointer
  ) -> (arena: ArenaReference, isLive: Bool)? {
    guard let (slab, slot) = unsafe slot(at: address) else { return nil }
    let generation = unsafe Slot.generation(of: Slab.slots(of: slab) + slot)
    return unsafe (slab.pointee.arena, Slot.isLive(generation))
  }

  /// Whether the handle's slab still exists: C may hold a handle longer than its arena lives.
  var slabExists: Bool { unsafe pageOwner(of: address) == UnsafeMutableRawPointer(slab) }
}

extension ArenaReference {
  /// Frees a secret of this arena by its address.
  func free(address: UnsafeMutableRawPointer) throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    if let handle = unsafe SecretHandle.live(startingAt: address),
      unsafe handle.arena.header == header
    {
      return try free(handle, isUnique: false)
    }
    let found = unsafe SecretHandle.locate(of: address)
    let isFree = found.map { unsafe $0.arena.header == header && !$0.isLive } ?? false
    reportMisuse(of: isFree ? .doubleFree : .foreignPointer)
  }

  /// Reports that an address was freed that is not a live secret.
  func reportMisuse(of kind: Violation.Kind) {
    withCore { $0.page?.writer.event(.corruption, arena: id) }
    ViolationHandler.report(
      Violation(kind: kind, arena: "\(name)", label: nil, byteCount: nil, offset: nil))
  }
}
