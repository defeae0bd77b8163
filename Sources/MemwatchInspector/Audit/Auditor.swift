// Schedules audits, and confirms apparent differences before reporting them.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

/// The audits of one publisher. Reading smaps holds the target's mmap lock, so automatic audits run
/// at most every 10 s and take at most 0.5 % of the time.
struct Auditor {
  private static let shareOfTime: UInt64 = 200
  private static let shortestIntervalMs: UInt64 = 10_000

  /// The number of children whose mappings are read.
  private static let mostChildren = 32

  private(set) var last: Audit?
  /// Open pages that were seen, and the arena's activity counts at that time.
  private var suspects: [UInt64: (activity: ArenaClaim.Activity, seenAt: UInt64)] = [:]
  private var lastMs: UInt64 = 0
  private var eventsThen: UInt64 = 0

  /// The publisher counts each arena's windows at least once in ten ticks.
  private static let ticksToSettle: UInt64 = 12

  /// Whether another audit is needed to settle a suspicion.
  var isUnsettled: Bool { !suspects.isEmpty }

  /// Whether re-auditing can settle the open suspects: their arenas were used since, or enough time
  /// has passed.
  func canSettle(_ image: StatsPageImage) -> Bool {
    let now = Dictionary(ArenaClaim.all(in: image).map { ($0.id, $0.activity) }) { first, _ in first
    }
    return suspects.allSatisfy { id, suspect in
      now[id] != suspect.activity || Self.isOver(since: suspect.seenAt, image)
    }
  }

  private static func isOver(since seenAt: UInt64, _ image: StatsPageImage) -> Bool {
    let beat = image.process[.heartbeatBootMs]
    return beat > seenAt
      && beat - seenAt > max(1, min(image.header[.tickMs], 10_000)) * ticksToSettle
  }

  /// Whether an automatic audit is due.
  func isDue(_ image: StatsPageImage, now: UInt64) -> Bool {
    guard let last else { return true }
    let pause = last.durationMs * Self.shareOfTime
    let calls = isUnsettled || hasEvents(image)
    return now >= lastMs + (calls ? max(pause, 1000) : max(pause, Self.shortestIntervalMs))
  }

  /// Whether events since the last audit may change its result.
  private func hasEvents(_ image: StatsPageImage) -> Bool {
    image.events.contains { event in
      guard event[.serial] > eventsThen, let kind = EventCode(rawValue: event[.kind]) else {
        return false
      }
      switch kind {
      case .arenaCreated, .arenaDestroyed, .chunkMapped, .chunkUnmapped, .lockFailed, .lockRestored,
        .closeFailed, .corruption, .unmapFailed, .arenaFrozen, .arenaSealed, .addressesLost:
        return true
      case .allocationFailed, .openFailed, .publishingStarted, .vaultRotated, .wiped: return false
      }
    }
  }

  /// Compares the page's claims with the kernel's mappings.
  ///
  /// - Parameters:
  ///   - image: the page as it was just read.
  ///   - read: reads the page again.
  mutating func audit(
    pid: Int32, isOwnUser: Bool, user: SafeText, image: StatsPageImage, read: () -> StatsPageImage?
  ) {
    let start = ProcessFacts.bootMilliseconds
    eventsThen = image.events.last?[.serial] ?? 0
    var audit = Audit(
      at: Timestamp(realMs: ProcessFacts.realMilliseconds), durationMs: 0, scope: .arenas)
    var before = image
    var findings: [Finding]?
    // Check an apparent difference again before reporting it.
    for attempt in 0..<3 {
      if attempt > 0 { ProcessFacts.pause(milliseconds: 3) }
      let regions: Regions
      do { regions = try Regions(pid: pid) } catch {
        audit.scope = .totals
        audit.reason = reason(error, isOwnUser: isOwnUser, user: user)
        audit.obstacles = [
          error.isDenied ? isOwnUser ? .notDumpable : .otherUser : .readFailed
        ]
        findings = []
        break
      }
      guard !regions.all.isEmpty else {
        audit.scope = .none
        audit.reason = "the process no longer has any memory"
        audit.obstacles = [.noMemory]
        findings = []
        break
      }
      guard let after = read() else {
        audit.scope = .none
        audit.reason = "the stats page was replaced meanwhile"
        audit.obstacles = [.readFailed]
        findings = []
        break
      }
      audit.regions = regions.all.count
      let seen = compare(&audit, pid: pid, before, after, regions)
      before = after
      if let earlier = findings {
        findings = seen.filter { new in
          earlier.contains { $0.kind == new.kind && $0.arenaID == new.arenaID }
        }
      } else {
        findings = seen
      }
      if findings!.isEmpty { break }
    }
    audit.findings = findings ?? []
    if audit.findings.contains(where: { $0.kind == .notWipedOnFork }) {
      audit.findings += children(of: pid, ArenaClaim.all(in: before), audit.findings)
    }
    let end = ProcessFacts.bootMilliseconds
    audit.durationMs = end - start
    lastMs = end
    last = audit
  }

