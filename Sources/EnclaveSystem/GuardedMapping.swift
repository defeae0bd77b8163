// A mapping between two guard pages, and the protections that an arena applies to it.

internal import CEnclaveSystem

/// Access to memory, as mprotect(2) sets it.
package enum Protection: Int32, Sendable, BitwiseCopyable {
  case closed = 0
  case read = 1
  case readWrite = 2
}

/// How a mapping is kept out of a forked child.
package enum ForkProtection: UInt8, Sendable {
  /// The child reads zeros (MADV_WIPEONFORK, Linux 4.14).
  case zeros = 1
  /// The child does not have the mapping (MADV_DONTFORK).
  case absent = 2
}

package enum Page {
  /// The size of a page, in bytes.
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
/// The guards lie outside the locked range, so they do not count against RLIMIT_MEMLOCK. They are
/// PROT_NONE mappings and not guard markers (MADV_GUARD_INSTALL), because MADV_WIPEONFORK drops
/// markers in a forked child. A mapping takes three entries of vm.max_map_count (two where a
/// neighbour's guard merges), and more once its slabs are separate mappings.
@safe
package struct GuardedMapping: BitwiseCopyable {
  package let data: UnsafeMutableRawPointer
  package let byteCount: Int
  /// How many entries of vm.max_map_count the data takes while all of it is closed.
  package internal(set) var dataMaps = 1

  private var base: UnsafeMutableRawPointer { unsafe data - Page.size }
  private var reservedBytes: Int { byteCount + 2 * Page.size }

  /// Where a mapping's pages come from.
  package enum MemorySource: Sendable {
    case anonymous
    /// memfd_secret(2): removed from the kernel's direct map, so that /proc/PID/mem, ptrace and the
    /// kernel's own copies cannot reach it. It is shared memory, so it is left out of forked
    /// children.
    case secret
  }

  /// Wraps an existing mapping.
  init(data: UnsafeMutableRawPointer, byteCount: Int) {
    unsafe self.data = unsafe data
    self.byteCount = byteCount
  }

  /// Maps `byteCount` bytes (whole pages), readable and writable, between two guard pages.
  package init(byteCount: Int, backing: MemorySource = .anonymous) throws(SystemFailure) {
    precondition(byteCount > 0 && byteCount % Page.size == 0)
    let reserved = byteCount + 2 * Page.size
    let address = try perform(.reserveChunk, byteCount: reserved) { ces_map_reserve(reserved) }
    unsafe self.data = unsafe UnsafeMutableRawPointer(bitPattern: Int(address))! + Page.size
    self.byteCount = byteCount
    let data = unsafe self.data
    do {
      switch backing {
      case .anonymous:
        try perform(.openNewChunk, byteCount: byteCount) {
          unsafe ces_protect(data, byteCount, Protection.readWrite.rawValue)
        }
      case .secret:
        try perform(.mapSecretMemory, byteCount: byteCount) {
          unsafe ces_map_secret(data, byteCount)
        }
      }
    } catch {
      // Nothing was written yet. If this fails too, it is counted and leaks addresses, not secrets.
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

  /// Opts out of page merging and huge pages, in case the process or its parent enabled them for
  /// all memory. With prctl(PR_SET_MEMORY_MERGE) the kernel shares pages with equal contents, which
  /// other processes can detect by timing. khugepaged copies pages into huge pages and frees the
  /// originals without clearing them.
  package func optOutOfPageMerging() throws(SystemFailure) {
    try advise(.keepUnmerged, CES_ADVICE_UNMERGEABLE)
    // A huge page lies within one mapping, so smaller mappings are never affected.
    if byteCount >= Self.hugePageBytes {
      try advise(.keepFromHugePages, CES_ADVICE_NO_HUGE_PAGES)
    }
  }

  /// Ignores EINVAL (22): the kernel was built without page merging or huge pages.
  private func advise(_ call: SystemCall, _ advice: Int32) throws(SystemFailure) {
    do {
      try perform(call, byteCount: byteCount) { unsafe ces_advise(data, byteCount, advice) }
    } catch { if error.errno != 22 { throw error } }
  }

  static let hugePageBytes = 2 << 20

  /// Keeps the contents out of a forked child: zeroed there, or absent on kernels without
  /// MADV_WIPEONFORK.
  package func protectFromFork() throws(SystemFailure) -> ForkProtection {
    do {
      try perform(.wipeOnFork, byteCount: byteCount) {
        unsafe ces_advise(data, byteCount, Int32(CES_ADVICE_WIPE_ON_FORK))
      }
      return .zeros
    } catch {
      return try excludeFromFork()
    }
  }

  /// madvise(2), MADV_DONTFORK: the child does not have the mapping.
  package func excludeFromFork() throws(SystemFailure) -> ForkProtection {
    try perform(.leaveOutOfFork, byteCount: byteCount) {
      unsafe ces_advise(data, byteCount, Int32(CES_ADVICE_DONT_FORK))
    }
    return .absent
  }

  /// pkey_mprotect(2): readable and writable for threads that have the key open.
  package func tag(key: Int) throws(SystemFailure) {
    try perform(.tagChunk, byteCount: byteCount) {
      unsafe ces_key_protect(data, byteCount, Int32(key))
    }
  }

  /// mprotect(2), read-only.
  package func freeze() throws(SystemFailure) {
    try perform(.freezeChunk, byteCount: byteCount) {
      unsafe ces_protect(data, byteCount, Protection.read.rawValue)
    }
  }

  /// mseal(2), guards included. From then on mprotect, munmap, mremap and mapping over it fail, and
  /// so do discards by threads that do not have its key open.
  package func seal() throws(SystemFailure) {
    try perform(.sealChunk, byteCount: reservedBytes) { unsafe ces_seal(base, reservedBytes) }
  }

  /// Returns the pages of a wiped mapping to the kernel and keeps its addresses. Unlocks first,
  /// because locked pages cannot be discarded.
  package func discard() throws(SystemFailure) {
    try unlock()
    try perform(.discardChunk, byteCount: byteCount) { unsafe ces_discard(data, byteCount) }
  }

  /// mlock(2). The memory must be readable: mlock of PROT_NONE memory fails with ENOMEM and still
  /// counts against the limit. After a failure nothing is left locked.
  package func lock() throws(SystemFailure) { unsafe try lockPages(data, byteCount: byteCount) }

  /// mlock2(2), MLOCK_ONFAULT: locks resident pages now and the others when they are first touched.
  /// For untouched memory, and for a forked child, where mlock(2) would copy each page.
  package func lockOnFault() throws(SystemFailure) {
    unsafe try lockPages(data, byteCount: byteCount, onFault: true)
  }

  package func unlock() throws(SystemFailure) {
    try perform(.unlockChunk, byteCount: byteCount) { unsafe ces_unlock(data, byteCount) }
  }

  /// Closes the whole of a new chunk with mprotect(2).
  package func close() throws(SystemFailure) {
    try perform(.closeNewChunk, byteCount: byteCount) {
      unsafe ces_protect(data, byteCount, Protection.closed.rawValue)
    }
  }

  package func unmap() throws(SystemFailure) {
    try perform(.unmapChunk, byteCount: reservedBytes) { unsafe ces_unmap(base, reservedBytes) }
    if dataMaps > 1 { SeparateMaps.release(dataMaps) }
  }
}

/// mlock(2) of pages inside a mapping; with `onFault`, mlock2(2) and MLOCK_ONFAULT. After a failure none
/// of them is left locked.
package func lockPages(
  _ address: UnsafeMutableRawPointer, byteCount: Int, onFault: Bool = false
) throws(SystemFailure) {
  do {
    try perform(.lockChunk, byteCount: byteCount) {
      unsafe onFault ? ces_lock_on_fault(address, byteCount) : ces_lock(address, byteCount)
    }
  } catch {
    _ = try? perform(.unlockChunk, byteCount: byteCount) { unsafe ces_unlock(address, byteCount) }
    throw error
  }
}

/// Marks pages already brought in and locked by mlock(2) as locked "on fault". They stay locked,
/// and mprotect(2) no longer visits each of them when it makes them writable: opening and closing
/// takes 1.3 instead of 1.6 µs for one page, and 37 instead of 74 µs for 256 (x86-64, Linux 6.18).
/// A refusal by the kernel is counted; the pages are then just as locked, and slower to open.
package func lockPagesOnFault(_ address: UnsafeMutableRawPointer, byteCount: Int) {
  _ = try? perform(.lockOnFault, byteCount: byteCount) {
    unsafe ces_lock_on_fault(address, byteCount)
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

/// Copies without leaving the bytes in registers; memcpy(3) goes through vector registers.
package func copySecret(
  from source: UnsafeRawPointer, to target: UnsafeMutableRawPointer, byteCount: Int
) {
  unsafe ces_copy(target, source, byteCount)
}

/// Whether all bytes are zero. The time depends on the length alone.
package func isZero(_ address: UnsafeRawPointer, byteCount: Int) -> Bool {
  unsafe ces_is_zero(address, byteCount) != 0
}

/// Whether two ranges are equal. The time depends on the length alone.
package func isEqual(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, byteCount: Int) -> Bool {
  unsafe ces_is_equal(a, b, byteCount) != 0
}

/// Fills memory from getrandom(2).
package func fillRandom(
  _ address: UnsafeMutableRawPointer, byteCount: Int
) throws(SystemFailure) {
  try perform(.fillRandom, byteCount: byteCount) { unsafe ces_random(address, byteCount) }
}

/// Tests which mechanisms the kernel supports, on memory that nobody uses.
package enum Probe {
  package static func seals() throws(SystemFailure) {
    try perform(.sealChunk) { ces_seal(nil, 0) }
  }

  package static func secretMemory() throws(SystemFailure) {
    try perform(.mapSecretMemory) { ces_map_secret(nil, 0) }
  }

  package static func guardMarkers() throws(SystemFailure) {
    let mapping = try GuardedMapping(byteCount: Page.size)
    defer { _ = try? mapping.unmap() }
    try perform(.probeMechanism) { unsafe ces_guard_probe(mapping.data, Page.size) }
  }

  package static func wipeOnFork() throws(SystemFailure) {
    let mapping = try GuardedMapping(byteCount: Page.size)
    defer { _ = try? mapping.unmap() }
    try perform(.wipeOnFork, byteCount: Page.size) {
      unsafe ces_advise(mapping.data, Page.size, Int32(CES_ADVICE_WIPE_ON_FORK))
    }
  }

  package static func memoryTagging() throws(SystemFailure) {
    try perform(.probeMechanism) { ces_memory_tagging_probe() }
  }
}
