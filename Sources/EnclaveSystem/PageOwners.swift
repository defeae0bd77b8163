// The process's table from page to owner; see CEnclavePages.h.

public import CEnclaveSystem

/// Which object each page of memory belongs to.
package enum PageOwners {
  /// Makes room in the table for an address range. Each GiB of addresses takes one mapping per
  /// process.
  package static func reserve(
    _ address: UnsafeRawPointer, _ byteCount: Int
  ) throws(SystemFailure) {
    try perform(.reservePageTable) { unsafe ces_pages_reserve(address, byteCount) }
  }

  /// Sets the owner of every page of a reserved range.
  package static func set(
    _ owner: UnsafeMutableRawPointer?, at address: UnsafeRawPointer, _ byteCount: Int
  ) {
    unsafe ces_pages_set(address, byteCount, owner)
  }
}

/// The owner of the page that contains `address`, or nil. Two loads, no lock. A free function,
/// because methods of another module's types are not inlined.
@inlinable @inline(__always)
package func pageOwner(of address: UnsafeRawPointer) -> UnsafeMutableRawPointer? {
  unsafe ces_pages_owner(address)
}

/// Loads a word that other threads change, with acquire ordering.
@inlinable @inline(__always)
package func loadAcquire(_ word: UnsafeMutablePointer<UInt32>) -> UInt32 {
  unsafe ces_load_acquire32(word)
}

/// Stores a word that other threads load, with release ordering.
@inlinable @inline(__always)
package func publish(_ value: UInt32, to word: UnsafeMutablePointer<UInt32>) {
  unsafe ces_publish32(word, value)
}

/// Loads a field that another thread may be storing, without ordering.
@inlinable @inline(__always)
package func loadField(_ field: UnsafeMutablePointer<UInt16>) -> UInt16 {
  unsafe ces_load_field16(field)
}

@inlinable @inline(__always)
package func loadField(_ field: UnsafeMutablePointer<UInt32>) -> UInt32 {
  unsafe ces_load_field32(field)
}

/// Stores a field that other threads may be loading, without ordering.
@inlinable @inline(__always)
package func storeField(_ value: UInt16, to field: UnsafeMutablePointer<UInt16>) {
  unsafe ces_store_field16(field, value)
}

@inlinable @inline(__always)
package func storeField(_ value: UInt32, to field: UnsafeMutablePointer<UInt32>) {
  unsafe ces_store_field32(field, value)
}

/// Replaces a word if its value is `old`; otherwise returns false.
@inlinable @inline(__always)
package func exchange(
  _ word: UnsafeMutablePointer<UInt32>, from old: UInt32, to new: UInt32
) -> Bool {
  unsafe ces_exchange(word, old, new)
}
