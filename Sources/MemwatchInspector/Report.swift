// Sentences and the text report.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

extension Snapshot {
  /// The worst problem in one sentence, or what was checked. Says "OK" only if an audit compared
  /// every arena with the kernel and nothing is unknown.
  package var verdict: String {
    let real = realProblems
    if let worst = real.first { return "\(worst.word) 1/\(real.count)  \(worst.text)" }
    if arenas.isEmpty {
      return (arenasUnlisted ?? 0) > 0
        ? "n/a: the arenas are not listed" : "no arenas yet: nothing to protect"
    }
    let locked = arenas.count { $0.lockState == .locked }
    let off = arenas.count(where: \.isLockOff)
    let without = off == 0 ? "" : ", \(off) not requested"
    if isConfirmedGood {
      let count = counted(arenas.count, "arena")
      let what = locked == arenas.count ? "\(count) locked" : "\(locked) of \(count) locked"
      return "OK: \(what)\(without), kernel agrees (\(auditAge!) ago)"
    }
    let vmLck = memlock.locked == nil ? "VmLck n/a" : "VmLck agrees"
    let kernel = audit == nil ? "\(vmLck); not audited" : auditCounts
    let more = (arenasUnlisted ?? 0) == 0 ? "" : ", \(arenasUnlisted!) more not listed"
    return
      "no problem seen: \(locked) of \(counted(arenas.count, "arena")) locked\(without)\(more); "
      + "\(kernel)"
  }

  var realProblems: [Problem] { problems.filter { $0.severity != .note } }

  /// No problem, nothing unknown, and an audit compared every arena with the kernel.
  package var isConfirmedGood: Bool {
    guard realProblems.isEmpty, !arenas.isEmpty, let audit, audit.scope == .arenas,
      process.state == .live, complete
    else { return false }
    return arenas.allSatisfy { audit.verdict(of: $0.id) == .agrees && condition(of: $0) == .ok }
      && arenasUnlisted == 0 && chunksUnlisted == 0 && memlock.locked != nil
      && process.debugger == 0
  }

  /// The age of the last audit when rendered.
  private var auditAge: String? {
    audit.map { audit in
      let ms = (sampledAt + ageMs).since(audit.at)
      return ms < 120_000 ? "\(ms / 1000) s" : "\(ms / 60_000) min"
    }
  }

  /// Whether the kernel contradicts a claim.
  package var auditDiffers: Bool {
    audit?.findings.contains(where: \.isDifference) ?? false
      || problems.contains { $0.kind == .lockedLessThanClaimed }
  }

  /// The result of the last audit.
  package var auditCounts: String {
    guard let audit else { return "not audited" }
    let verdicts = arenas.map { audit.verdict(of: $0.id) }
    let (agree, differ) = (verdicts.count { $0 == .agrees }, verdicts.count { $0 == .differs })
    let unknown = verdicts.count - agree - differ
    let differs =
      audit.findings.contains { $0.kind == .totals }
      || problems.contains { $0.kind == .lockedLessThanClaimed }
    let totals = differs ? "totals differ" : "totals agree"
    switch audit.scope {
    case .arenas: return "\(agree) agree, \(differ) differ, \(unknown) n/a"
    case .totals:
      let isKnown = audit.regions != nil || memlock.locked != nil
      return isKnown ? "totals only: \(totals)" : "n/a"
    case .none: return "n/a"
    }
  }

  /// The kernel's view in one line.
  package var kernelLine: String {
    var parts: [String] = []
    if process.state == .exec {
      return "n/a: it runs another program; values are as \(lastSeenText(at: sampledAt) ?? "")"
    }
    if process.state == .exited {
      return "n/a: the process is gone; values are as \(lastSeenText(at: sampledAt) ?? "")"
    }
    if let auditAge, audit?.scope == .arenas {
      parts.append("\(agreement) (\(auditAge) ago)")
    } else if let auditAge {
      parts.append("audited \(auditAge) ago: \(auditCounts)")
    } else if let locked = memlock.locked {
      parts.append(
        locked >= memlock.lockedByArenas
          ? "VmLck \(bytes(locked)) covers the arenas' \(bytes(memlock.lockedByArenas))"
          : "VmLck \(bytes(locked)) is less than the arenas' \(bytes(memlock.lockedByArenas))")
    } else {
      parts.append("VmLck n/a")
    }
    parts.append(
      process.debugger.map { $0 == 0 ? "debugger none" : "debugger \($0)" } ?? "debugger n/a")
    parts.append("dumpable: " + (process.isDumpable.map { $0 ? "yes" : "no" } ?? "n/a"))
    return parts.joined(separator: "   ")
  }

