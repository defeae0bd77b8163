// What C's addresses need beyond a handle's: windows counted by secret, and addresses that are known
// to be a destroyed arena's.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// From now on windows to a secret's slot are counted, as they are where the process publishes:
  /// freeing it while one is open is noticed.
  func countWindows(of place: Place) {
    let run = unsafe place.run
    guard unsafe Run.listings(of: run) == nil else { return }
    unsafe withLane(Int(run.pointee.lane)) { _ in
      guard unsafe run.pointee.listings == nil else { return }
      unsafe Run.setListings(ArenaCore.makeListings(Int(run.pointee.slotCount)), of: run)
    }
  }

  /// Why a secret cannot be freed or resized: a window to it is open.
  func openWindows(of place: Place) -> EnclaveError? {
    guard let listings = unsafe Run.listings(of: place.run) else { return nil }
    let count = unsafe loadRelaxed(&listings[Int(place.slot)].count) & 0xff_ffff
    return count == 0 ? nil : .windowsOpen(Int(count), label: labelText(place.label))
  }

  /// The same for a slot that was claimed, which is given back then.
  func refusal(of place: Place, _ slot: UnsafeMutablePointer<Slot>) -> EnclaveError? {
    guard let error = openWindows(of: place) else { return nil }
    unsafe slot.pointee.generation = place.generation
    return error
  }
}

extension ArenaCore {
  /// Before the chunks of a destroyed arena are unmapped: the addresses of its live secrets are known
  /// as such until the memory is another arena's, and all others are nobody's.
  func markAddressesAsDestroyed() {
    for index in 0..<runs.count {
      let run = unsafe runs[index].run
      guard unsafe run.pointee.byteCount > 0 else { continue }
      let owner = unsafe run.pointee.live > 0 ? Run.destroyed : nil
      unsafe PageTable.set(owner, at: run.pointee.base, run.pointee.byteCount)
    }
  }
}

extension Run {
  /// Stands in the table of pages for runs that were destroyed with live secrets in them. It has no
  /// slots, so that no address is found in it.
  nonisolated(unsafe) static let destroyed: UnsafeMutableRawPointer = {
    let run = unsafe UnsafeMutableRawPointer(allocate(slotCount: 0))
    unsafe run.initializeMemory(as: UInt8.self, repeating: 0, count: MemoryLayout<Run>.size)
    return unsafe run
  }()
}

extension Place {
  /// Whether an address was a destroyed arena's when it was last one's: its secrets were live then.
  package static func isDestroyed(_ address: UnsafeRawPointer) -> Bool {
    guard let owner = unsafe pageOwner(of: address) else { return false }
    return unsafe owner == Run.destroyed
  }

  /// Whether an address lies in an arena.
  package static func isOwned(_ address: UnsafeRawPointer) -> Bool {
    guard let owner = unsafe pageOwner(of: address) else { return false }
    return unsafe owner != Run.destroyed
  }
}
