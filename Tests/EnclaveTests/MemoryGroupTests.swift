// Memory control groups (cgroups(7)): an allocation for which the kernel would kill is an error.

import Enclave
import EnclaveSystem
import Foundation
import TestSupport
import Testing

@Suite struct MemoryGroupTests {
  struct Row: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var membership: String
    var files: [String: String]
    var byteCount: UInt64
    var expected: MemoryGroup?
    var swapTotal = 0
    var reserved: UInt64 = 0
  }

  static let rows = [
    Row(
      testDescription: "room", membership: "0::/a.service\n",
      files: [
        "a.service/memory.max": "1000\n", "a.service/memory.current": "600\n",
        "a.service/memory.stat": "unevictable 20\n",
      ], byteCount: 400, expected: nil),
    Row(
      testDescription: "one byte too many", membership: "0::/a.service\n",
      files: [
        "a.service/memory.max": "1000\n", "a.service/memory.current": "600\n",
        "a.service/memory.stat": "unevictable 20\n",
      ], byteCount: 401, expected: MemoryGroup(limit: 1000, inUse: 600, reserved: 0, maySwap: false)
    ),
    Row(
      testDescription: "caches are reclaimed", membership: "0::/a.service\n",
      files: [
        "a.service/memory.max": "1000\n", "a.service/memory.current": "990\n",
        "a.service/memory.stat":
          "anon 100\ninactive_file 800\nactive_file 80\nslab_reclaimable 10\n",
      ], byteCount: 900, expected: nil),
    Row(
      testDescription: "what is not locked is swapped out", membership: "0::/a.service\n",
      files: [
        "a.service/memory.max": "1000\n", "a.service/memory.current": "900\n",
        "a.service/memory.stat": "inactive_anon 700\nactive_anon 100\nunevictable 100\n",
      ], byteCount: 901, expected: MemoryGroup(limit: 1000, inUse: 100, reserved: 0, maySwap: true),
      swapTotal: 4096),
    Row(
      testDescription: "no swap for this group", membership: "0::/a.service\n",
      files: [
        "a.service/memory.max": "1000\n", "a.service/memory.current": "900\n",
        "a.service/memory.swap.max": "0\n",
        "a.service/memory.stat": "inactive_anon 700\nactive_anon 100\nunevictable 100\n",
      ], byteCount: 500,
      expected: MemoryGroup(limit: 1000, inUse: 900, reserved: 0, maySwap: false),
      swapTotal: 4096),
    Row(
      testDescription: "the group above", membership: "0::/pod/container\n",
      files: [
        "pod/container/memory.max": "max\n", "pod/container/memory.current": "10\n",
        "pod/memory.max": "1000\n", "pod/memory.current": "700\n",
        "pod/memory.stat": "unevictable 20\n",
      ], byteCount: 500, expected: MemoryGroup(limit: 1000, inUse: 700, reserved: 0, maySwap: false)
    ),
    Row(
      testDescription: "a group that is mounted as the root", membership: "0::/\n",
      files: [
        "memory.max": "1000\n", "memory.current": "700\n",
        "memory.stat": "unevictable 20\n",
      ], byteCount: 500, expected: MemoryGroup(limit: 1000, inUse: 700, reserved: 0, maySwap: false)
    ),
    Row(
      testDescription: "version 1", membership: "5:cpu,cpuacct:/\n4:memory:/a\n0::/\n",
      files: [
        "memory/a/memory.limit_in_bytes": "1000\n", "memory/a/memory.usage_in_bytes": "700\n",
        "memory/a/memory.stat": "unevictable 20\n",
      ], byteCount: 500, expected: MemoryGroup(limit: 1000, inUse: 700, reserved: 0, maySwap: false)
    ),
    Row(
      testDescription: "more than 64 bits hold", membership: "0::/\n",
      files: [
        "memory.max": "1000\n", "memory.current": "700\n",
        "memory.stat": "unevictable 20\n",
      ], byteCount: .max,
      expected: MemoryGroup(limit: 1000, inUse: 700, reserved: 0, maySwap: false)),
    Row(
      testDescription: "something is reserved free", membership: "0::/\n",
      files: [
        "memory.max": "1000\n", "memory.current": "700\n",
        "memory.stat": "unevictable 20\n",
      ], byteCount: 291,
      expected: MemoryGroup(limit: 1000, inUse: 700, reserved: 10, maySwap: false),
      reserved: 10),
    Row(
      testDescription: "nothing to be known", membership: "x\n0::\n4:memory\n", files: [:],
      byteCount: .max, expected: nil),
  ]

  @Test(arguments: rows) func growthAboveTheGroupLimitIsRefused(row: Row) throws {
    let scratch = try Scratch()
    for (name, text) in row.files {
      let path = "\(scratch.path)/\(name)"
      try FileManager.default.createDirectory(
        atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
      try text.write(toFile: path, atomically: false, encoding: .utf8)
    }
    let (membership, memory) = (scratch.path + "/self", scratch.path + "/meminfo")
    try row.membership.write(toFile: membership, atomically: false, encoding: .utf8)
    try "SwapTotal:    \(row.swapTotal) kB\n".write(
      toFile: memory, atomically: false, encoding: .utf8)
    let group = MemoryGroup.tooSmall(
      for: row.byteCount, membership: membership, mount: scratch.path, memory: memory,
      reserved: row.reserved)
    #expect(group == row.expected)
  }

  /// A new group with a limit; nil if this user may not create one.
  private static func makeGroup(named name: String, limit: Int) -> String? {
    for (parent, file) in [
      ("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ] {
      let path = "\(parent)/\(name)"
      guard mkdir(path, 0o755) == 0 else { continue }
      // (If version 1 is mounted below it, the first is an ordinary directory.)
      if access("\(path)/\(file)", W_OK) == 0,
        (try? "\(limit)\n".write(toFile: "\(path)/\(file)", atomically: false, encoding: .utf8))
          != nil
      {
        return path
      }
      rmdir(path)
    }
    return nil
  }

  private static let mayLimitMemory: Bool = {
    guard let group = makeGroup(named: "enclave-probe-\(getpid())", limit: 1 << 30) else {
      return false
    }
    rmdir(group)
    return true
  }()

  /// In a group of 96 MiB, requests 128 MiB at once and in pieces: what does not fit is refused,
  /// and no process is killed. With `lock: .preferred` and swap, unlocked memory may exceed the
  /// limit.
  @Test(
    .enabled(if: mayLimitMemory, "may not make a memory control group"),
    arguments: ["whole", "pieces", "slabs", "pages", "preferred"])
  func allocationsAboveTheGroupLimitAreRefused(way: String) async throws {
    let made = Self.makeGroup(named: "enclave-test-\(getpid())-\(way)", limit: 96 << 20)
    let group = try #require(made)
    defer { rmdir(group) }
    await #expect(processExitsWith: .success) { [group = group as String, way = way as String] in
      try Self.useUp(group, way)
    }
    // The process has ended, so nothing is charged to the group.
    try eventually("the group can be removed") { rmdir(group) == 0 || errno == ENOENT }
  }

  private static func useUp(_ group: String, _ way: String) throws {
    try "\(getpid())".write(toFile: "\(group)/cgroup.procs", atomically: false, encoding: .utf8)
    var unlimited = rlimit(rlim_cur: .max, rlim_max: .max)
    _ = setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &unlimited)
    let isPreferred = way == "preferred"
    let arena = try Arena("large", .init(lock: isPreferred ? .preferred : .required, gate: .none))
    let total = 128 << 20
    let (size, count) =
      switch way {
      case "pieces": (1 << 20, 128)
      case "slabs": (1 << 10, 128 << 10)
      case "pages": (16 << 10, 8 << 10)
      default: (total, 1)
      }
    var secrets: [SecretReference] = []
    do throws(EnclaveError) {
      for _ in 0..<count { secrets.append(SecretReference(try arena.allocate(byteCount: size))) }
    } catch {
      guard case .memoryGroupLimit(let limit, _, let needed) = error else { throw error }
      #expect(limit == 96 << 20 && needed >= 1 << 10, "\(error)")
      #expect("\(error)".contains("memory.max"))
      #expect(secrets.count < count)
      // Existing secrets keep working.
      for secret in secrets { try secret.withBytes { _ in } }
      secrets = []
      #expect(try arena.allocate(byteCount: 100).byteCount == 100)
      return
    }
    #expect(isPreferred && arena.statistics.bytesLocked < total, "nothing was refused")
  }
}
