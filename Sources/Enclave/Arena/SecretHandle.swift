// Where a secret is: what every handle to it holds, in Swift and in C; and how a bare address
// becomes one.

import EnclaveStats
import EnclaveSystem

/// The place of a secret, as of one generation of its slot. Trivial: copying it copies no right to
/// the secret.
///
/// 32 bytes. With 16 (the slot, the generation and the size; the rest from the slot) a window took 9.1 ns
/// instead of 8.5, an allocation 40 instead of 42, and 10,000 live secrets made no difference (minima of
/// 36). It would also have to be looked up before anybody knows whether its arena is still there.
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
  /// The slab and the slot that an address lies in; nil outside of every arena's slots. No lock.
  private static func slot(
    at address: UnsafeRawPointer
  ) -> (slab: UnsafeMutablePointer<Slab>, slot: Int)? {
    guard let owner = unsafe pageOwner(of: address) else { return nil }
    let slab = unsafe owner.assumingMemoryBound(to: Slab.self)
    let offset = unsafe address - UnsafeRawPointer(slab.pointee.base)
    let slot = unsafe slab.pointee.slot(at: offset)
    return unsafe slot < Int(slab.pointee.slotCount) ? (slab, slot) : nil
  }

  /// The live secret in a slot. Its generation is read once, and first: who claims the slot with it
  /// knows that nobody has changed the rest meanwhile.
  init?(live slab: UnsafeMutablePointer<Slab>, slot: Int) {
    let entry = unsafe Slab.slots(of: slab) + slot
    generation = unsafe loadAcquire(&entry.pointee.generation)
    guard Slot.isLive(generation) else { return nil }
    unsafe self.slab = unsafe slab
    unsafe address = unsafe Slab.dataStart(of: slab, slot)
    byteCount = unsafe entry.pointee.byteCount
    self.slot = UInt16(slot)
    label = unsafe entry.pointee.label
  }

  /// The live secret whose first byte is at an address. O(1), no lock.
  package static func live(startingAt address: UnsafeMutableRawPointer) -> SecretHandle? {
    guard let (slab, slot) = unsafe slot(at: address),
      let handle = unsafe SecretHandle(live: slab, slot: slot),
      unsafe handle.address == address
    else { return nil }
    return handle
  }

  /// The live secret that a range of addresses lies within. O(1), no lock.
  package static func live(at range: UnsafeRawBufferPointer) -> SecretHandle? {
    guard let start = range.baseAddress, let (slab, slot) = unsafe slot(at: start),
      let handle = unsafe SecretHandle(live: slab, slot: slot)
    else { return nil }
    let offset = unsafe start - UnsafeRawPointer(handle.address)
    return offset >= 0 && offset <= Int(handle.byteCount) - range.count ? handle : nil
  }

  /// The arena that an address lies in, and whether in a live secret; nil when it is no arena's.
  static func whereabouts(
    of address: UnsafeRawPointer
  ) -> (arena: ArenaReference, isLive: Bool)? {
    guard let (slab, slot) = unsafe slot(at: address) else { return nil }
    let generation = unsafe loadAcquire(&(Slab.slots(of: slab) + slot).pointee.generation)
    return unsafe (slab.pointee.arena, Slot.isLive(generation))
  }

  /// Whether the handle's slab is still there to be looked at: C can hold a handle for longer than
  /// its arena lives.
  var isKnown: Bool { unsafe pageOwner(of: address) == UnsafeMutableRawPointer(slab) }
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
    let found = unsafe SecretHandle.whereabouts(of: address)
    let isFree = found.map { unsafe $0.arena.header == header && !$0.isLive } ?? false
    misused(address: isFree ? .doubleFree : .foreignPointer)
  }

  /// Reports an address that was freed and is no live secret's.
  func misused(address kind: Violation.Kind) {
    withCore { $0.page?.writer.event(.corruption, arena: id) }
    ViolationHandler.report(
      Violation(kind: kind, arena: "\(name)", label: nil, byteCount: nil, offset: nil))
  }
}