  private mutating func compare(
    _ audit: inout Audit, pid: Int32, _ before: StatsPageImage, _ after: StatsPageImage,
    _ regions: Regions
  ) -> [Finding] {
    let then = Dictionary(ArenaClaim.all(in: before).map { ($0.id, $0) }) { first, _ in first }
    var claims: [ArenaClaim] = []
    (audit.compared, audit.answers) = ([], [])
    for var claim in ArenaClaim.all(in: after) {
      guard let earlier = then[claim.id], claim.isSame(as: earlier) else { continue }
      // Chunks that came or went in the meantime are left to the next audit.
      claim.chunks.formIntersection(earlier.chunks)
      claims.append(claim)
      if claim.isWhole { audit.compared.insert(claim.id) }
    }
    audit.scope = .arenas
    (audit.reason, audit.obstacles) = (nil, [])
    let unlisted = claims.count { !$0.isWhole }
    if unlisted > 0 {
      audit.reason =
        "\(counted(unlisted, "arena")) with chunks that are not listed or changed meanwhile: n/a"
      audit.obstacles = [.chunksUnlisted]
    }
    if unlisted > 0, !after.chunks.contains(where: { ArenaClaim.ClaimedChunk($0) != nil }) {
      audit.scope = .totals
      audit.reason = "the page has no addresses (the process is not dumpable, or withholds them)"
      audit.obstacles = [.addressesWithheld]
      return Comparison.totals(
        ArenaClaim.all(in: after).filter { then[$0.id] == $0 }, regions)
    }
    let comparison = Comparison(pid: pid, claims: claims, regions: regions)
    audit.answers = claims.map { KernelAnswer($0, regions) }
    audit.compared.subtract(comparison.unconfirmed.keys)
    audit.unconfirmed = comparison.unconfirmed.count
    for kind in Comparison.Unconfirmed.allCases {
      let count = comparison.unconfirmed.count { $0.value.contains(kind) }
      guard count > 0 else { continue }
      let text = "\(counted(count, "arena")) not confirmed, because \(kind.rawValue): n/a"
      audit.reason = audit.reason.map { $0 + "; " + text } ?? text
      audit.obstacles = (audit.obstacles ?? []) + [kind.obstacle]
    }
    return comparison.findings + openPages(claims, then, comparison, after)
  }

  /// Reports pages that are more open than claimed only if two audits see them without any counted
  /// activity in between, far enough apart that the publisher would have counted a window or a
  /// wipe.
  private mutating func openPages(
    _ claims: [ArenaClaim], _ then: [UInt64: ArenaClaim], _ comparison: Comparison,
    _ image: StatsPageImage
  ) -> [Finding] {
    var findings: [Finding] = []
    var seen: [UInt64: (activity: ArenaClaim.Activity, seenAt: UInt64)] = [:]
    for claim in claims {
      guard let pages = comparison.open[claim.id], then[claim.id]?.activity == claim.activity else {
        continue
      }
      guard let earlier = suspects[claim.id], earlier.activity == claim.activity else {
        seen[claim.id] = (claim.activity, image.process[.heartbeatBootMs])
        continue
      }
      seen[claim.id] = earlier
      if Self.isOver(since: earlier.seenAt, image) {
        findings += pages.map { Comparison.openPages(claim, $0, pid: comparison.pid) }
      }
    }
    suspects = seen
    return findings
  }

  /// Reports children that inherited a copy. Their copy is not locked: mlock(2) is not inherited.
  private func children(
    of pid: Int32, _ claims: [ArenaClaim], _ findings: [Finding]
  ) -> [Finding] {
    let broken = Set(findings.filter { $0.kind == .notWipedOnFork }.compactMap(\.arenaID))
    var found: [UInt64: [Int32]] = [:]
    let children = ProcText.children(of: pid)
    let others = max(0, children.count - Self.mostChildren)
    for child in children.prefix(Self.mostChildren) {
      guard let regions = try? Regions(pid: child) else { continue }
      for claim in claims where broken.contains(claim.id) {
        let copied = claim.chunks.contains { chunk in
          regions.bytes(in: chunk.data) {
            $0.flags.contains(.areKnown)
              && $0.flags.isDisjoint(with: [.wipedOnFork, .locked])
          } > 0
        }
        if copied { found[claim.id, default: []].append(child) }
      }
    }
    return found.map { id, children in
      Finding(
        severity: .problem, kind: .childHasCopy, arenaID: id, claim: "not in forked children",
        kernel: "the child \(children.map { "\($0)" }.joined(separator: ", ")) has these pages, "
          + "not locked" + (others > 0 ? "; \(others) more children were not examined" : ""),
        cause: "the fork protection was missing when the child was created",
        fix: "end the child, and treat the secrets as copied", pids: children)
    }.sorted { $0.arenaID! < $1.arenaID! }
  }

  private func reason(_ failure: FileFailure, isOwnUser: Bool, user: SafeText) -> String {
    guard failure.isDenied else { return SafeText("\(failure)").string }
    return isOwnUser
      ? "the process is not dumpable: only root or CAP_PERFMON may read its mappings"
      : "only \(user) may read its mappings: run memwatch as \(user), as root, or with CAP_PERFMON"
  }
}

extension ProcText {
  /// The children of all threads of a process; empty if the kernel does not list them
  /// (CONFIG_PROC_CHILDREN).
  static func children(of pid: Int32) -> [Int32] {
    (InspectedFile.children(pid: pid).fields(limit: 1 << 20) ?? []).compactMap { Int32($0) }
  }
}