  /// `agrees with 6 of 6`, `differs on 1 of 6, 2 n/a`.
  private var agreement: String {
    let verdicts = arenas.map { audit?.verdict(of: $0.id) }
    let (agree, differ) = (verdicts.count { $0 == .agrees }, verdicts.count { $0 == .differs })
    let unknown = verdicts.count - agree - differ
    let verdict = differ > 0 ? "differs on \(differ)" : "agrees with \(agree)"
    return "\(verdict) of \(verdicts.count)" + (unknown > 0 && differ > 0 ? ", \(unknown) n/a" : "")
  }

  package var limitText: String {
    let limit =
      memlock.softIsUnlimited
      ? "unlimited" : memlock.soft.map { bytes($0) } ?? "n/a"
    let binds =
      switch memlock.binds {
      case .yes: "enforced"
      case .no: "not enforced"
      case .unknown: "enforced: n/a"
      }
    return "limit \(limit) (\(binds))"
  }

  package var nextChunkText: String {
    guard let next = memlock.nextChunk else { return "next chunk n/a" }
    let answer =
      switch memlock.nextChunkFits {
      case true: "fits"
      case false: "WILL NOT FIT"
      case nil: "n/a"
      }
    return "next chunk \(bytes(next)): \(answer)"
  }

  /// What did not fit into the page's tables.
  package var unlistedLines: [String] {
    [
      (arenasUnlisted, "arena"), (chunksUnlisted, "chunk"), (labelsUnlisted, "label"),
      (vaultsUnlisted, "vault"), (secretsUnlisted, "secret"),
    ].compactMap {
      guard let count = $0, count > 0 else { return nil }
      return "\(counted(Int(clamping: count), "more " + $1)) not listed: the page's table is full"
    }
  }

  /// The contents of the vaults.
  package var vaultLines: [String] {
    let more = (vaultsUnlisted ?? 0) > 0 ? ["\(vaultsUnlisted!) more are not listed"] : []
    guard !vaults.isEmpty else { return more.isEmpty ? ["no vaults"] : more }
    let vaultColumns = [
      "VAULT", "CIPHER", "EPOCH", "ENCRYPTED", "BYTES", "STREAMS", "STREAM BYTES", "OLD EPOCH",
      "DECRYPTIONS", "FAILURES",
    ]
    let vaultRows = vaults.map { vault in
      [
        vault.name?.string ?? "n/a", vault.cipher.text, count(vault.epoch),
        count(vault.entries), vault.bytes.map { bytes($0) } ?? "n/a",
        count(vault.streams), vault.streamBytes.map { bytes($0) } ?? "n/a",
        count(vault.entriesOfOldEpoch), count(vault.decryptions), count(vault.failures),
      ]
    }
    return table([vaultColumns] + vaultRows)
      + more
  }

  /// The vaults in lines of this width: as a table if it fits, else one below the other.
  package func vaultLines(width: Int) -> [String] {
    let lines = vaultLines
    guard !vaults.isEmpty, lines.contains(where: { $0.count > width }) else { return lines }
    let blocks = vaults.flatMap { vault in
      let size = vault.bytes.map { bytes($0) } ?? "n/a"
      let streamed = vault.streamBytes.map { bytes($0) } ?? "n/a"
      return [
        "\(vault.name?.string ?? "n/a")  \(vault.cipher.text)  epoch \(count(vault.epoch))",
        "  encrypted \(count(vault.entries)), \(size)",
        "  of an old epoch \(count(vault.entriesOfOldEpoch))",
        "  streams \(count(vault.streams)), \(streamed)",
        "  decryptions \(count(vault.decryptions)), failures \(count(vault.failures))",
      ]
    }
    return blocks + lines.dropFirst(1 + vaults.count)
  }

  /// The audit as text.
  package var auditText: String {
    let pid = process.pidText
    var lines = ["\(process.name)  pid \(pid)  \(process.state.rawValue.uppercased())"]
    guard let audit else { return lines[0] + "\nnot audited: the process is not running\n" }
    let regions = audit.regions.map { "\(grouped($0)) mappings" } ?? "no mappings"
    lines.append("\(auditCounts)  (\(regions) read in \(audit.durationMs) ms)")
    if let reason = audit.reason { lines.append(reason) }
    lines.append("What the kernel shows for each arena's pages:")
    let answers = Dictionary(audit.answers.map { ($0.arenaID, $0) }) { first, _ in first }
    let unknown = KernelAnswer.columns.map { _ in "n/a" }
    let rows = arenas.map { arena in
      [arena.name.string, audit.verdict(of: arena.id)?.rawValue ?? "n/a"]
        + (answers[arena.id]?.cells ?? unknown)
    }
    lines += table([["ARENA", "VERDICT"] + KernelAnswer.columns] + rows)
    lines += unlistedLines
    if arenas.contains(where: { $0.gate?.isKey ?? false }) {
      lines.append(
        "(closed under a key gate is only a claim: the kernel shows the key, not the access)")
    }
    if arenas.contains(where: { $0.gate == .cipher }) {
      lines.append(
        "(encrypted under a cipher gate is only a claim: the audit reads no contents)")
    }
    lines += findingLines
    return lines.joined(separator: "\n") + "\n"
  }

