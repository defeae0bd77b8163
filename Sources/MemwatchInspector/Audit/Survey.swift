// How any process protects its secrets, judged by its mappings; needs no stats page.

import EnclaveSystem

/// Groups of regions that look like protected memory.
package struct Survey: Equatable, Sendable {
  /// The likely owner, judged by neighbouring mappings, never by contents.
  package enum Owner: String, Sendable, CaseIterable {
    case enclave = "Enclave"
    case libsodium = "libsodium guarded allocation"
    case openssl = "OpenSSL secure heap"
    case memguard = "memguard buffer"
    case libgcrypt = "libgcrypt pool"
    case secretMemory = "secretmem"
    case sharedMemory = "shared memory"
    case memoryFile = "memfd"
    case hugePages = "huge pages (never swapped)"
    case file = "mapped file"
    case unknown
  }
  package struct OwnerGroup: Equatable, Sendable {
    package var owner: Owner
    package var regions = 0
    package var bytes: UInt64 = 0
    package var notLocked: UInt64 = 0
    package var dumped: UInt64 = 0
    package var inherited: UInt64 = 0
    package var notSealed: UInt64 = 0
    package var withoutKey: UInt64 = 0
    package var withoutGuards: UInt64 = 0
    package var swapped: UInt64 = 0
    /// The address of the first region.
    package var firstAddress: UInt64 = 0
  }
  package var pid: Int32
  package var lockedBytes: UInt64?
  /// The part of VmLck that no mapping explains; nil: unknown.
  package var unexplainedBytes: UInt64?
  package var regionCount: Int
  package var groups: [OwnerGroup]

  package enum Failure: Error {
    case denied
    case failed(SafeText)
  }

  package init(pid: Int32) throws(Failure) {
    // The two files are not read at the same instant: reread them if they disagree.
    var attempt = 0
    repeat {
      if attempt > 0 { ProcessFacts.pause(milliseconds: 3) }
      let regions: Regions
      do { regions = try Regions(pid: pid) } catch {
        throw error.isDenied ? .denied : .failed(SafeText("\(error)"))
      }
      self.init(
        pid: pid, regions: regions,
        lockedBytes: ProcessProbe(pid: pid, countingMaps: false).lockedBytes)
      attempt += 1
    } while attempt < 3 && (unexplainedBytes ?? 0) > 0
  }

  package init(pid: Int32, regions: Regions, lockedBytes: UInt64?) {
    self.pid = pid
    self.lockedBytes = lockedBytes
    regionCount = regions.all.count
    unexplainedBytes = lockedBytes.map { Self.unexplained($0, regions) }
    let hasGoRuntime = Self.hasGoHeap(regions.all)
    var found: [Owner: OwnerGroup] = [:]
    for index in regions.all.indices {
      let region = regions.all[index]
      guard Self.isCandidate(region) else { continue }
      let neighbours = Neighbours(regions.all, index)
      let owner = Self.owner(region, neighbours, hasGoRuntime: hasGoRuntime, regions.libraries)
      var group = found[owner] ?? OwnerGroup(owner: owner, firstAddress: region.start)
      let (size, flags) = (region.byteCount, region.flags)
      group.regions += 1
      group.bytes += size
      if flags.isDisjoint(with: [.locked, .hugeTLB]) { group.notLocked += size }
      if !flags.contains(.notDumped) { group.dumped += size }
      if flags.isDisjoint(with: [.wipedOnFork, .absentOnFork]) { group.inherited += size }
      if !flags.contains(.sealed) { group.notSealed += size }
      if (region.key ?? 0) == 0 { group.withoutKey += size }
      if !neighbours.hasGuards, !flags.contains(.mayHaveGuards) { group.withoutGuards += size }
      group.swapped += UInt64(region.swappedKiB) * 1024
      found[owner] = group
    }
    groups = Owner.allCases.compactMap { found[$0] }
  }

  /// VmLck minus all regions marked as locked. Secret memory is always marked, but counted only by
  /// some kernels (6.18, not 6.12).
  private static func unexplained(_ locked: UInt64, _ regions: Regions) -> UInt64 {
    let marked = regions.totalBytes { $0.flags.contains(.locked) }
    if locked >= marked { return locked - marked }
    let counted = regions.totalBytes {
      $0.flags.contains(.locked) && $0.kind != .secretMemory
    }
    return locked > counted ? locked - counted : 0
  }

  /// Regions with deliberate protection. Unlocked files and the kernel's own pages are left out:
  /// the vDSO and its getrandom state are "not dumped", too.
  private static func isCandidate(_ region: Region) -> Bool {
    if region.kind == .secretMemory { return true }
    if region.flags.contains(.droppable) { return false }
    if !region.flags.isDisjoint(with: [.locked, .hugeTLB]) { return true }
    guard region.kind == .anonymous || region.kind == .heap || region.kind == .stack else {
      return false
    }
    // PROT_NONE without a lock is a reservation or a guard.
    let marks: RegionFlags = [.locked, .notDumped, .wipedOnFork, .sealed]
    let isClosed = region.flags.isDisjoint(with: .access)
    if isClosed, !region.flags.contains(.locked) { return false }
    return !region.flags.isDisjoint(with: marks) || (region.key ?? 0) != 0
  }

  /// The neighbours of a region.
  struct Neighbours {
    let before, beforeThat, after: Region?
    /// Guards surround it together with adjacent regions of the same flags: pages that were opened
    /// and closed individually.
    let isInGuardedGroup: Bool

    init(_ all: [Region], _ index: Int) {
      func at(_ other: Int, _ isTouching: (Region) -> Bool) -> Region? {
        all.indices.contains(other) && isTouching(all[other]) ? all[other] : nil
      }
      let region = all[index]
      let before = at(index - 1) { $0.end == region.start }
      self.before = before
      beforeThat = before.flatMap { one in at(index - 2) { $0.end == one.start } }
      after = at(index + 1) { $0.start == region.end }
      // A slab chunk has at most 64 pages.
      func isFramed(_ step: Int) -> Bool {
        var (last, next) = (index, index + step)
        for _ in 0..<64 {
          guard all.indices.contains(next) else { return false }
          let touches =
            step > 0 ? all[next].start == all[last].end : all[next].end == all[last].start
          guard touches else { return false }
          if !all[next].flags.isSuperset(of: [.wipedOnFork, .notDumped]) {
            return Self.isGuard(all[next])
          }
          (last, next) = (next, next + step)
        }
        return false
      }
      isInGuardedGroup =
        region.flags.isSuperset(of: [.wipedOnFork, .notDumped]) && isFramed(-1) && isFramed(1)
    }

    private static func isGuard(_ region: Region?) -> Bool {
      region.map { $0.flags.isDisjoint(with: [.readable, .writable, .executable, .locked]) }
        ?? false
    }

    var hasGuards: Bool {
      isInGuardedGroup || Self.isGuard(before) && Self.isGuard(after)
    }
    /// libsodium's page before the first guard, which holds the size: read-only, not locked.
    var hasSizePage: Bool {
      guard Self.isGuard(before), let page = beforeThat else { return false }
      return page.flags.intersection(.access) == .readable && !page.flags.contains(.locked)
        && page.kind == .anonymous && page.byteCount == 4096
    }
  }

  private static func owner(
    _ region: Region, _ neighbours: Neighbours, hasGoRuntime: Bool, _ libraries: Set<SecretLibrary>
  ) -> Owner {
    let flags = region.flags
    if flags.contains(.hugeTLB) { return .hugePages }
    switch region.kind {
    case .secretMemory: return .secretMemory
    case .sharedMemory: return .sharedMemory
    case .memoryFile: return .memoryFile
    case .file: return .file
    case .heap, .stack, .special: return .unknown
    case .anonymous: break
    }
    if neighbours.isInGuardedGroup { return .enclave }
    guard flags.contains(.locked) else { return .unknown }
    if flags.contains(.notDumped), neighbours.hasGuards {
      if hasGoRuntime { return .memguard }
      if neighbours.hasSizePage { return .libsodium }
      // OpenSSL: one allocation whose size is a power of two (CRYPTO_secure_malloc_init(3)).
      let isPowerOfTwo = region.byteCount.nonzeroBitCount == 1
      return isPowerOfTwo && libraries.contains(.libcrypto) ? .openssl : .unknown
    }
    // libgcrypt: a pool of at least 16 KiB, without guards (secmem.c).
    if libraries.contains(.libgcrypt), !neighbours.hasGuards, flags.contains(.writable),
      region.byteCount >= 16384, region.byteCount <= 1 << 20
    {
      return .libgcrypt
    }
    return .unknown
  }

  /// On 64 bits Go's heap always starts at the same address (runtime/malloc.go).
  private static func hasGoHeap(_ all: [Region]) -> Bool {
    all.contains { $0.start == 0xc0_0000_0000 && $0.kind == .anonymous }
  }
}

