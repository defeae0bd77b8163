// Claims against mappings. Pure: the same claims and the same mappings give the same findings.

import EnclaveStats

struct Comparison {
  let pid: Int32
  let regions: Regions
  private(set) var findings: [Finding] = []
  /// Arenas of which pages are open although the page says that nobody has a window: a window may
  /// have been open in between, so this needs to be seen for longer.
  private(set) var open: [UInt64: UInt64] = [:]

  init(pid: Int32, claims: [ArenaClaim], regions: Regions) {
    self.pid = pid
    self.regions = regions
    for claim in claims { compare(claim) }
  }

  // MARK: - Arena by arena

  private mutating func compare(_ claim: ArenaClaim) {
    let chunks = claim.chunks
    func sum(_ bytes: (ArenaClaim.Chunk) -> UInt64) -> UInt64 {
      saturatingSum(chunks.map(bytes))
    }
    /// How much of all data is in regions without a flag.
    func without(_ flag: RegionFlags) -> UInt64 {
      sum {
        regions.bytes(in: $0.data) { $0.flags.contains(.areKnown) && !$0.flags.contains(flag) }
      }
    }
    let size = sum { UInt64($0.data.count) }

    report(
      .notMapped, claim, "\(bytes(size)) mapped",
      sum { UInt64($0.data.count) - regions.bytes(in: $0.data) { _ in true } },
      "no mapping at these addresses", "munmap(2) or mremap(2) by other code of the process",
      "find who calls it: strace -f -e trace=munmap,mremap -p \(pid)")
    report(
      .notLocked, claim, "\(bytes(sum { $0.isLocked ? UInt64($0.data.count) : 0 })) locked",
      sum { chunk in
        guard chunk.isLocked else { return 0 }
        return regions.bytes(in: chunk.data) {
          $0.flags.contains(.areKnown) && !$0.flags.contains(.locked)
        }
      }, "not locked (no lo in VmFlags)",
      "munlock(2) or munlockall(2) by other code of the process",
      "find who calls it: strace -f -e trace=munlock,munlockall -p \(pid)")
    if claim.dump == .excluded {
      report(
        .inCoreDumps, claim, "left out of core dumps", without(.notDumped),
        "dumped (no dd in VmFlags)", "madvise(2) MADV_DODUMP by other code of the process",
        "find who calls it: strace -f -e trace=madvise -p \(pid); until then: ulimit -c 0")
    }
    let forkAdvice = "madvise(2) MADV_KEEPONFORK or MADV_DOFORK by other code of the process"
    let forkFix = "find who calls it: strace -f -e trace=madvise -p \(pid)"
    switch claim.fork {
    case .zeros:
      report(
        .notWipedOnFork, claim, "zeros in forked children", without(.wipedOnFork),
        "copied to them (no wf in VmFlags)", forkAdvice, forkFix)
    case .absent:
      report(
        .notWipedOnFork, claim, "absent in forked children", without(.absentOnFork),
        "copied to them (no dc in VmFlags)", forkAdvice, forkFix)
    case nil: break
    }
    if claim.seal == .sealed {
      report(
        .notSealed, claim, "sealed", without(.sealed), "not sealed (no sl in VmFlags)",
        "the page says more than was done: this should not happen", "report it as a defect")
    }
    if claim.seal == .frozen || claim.seal == .sealed {
      report(
        .writable, claim, "frozen: read-only",
        sum { regions.bytes(in: $0.data) { $0.flags.contains(.writable) } }, "writable",
        "mprotect(2) by other code of the process",
        "find who calls it: strace -f -e trace=mprotect -p \(pid); seal the arena where keys are")
    }
    if claim.gate == .key {
      report(
        .keyDiffers, claim, "protection key \(claim.key)",
        sum { regions.bytes(in: $0.data) { $0.key.map { UInt64($0) != claim.key } ?? false } },
        "of another key", "pkey_mprotect(2) by other code of the process",
        "find who calls it: strace -f -e trace=pkey_mprotect -p \(pid)")
    }
    report(
      .guardMissing, claim, "guard pages on both sides of \(counted(chunks.count, "chunk"))",
      sum { chunk in
        saturatingSum(
          chunk.guards.map { range in
            UInt64(range.count)
              - regions.bytes(in: range) { $0.flags.isDisjoint(with: .access) }
          })
      }, "no guard", "mprotect(2), munmap(2) or a mapping over it by other code of the process",
      "find who calls it: strace -f -e trace=mprotect,munmap,mmap -p \(pid)")
    let swapped = saturatingSum(
      chunks.flatMap { regions.touching($0.data).map { UInt64($0.swappedKiB) * 1024 } })
    report(
      .swapped, claim, "\(bytes(claim.lockedBytes)) locked", swapped, "in swap",
      claim.lockedBytes > 0
        ? "they were swapped before they were locked, or the lock is gone" : "they are not locked",
      "raise the memlock limit, restart the process, and treat the secrets as leaked to the disk",
      severity: .problem)
    if claim.gate == .pages, claim.isClosed {
      let open = sum { regions.bytes(in: $0.data) { !$0.flags.isDisjoint(with: .access) } }
      if open > 0 { self.open[claim.id] = open }
    }
  }

  private mutating func report(
    _ kind: Finding.Kind, _ claim: ArenaClaim, _ said: String, _ count: UInt64, _ seen: String,
    _ cause: String, _ fix: String, severity: Severity = .differs
  ) {
    guard count > 0 else { return }
    findings.append(
      Finding(
        severity: severity, kind: kind, arenaID: claim.id, claim: said,
        kernel: "\(bytes(count)) \(seen)", cause: cause, fix: fix))
  }

  /// Pages that were open in two audits, between which nobody used the arena.
  static func openPages(_ claim: ArenaClaim, _ count: UInt64, pid: Int32) -> Finding {
    Finding(
      severity: .differs, kind: .openPages, arenaID: claim.id, claim: "closed",
      kernel: "\(bytes(count)) can be read or written",
      cause: "mprotect(2) by other code of the process",
      fix: "find who calls it: strace -f -e trace=mprotect -p \(pid)")
  }

  // MARK: - Sums

  /// Without addresses: what all arenas claim cannot be more than what the process has.
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
          cause: "other code of the process undid it", fix: "publish addresses to learn where"))
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
