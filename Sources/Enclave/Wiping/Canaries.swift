// Canaries next to secrets, which reveal writes out of bounds, and the wipe that checks them.

import EnclaveSystem

/// An arena's canaries: 16 bytes behind each secret in a slab, and the unused bytes around an
/// isolated one. A slot's canary never changes, so wiping the slot leaves it in place.
struct Canaries: BitwiseCopyable {
  /// Random, different in each arena.
  let seed: (UInt64, UInt64)

  @inline(__always)
  private func canary(at address: UnsafeMutableRawPointer) -> (UInt64, UInt64) {
    // Depends on the address, so that a leaked canary is useless for another slot.
    let place = UInt64(UInt(bitPattern: address))
    return (seed.0 ^ place, seed.1 &+ place &* 0x9e37_79b9_7f4a_7c15)
  }

  @inline(__always)
  func write(behind address: UnsafeMutableRawPointer) {
    let (a, b) = unsafe canary(at: address)
    unsafe address.storeBytes(of: a, as: UInt64.self)
    unsafe (address + 8).storeBytes(of: b, as: UInt64.self)
  }

  /// Writes the canaries of all slots of a slab.
  func write(all slab: UnsafeMutablePointer<Slab>) {
    let slotBytes = unsafe slab.pointee.slotBytes
    for slot in unsafe 1...Int(slab.pointee.slotCount) {
      unsafe write(behind: slab.pointee.base + slot * slotBytes - SizeClass.canaryBytes)
    }
  }

  @inline(__always)
  func isIntact(at address: UnsafeMutableRawPointer) -> Bool {
    let (a, b) = unsafe canary(at: address)
    return unsafe (address.loadUnaligned(as: UInt64.self) ^ a)
      | ((address + 8).loadUnaligned(as: UInt64.self) ^ b) == 0
  }

  /// The offset of the first wrong byte of a canary.
  func firstDamage(at address: UnsafeMutableRawPointer) -> Int? {
    let (a, b) = unsafe canary(at: address)
    for offset in 0..<16 {
      let word = offset < 8 ? a : b
      let expected = UInt8(truncatingIfNeeded: word >> UInt64(8 * (offset % 8)))
      if unsafe (address + offset).load(as: UInt8.self) != expected { return offset }
    }
    return nil
  }

  // MARK: - Isolated secrets

  /// Writes 16 bytes before the data if there is room, and fills what alignment leaves behind it.
  func writeIsolated(_ slab: UnsafeMutablePointer<Slab>) {
    guard let (address, before, behind) = unsafe isolatedParts(slab) else { return }
    unsafe writeBytes(before.baseAddress, address, before.count)
    unsafe writeBytes(behind.baseAddress, address, behind.count)
  }

  /// The same for data at the end of other pages.
  func writeAround(
    _ base: UnsafeMutableRawPointer, _ length: Int, address: UnsafeMutableRawPointer, byteCount: Int
  ) {
    if unsafe address - base >= 16 { unsafe writeBytes(address - 16, address, 16) }
    let end = unsafe base + length
    unsafe writeBytes(address + byteCount, address, end - (address + byteCount))
  }

  /// Overwrites these canaries with zeros.
  func clearIsolated(_ slab: UnsafeMutablePointer<Slab>) {
    guard let (_, before, behind) = unsafe isolatedParts(slab) else { return }
    unsafe before.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe behind.initializeMemory(as: UInt8.self, repeating: 0)
  }

  /// The secret's address, and the canary areas before and behind it; nil if there was no secret
  /// yet.
  private func isolatedParts(
    _ slab: UnsafeMutablePointer<Slab>
  ) -> (
    address: UnsafeMutableRawPointer, before: UnsafeMutableRawBufferPointer,
    behind: UnsafeMutableRawBufferPointer
  )? {
    guard let place = unsafe slab.pointee.preparedPlacement else { return nil }
    let end = unsafe slab.pointee.base + slab.pointee.byteCount
    let address = unsafe end - place.dataBytes
    let before = unsafe address - slab.pointee.base >= 16 ? 16 : 0
    return unsafe (
      address, UnsafeMutableRawBufferPointer(start: address - before, count: before),
      UnsafeMutableRawBufferPointer(
        start: address + place.byteCount, count: place.dataBytes - place.byteCount)
    )
  }

  /// Whether a free isolated slab contains nothing but its canaries.
  private func isClear(_ slab: UnsafeMutablePointer<Slab>) -> Bool {
    guard let (address, before, _) = unsafe isolatedParts(slab),
      let place = unsafe slab.pointee.preparedPlacement
    else { return unsafe isZero(slab.pointee.base, byteCount: slab.pointee.byteCount) }
    let front = unsafe address - before.count - slab.pointee.base
    return unsafe isZero(slab.pointee.base, byteCount: front)
      && isZero(address, byteCount: place.byteCount)
      && isolatedDamage(slab, address: address, byteCount: place.byteCount) == nil
  }

