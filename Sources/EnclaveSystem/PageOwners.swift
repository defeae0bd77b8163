// The process' table of pages: see CEnclavePages.h.

public import CEnclaveSystem

/// What object each page of memory belongs to.
package enum PageOwners {
  /// Makes place for a range. Each GiB of addresses takes one mapping, once for the process.
  package static func reserve(
    _ address: UnsafeRawPointer, _ byteCount: Int
  ) throws(SystemFailure) {
    try perform(.reservePageTable) { unsafe ces_pages_reserve(address, byteCount) }
  }

  /// Sets the owner of every page of a range that was reserved.
  package static func set(
    _ owner: UnsafeMutableRawPointer?, at address: UnsafeRawPointer, _ byteCount: Int
  ) {
    unsafe ces_pages_set(address, byteCount, owner)
  }
}

/// The owner of the page that an address lies in; nil when it is nobody's. Two loads, no lock. (A
/// free function: methods of another module's types were not inlined.)
@inlinable @inline(__always)
package func pageOwner(of address: UnsafeRawPointer) -> UnsafeMutableRawPointer? {
  unsafe ces_pages_owner(address)
}

/// A word that other threads may change; what is read after it is not older.
@inlinable @inline(__always)
package func loadAcquire(_ word: UnsafeMutablePointer<UInt32>) -> UInt32 {
  unsafe ces_load_acquire32(word)
}

/// Changes a word that other threads load; who sees the value sees what was written before.
@inlinable @inline(__always)
package func publish(_ value: UInt32, to word: UnsafeMutablePointer<UInt32>) {
  unsafe ces_publish32(word, value)
}

/// Replaces a word that has the value `old`; false when it has another.
@inlinable @inline(__always)
package func exchange(
  _ word: UnsafeMutablePointer<UInt32>, from old: UInt32, to new: UInt32
) -> Bool {
  unsafe ces_exchange(word, old, new)
}
