// The results of an audit.

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
  /// The page's claim.
  package var claim: String
  /// The kernel's answer.
  package var kernel: String
  package var cause: String
  /// The fix.
  package var fix: String
  /// How many bytes differ; nil: not a matter of bytes, or recorded by an older memwatch.
  package var affectedBytes: ByteCount?
  /// The other processes that it concerns.
  package var pids: [Int32]?

  /// Whether the kernel contradicts a claim, rather than adding information.
  package var isDifference: Bool { severity <= .differs }
}

/// The result of an audit for one arena.
package enum AuditVerdict: String, Sendable { case agrees, differs }

/// One audit: its scope and its findings.
package struct Audit: Equatable, Sendable, Codable {
  package enum Scope: String, Sendable, Codable {
    /// The chunks of each arena were compared.
    case arenas
    /// Only totals were compared: the page has no addresses, or smaps may not be read.
    case totals = "totals only"
    /// Nothing could be compared.
    case none
  }
  /// What keeps claims from being compared.
  package enum Obstacle: String, Sendable, Codable, CaseIterable {
    /// Chunks are not listed, or came and went during the audit.
    case chunksUnlisted = "chunks-unlisted"
    /// The page gives no addresses.
    case addressesWithheld = "addresses-withheld"
    case notDumpable = "not-dumpable"
    /// The mappings are another user's to read.
    case otherUser = "other-user"
    case readFailed = "read-failed"
    /// The process has no memory any more.
    case noMemory = "no-memory"
    /// The mappings have no VmFlags.
    case flagsUnknown = "flags-unknown"
    case keyUnknown = "key-unknown"
    /// The kernel does not tell which mappings are sealed.
    case sealUnknown = "seal-unknown"
  }
  /// Milliseconds since 1970.
  package var at: Timestamp
  package var durationMs: UInt64
  package var scope: Scope
  /// Why the scope is not `arenas`, and how to change that.
  package var reason: String?
  /// The same in words of a list; nil: recorded by an older memwatch.
  package var obstacles: [Obstacle]?
  /// The number of mappings of the process.
  package var regions: Int?
  package var findings: [Finding] = []
  /// Arenas that were compared completely.
  package var compared: Set<UInt64> = []
  /// The number of arenas with claims that this kernel cannot confirm.
  package var unconfirmed: Int?
  /// What the kernel shows of each arena that was compared. Not in records.
  package var answers: [KernelAnswer] = []

  private enum CodingKeys: CodingKey {
    case at, durationMs, scope, reason, obstacles, regions, findings, compared, unconfirmed
  }

  func with(_ more: [Finding]) -> Audit {
    var copy = self
    copy.findings += more
    return copy
  }

  /// nil if the arena was not compared.
  package func verdict(of arena: UInt64) -> AuditVerdict? {
    if findings.contains(where: { $0.arenaID == arena && $0.isDifference }) { return .differs }
    return compared.contains(arena) ? .agrees : nil
  }
}
