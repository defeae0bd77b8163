// Where a secret is: what every handle to it holds, in Swift and in C; and how a bare address
// becomes one.

import EnclaveStats
import EnclaveSystem

/// The place of a secret, as of one generation of its slot. Trivial: copying it copies no right to
/// the secret. 32 bytes.
@safe
package struct Place: BitwiseCopyable {
  let run: UnsafeMutablePointer<Run>
  package let address: UnsafeMutableRawPointer
  let generation: UInt32
  package let byteCount: UInt32
  let slot: UInt16
  let label: UInt16

  var arena: ArenaReference { unsafe run.pointee.arena }
}

extension Place {
  /// The run and the slot that an address lies in; nil outside of every arena's slots. No lock.
  private static func slot(
    at address: UnsafeRawPointer
  ) -> (run: UnsafeMutablePointer<Run>, slot: Int)? {
    guard let owner = unsafe pageOwner(of: address) else { return nil }
    let run = unsafe owner.assumingMemoryBound(to: Run.self)
    let offset = unsafe address - UnsafeRawPointer(run.pointee.base)
    let slot = unsafe run.pointee.slot(at: offset)
    return unsafe slot < Int(run.pointee.slotCount) ? (run, slot) : nil
  }

  /// The live secret in a slot. Its generation is read once, and first: who claims the slot with it
  /// knows that nobody has changed the rest meanwhile.
  private init?(live run: UnsafeMutablePointer<Run>, slot: Int) {
    let entry = unsafe Run.slots(of: run) + slot
    generation = unsafe loadAcquire(&entry.pointee.generation)
    guard Slot.isLive(generation) else { return nil }
    unsafe self.run = unsafe run
    unsafe address = unsafe Run.dataStart(of: run, slot)
    byteCount = unsafe entry.pointee.byteCount
    self.slot = UInt16(slot)
    label = unsafe entry.pointee.label
  }

  /// The live secret whose first byte is at an address. O(1), no lock.
  package static func live(startingAt address: UnsafeMutableRawPointer) -> Place? {
    guard let (run, slot) = unsafe slot(at: address),
      let place = unsafe Place(live: run, slot: slot),
      unsafe place.address == address
    else { return nil }
    return place
  }

  /// The live secret that a range of addresses lies within. O(1), no lock.
  package static func live(at range: UnsafeRawBufferPointer) -> Place? {
    guard let start = range.baseAddress, let (run, slot) = unsafe slot(at: start),
      let place = unsafe Place(live: run, slot: slot)
    else { return nil }
    let offset = unsafe start - UnsafeRawPointer(place.address)
    return offset >= 0 && offset <= Int(place.byteCount) - range.count ? place : nil
  }

  /// The arena that an address lies in, and whether in a live secret; nil when it is no arena's.
  static func whereabouts(
    of address: UnsafeRawPointer
  ) -> (arena: ArenaReference, isLive: Bool)? {
    guard let (run, slot) = unsafe slot(at: address) else { return nil }
    return unsafe (run.pointee.arena, Run.slots(of: run)[slot].isLive)
  }

  /// Whether the handle's run is still there to be looked at: C can hold a handle for longer than
  /// its arena lives.
  var isKnown: Bool { unsafe pageOwner(of: address) == UnsafeMutableRawPointer(run) }
}

extension ArenaReference {
  /// Frees a secret of this arena by its address.
  func free(address: UnsafeMutableRawPointer) throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    if let place = unsafe Place.live(startingAt: address), unsafe place.arena.header == header {
      return try free(place, isUnique: false)
    }
    let found = unsafe Place.whereabouts(of: address)
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
