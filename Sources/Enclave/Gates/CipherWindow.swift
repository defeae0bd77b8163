// Windows under a cipher gate: a window decrypts into scratch memory when it opens; a write window
// encrypts from there when it closes.
//
// Readers copy the ciphertext under the slot's sequence and decrypt their copy; they wait for
// nobody. A secret has one writer at a time, and its changes are visible in windows that open after
// it closes. Between the two changes of the sequence only copying happens, no encryption.

import EnclaveSystem

extension SecretHandle {
  /// Layout of the value that `openWindow` returns under a cipher gate, in addition to the bit that
  /// says whether the window was counted: the scratch memory, and whether it belongs to this
  /// thread's own write window.
  @inline(__always)
  private static var scratchShift: UInt64 { 34 }
  @inline(__always)
  private static var isShared: UInt64 { 1 << 33 }

  @inline(__always)
  private static func scratch(_ found: UInt64) -> WindowScratch {
    WindowScratch(bits: UInt32(truncatingIfNeeded: found >> scratchShift))
  }

  /// Where the bytes are while the window is open.
  @inline(__always)
  package func bytes(_ found: UInt64) -> UnsafeMutableRawPointer {
    unsafe arena.hasCipherGate ? scratchBytes(found) : address
  }

  @inline(__always)
  private func scratchBytes(_ found: UInt64) -> UnsafeMutableRawPointer {
    // A secret of 0 bytes has no scratch memory; its address is never dereferenced.
    unsafe byteCount == 0 ? address : scratchStart(Self.scratch(found))
  }

  /// The alignment of the slot, up to 64. In separate pages, as close to the guard as in the slot.
  @inline(__always)
  private func scratchStart(_ place: WindowScratch) -> UnsafeMutableRawPointer {
    unsafe place.isPages ? startInPages(place.piece) : place.base
  }

  @inline(never)
  private func startInPages(_ place: ScratchMemory.Piece) -> UnsafeMutableRawPointer {
    let end = unsafe place.base + place.byteCount
    if unsafe slab.pointee.isIsolated {
      return unsafe end - (slab.pointee.base + slab.pointee.byteCount - address)
    }
    let low = unsafe 1 << UInt(bitPattern: address).trailingZeroBitCount
    let alignment = min(low, scratchPieceBytes())
    return unsafe end - ((Int(byteCount) + alignment - 1) & ~(alignment - 1))
  }

  @inline(__always)
  private var cipherSlot: CipherSlot {
    unsafe CipherSlot(at: Slab.cipherSlots(of: slab) + Int(slot) * CipherSlot.byteCount)
  }

  @inline(__always)
  private var binding: CipherGate.CiphertextBinding {
    CipherGate.CiphertextBinding(
      address: UInt64(UInt(bitPattern: unsafe address)), byteCount: byteCount,
      generation: generation)
  }

  // MARK: - The common case

  /// Decrypts a small secret that is intact, and that this thread does not write, into its scratch page. Returns 0
  /// if it is otherwise; then nothing has changed, and `openScratch` does it or tells why not.
  @inline(never)
  func openScratchQuickly(_ arena: ArenaReference) -> UInt64 {
    let slot = cipherSlot
    guard byteCount != 0, slot.ownWindow == nil, let place = takePieces(arena) else { return 0 }
    // The secret may have been freed meanwhile, and the slot reused.
    if isCurrent,
      let (_, nonceAndTag) = unsafe slot.read(
        from: address, into: place.base, byteCount: Int(byteCount)), nonceAndTag.isWritten,
      unsafe arena.cipher.decrypt(place.base, byteCount: Int(byteCount), nonceAndTag, binding),
      !arena.gate.isWiped
    {
      return UInt64(place.bits) << Self.scratchShift
    }
    place.release(of: arena.id)
    return 0
  }

  /// Wipes the scratch memory of a window for reading, if it is undamaged pieces of this thread's page. Otherwise
  /// returns false, and `closeScratch` does it.
  @inline(never)
  func closeScratchQuickly(_ arena: ArenaReference, _ found: UInt64) -> Bool {
    let place = Self.scratch(found)
    guard byteCount != 0, found & Self.isShared == 0, !place.isPages,
      unsafe arena.canaries.isIntact(at: place.base + Int(byteCount))
    else { return false }
    place.release(of: arena.id)
    return true
  }

  // MARK: - Every case

  /// Decrypts the secret. The window is already counted; if this throws, the caller ends the count.
  func openScratch(_ arena: ArenaReference, writing: Bool) throws(EnclaveError) -> UInt64 {
    if byteCount == 0 { return 0 }
    let slot = cipherSlot
    if let own = slot.ownWindow {
      if writing { throw .openForWriting }
      if case .contents(let bits) = own { return UInt64(bits) << Self.scratchShift | Self.isShared }
    }
    let gate = arena.cipher
    if writing, !gate.hasNonces { throw .noncesUsedUp }
    let place = try takeScratch(arena)
    if writing, !slot.claim(place.bits) {
      place.release(of: arena.id)
      throw .openForWriting
    }
    do throws(EnclaveError) {
      // The secret may have been freed meanwhile, and the slot reused.
      guard isCurrent else { throw .destroyed }
      try decrypt(arena, gate, slot, into: place, isClaimed: writing)
    } catch {
      if writing { slot.unclaim() }
      place.release(of: arena.id)
      throw error
    }
    if writing { slot.setBusy(false, place.bits) }
    return UInt64(place.bits) << Self.scratchShift
  }

