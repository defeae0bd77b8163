// The flags and permissions that the kernel should show for an arena, depending on gate, seal state
// and machine.

import EnclaveStats
import Foundation
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ComparisonTests {
  static let chunk: Range<UInt64> = 0x7f00_0000_1000..<0x7f00_0000_2000

  /// One chunk of one page between its guards.
  private func regions(
    _ access: String, letters: String = "lo dd wf", key: Int? = nil, hasFlags: Bool = true
  ) -> Regions {
    let tag = key.map { "ProtectionKey: \($0)\n" } ?? ""
    let flags = hasFlags ? "VmFlags: mr mw me ac \(letters) \n" : ""
    return Regions(
      text: """
        7f0000000000-7f0000001000 ---p 00000000 00:00 0
        VmFlags: mr mw me
        7f0000001000-7f0000002000 \(access)p 00000000 00:00 0
        \(tag)\(flags)7f0000002000-7f0000003000 ---p 00000000 00:00 0
        VmFlags: mr mw me

        """)
  }

  private func claim(_ gate: GateCode, _ seal: SealCode, key: UInt64 = .max, windows: UInt64 = 0)
    -> ArenaClaim
  {
    ArenaClaim(
      id: 1, name: SafeText("a"), gate: gate, key: key, seal: seal, fork: .zeros,
      dump: .excluded, backing: .anonymous, lockedBytes: 4096, mappedBytes: 4096,
      activity: .init(
        opens: windows, allocations: 1, frees: 0, openWindows: windows, stuckOpenPages: 0),
      chunks: [.init(data: Self.chunk, guardBytes: 4096, isLocked: true)], isWhole: true)
  }

  /// The columns of an audit are what the kernel shows, not what the page claims.
  @Test func auditAnswersComeFromTheKernel() {
    func cells(_ letters: String, _ access: String = "---", key: Int? = nil) -> [String] {
      KernelAnswer(
        claim(.pages, .sealed), regions(access, letters: letters, key: key)
      ).cells
    }
    // The claim: locked, sealed, zeros in forked children, left out of dumps.
    #expect(cells("lo dd wf sl") == ["4 KiB", "all", "none", "n/a", "all", "zeros", "none", "0 B"])
    #expect(
      cells("mr", "rw-", key: 3) == ["4 KiB", "none", "r-w", "3", "none", "copied", "all", "0 B"])
    #expect(cells("lo dd dc ??", "r--")[3...5] == ["n/a", "n/a", "absent"])
    let silent = KernelAnswer(claim(.pages, .open), regions("---", hasFlags: false)).cells
    #expect(silent == ["4 KiB", "n/a", "none", "n/a", "n/a", "n/a", "n/a", "0 B"])
    let gone = KernelAnswer(claim(.pages, .open), Regions(text: "")).cells
    #expect(gone == ["0 B", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a", "0 B"])
  }

  struct Row: CustomTestStringConvertible, Sendable {
    var gate: GateCode
    var seal: SealCode
    var access: String
    /// Immediate findings, and suspects that must persist to become findings.
    var found: [Finding.Kind] = []
    var open: [Finding.Kind] = []
    var windows: UInt64 = 0
    var testDescription: String { "\(gate) \(seal) \(access), \(windows) windows" }
  }

  static let rows: [Row] =
    // In every seal state, the key closes pages that the kernel shows as writable.
    [SealCode.open, .frozen, .sealed].flatMap { seal in
      [
        Row(gate: .key, seal: seal, access: "rw-"),
        Row(gate: .key, seal: seal, access: "rw-", windows: 1),
        Row(gate: .key, seal: seal, access: "rwx", found: [.executable]),
      ]
    } + [
      Row(gate: .pages, seal: .open, access: "---"),
      Row(gate: .pages, seal: .open, access: "r--", open: [.openPages]),
      Row(gate: .pages, seal: .open, access: "rw-", open: [.openPages]),
      Row(gate: .pages, seal: .open, access: "rw-", windows: 1),
      Row(gate: .pages, seal: .open, access: "--x", found: [.executable], open: [.openPages]),
      Row(gate: .pages, seal: .frozen, access: "---"),
      Row(gate: .pages, seal: .frozen, access: "rw-", open: [.openPages]),
      Row(gate: .pages, seal: .frozen, access: "r--", windows: 1),
      Row(gate: .pages, seal: .frozen, access: "rw-", open: [.writable], windows: 1),
      Row(gate: .cipher, seal: .open, access: "rw-"),
      Row(gate: .cipher, seal: .open, access: "rwx", found: [.executable]),
      Row(gate: .cipher, seal: .frozen, access: "r--"),
      Row(gate: .cipher, seal: .frozen, access: "rw-", open: [.writable]),
      Row(gate: .cipher, seal: .sealed, access: "r--"),
      Row(gate: .cipher, seal: .sealed, access: "rw-", open: [.writable]),
      Row(gate: .none, seal: .open, access: "rw-"),
      Row(gate: .none, seal: .open, access: "r-x", found: [.executable]),
      Row(gate: .none, seal: .frozen, access: "r--"),
      Row(gate: .none, seal: .frozen, access: "rw-", open: [.writable]),
      Row(gate: .none, seal: .frozen, access: "rw-", open: [.writable], windows: 1),
    ]

  @Test(arguments: rows) func expectedAccessFollowsFromGateAndSealState(row: Row) {
    let isKey = row.gate == .key
    let seen = regions(
      row.access, letters: row.seal == .sealed ? "lo dd wf sl" : "lo dd wf", key: isKey ? 3 : nil)
    let claim = claim(row.gate, row.seal, key: isKey ? 3 : .max, windows: row.windows)
    let comparison = Comparison(pid: 1, claims: [claim], regions: seen)
    #expect(comparison.findings.map(\.kind) == row.found)
    #expect((comparison.open[1] ?? []).map(\.kind) == row.open)
    #expect(comparison.unconfirmed.isEmpty)
  }

  @Test func aMissingSealIsAFinding() {
    let comparison = Comparison(
      pid: 1, claims: [claim(.key, .sealed, key: 3)], regions: regions("rw-", key: 3))
    #expect(comparison.findings.map(\.kind) == [.notSealed])
    let other = Comparison(
      pid: 1, claims: [claim(.key, .sealed, key: 4)],
      regions: regions("rw-", letters: "lo dd wf sl", key: 3))
    #expect(other.findings.map(\.kind) == [.keyDiffers])
  }

  /// Linux 6.10 has seals, but does not show them in VmFlags.
  @Test func whatTheKernelDoesNotShowIsUnconfirmed() {
    let seal = Comparison(
      pid: 1, claims: [claim(.key, .sealed, key: 3)],
      regions: regions("rw-", letters: "lo dd wf ??", key: 3))
    #expect(seal.findings.isEmpty && seal.unconfirmed == [1: [.seal]])
    let key = Comparison(pid: 1, claims: [claim(.key, .open, key: 3)], regions: regions("rw-"))
    #expect(key.findings.isEmpty && key.unconfirmed == [1: [.key]])
    let number = Comparison(
      pid: 1, claims: [claim(.key, .open)], regions: regions("rw-", key: 3))
    #expect(number.findings.isEmpty && number.unconfirmed == [1: [.key]])
    let flags = Comparison(
      pid: 1, claims: [claim(.none, .open)], regions: regions("rw-", hasFlags: false))
    #expect(flags.findings.isEmpty && flags.unconfirmed == [1: [.flags]])
  }

  @Test(arguments: [
    ("mg", Finding.Kind.mergeable), ("hg", .hugePages), ("um", .userfault), ("uw", .userfault),
    ("ui", .userfault),
  ])
  func settingsOfOtherCodeAreDetected(letters: String, kind: Finding.Kind) {
    let comparison = Comparison(
      pid: 1, claims: [claim(.none, .open)],
      regions: regions("rw-", letters: "lo dd wf \(letters)"))
    #expect(comparison.findings.map(\.kind) == [kind])
    #expect(comparison.findings.map(\.severity) == [.warning])
  }

}
