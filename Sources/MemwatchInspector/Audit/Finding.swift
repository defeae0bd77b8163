// What an audit has to say.

/// Where the kernel disagrees with a claim.
package struct Finding: Equatable, Sendable, Codable {
  package enum Kind: String, Sendable, Codable, CaseIterable {
    case notLocked = "not-locked"
    case inCoreDumps = "in-core-dumps"
    case notWipedOnFork = "not-wiped-on-fork"
    case guardMissing = "guard-missing"
    case keyDiffers = "key-differs"
    case openPages = "open-pages"
    case writable
    case notSealed = "not-sealed"
    case notMapped = "not-mapped"
    case executable
    case swapped
    case mergeable
    case hugePages = "huge-pages"
    case userfault = "userfaultfd"
    case childHasCopy = "child-has-copy"
    case totals
    case otherLocks = "other-locks"
    case debugger
  }
  package var severity: Severity
  package var kind: Kind
  package var arenaID: UInt64?
  /// What the page says.
  package var claim: String
  /// What the kernel says.
  package var kernel: String
  package var cause: String
  /// What to do.
  package var fix: String

  /// Whether the kernel contradicts a claim, and not merely tells of something.
  package var isDifference: Bool { severity <= .differs }
}

/// What an audit came to for one arena.
package enum AuditVerdict: String, Sendable { case agrees, differs }

/// One audit: what was compared, and what came of it.
package struct Audit: Equatable, Sendable, Codable {
  package enum Scope: String, Sendable, Codable {
    /// Each arena's chunks.
    case arenas
    /// Sums alone: the page gives no addresses, or smaps may not be read.
    case totals = "totals only"
    /// Nothing can be compared.
    case none
  }
  /// Milliseconds since 1970.
  package var at: Timestamp
  package var durationMs: UInt64
  package var scope: Scope
  /// Why the scope is not `arenas`, and what would make it that.
  package var reason: String?
  /// How many mappings the process has.
  package var regions: Int?
  package var findings: [Finding] = []
  /// Arenas that were compared whole.
  package var compared: Set<UInt64> = []
  /// How many arenas this kernel does not confirm everything of.
  package var unconfirmed: Int?

  func with(_ more: [Finding]) -> Audit {
    var copy = self
    copy.findings += more
    return copy
  }

  /// nil where it was not compared.
  package func verdict(of arena: UInt64) -> AuditVerdict? {
    if findings.contains(where: { $0.arenaID == arena && $0.isDifference }) { return .differs }
    return compared.contains(arena) ? .agrees : nil
  }
}
