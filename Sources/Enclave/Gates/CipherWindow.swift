// Windows under a cipher gate: decrypted into scratch memory when they open, encrypted from there when
// one for writing closes.
//
// Readers copy the ciphertext under the slot's sequence, and decrypt their copy: they wait for nobody. The
// one writer of a secret has claimed it; what it writes is seen by windows that open after it has closed.
// Only copying happens between the two changes of the sequence, never the cipher.

import EnclaveSystem

extension SecretHandle {
  /// What `openWindow` returns under a cipher gate, beside the bit that says whether the window was
  /// counted: the scratch memory, and whether it is that of this thread's own window for writing.
  private static let scratchShift: UInt64 = 34
  private static let isShared: UInt64 = 1 << 33

  private static func scratch(_ found: UInt64) -> ScratchMemory.Piece {
    ScratchMemory.Piece(bits: UInt32(truncatingIfNeeded: found >> scratchShift))
  }

  /// Where the bytes are while the window is open.
  @inline(__always)
  package func bytes(_ found: UInt64) -> UnsafeMutableRawPointer {
    unsafe arena.hasCipherGate ? scratchBytes(found) : address
  }

  @inline(never)
  private func scratchBytes(_ found: UInt64) -> UnsafeMutableRawPointer {
    // (Zero bytes have no scratch memory, and nobody reads them.)
    unsafe byteCount == 0 ? address : scratchStart(Self.scratch(found))
  }

  /// Aligned as the slot is, up to 64; against the guard as closely as there.
  private func scratchStart(_ place: ScratchMemory.Piece) -> UnsafeMutableRawPointer {
    guard place.isPages else { return unsafe place.start(beforeEnd: 0) }
    if unsafe slab.pointee.isIsolated {
      return unsafe place.start(
        beforeEnd: slab.pointee.base + slab.pointee.byteCount - address)
    }
    let low = unsafe 1 << UInt(bitPattern: address).trailingZeroBitCount
    let alignment = min(low, ScratchMemory.Piece.alignment)
    return unsafe place.start(beforeEnd: (Int(byteCount) + alignment - 1) & ~(alignment - 1))
  }

  private var cipherSlot: CipherSlot {
    unsafe CipherSlot(at: Slab.cipherSlots(of: slab) + Int(slot) * CipherSlot.byteCount)
  }

  private func binding(_ arena: ArenaReference) -> CipherGate.CiphertextBinding {
    CipherGate.CiphertextBinding(
      arena: arena.id, address: UInt64(UInt(bitPattern: unsafe address)), byteCount: byteCount,
      generation: generation)
  }

  /// Decrypts the secret. The window is counted in; the caller counts it out when this throws.
  func openScratch(_ arena: ArenaReference, writing: Bool) throws(EnclaveError) -> UInt64 {
    if byteCount == 0 { return 0 }
    let slot = cipherSlot
    if let own = slot.own {
      if writing { throw .openForWriting }
      if case .contents(let bits) = own { return UInt64(bits) << Self.scratchShift | Self.isShared }
    }
    let gate = arena.cipher
    if writing, !gate.hasNonces { throw .noncesUsedUp }
    let place = try takeScratch(arena)
    if writing, !slot.claim(place.bits) {
      ScratchMemory.give(place, of: arena.id)
      throw .openForWriting
    }
    do throws(EnclaveError) {
      // Freed meanwhile: the slot may be another secret's.
      guard isSame else { throw .destroyed }
      try decrypt(arena, gate, slot, into: place, isClaimed: writing)
    } catch {
      if writing { slot.unclaim() }
      ScratchMemory.give(place, of: arena.id)
      throw error
    }
    if writing { slot.setWorking(false, place.bits) }
    return UInt64(place.bits) << Self.scratchShift
  }

  /// Whether the ciphertext is what was written. nil too for a secret that was freed meanwhile, and for
  /// one that this thread is just writing.
  func checkCiphertext() throws(EnclaveError) -> Violation? {
    let arena = arena
    do throws(EnclaveError) {
      let found = try openWindow(writing: false)
      closeWindow(writing: false, found)
      return nil
    } catch {
      switch error {
      case .tampered(let label):
        return Violation(
          kind: .tampered, arena: "\(arena.name)", label: label, byteCount: Int(byteCount),
          offset: nil)
      case .destroyed where arena.gate.access != .destroyed, .busy: return nil
      default: throw error
      }
    }
  }