  /// Returns a violation if the ciphertext was changed. Returns nil if it is intact, if the secret was
  /// freed meanwhile, or if this thread is writing it.
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
  @inline(__always)
  private var isCurrent: Bool {
    unsafe Slot.generation(of: Slab.slots(of: slab) + Int(slot)) == generation
  }

  @inline(__always)
  private func takeScratch(_ arena: ArenaReference) throws(EnclaveError) -> WindowScratch {
    if let place = takePieces(arena) { return place }
    return try takeMoreScratch(arena)
  }

  /// Takes pieces of this thread's page, and writes their canary.
  @inline(__always)
  private func takePieces(_ arena: ArenaReference) -> WindowScratch? {
    guard unsafe !slab.pointee.isIsolated,
      let place = WindowScratch.take(byteCount: Int(byteCount), for: arena.id)
    else { return nil }
    unsafe arena.canaries.write(behind: place.base + Int(byteCount))
    return place
  }

  /// The rest of `takeScratch`: the thread's first window, large and isolated secrets, and many windows.
  @inline(never)
  private func takeMoreScratch(_ arena: ArenaReference) throws(EnclaveError) -> WindowScratch {
    let piece: ScratchMemory.Piece?
    // A signal handler that interrupted the library may only use scratch memory that is already
    // mapped.
    let mayMap = !arena.isInterruptedHere
    do throws(SystemFailure) {
      piece = try ScratchMemory.allocate(
        byteCount: Int(byteCount), isIsolated: unsafe slab.pointee.isIsolated, mayMap: mayMap,
        for: arena.id)
    } catch { throw .system(error) }  // unchanged: explaining it would read files
    guard let piece else { throw mayMap ? .noScratch : .busy }
    let place = WindowScratch(piece)
    let start = unsafe scratchStart(place)
    if place.isPages {
      unsafe arena.canaries.writeAround(
        piece.base, piece.byteCount, address: start, byteCount: Int(byteCount))
    } else {
      unsafe arena.canaries.write(behind: start + Int(byteCount))
    }
    return place
  }

  @inline(__always)
  private func decrypt(
    _ arena: ArenaReference, _ gate: CipherGate, _ slot: CipherSlot,
    into place: WindowScratch, isClaimed: Bool
  ) throws(EnclaveError) {
    let start = unsafe scratchStart(place)
    var tries: UInt32 = 0
    while true {
      if let (sequence, nonceAndTag) = unsafe slot.read(
        from: address, into: start, byteCount: Int(byteCount))
      {
        if nonceAndTag.isBlank {
          unsafe wipe(start, byteCount: Int(byteCount))
          return
        }
        if nonceAndTag.isTampered { throw tampered(arena) }
        let isAuthentic = unsafe gate.decrypt(
          start, byteCount: Int(byteCount), nonceAndTag, binding)
        if arena.gate.isWiped { throw .destroyed }
        if isAuthentic { return }
        if slot.isUnchanged(since: sequence) {
          guard isCurrent else { throw .destroyed }
          slot.markTampered(sequence)
          throw tampered(arena)
        }
      }
      // A writer is copying, which takes less than a microsecond unless it was interrupted.
      if arena.isInterruptedHere || slot.ownWindow == .busy && !isClaimed || tries > 10_000 {
        throw .busy
      }
      ProcessFacts.backOff(&tries)
    }
  }

  /// Includes the label, except in a signal handler that interrupted the library.
  private func tampered(_ arena: ArenaReference) -> EnclaveError {
    .tampered(label: arena.isInterruptedHere ? "" : arena.labelText(label))
  }

  @inline(never)
  private func damageInPages(
    _ place: ScratchMemory.Piece, _ start: UnsafeMutableRawPointer
  ) -> Int? {
    unsafe arena.canaries.damageAround(
      place.base, place.byteCount, address: start, byteCount: Int(byteCount))
  }

  /// Encrypts what was written, and wipes the scratch memory.
  func closeScratch(_ arena: ArenaReference, writing: Bool, _ found: UInt64) {
    if byteCount == 0 || found & Self.isShared != 0 { return }
    let place = Self.scratch(found)
    let start = unsafe scratchStart(place)
    let damage =
      place.isPages
      ? unsafe damageInPages(place.piece, start)
      : unsafe arena.canaries.firstDamage(at: start + Int(byteCount)).map { $0 + Int(byteCount) }
    if writing {
      let slot = cipherSlot
      slot.setBusy(true, place.bits)
      if !arena.gate.isWiped {
        let nonceAndTag = unsafe arena.cipher.encrypt(
          start, byteCount: Int(byteCount), binding)
        unsafe slot.replace(address, with: start, byteCount: Int(byteCount), nonceAndTag)
        // The key may have been wiped meanwhile; then the result is not a ciphertext.
        if arena.gate.isWiped { unsafe wipe(address, byteCount: Int(byteCount)) }
      }
      slot.unclaim()
    }
    place.release(of: arena.id)
    if let damage, !arena.isInterruptedHere {
      arena.withShard(Int(unsafe slab.pointee.shard)) { $0.totals.corruptions &+= 1 }
      arena.reportViolation(damage < 0 ? .underflow : .overflow, self, offset: damage)
    }
  }
}
