// Stores into a page that other processes read. There are no loads: the publisher never reads its
// page.

public import CEnclaveSystem

@inlinable @inline(__always)
package func storeRelaxed(_ value: UInt64, at address: UnsafeMutableRawPointer) {
  unsafe ces_store_relaxed(address, value)
}

@inlinable @inline(__always)
package func storeRelease(_ value: UInt64, at address: UnsafeMutableRawPointer) {
  unsafe ces_store_release(address, value)
}

@inlinable @inline(__always)
package func fenceRelease() { ces_fence_release() }

/// A full memory barrier.
package func fenceAll() { ces_fence_all() }

/// Loads a word that another thread may be storing, without ordering.
@inlinable @inline(__always)
package func loadRelaxed(_ address: UnsafeRawPointer) -> UInt64 {
  unsafe ces_load_relaxed(address)
}

/// Wipes a slot whose size is a multiple of 16 bytes. Never optimised away.
@inlinable @inline(__always)
package func wipeSlot(_ address: UnsafeMutableRawPointer, byteCount: Int) {
  unsafe ces_wipe_slot(address, byteCount)
}
