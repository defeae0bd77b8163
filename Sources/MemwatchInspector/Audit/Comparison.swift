// Compares claims with mappings. Pure: the same input gives the same findings.

import EnclaveStats

struct Comparison {
  let pid: Int32
  let regions: Regions
  private(set) var findings: [Finding] = []
  /// Arenas with pages that are more open than claimed. A window or a wipe may have opened them, so
  /// this must be seen again later.
  private(set) var open: [UInt64: [OpenPages]] = [:]
  /// Claims that this kernel can neither confirm nor deny, by arena.
  private(set) var unconfirmed: [UInt64: Set<Unconfirmed>] = [:]

  struct OpenPages {
    /// `openPages` or `writable`.
    let kind: Finding.Kind
    let byteCount: UInt64
  }

  enum Unconfirmed: String, CaseIterable {
    case flags = "its mappings have no VmFlags"
    case key = "its mappings show no protection key"
    case seal = "this kernel does not show which mappings are sealed"

    var obstacle: Audit.Obstacle {
      switch self {
      case .flags: .flagsUnknown
      case .key: .keyUnknown
      case .seal: .sealUnknown
      }
    }
  }

  init(pid: Int32, claims: [ArenaClaim], regions: Regions) {
    self.pid = pid
    self.regions = regions
    for claim in claims { compare(claim) }
  }

  // MARK: - Arena by arena

  private mutating func compare(_ claim: ArenaClaim) {
    let chunks = claim.chunks
    func sum(_ bytes: (ArenaClaim.ClaimedChunk) -> UInt64) -> UInt64 {
      saturatingSum(chunks.map(bytes))
    }
    /// The bytes of data in regions without a flag.
    func without(_ flag: RegionFlags) -> UInt64 {
      sum {
        regions.bytes(in: $0.data) { $0.flags.contains(.areKnown) && !$0.flags.contains(flag) }
      }
    }
    let size = sum { UInt64($0.data.count) }

    report(
      .notMapped, claim, "\(bytes(size)) mapped",
      sum { UInt64($0.data.count) - regions.bytes(in: $0.data) { _ in true } },
      "no mapping at these addresses", "munmap(2) or mremap(2) by other code in the process",
      "find the caller: strace -f -e trace=munmap,mremap -p \(pid)")
    report(
      .notLocked, claim, "\(bytes(sum { $0.isLocked ? UInt64($0.data.count) : 0 })) locked",
      sum { chunk in
        guard chunk.isLocked else { return 0 }
        return regions.bytes(in: chunk.data) {
          $0.flags.contains(.areKnown) && !$0.flags.contains(.locked)
        }
      }, "not locked (no lo in VmFlags)",
      "munlock(2) or munlockall(2) by other code in the process",
      "find the caller: strace -f -e trace=munlock,munlockall -p \(pid)")
    if claim.dump == .excluded {
      report(
        .inCoreDumps, claim, "left out of core dumps", without(.notDumped),
        "dumped (no dd in VmFlags)", "madvise(2) MADV_DODUMP by other code in the process",
        "find the caller: strace -f -e trace=madvise -p \(pid); until then: ulimit -c 0")
    }
    let forkAdvice = "madvise(2) MADV_KEEPONFORK or MADV_DOFORK by other code in the process"
    let forkFix = "find the caller: strace -f -e trace=madvise -p \(pid)"
    switch claim.fork {
    case .zeros:
      report(
        .notWipedOnFork, claim, "zeros in forked children", without(.wipedOnFork),
        "copied to them (no wf in VmFlags)", forkAdvice, forkFix)
    case .absent:
      report(
        .notWipedOnFork, claim, "absent in forked children", without(.absentOnFork),
        "copied to them (no dc in VmFlags)", forkAdvice, forkFix)
    case .inherited, nil: break
    }
    if claim.seal == .sealed {
      report(
        .notSealed, claim, "sealed",
        sum {
          regions.bytes(in: $0.data) {
            $0.flags.contains(.areKnown) && $0.flags.isDisjoint(with: [.sealed, .mayBeSealed])
          }
        }, "not sealed (no sl in VmFlags)",
        "the page claims more than was done, which is a bug", "report it")
    }
    if claim.gate == .key, claim.key != StatsPageFormat.unknown {
      report(
        .keyDiffers, claim, "protection key \(claim.key)",
        sum { regions.bytes(in: $0.data) { $0.key.map { UInt64($0) != claim.key } ?? false } },
        "with another key", "pkey_mprotect(2) by other code in the process",
        "find the caller: strace -f -e trace=pkey_mprotect -p \(pid)")
    }
    compareAccess(claim)
    compareSettings(claim)
    noteUnconfirmed(claim)
    report(
      .guardMissing, claim, "guard pages on both sides of \(counted(chunks.count, "chunk"))",
      sum { chunk in
        saturatingSum(
          chunk.guards.map { range in
            UInt64(range.count)
              - regions.bytes(in: range) { $0.flags.isDisjoint(with: .access) }
          })
      }, "no guard", "mprotect(2), munmap(2) or a mapping over it by other code in the process",
      "find the caller: strace -f -e trace=mprotect,munmap,mmap -p \(pid)")
    let swapped = saturatingSum(
      chunks.flatMap { regions.touching($0.data).map { UInt64($0.swappedKiB) * 1024 } })
    report(
      .swapped, claim, "\(bytes(claim.lockedBytes)) locked", swapped, "in swap",
      claim.lockedBytes > 0
        ? "they were swapped before they were locked, or the lock is gone" : "they are not locked",
      "raise the memlock limit, restart the process, and treat the secrets as leaked to disk",
      severity: .problem)
  }

