// Chunks whose slabs are mappings of their own, and how many of them a process may have.

internal import CEnclaveSystem

/// Changing the protection of pages within a mapping splits it in three, and closing them merges it
/// again: 4.4 µs for both and a page, 4.9 for four (x86-64, Linux 6.18), against 1.3 and 1.8 µs for a
/// mapping of their own. Neighbours with different flags never merge, so every second unit of a chunk
/// (the 1, 2 or 4 pages of its slabs) gets MADV_NOHUGEPAGE, which changes nothing for single pages:
///
///     | nh |    | nh |    | nh |    |       a map for each unit, whatever their protections
///
/// (MADV_RANDOM separates too, but has unlocked pages evicted first.)
///
/// Each such map makes /proc/PID/smaps longer, which takes 5 to 11 µs a map under the process' mmap
/// lock, and uses up vm.max_map_count. So there is a bound for the whole process; chunks beyond it
/// stay in one piece.
package enum SeparateMaps {
  /// 2,048 (smaps takes some 20 ms then), and at most an eighth of vm.max_map_count.
  package static let limit: Int = min(2048, (ProcessFacts.mapLimit() ?? 65530) / 8)

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt64> = {
    let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    unsafe word.initialize(to: 0)
    return unsafe word
  }()

  /// The maps in use. One relaxed load; any thread.
  package static var count: Int { unsafe Int(loadRelaxed(word)) }

  /// Takes so many maps; false when there would be more than `limit`.
  static func take(_ maps: Int) -> Bool {
    if unsafe addRelaxed(UInt64(maps), to: word) <= UInt64(limit) { return true }
    giveBack(maps)
    return false
  }

  static func giveBack(_ maps: Int) { unsafe addRelaxed(0 &- UInt64(maps), to: word) }
}

extension GuardedMapping {
  /// Makes each unit of so many bytes a mapping of its own, as far as the process may have more of
  /// them. False where it may not, or where the kernel refuses, which is counted: the chunk stays in
  /// one piece then, as safe, and slower to open.
  package mutating func separate(unit: Int) -> Bool {
    let maps = (byteCount + unit - 1) / unit
    // One is one already. Where huge pages could lie, all pages have the flag.
    if maps == 1 { return true }
    guard byteCount < Self.hugePageBytes, SeparateMaps.take(maps) else { return false }
    do {
      try perform(.separatePages, byteCount: byteCount) {
        unsafe ces_separate(data, byteCount, unit)
      }
      dataMaps = maps
      return true
    } catch {
      SeparateMaps.giveBack(maps)
      return false
    }
  }
}