  private func expected(_ address: UnsafeMutableRawPointer, _ offset: Int) -> UInt8 {
    unsafe UInt8(truncatingIfNeeded: canary(at: address).0 >> UInt64(8 * (offset & 7)))
  }

  private func writeBytes(
    _ place: UnsafeMutableRawPointer?, _ address: UnsafeMutableRawPointer, _ count: Int
  ) {
    guard let place = unsafe place else { return }
    for offset in 0..<count {
      unsafe (place + offset).storeBytes(of: expected(address, offset), as: UInt8.self)
    }
  }

  private func isolatedDamage(
    _ slab: UnsafeMutablePointer<Slab>, address: UnsafeMutableRawPointer, byteCount: Int
  ) -> Int? {
    unsafe damageAround(
      slab.pointee.base, slab.pointee.byteCount, address: address, byteCount: byteCount)
  }

  /// The first wrong byte around such data, as an offset from the start of the data.
  func damageAround(
    _ base: UnsafeMutableRawPointer, _ length: Int, address: UnsafeMutableRawPointer, byteCount: Int
  ) -> Int? {
    if unsafe address - base >= 16 {
      for offset in 0..<16
      where unsafe (address - 16 + offset).load(as: UInt8.self) != expected(address, offset) {
        return offset - 16
      }
    }
    let end = unsafe base + length
    for offset in unsafe 0..<(end - (address + byteCount))
    where unsafe (address + byteCount + offset).load(as: UInt8.self) != expected(address, offset) {
      return byteCount + offset
    }
    return nil
  }

  // MARK: - Wiping

  /// Wipes a secret. Called without a lock. If something was written next to it, returns the offset
  /// of the first such byte from the start of the secret.
  func wipeContents(of handle: SecretHandle) -> Int? {
    let slab = unsafe handle.slab
    let byteCount = Int(handle.byteCount)
    if unsafe slab.pointee.isIsolated {
      let damage = unsafe isolatedDamage(slab, address: handle.address, byteCount: byteCount)
      unsafe wipe(slab.pointee.base, byteCount: slab.pointee.byteCount)
      unsafe writeIsolated(slab)
      return damage
    }
    let start = unsafe slab.pointee.base + Int(handle.slot) * slab.pointee.slotBytes
    let payload = unsafe slab.pointee.slotBytes - SizeClass.canaryBytes
    let canary = unsafe start + payload
    let before = unsafe handle.address - start
    let behind = payload - before - byteCount
    let isWhole =
      unsafe isIntact(at: canary) && (before == 0 || isZero(start, byteCount: before))
      && (behind == 0 || isZero(handle.address + byteCount, byteCount: behind))
    let damage =
      isWhole
      ? nil : unsafe slabDamage(start, payload: payload, before: before, byteCount: byteCount)
    unsafe wipeSlot(start, byteCount: payload)
    if damage != nil { unsafe write(behind: canary) }
    return damage
  }

  /// The first byte of a slot that was written outside the secret, as an offset from its start.
  private func slabDamage(
    _ start: UnsafeMutableRawPointer, payload: Int, before: Int, byteCount: Int
  ) -> Int? {
    for offset in 0..<before where unsafe (start + offset).load(as: UInt8.self) != 0 {
      return offset - before
    }
    for offset in (before + byteCount)..<max(payload, before + byteCount)
    where unsafe (start + offset).load(as: UInt8.self) != 0 {
      return offset - before
    }
    return unsafe firstDamage(at: start + payload).map { payload - before + $0 }
  }

  // MARK: - Checking

  /// Checks a slab that is open for reading. With `keepsFreed` (sealed ciphertext stays after a
  /// free), free slots need not be zeros.
  func check(
    _ slab: UnsafeMutablePointer<Slab>, keepsFreed: Bool,
    _ found: (Int, Violation.Kind, Int?) -> Void
  ) {
    let isIsolated = unsafe slab.pointee.isIsolated
    for slot in unsafe 0..<Int(slab.pointee.slotCount) {
      let entry = unsafe Slab.slots(of: slab) + slot
      let start = unsafe slab.pointee.base + slot * slab.pointee.slotBytes
      let payload =
        unsafe isIsolated
        ? slab.pointee.byteCount : slab.pointee.slotBytes - SizeClass.canaryBytes
      guard unsafe Slot.isLive(Slot.generation(of: entry)) else {
        if unsafe isIsolated
          ? !keepsFreed && !isClear(slab)
          : !keepsFreed && !isZero(start, byteCount: payload)
            || firstDamage(at: start + payload) != nil
        {
          found(slot, .writeAfterFree, nil)
        }
        continue
      }
      let data = unsafe Slab.dataStart(of: slab, slot)
      let byteCount = unsafe Int(entry.pointee.byteCount)
      let damage =
        unsafe isIsolated
        ? isolatedDamage(slab, address: data, byteCount: byteCount)
        : slabDamage(start, payload: payload, before: data - start, byteCount: byteCount)
      if let damage { found(slot, damage < 0 ? .underflow : .overflow, damage) }
    }
  }
}
