// Process-wide settings that apply to every new mapping: the library undoes them for arenas.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct SettingsTests {
  /// The flags (VmFlags in smaps, proc(5)) of the mapping that begins at an address, plus `present`
  /// if all of its pages are in RAM.
  private func flags(of pid: Int32, at address: UInt64) throws -> Set<String> {
    let start = String(address, radix: 16) + "-"
    let lines = try procText("/proc/\(pid)/smaps").split(separator: "\n")
    let first = try #require(lines.firstIndex { $0.hasPrefix(start) }, "nothing at \(start)")
    let line = try #require(lines[first...].first { $0.hasPrefix("VmFlags:") })
    func kilobytes(_ key: String) -> Substring? {
      lines[first...].first { $0.hasPrefix(key + ":") }?.split(separator: " ").dropFirst().first
    }
    let isPresent = kilobytes("Rss") == kilobytes("Size")
    return Set(line.split(separator: " ").dropFirst().map { String($0) })
      .union(isPresent ? ["present"] : [])
  }

  /// The flags of the chunks of one arena per gate and layout, created after the setting.
  private func chunks(after commands: String..., lock: String = "preferred") throws -> [(
    String, Set<String>
  )] {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    for command in commands { try peer.send(command) }
    for (slot, arena) in [
      "alpha slab \(lock) none", "bravo isolated \(lock) pages", "charlie slab \(lock) pages",
    ].enumerated() {
      try peer.send("arena s\(slot) \(arena)")
      try peer.send("alloc s\(slot) 3 100")
      // More than a huge page.
      try peer.send("alloc s\(slot) 1 3000000")
    }
    let ended = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    let snapshot = try json(ended.output)
    let audit = try #require(snapshot["audit"] as? [String: Any])
    let kinds = (audit["findings"] as? [[String: Any]] ?? []).compactMap { $0["kind"] as? String }
    #expect(!kinds.contains { ["mergeable", "huge-pages", "not-locked"].contains($0) }, "\(kinds)")
    return try (snapshot["arenas"] as! [[String: Any]]).flatMap { arena in
      try (arena["chunks"] as! [[String: Any]]).map {
        let flags = try flags(of: peer.pid, at: UInt64($0["address"] as! Int))
        // Only a mapping that can hold a huge page needs the advice.
        let isLarge = ($0["dataBytes"] as! Int) >= 2 << 20
        return (arena["name"] as! String + (isLarge ? ", large" : ""), flags)
      }
    }
  }

  /// Whether the kernel can merge pages, and so has the setting (Linux 6.4).
  static let canMerge = FileManager.default.fileExists(atPath: "/sys/kernel/mm/ksm/run")
  static let hasHugePages = FileManager.default.fileExists(
    atPath: "/sys/kernel/mm/transparent_hugepage/enabled")

  @Test(.enabled(if: canMerge, "this kernel merges no pages (CONFIG_KSM)"))
  func pagesOfArenasAreNotMerged() throws {
    let all = try chunks(after: "merge")
    #expect(all.count >= 3)
    for (name, flags) in all { #expect(!flags.contains("mg"), "\(name): \(flags)") }
  }

  @Test(.enabled(if: hasHugePages, "this kernel has no huge pages"))
  func pagesOfArenasAreNotCollapsed() throws {
    let large = try chunks(lock: "off").filter { $0.0.hasSuffix("large") }
    #expect(large.count == 3)
    for (name, flags) in large { #expect(flags.contains("nh"), "\(name): \(flags)") }
  }

  /// Locking all future mappings needs a limit for the whole process.
  static let mayLockAll: Bool = {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
    return Programs.isRoot || limit.rlim_cur >= 1 << 30
  }()

  /// MCL_FUTURE | MCL_ONFAULT locks pages when they are touched, but those of arenas are all in
  /// RAM. (A page gate itself marks them as locked on fault, after they are present.)
  @Test(.enabled(if: mayLockAll, "needs CAP_IPC_LOCK or a memlock limit of 1 GiB"))
  func locksOnFaultBecomeLocks() throws {
    for (name, flags) in try chunks(after: "call mlockall 4096 0 \(MCL_FUTURE | MCL_ONFAULT)") {
      #expect(flags.contains("lo") && flags.contains("present"), "\(name): \(flags)")
    }
  }
}