extension Survey.OwnerGroup {
  /// The protection that these regions lack, in words.
  package var missingProtection: [String] {
    var parts: [String] = []
    func add(_ count: UInt64, _ what: String) {
      if count > 0 {
        parts.append(count == bytes ? what : "\(MemwatchInspector.bytes(count)) \(what)")
      }
    }
    add(notLocked, "not locked")
    add(swapped, "in swap")
    add(dumped, "in core dumps")
    add(inherited, "inherited by fork")
    add(withoutGuards, "without guards")
    return parts
  }
}

extension Survey {
  package var text: String {
    var lines = [
      "process \(pid): \(counted(regionCount, "mapping")), VmLck \(lockedBytes.map { bytes($0) } ?? "n/a")"
    ]
    let unexplained = unexplainedBytes ?? 0
    if unexplained > 0 {
      lines.append(
        "\(bytes(unexplained)) of VmLck belongs to no mapping: a device driver pinned memory (VFIO), or "
          + "mappings changed while they were read")
    }
    if groups.isEmpty {
      lines.append("no region is locked, left out of dumps, wiped on fork, sealed or key-tagged:")
      lines.append(
        "any secrets it has are in ordinary memory"
          + (unexplained > 0 ? ", or in pinned memory" : ""))
    } else {
      let rows = groups.map { group in
        [
          group.owner.rawValue, "\(group.regions)", bytes(group.bytes),
          group.missingProtection.isEmpty
            ? "nothing" : group.missingProtection.joined(separator: ", "),
        ]
      }
      lines += table([["LOOKS LIKE", "REGIONS", "BYTES", "LACKS"]] + rows)
      lines.append("(judged by flags and neighbours of mappings; no memory was read)")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  package var document: Value {
    Value.document(
      .survey,
      [
        ("pid", Value(pid)), ("lockedBytes", Value(lockedBytes)),
        ("unexplainedBytes", Value(unexplainedBytes)), ("regionCount", Value(regionCount)),
        ("groups", .list(groups.map(\.document))),
      ])
  }
}

extension Survey.OwnerGroup {
  fileprivate var document: Value {
    .object([
      ("looksLike", .text(owner.wordInDocuments)), ("regionCount", Value(regions)),
      ("bytes", Value(bytes)), ("notLockedBytes", Value(notLocked)),
      ("swappedBytes", Value(swapped)), ("inCoreDumpsBytes", Value(dumped)),
      ("inheritedByForkBytes", Value(inherited)), ("notSealedBytes", Value(notSealed)),
      ("withoutKeyBytes", Value(withoutKey)), ("withoutGuardsBytes", Value(withoutGuards)),
      ("firstAddress", Value(firstAddress)),
    ])
  }
}

extension Survey.Owner {
  package var wordInDocuments: String {
    switch self {
    case .enclave: "enclave"
    case .libsodium: "libsodium"
    case .openssl: "openssl"
    case .memguard: "memguard"
    case .libgcrypt: "libgcrypt"
    case .secretMemory: "secretmem"
    case .sharedMemory: "shared-memory"
    case .memoryFile: "memfd"
    case .hugePages: "huge-pages"
    case .file: "file"
    case .unknown: "unknown"
    }
  }
}
