// The memory control group of this process (cgroups(7)). In a group with a limit, mlock(2) of more
// than fits does not fail: the kernel kills the process. So the library checks first.

import Synchronization

/// A memory control group with a limit: the one with the least room among this process's group and
/// its parents.
package struct MemoryGroup: Equatable, Sendable {
  /// memory.max, or memory.limit_in_bytes of version 1. Bytes.
  package var limit: UInt64
  /// Bytes that the kernel cannot reclaim: locked pages and its own; without swap, everything but
  /// the page cache.
  package var inUse: UInt64
  /// Whether unlocked memory may be swapped out: then more may be used than fits.
  package var maySwap: Bool

  package init(limit: UInt64, inUse: UInt64, reserved: UInt64, maySwap: Bool) {
    self.limit = limit
    self.inUse = inUse
    let left = limit - min(limit, inUse)
    room = left - min(left, reserved)
    self.maySwap = maySwap
  }

  /// Bytes that may still be taken.
  package var room: UInt64

  /// How many bytes stay free for what the program and the kernel need at the same time: page
  /// tables are charged to the group too.
  package static let reservedBytes: UInt64 = 1 << 20

  /// Whether the group has room to lock this many bytes. Checks only once per 256 KiB, which is
  /// less than what stays free, so that most chunks cost no check.
  package static func hasRoom(for byteCount: Int) -> Bool {
    guard bytesSinceCheck.add(byteCount, ordering: .relaxed).newValue >= 256 << 10 else {
      return true
    }
    guard tooSmall(for: UInt64(byteCount)) == nil else { return false }
    bytesSinceCheck.store(0, ordering: .relaxed)
    return true
  }

  /// Bytes since the last check.
  private static let bytesSinceCheck = Atomic(0)

  /// The group in which this many more bytes would not fit; nil if they fit or nothing is known.
  /// Reads a few small files. Memory that other processes of the group take meanwhile is not
  /// foreseen.
  package static func tooSmall(
    for byteCount: UInt64, membership: String = "/proc/self/cgroup",
    mount: String = "/sys/fs/cgroup",
    memory: String = "/proc/meminfo", reserved: UInt64 = reservedBytes
  ) -> MemoryGroup? {
    guard let text = ProcessFacts.readText(membership, limit: 16384) else { return nil }
    var worst: MemoryGroup?
    for line in text.split(separator: "\n") {
      // 0::/PATH, or NUMBER:CONTROLLERS:/PATH of version 1 (cgroups(7)).
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let files: GroupFiles
      if fields[1].isEmpty {
        files = .version2
      } else if fields[1].split(separator: ",").contains("memory") {
        files = .version1
      } else {
        continue
      }
      var names = fields[2].split(separator: "/")
      while true {
        let directory = ([mount + files.subdirectory] + names.map(String.init)).joined(
          separator: "/")
        if let group = files.group(
          in: directory, besides: byteCount, memory: memory, reserved: reserved),
          group.room < worst?.room ?? byteCount
        {
          worst = group
        }
        if names.popLast() == nil { break }
      }
    }
    return worst
  }

  /// The file names of one version (the kernel's cgroup-v2.rst, and cgroup-v1/memory.rst).
  private struct GroupFiles {
    var subdirectory: String
    var limit: String
    var usage: String
    /// What the kernel can reclaim: the page cache, and caches of its own.
    var reclaimable: [StaticString]
    /// What it can reclaim if there is swap.
    var swappable: [StaticString]
    var swap: String?

    static var version2: GroupFiles {
      GroupFiles(
        subdirectory: "", limit: "memory.max", usage: "memory.current",
        reclaimable: ["inactive_file ", "active_file ", "slab_reclaimable "],
        swappable: ["inactive_anon ", "active_anon "], swap: "memory.swap.max")
    }
    static var version1: GroupFiles {
      GroupFiles(
        subdirectory: "/memory", limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes",
        reclaimable: ["total_inactive_file ", "total_active_file "],
        swappable: ["total_inactive_anon ", "total_active_anon "], swap: nil)
    }

    /// Returns nil if there is no limit, or obviously enough room. Only otherwise reads the
    /// statistics, which the kernel has to add up.
    func group(
      in directory: String, besides byteCount: UInt64, memory: String, reserved: UInt64
    ) -> MemoryGroup? {
      guard let limit = number("\(directory)/\(limit)"), let usage = number("\(directory)/\(usage)")
      else { return nil }
      let left = limit - min(limit, usage)
      guard left < reserved || left - reserved < byteCount,
        let statistics = ProcessFacts.readFile("\(directory)/memory.stat", limit: 65536)
      else { return nil }
      let swapBytes = ProcessFacts.readFile(memory, limit: 16384).flatMap {
        ProcText.kilobytes("SwapTotal", in: $0)
      }
      let maySwap = swapBytes != 0 && swap.flatMap { number("\(directory)/\($0)") } != 0
      let reclaimed = (maySwap ? reclaimable + swappable : reclaimable).reduce(UInt64(0)) {
        $0 &+ (ProcText.number($1, in: statistics) ?? 0)
      }
      return MemoryGroup(
        limit: limit, inUse: usage - min(usage, reclaimed), reserved: reserved, maySwap: maySwap)
    }

    /// Returns nil if the file is missing or contains "max".
    private func number(_ path: String) -> UInt64? {
      ProcessFacts.readFile(path, limit: 64).flatMap { ProcText.number($0[...]) }
    }
  }
}
