// A snapshot as text: a summary of about 20 lines, and everything.

import EnclaveStats
import EnclaveSystem

extension Snapshot {
  private static let mostArenas = 8
  private static let mostVaults = 3

  /// What a person should know first: what is wrong and what to type, how much room is left, whether
  /// the kernel agrees; and the arenas, worst first.
  package var summary: String {
    var lines = [title] + problemLines + adviceLines + processLines + [""]
    let sorted = arenas.enumerated().sorted {
      let (a, b) = (condition(of: $0.element).rank, condition(of: $1.element).rank)
      return (a, $0.offset) < (b, $1.offset)
    }.map(\.element)
    // A single arena that is left over takes no less room than the line that counts it.
    let most = sorted.count == Self.mostArenas + 1 ? sorted.count : Self.mostArenas
    lines += table([Self.columns] + sorted.prefix(most).map(row))
    if let next = sorted.dropFirst(most).first {
      let state = condition(of: next).rawValue
      lines.append("and \(counted(sorted.count - most, "more arena")), none worse than \(state)")
    }
    lines += unlistedLines
    lines += vaults.prefix(Self.mostVaults).map(\.line)
    if vaults.count > Self.mostVaults || (vaultsUnlisted ?? 0) > 0 {
      let rest = saturatingSum([
        UInt64(max(0, vaults.count - Self.mostVaults)), vaultsUnlisted ?? 0,
      ])
      lines.append("and \(counted(Int(clamping: rest), "more vault"))")
    }
    let findings = audit?.findings.count { $0.severity != .note } ?? 0
    if process.state == .exited {
      lines += postMortemLines(events: 3)
    } else if let last = events.last {
      let names = Dictionary(arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
      lines.append("Events   \(count(eventCount)), last: \(last.line(names))")
    }
    let more = findings == 0 ? "" : "\(counted(findings, "finding")), "
    lines.append(
      "(--full: \(more)all arenas and vaults, every field; --view labels: secrets by label)")
    return lines.joined(separator: "\n") + "\n"
  }

  /// Everything: each problem, arena, finding and vault, then every field of the document, one per
  /// line.
  package var text: String {
    var lines = [title, verdict]
    for (index, problem) in realProblems.enumerated().dropFirst() {
      lines.append(line(of: problem, index))
    }
    lines += adviceLines + processLines + [""]
    lines += table([Self.columns + ["LAYOUT"]] + arenas.map { row($0) + [$0.layout.text] })
    lines += unlistedLines + findingLines + postMortemLines
    if !vaults.isEmpty { lines += [""] + vaultLines }
    lines.append("")
    lines.append("Every field (bytes, milliseconds, counts; n/a: unknown)")
    for (path, value) in document.leaves { lines.append("\(path): \(value.plain)") }
    return lines.joined(separator: "\n") + "\n"
  }

  private var title: String {
    "\(process.name)  pid \(process.pidText)  user \(process.user)  "
      + "\(process.state.rawValue.uppercased())  at \(clock(sampledAt, withDate: true))"
      + (lastSeenText(at: sampledAt).map { "  \($0)" } ?? "")
  }

  private func line(of problem: Problem, _ index: Int) -> String {
    "\(problem.word) \(index + 1)/\(realProblems.count)  \(problem.text)"
  }

  /// The verdict, and the first problem of each further kind; the others of a kind by name.
  private var problemLines: [String] {
    var lines: [String] = []
    let names = Dictionary(arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
    var others: [[String]] = []
    var groups: [ProblemGroup: Int] = [:]
    for (index, problem) in realProblems.enumerated() {
      let group = ProblemGroup(problem)
      if let place = groups[group], let name = problem.arenaID.map({ names[$0] ?? "arena \($0)" }) {
        others[place].append(name)
      } else {
        groups[group] = groups[group] ?? lines.count
        lines.append(line(of: problem, index))
        others.append([])
      }
    }
    guard !lines.isEmpty else { return [verdict] }
    return zip(lines, others).flatMap { line, others in
      guard !others.isEmpty else { return [line] }
      let rest = others.count > 4 ? " and \(others.count - 3) more" : ""
      let named = others.prefix(rest.isEmpty ? 4 : 3).joined(separator: ", ")
      return [line, "  the same: \(named)\(rest)"]
    }
  }

  /// A fix for several problems is shown once. (Notes are not shown here, so neither is their advice.)
  private var adviceLines: [String] {
    let advice =
      realProblems.adviceLines(\.fix, title: "fix now")
      + realProblems.adviceLines(\.keep, title: "to keep")
    return advice.map { "  " + $0 }
  }

  /// Limits, and what the kernel says.
  private var processLines: [String] {
    var lines = [
      "Memlock  \(limitText)  locked \(memlock.locked.text)"
        + " = arenas \(bytes(memlock.lockedByArenas))"
        + " + other code \(memlock.lockedByOthers.text)"
        + "  free \(memlock.headroom.text)  \(nextChunkText)",
      "Maps     \(maps.inUse.map { grouped($0) } ?? "n/a") of "
        + (maps.limit.map { grouped($0) } ?? "n/a"),
      "Kernel   \(kernelLine)",
    ]
    if let reason = audit?.reason { lines.append("         \(reason)") }
    lines.append("Wipe     \(process.wipeLine)")
    return lines
  }

  private static let columns = [
    "ARENA", "STATE", "LOCK", "PROT", "OPEN", "SEAL", "GATE", "SECRETS", "IN USE", "LOCKED",
  ]

  private func row(_ arena: ArenaSnapshot) -> [String] {
    [
      arena.name.string, stateText(of: arena), arena.lockState.text,
      arena.protectionState.text, count(arena.openWindows), arena.sealState.text,
      arena.gate.text, count(arena.secretCount), arena.bytesInUse.text, arena.bytesLocked.text,
    ]
  }
}

/// Problems that one line can stand for.
private struct ProblemGroup: Hashable {
  let severity: Severity
  let kind: ProblemKind
  /// Findings are of many kinds.
  let fix: String?

  init(_ problem: Problem) {
    (severity, kind) = (problem.severity, problem.kind)
    fix = kind == .finding ? problem.fix : nil
  }
}

extension Problem {
  var word: String {
    switch severity {
    case .problem: "PROBLEM"
    case .differs: "DIFFERS"
    case .warning, .note: "WARNING"
    }
  }
}

extension ArenaCondition {
  /// From the worst, 0.
  fileprivate var rank: Int {
    switch self {
    case .problem: 0
    case .differs: 1
    case .warning: 2
    case .unknown: 3
    case .gone, .stopped, .detached: 4
    case .ok: 5
    }
  }
}

extension VaultSnapshot {
  fileprivate var line: String {
    "Vault    \(name?.string ?? "n/a")  \(cipher.text)  epoch \(count(epoch))  "
      + "\(count(entries)) encrypted, \(self.bytes.text)  failures \(count(failures))"
  }
}

extension EventSnapshot {
  /// - Parameter names: of arenas, by id.
  func line(_ names: [UInt64: String]) -> String {
    let arena = arenaID.map { names[$0] ?? "arena \($0), gone" } ?? ""
    let failure = errno.map { " \(errnoName($0))" } ?? ""
    return "\(at.map { clock($0) } ?? "n/a")  \(kind.text)\(failure)  \(arena)"
  }
}
