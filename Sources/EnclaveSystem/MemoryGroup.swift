// The memory control group of this process (cgroups(7)). Where it has a limit, mlock(2) of more than
// fits does not fail: the kernel kills the process. So the library looks first.

import Synchronization

/// A memory control group with a limit: the one that has the least room, of this process' and those
/// above it.
package struct MemoryGroup: Equatable, Sendable {
  /// memory.max, or memory.limit_in_bytes of version 1. Bytes.
  package var limit: UInt64
  /// Bytes that the kernel cannot take back: locked pages and its own; without swap, all but copies of
  /// files.
  package var inUse: UInt64
  /// Whether unlocked memory may go to swap: then more may be used than fits.
  package var maySwap: Bool

  package init(limit: UInt64, inUse: UInt64, kept: UInt64, maySwap: Bool) {
    self.limit = limit
    self.inUse = inUse
    room = limit > inUse + kept ? limit - inUse - kept : 0
    self.maySwap = maySwap
  }

  /// Bytes that may be taken besides.
  package var room: UInt64

  /// So many bytes stay free for what the program, and the kernel for it, need at the same time: page
  /// tables are charged to the group too.
  package static let keptBytes: UInt64 = 1 << 20

  /// Whether so many bytes may be locked, for what the group says. It looks once in 256 KiB, less than
  /// stays free: most chunks cost no look.
  package static func hasRoom(for byteCount: Int) -> Bool {
    guard unseen.add(byteCount, ordering: .relaxed).newValue >= 256 << 10 else { return true }
    guard tooSmall(for: UInt64(byteCount)) == nil else { return false }
    unseen.store(0, ordering: .relaxed)
    return true
  }

  /// Bytes since the last look.
  private static let unseen = Atomic(0)

  /// The group in which so many more bytes would not fit; nil where they fit, or nothing can be known.
  /// Reads a few small files. What other processes of the group take meanwhile is not foreseen.
  package static func tooSmall(
    for byteCount: UInt64, membership: String = "/proc/self/cgroup",
    mount: String = "/sys/fs/cgroup",
    memory: String = "/proc/meminfo", kept: UInt64 = keptBytes
  ) -> MemoryGroup? {
    guard let text = ProcessFacts.readText(membership, limit: 16384) else { return nil }
    var worst: MemoryGroup?
    for line in text.split(separator: "\n") {
      // 0::/PATH, or NUMBER:CONTROLLERS:/PATH of version 1 (cgroups(7)).
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let files: Files
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
        if let group = files.group(in: directory, besides: byteCount, memory: memory, kept: kept),
          group.room < worst?.room ?? byteCount
        {
          worst = group
        }
        if names.popLast() == nil { break }
      }
    }
    return worst
  }

  /// The names of one version's files (the kernel's cgroup-v2.rst, and cgroup-v1/memory.rst).
  private struct Files {
    var subdirectory: String
    var limit: String
    var usage: String
    /// What the kernel can take back: copies of files, caches of its own.
    var reclaimable: [StaticString]
    /// What it can take back where there is swap.
    var swappable: [StaticString]
    var swap: String?

    static var version2: Files {
      Files(
        subdirectory: "", limit: "memory.max", usage: "memory.current",
        reclaimable: ["inactive_file ", "active_file ", "slab_reclaimable "],
        swappable: ["inactive_anon ", "active_anon "], swap: "memory.swap.max")
    }
    static var version1: Files {
      Files(
        subdirectory: "/memory", limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes",
        reclaimable: ["total_inactive_file ", "total_active_file "],
        swappable: ["total_inactive_anon ", "total_active_anon "], swap: nil)
    }

    /// nil where there is no limit, or room enough at first sight: only then are statistics read, which
    /// the kernel has to add up.
    func group(
      in directory: String, besides byteCount: UInt64, memory: String, kept: UInt64
    ) -> MemoryGroup? {
      guard let limit = number("\(directory)/\(limit)"), let usage = number("\(directory)/\(usage)")
      else { return nil }
      let (sum, overflows) = (usage + kept).addingReportingOverflow(byteCount)
      guard overflows || sum > limit,
        let statistics = ProcessFacts.readFile("\(directory)/memory.stat", limit: 65536)
      else { return nil }
      let swapBytes = ProcessFacts.readFile(memory, limit: 16384).flatMap {
        ProcText.kilobytes("SwapTotal", in: $0)
      }
      let maySwap = swapBytes != 0 && swap.flatMap { number("\(directory)/\($0)") } != 0
      let takenBack = (maySwap ? reclaimable + swappable : reclaimable).reduce(UInt64(0)) {
        $0 + (ProcText.number($1, in: statistics) ?? 0)
      }
      return MemoryGroup(
        limit: limit, inUse: usage - min(usage, takenBack), kept: kept, maySwap: maySwap)
    }

    /// nil for a file that is not there, and for "max".
    private func number(_ path: String) -> UInt64? {
      ProcessFacts.readFile(path, limit: 64).flatMap { ProcText.number($0[...]) }
    }
  }
}
