// Chunks whose slabs are separate mappings, and the limit of such mappings per process.

internal import CEnclaveSystem

/// Changing the protection of pages inside a mapping splits it into three, and closing merges it
/// again. Both together take 4.4 µs for one page and 4.9 µs for four, against 1.3 and 1.8 µs for
/// pages that are a mapping of their own (x86-64, Linux 6.18). Neighbouring mappings with different
/// flags never merge, so every second unit of a chunk (the 1, 2 or 4 pages of a slab) gets
/// MADV_NOHUGEPAGE, which has no other effect on single pages:
///
///     | nh |    | nh |    | nh |    |       a mapping per unit, whatever its protection
///
/// (MADV_RANDOM separates mappings too, but makes the kernel evict unlocked pages first.)
///
/// Each mapping lengthens /proc/PID/smaps, which takes 5 to 11 µs per mapping under the process's
/// mmap lock, and uses up vm.max_map_count. So the number is limited per process; chunks beyond the
/// limit remain one mapping.
package enum SeparateMaps {
  /// At most 2,048 (reading smaps then takes some 20 ms), and at most an eighth of
  /// vm.max_map_count.
  package static let limit: Int = min(2048, (ProcessFacts.mapLimit() ?? 65530) / 8)

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt64> = {
    let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    unsafe word.initialize(to: 0)
    return unsafe word
  }()

  /// The mappings in use. One relaxed load; any thread.
  package static var count: Int { unsafe Int(loadRelaxed(word)) }

  /// Reserves `maps` mappings; false if that would exceed `limit`.
  static func reserve(_ maps: Int) -> Bool {
    if unsafe addRelaxed(UInt64(maps), to: word) <= UInt64(limit) { return true }
    release(maps)
    return false
  }

  static func release(_ maps: Int) { unsafe addRelaxed(0 &- UInt64(maps), to: word) }
}

extension GuardedMapping {
  /// Makes each unit of this many bytes a separate mapping, within the process's limit. Returns
  /// false when the limit is reached or the kernel refuses (which is counted). Then the chunk
  /// remains one mapping: equally safe, but slower to open.
  package mutating func separate(unit: Int) -> Bool {
    let maps = (byteCount + unit - 1) / unit
    // A single unit needs no split. A mapping large enough for huge pages has the flag everywhere.
    if maps == 1 { return true }
    guard byteCount < Self.hugePageBytes, SeparateMaps.reserve(maps) else { return false }
    do {
      try perform(.separatePages, byteCount: byteCount) {
        unsafe ces_separate(data, byteCount, unit)
      }
      dataMaps = maps
      return true
    } catch {
      SeparateMaps.release(maps)
      return false
    }
  }
}
