// A mapping between two guard pages, and the mechanisms that an arena puts on it.

internal import CEnclaveSystem

/// Who may touch memory.
package enum Protection: Int32, Sendable, BitwiseCopyable {
  case closed = 0
  case read = 1
  case readWrite = 2
}

/// How a mapping is kept from a forked child.
package enum ForkProtection: UInt8, Sendable {
  /// The child reads zeros (MADV_WIPEONFORK, Linux 4.14).
  case zeros = 1
  /// The child has no such mapping (MADV_DONTFORK).
  case absent = 2
}

package enum Page {
  /// The size of a page in bytes.
  package static let size = Int(ces_page_size())

  /// `byteCount` rounded up to whole pages; nil on overflow.
  package static func roundUp(_ byteCount: Int) -> Int? {
    let (sum, overflow) = byteCount.addingReportingOverflow(size - 1)
    return overflow ? nil : sum & ~(size - 1)
  }
}

/// Private anonymous memory with an inaccessible page on either side:
///
///     base                data                          data + byteCount
///     | guard, PROT_NONE  | byteCount, whole pages      | guard, PROT_NONE |
///
/// The guards are outside of the locked range, so RLIMIT_MEMLOCK is not charged for them. They are
/// PROT_NONE and not guard markers, because MADV_WIPEONFORK drops markers in a forked child.
/// One mapping takes three entries of vm.max_map_count, two where a neighbour's guard merges.
@safe
package struct GuardedMapping: BitwiseCopyable {
  package let data: UnsafeMutableRawPointer
  package let byteCount: Int

  private var base: UnsafeMutableRawPointer { unsafe data - Page.size }
  private var reservedBytes: Int { byteCount + 2 * Page.size }

  /// Maps `byteCount` bytes (whole pages), readable and writable, between two guard pages.
  package init(byteCount: Int) throws(SystemFailure) {
    precondition(byteCount > 0 && byteCount % Page.size == 0)
    let reserved = byteCount + 2 * Page.size
    let address = try perform(.reserveChunk, byteCount: reserved) { ces_map_reserve(reserved) }
    unsafe self.data = UnsafeMutableRawPointer(bitPattern: Int(address))! + Page.size
    self.byteCount = byteCount
    let data = unsafe self.data
    do {
      try perform(.openNewChunk, byteCount: byteCount) {
        unsafe ces_protect(data, byteCount, Protection.readWrite.rawValue)
      }
    } catch {
      // Nothing was written yet; a failure here is counted and leaves addresses, not secrets.
      _ = try? unmap()
      throw error
    }
  }

  /// madvise(2), MADV_DONTDUMP.
  package func excludeFromDumps() throws(SystemFailure) {
    try perform(.excludeFromDumps, byteCount: byteCount) {
      unsafe ces_advise(data, byteCount, Int32(CES_ADVICE_DONT_DUMP))
    }
  }

  /// Keeps the contents from a forked child: wiped there, or where the kernel does not know that,
  /// absent there.
  package func keepFromFork() throws(SystemFailure) -> ForkProtection {
    do {
      try perform(.wipeOnFork, byteCount: byteCount) {
        unsafe ces_advise(data, byteCount, Int32(CES_ADVICE_WIPE_ON_FORK))
      }
      return .zeros
    } catch {
      try perform(.leaveOutOfFork, byteCount: byteCount) {
        unsafe ces_advise(data, byteCount, Int32(CES_ADVICE_DONT_FORK))
      }
      return .absent
    }
  }

  /// mlock(2). The memory must be readable: mlock of PROT_NONE answers ENOMEM and is charged all
  /// the same. After a failure nothing is left locked.
  package func lock() throws(SystemFailure) {
    do {
      try perform(.lockChunk, byteCount: byteCount) { unsafe ces_lock(data, byteCount) }
    } catch {
      _ = try? unlock()
      throw error
    }
  }

  package func unlock() throws(SystemFailure) {
    try perform(.unlockChunk, byteCount: byteCount) { unsafe ces_unlock(data, byteCount) }
  }

  /// mprotect(2) of the whole of a chunk that was just made.
  package func close() throws(SystemFailure) {
    try perform(.closeNewChunk, byteCount: byteCount) {
      unsafe ces_protect(data, byteCount, Protection.closed.rawValue)
    }
  }

  package func unmap() throws(SystemFailure) {
    try perform(.unmapChunk, byteCount: reservedBytes) { unsafe ces_unmap(base, reservedBytes) }
  }
}

/// mprotect(2) of pages inside a mapping.
package func setProtection(
  _ protection: Protection, at address: UnsafeMutableRawPointer, byteCount: Int
) throws(SystemFailure) {
  try perform(protection == .closed ? .closeWindow : .openWindow, byteCount: byteCount) {
    unsafe ces_protect(address, byteCount, protection.rawValue)
  }
}

/// Overwrites with zeros; never optimised away (explicit_bzero(3)).
package func wipe(_ address: UnsafeMutableRawPointer, byteCount: Int) {
  unsafe ces_wipe(address, byteCount)
}

/// Whether all bytes are zero, in a time that depends on the length alone.
package func isZero(_ address: UnsafeRawPointer, byteCount: Int) -> Bool {
  unsafe ces_is_zero(address, byteCount) != 0
}

/// Whether two ranges are equal, in a time that depends on the length alone.
package func isEqual(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, byteCount: Int) -> Bool {
  unsafe ces_is_equal(a, b, byteCount) != 0
}

/// Fills memory from getrandom(2).
package func fillRandom(
  _ address: UnsafeMutableRawPointer, byteCount: Int
) throws(SystemFailure) {
  try perform(.fillRandom, byteCount: byteCount) { unsafe ces_random(address, byteCount) }
}
