// A snapshot as text, and what changed between two: the summary that is read first.

import EnclaveStats
import Foundation
import Testing

@testable import MemwatchInspector

@Suite struct SummaryTests {
  private let fix = "prlimit --pid 4127 --memlock=16777216:16777216"

  private func lines(_ snapshot: Snapshot) -> [String] {
    snapshot.summary.split(separator: "\n", omittingEmptySubsequences: false).map { String($0) }
  }

  @Test func theWorstComesFirst() {
    let lines = lines(sample())
    #expect(lines.count <= 24, "\(lines.count)")
    #expect(lines[1].hasPrefix("PROBLEM 1/1  session-tokens: 16 KiB of 64 KiB not locked"))
    #expect(lines[2] == "  fix now: \(fix)")
    #expect(lines[3].hasPrefix("  to keep: "))
    let header = lines.firstIndex { $0.hasPrefix("ARENA") }!
    #expect(lines[header + 1].hasPrefix("session-tokens  PROBLEM"))
    #expect(lines[header + 2].hasPrefix("tls-keys        ok"))
    #expect(lines[header + 1].contains(" 1,006 "), "\(lines[header + 1])")
    #expect(lines.contains { $0.contains("412 of 65,530") })
  }

  /// One line tells the fix of all problems of a kind; each kind is told, and how many there are.
  @Test func problemsOfAKindAreOne() {
    var snapshot = sample(arenas: 40)
    snapshot.problems = snapshot.arenas.dropFirst().prefix(30).map { arena in
      Problem(
        severity: .problem, kind: .notLocked, arenaID: arena.id,
        text: "\(arena.name): 16 KiB of 64 KiB not locked: can be swapped out", fix: fix,
        keep: "LimitMEMLOCK=16M")
    }
    snapshot.add(
      Problem(
        severity: .warning, kind: .nextChunkWillFail, arenaID: 1, text: "tls-keys: no room",
        fix: fix, keep: "LimitMEMLOCK=16M"))
    let lines = lines(snapshot)
    #expect(lines.count <= 24, "\(lines.joined(separator: "\n"))")
    #expect(lines[1].hasPrefix("PROBLEM 1/31  session-tokens: "))
    #expect(lines[2] == "  the same: scratch, arena-3, arena-4 and 26 more")
    #expect(lines[3] == "WARNING 31/31  tls-keys: no room")
    #expect(lines[4] == "  fix now, for 31 problems: \(fix)")
    #expect(lines.count { $0.contains("prlimit") } == 1)
    #expect(lines.contains("and 32 more arenas, none worse than PROBLEM"))
    // Everything: each problem on a line of its own, and each field.
    let all = snapshot.text
    #expect(all.contains("PROBLEM 30/31  arena-30: ") && all.contains("\narenas[39].id: 40\n"))
    #expect(all.split(separator: "\n").count { $0.hasPrefix("  fix now") } == 1)
  }

  @Test func aFindingIsCounted() {
    var snapshot = sample(arenas: 1)
    snapshot.audit = Audit(at: 0, durationMs: 1, scope: .arenas)
    snapshot.audit?.findings = [
      Finding(
        severity: .differs, kind: .notLocked, arenaID: 1, claim: "c", kernel: "k", cause: "w",
        fix: "f")
    ]
    #expect(snapshot.summary.contains("(--full: 1 finding, all arenas"))
  }

  // MARK: - Changes

  private func report(_ old: Snapshot, _ new: Snapshot) -> ChangeReport {
    ChangeReport(from: old.document, to: new.document)
  }

  @Test func statesComeBeforeGrowth() {
    let old = sample()
    var new = sample(at: now + 90_000)
    new.arenas[0].lockState = .known(.partial)
    new.arenas[0].bytesInUse = 4096
    new.arenas[0].secretCount = 1_234_567
    new.arenas[1].labels[2].live = 9_999
    new.memlock.locked = 7 << 20
    new.arenas.removeLast()
    new.add(
      Problem(
        severity: .problem, kind: .notLocked, arenaID: 1, text: "tls-keys: not locked", fix: fix))
    let report = report(old, new)
    #expect(report.hasChanges)
    let text = report.text
    let lines = text.split(separator: "\n").map { String($0) }
    #expect(lines[0].hasPrefix("tls-gateway  pid 4127  from ") && lines[0].hasSuffix("(90 s)"))
    let growth = lines.firstIndex(of: "Growth")!
    let states = lines[..<growth]
    #expect(states.contains("  tls-keys: state ok -> problem, lock locked -> partial"), "\(text)")
    #expect(states.contains("  arena scratch is gone"))
    #expect(states.contains("  new problem: tls-keys: not locked"))
    #expect(states.contains("    fix: \(fix)"))
    let grown = lines[growth...].joined(separator: "\n")
    #expect(grown.contains(#/locked +7 MiB \+1 MiB/#), "\(grown)")
    #expect(grown.contains(#/tls-keys +1,234,567 \+1,234,561 +4 KiB \+2\.5 KiB/#), "\(grown)")
    #expect(grown.contains(#/Sessions\.swift:118 +session-tokens +9,999 \+8,994/#), "\(grown)")
    // No raw times, and no numbers without separators.
    #expect(!text.contains(#/[0-9]{7}/#) || text.contains("--memlock=16777216"))
    #expect(!text.contains(#/[0-9]{12}/#), "\(text)")
  }

  /// An arena of another process is compared by its name; what is new counts from 0.
  @Test func aNewArenaGrowsFromNothing() {
    let old = sample(arenas: 1)
    let report = report(old, sample(arenas: 2))
    #expect(report.states.contains("arena session-tokens is new"))
    #expect(report.growth.contains { $0.contains(#/session-tokens +1,006 \+1,006/#) })
  }

  @Test func passingTimeIsNoChange() {
    let old = sample()
    #expect(report(old, old).text.isEmpty && !report(old, old).hasChanges)
    var later = old
    later.sampledAt += 5000
    later.process.heartbeatAt = later.sampledAt
    let changes = report(old, later)
    #expect(!changes.hasChanges && changes.text.hasSuffix("no changes\n"))
  }
}
