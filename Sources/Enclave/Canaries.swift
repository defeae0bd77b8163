// What stands beside secrets to notice writes that went too far, and the wipe that looks at it.

import EnclaveSystem

/// An arena's canaries: 16 bytes behind each slab secret; around an isolated one what its page
/// leaves. They never change while a slot lives, so that a wipe stops short of them.
struct Canaries: BitwiseCopyable {
  /// Random, drawn once for each arena.
  let seed: (UInt64, UInt64)

  private func canary(at address: UnsafeMutableRawPointer) -> (UInt64, UInt64) {
    // Bound to the place, so that one that leaks is not good for another slot.
    let place = UInt64(UInt(bitPattern: address))
    return (seed.0 ^ place, seed.1 &+ place &* 0x9e37_79b9_7f4a_7c15)
  }

  func write(behind address: UnsafeMutableRawPointer) {
    let (a, b) = unsafe canary(at: address)
    unsafe address.storeBytes(of: a, as: UInt64.self)
    unsafe (address + 8).storeBytes(of: b, as: UInt64.self)
  }

  private func isIntact(at address: UnsafeMutableRawPointer) -> Bool {
    let (a, b) = unsafe canary(at: address)
    return unsafe (address.loadUnaligned(as: UInt64.self) ^ a)
      | ((address + 8).loadUnaligned(as: UInt64.self) ^ b) == 0
  }

  /// Before the data 16 bytes where there is room; behind it what alignment left over.
  func writeIsolated(
    _ run: Run, address: UnsafeMutableRawPointer, byteCount: Int
  ) {
    if unsafe address - run.base >= 16 { unsafe write(behind: address - 16) }
    var (pattern, _) = unsafe canary(at: address)
    let slack = unsafe run.base + run.byteCount - (address + byteCount)
    unsafe withUnsafeBytes(of: &pattern) { bytes in
      for offset in 0..<slack {
        unsafe (address + byteCount + offset).storeBytes(of: bytes[offset % 8], as: UInt8.self)
      }
    }
  }

  private func isIsolatedIntact(
    _ run: Run, address: UnsafeMutableRawPointer, byteCount: Int
  ) -> Bool {
    if unsafe address - run.base >= 16, unsafe !isIntact(at: address - 16) { return false }
    var (pattern, _) = unsafe canary(at: address)
    let slack = unsafe run.base + run.byteCount - (address + byteCount)
    return unsafe withUnsafeBytes(of: &pattern) { bytes in
      (0..<slack).allSatisfy { offset in
        unsafe (address + byteCount + offset).load(as: UInt8.self) == bytes[offset % 8]
      }
    }
  }

  /// Wipes a secret, outside of the lock. False when something was written beside it.
  func wipeContents(of place: Place, run: Run) -> Bool {
    if run.isIsolated {
      let intact = unsafe isIsolatedIntact(run, address: place.address, byteCount: place.byteCount)
      unsafe wipe(run.base, byteCount: run.byteCount)
      return intact
    }
    let start = unsafe run.base + Int(place.slot) * run.slotBytes
    let payload = run.slotBytes - SizeClass.canaryBytes
    let before = unsafe place.address - start
    let behind = payload - before - place.byteCount
    let canary = unsafe start + payload
    let intact =
      unsafe isIntact(at: canary) && isZero(start, byteCount: before)
      && isZero(place.address + place.byteCount, byteCount: behind)
    unsafe wipe(start, byteCount: payload)
    if !intact { unsafe write(behind: canary) }
    return intact
  }
}