  /// How a process ended, from its last page.
  package var postMortemLines: [String] { postMortemLines(events: 10) }

  func postMortemLines(events most: Int) -> [String] {
    guard process.state == .exited else { return [] }
    var lines = ["", "Post-mortem"]
    lines.append("  ended    \(process.stateDetail ?? "n/a")")
    let live = saturatingSum(arenas.compactMap(\.secretCount))
    let inUse = bytes(saturatingSum(arenas.compactMap(\.bytesInUse)))
    let isInOrder = process.endedInOrder ?? false
    switch process.wipe {
    case nil where isInOrder:
      lines.append("  wiped    at exit, if it was exit(3)")
    case nil:
      lines.append(
        "  wiped    unknown: \(counted(Int(clamping: live), "secret")) (\(inUse)) "
          + "may remain in freed pages")
    default: lines.append("  wiped    \(process.wipeLine)")
    }
    let open = arenas.filter { ($0.openWindows ?? 0) > 0 }
      .map { "\($0.name) (\(counted(Int(clamping: $0.openWindows!), "window")))" }
    lines.append("  open     \(open.isEmpty ? "no window" : open.joined(separator: ", "))")
    let unlocked = arenas.filter(\.isNotFullyLocked).map(\.name.string)
    lines.append("  unlocked \(unlocked.isEmpty ? "none" : unlocked.joined(separator: ", "))")
    let names = Dictionary(arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
    lines.append("  last of \(counted(Int(clamping: eventCount ?? 0), "event"))")
    lines += events.suffix(most).map { "    " + $0.line(names) }
    return lines
  }

  /// The findings of the last audit, each with its fix.
  package var findingLines: [String] {
    guard let findings = audit?.findings, !findings.isEmpty else { return [] }
    var lines = ["", "Findings"]
    var said: Set<[String]> = []
    for finding in findings {
      let arena = arenas.first { $0.id == finding.arenaID }
      lines.append(
        "\(finding.severity.rawValue)  \(finding.kind.rawValue)  "
          + (arena?.name.string ?? "the process"))
      lines.append("  page    \(finding.claim)")
      lines.append("  kernel  \(finding.kernel)")
      guard said.insert([finding.cause, finding.fix]).inserted else {
        lines.append("  cause   and fix as above")
        continue
      }
      lines.append("  cause   \(finding.cause)")
      lines.append("  fix     \(finding.fix)")
    }
    return lines
  }

}

/// A count with separators.
func count(_ number: UInt64?) -> String { number.map { grouped($0) } ?? "n/a" }

package func counted(_ count: Int, _ noun: String) -> String {
  count == 1 ? "1 \(noun)" : "\(grouped(count)) \(noun)s"
}

/// Aligns rows into columns as wide as their widest cell.
package func table(_ rows: [[String]]) -> [String] {
  guard let first = rows.first else { return [] }
  let widths = first.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
  return rows.map { row in
    var line = ""
    for (cell, width) in zip(row, widths) {
      line += cell + String(repeating: " ", count: width - cell.count + 2)
    }
    while line.last == " " { line.removeLast() }
    return line
  }
}

/// The size of a page in bytes.
package let pageByteCount = UInt64(Page.size)

/// `ENOMEM` for 12.
package func errnoName(_ number: Int32) -> String { SystemFailure.name(ofErrno: number) }

/// The local time, optionally with the date.
package func clock(_ time: Timestamp, withDate: Bool = false) -> String {
  ProcessFacts.localTime(time.realMs / 1000, withDate: withDate)
}

extension ProcessSnapshot {
  /// The pid; for a process that is not visible here, its pid in its own namespace.
  package var pidText: String {
    if let pid { return "\(pid)" }
    return state == .live
      ? "n/a (\(publisherPid) in a pid namespace that is not visible here)" : "n/a"
  }

  /// Whether signals wipe secrets, or did.
  package var wipeLine: String {
    let signal = endedBySignal.map { " by signal \($0)" } ?? ""
    switch wipe {
    case .known(.done): return "everything was wiped\(signal)"
    case .known(.left): return "everything was wiped\(signal), but windows stayed open for writing"
    case .known(.begun): return "a wipe began\(signal), its outcome is n/a"
    case let wipe?: return wipe.text
    case nil:
      return emergencyWipe.map {
        $0 ? "signals that end the process wipe memory first" : "at exit only: signals wipe nothing"
      } ?? "n/a"
    }
  }
}
