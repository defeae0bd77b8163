// Stores into a page that other processes read. Never a load: the page is write-only for its
// publisher.

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

/// Nothing before it is seen later than anything behind it.
package func fenceAll() { ces_fence_all() }

/// A word that one thread advances and others read, without ordering.
@inlinable @inline(__always)
package func loadRelaxed(_ address: UnsafeRawPointer) -> UInt64 {
  unsafe ces_load_relaxed(address)
}

/// Wipes a slot: a multiple of 16 bytes. Never optimised away.
@inlinable @inline(__always)
package func wipeSlot(_ address: UnsafeMutableRawPointer, byteCount: Int) {
  unsafe ces_wipe_slot(address, byteCount)
}