  /// How far the kernel lets the process touch idle pages, by gate and seal state:
  ///
  ///     gate    open    frozen    sealed
  ///     key     r-w     r-w       r-w      the key closes them, per thread: see `keyDiffers`
  ///     pages   ---     ---       never
  ///     cipher  r-w     r--       r--      what is there is ciphertext
  ///     none    r-w     r--       never
  ///
  /// Nothing is ever executable.
  private mutating func compareAccess(_ claim: ArenaClaim) {
    func count(_ flags: RegionFlags) -> UInt64 {
      saturatingSum(
        claim.chunks.map {
          regions.bytes(in: $0.data) { !$0.flags.isDisjoint(with: flags) }
        })
    }
    report(
      .executable, claim, "data", count(.executable), "executable",
      "mprotect(2) by other code in the process",
      "find the caller: strace -f -e trace=mprotect,pkey_mprotect -p \(pid)")
    func note(_ kind: Finding.Kind, _ byteCount: UInt64) {
      guard byteCount > 0 else { return }
      open[claim.id, default: []].append(OpenPages(kind: kind, byteCount: byteCount))
    }
    switch claim.gate {
    case .pages where claim.isClosed: note(.openPages, count(.access))
    case .pages where claim.isFrozen, .cipher where claim.isFrozen,
      .some(.none) where claim.isFrozen:
      note(.writable, count(.writable))
    case .key, .pages, .cipher, .some(.none), nil: break
    }
  }

  /// Checks settings that the page makes no claims about but that affect an arena's pages.
  private mutating func compareSettings(_ claim: ArenaClaim) {
    func count(_ flag: RegionFlags) -> UInt64 {
      saturatingSum(
        claim.chunks.map { regions.bytes(in: $0.data) { $0.flags.contains(flag) } })
    }
    report(
      .mergeable, claim, "nothing about this", count(.mergeable),
      "may be merged with equal pages (mg in VmFlags)",
      "prctl(2) PR_SET_MEMORY_MERGE or madvise(2) MADV_MERGEABLE: timing can reveal what "
        + "a page contains",
      "find the caller: strace -f -e trace=prctl,madvise -p \(pid); until then: "
        + "echo 2 | sudo tee /sys/kernel/mm/ksm/run", severity: .warning)
    report(
      .hugePages, claim, "nothing about this", count(.hugePages),
      "may be collapsed to huge pages (hg in VmFlags)",
      "madvise(2) MADV_HUGEPAGE by other code: collapsing copies pages and leaves the old ones not "
        + "wiped", "find the caller: strace -f -e trace=madvise -p \(pid)", severity: .warning)
    report(
      .userfault, claim, "nothing about this", count(.userfault),
      "registered with userfaultfd (um, uw or ui in VmFlags)",
      "ioctl(2) UFFDIO_REGISTER by other code: the descriptor's holder can stall threads at these "
        + "pages, and fill new ones",
      "find the caller: strace -f -e trace=userfaultfd,ioctl -p \(pid)", severity: .warning)
  }