  /// Whether the slot still holds this secret.
  private var isSame: Bool {
    unsafe loadAcquire(&(Slab.slots(of: slab) + Int(slot)).pointee.generation) == generation
  }

  private func takeScratch(_ arena: ArenaReference) throws(EnclaveError) -> ScratchMemory.Piece {
    let place: ScratchMemory.Piece?
    // A signal handler that interrupted the library takes what is there.
    let mayMap = !arena.isInterruptedHere
    do throws(SystemFailure) {
      place = try ScratchMemory.take(
        byteCount: Int(byteCount), isIsolated: unsafe slab.pointee.isIsolated, mayMap: mayMap,
        for: arena.id)
    } catch { throw .system(error) }  // (As it is: what explains it reads files.)
    guard let place else { throw mayMap ? .noScratch : .busy }
    let start = unsafe scratchStart(place)
    if place.isPages {
      unsafe arena.canaries.writeAround(
        place.base, place.byteCount, address: start, byteCount: Int(byteCount))
    } else {
      unsafe arena.canaries.write(behind: start + Int(byteCount))
    }
    return place
  }

  private func decrypt(
    _ arena: ArenaReference, _ gate: CipherGate, _ slot: CipherSlot,
    into place: ScratchMemory.Piece,
    isClaimed: Bool
  ) throws(EnclaveError) {
    let start = unsafe scratchStart(place)
    var tries: UInt32 = 0
    while true {
      if let (sequence, known) = unsafe slot.take(
        from: address, into: start, byteCount: Int(byteCount))
      {
        if known.isBlank {
          unsafe wipe(start, byteCount: Int(byteCount))
          return
        }
        if known.isTampered { throw tampered(arena) }
        let isAuthentic = unsafe gate.decrypt(
          start, byteCount: Int(byteCount), known, binding(arena))
        clearResidue()
        if arena.gate.isWiped { throw .destroyed }
        if isAuthentic { return }
        if slot.isStill(sequence) {
          guard isSame else { throw .destroyed }
          slot.condemn(sequence)
          throw tampered(arena)
        }
      }
      // A writer is copying, which takes less than a microsecond unless it was interrupted.
      if arena.isInterruptedHere || slot.own == .working && !isClaimed || tries > 10_000 {
        throw .busy
      }
      ProcessFacts.backOff(&tries)
    }
  }

  /// By name, but where a signal handler interrupted the library.
  private func tampered(_ arena: ArenaReference) -> EnclaveError {
    .tampered(label: arena.isInterruptedHere ? "" : arena.labelText(label))
  }

  /// Encrypts what was written, and wipes the scratch memory.
  func closeScratch(_ arena: ArenaReference, writing: Bool, _ found: UInt64) {
    if byteCount == 0 || found & Self.isShared != 0 { return }
    let place = Self.scratch(found)
    let start = unsafe scratchStart(place)
    let damage =
      place.isPages
      ? unsafe arena.canaries.damageAround(
        place.base, place.byteCount, address: start, byteCount: Int(byteCount))
      : unsafe arena.canaries.firstDamage(at: start + Int(byteCount)).map { $0 + Int(byteCount) }
    if writing {
      let slot = cipherSlot
      slot.setWorking(true, place.bits)
      if !arena.gate.isWiped {
        let known = unsafe arena.cipher.encrypt(start, byteCount: Int(byteCount), binding(arena))
        unsafe slot.replace(address, with: start, byteCount: Int(byteCount), known)
        // The key may have been wiped just now; what it made then is no ciphertext.
        if arena.gate.isWiped { unsafe wipe(address, byteCount: Int(byteCount)) }
      }
      slot.unclaim()
    }
    ScratchMemory.give(place, of: arena.id)
    clearResidue()
    if let damage, !arena.isInterruptedHere {
      arena.withShard(Int(unsafe slab.pointee.shard)) { $0.totals.corruptions &+= 1 }
      arena.violated(damage < 0 ? .underflow : .overflow, self, offset: damage)
    }
  }
}