  private mutating func noteUnconfirmed(_ claim: ArenaClaim) {
    func any(_ condition: (Region) -> Bool) -> Bool {
      claim.chunks.contains { regions.touching($0.data).contains(where: condition) }
    }
    var all: Set<Unconfirmed> = []
    if any({ !$0.flags.contains(.areKnown) }) { all.insert(.flags) }
    if claim.gate == .key, claim.key == StatsPageFormat.unknown || any({ $0.key == nil }) {
      all.insert(.key)
    }
    if claim.seal == .sealed,
      any({ $0.flags.contains([.areKnown, .mayBeSealed]) && !$0.flags.contains(.sealed) })
    {
      all.insert(.seal)
    }
    if !all.isEmpty { unconfirmed[claim.id] = all }
  }

  private mutating func report(
    _ kind: Finding.Kind, _ claim: ArenaClaim, _ said: String, _ count: UInt64, _ seen: String,
    _ cause: String, _ fix: String, severity: Severity = .differs
  ) {
    guard count > 0 else { return }
    findings.append(
      Finding(
        severity: severity, kind: kind, arenaID: claim.id, claim: said,
        kernel: "\(bytes(count)) \(seen)", cause: cause, fix: fix,
        affectedBytes: ByteCount(count)))
  }

  /// Reports pages that were open in two audits without activity in between.
  static func openPages(_ claim: ArenaClaim, _ pages: OpenPages, pid: Int32) -> Finding {
    let isFrozen = pages.kind == .writable
    return Finding(
      severity: .differs, kind: pages.kind, arenaID: claim.id,
      claim: isFrozen ? "frozen: read-only" : "closed",
      kernel: "\(bytes(pages.byteCount)) " + (isFrozen ? "writable" : "can be read or written"),
      cause: "mprotect(2) by other code in the process",
      fix: "find the caller: strace -f -e trace=mprotect -p \(pid)"
        + (isFrozen ? "; seal the arena where keys are" : ""),
      affectedBytes: ByteCount(pages.byteCount))
  }

  // MARK: - Sums

  /// Without addresses: the arenas' totals cannot exceed the process's totals.
  static func totals(_ claims: [ArenaClaim], _ regions: Regions) -> [Finding] {
    guard regions.all.contains(where: { $0.flags.contains(.areKnown) }) else { return [] }
    var findings: [Finding] = []
    func compare(_ what: String, _ claimed: [UInt64], _ flag: RegionFlags, _ letters: String) {
      let (claimed, seen) = (
        saturatingSum(claimed), regions.totalBytes { $0.flags.contains(flag) }
      )
      guard seen < claimed else { return }
      findings.append(
        Finding(
          severity: .differs, kind: .totals, claim: "\(bytes(claimed)) \(what)",
          kernel: "\(bytes(seen)) in all (\(letters) in VmFlags)",
          cause: "other code of the process undid it", fix: "publish addresses to learn where",
          affectedBytes: ByteCount(claimed - seen)))
    }
    compare("locked", claims.map(\.lockedBytes), .locked, "lo")
    compare(
      "left out of core dumps", claims.filter { $0.dump == .excluded }.map(\.mappedBytes),
      .notDumped, "dd")
    compare(
      "zeros in forked children", claims.filter { $0.fork == .zeros }.map(\.mappedBytes),
      .wipedOnFork, "wf")
    compare("sealed", claims.filter { $0.seal == .sealed }.map(\.mappedBytes), .sealed, "sl")
    return findings
  }
}
