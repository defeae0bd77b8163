// One reading of a publisher as plain values: the source of screen, text and JSON. nil means
// unknown.

package import EnclaveStats
package import EnclaveSystem

/// The state of a publisher.
package enum PublisherState: String, Sendable, Codable, CaseIterable {
  case live
  /// Stopped by a signal (SIGSTOP) or a debugger.
  case stopped
  case midUpdate = "mid-update"
  case detached
  case unlinked
  case exited
  /// The process runs another program now (execve(2)), which does not publish.
  case exec
  case replaced
  case incompatible
  case notPermitted = "not-permitted"
  case corrupt
}

package enum Severity: String, Sendable, Codable, CaseIterable, Comparable {
  case problem, differs, warning, note

  package static func < (a: Severity, b: Severity) -> Bool { a.rank < b.rank }
  private var rank: Int { Self.allCases.firstIndex(of: self)! }
}

package enum ProblemKind: String, Sendable, Codable, CaseIterable {
  case notLocked = "not-locked"
  case lockedLessThanClaimed = "locked-less-than-claimed"
  case nextChunkWillFail = "next-chunk-will-fail"
  case mapsLow = "maps-low"
  case stuckOpen = "stuck-open"
  case openTooLong = "open-too-long"
  case corruption
  case debugger
  case processState = "process-state"
  case callFailed = "call-failed"
  case finding
  case incomplete
}

/// A problem that the viewer reports.
package struct Problem: Equatable, Sendable, Codable {
  package var severity: Severity
  package var kind: ProblemKind
  package var arenaID: UInt64?
  /// One sentence.
  package var text: String
  /// The command to fix it now; nil: none.
  package var fix: String?
  /// How to make the fix permanent.
  package var keep: String?
}

package enum Binds: String, Sendable, Codable, CaseIterable { case yes, no, unknown }

/// RLIMIT_MEMLOCK of the process, and its use.
package struct Memlock: Equatable, Sendable, Codable {
  package var soft: ByteCount?
  package var hard: ByteCount?
  package var softIsUnlimited = false
  package var hardIsUnlimited = false
  package var binds = Binds.unknown
  /// VmLck.
  package var locked: ByteCount?
  package var lockedByArenas: ByteCount = 0
  package var lockedByOthers: ByteCount?
  /// What can still be locked; nil if the limit does not bind or is unknown.
  package var headroom: ByteCount?
  package var nextChunk: ByteCount?
  package var nextChunkFits: Bool?
  package var peakLockedByArenas: ByteCount = 0
}

/// The process's mappings against vm.max_map_count.
package struct Maps: Equatable, Sendable, Codable {
  package var inUse: Int?
  package var limit: Int?
  package var byArenas: Int = 0
  package var headroom: Int?
}

package struct EventSnapshot: Equatable, Sendable, Codable {
  package var serial: UInt64
  package var kind: Reported<EventCode>
  package var arenaID: UInt64?
  package var at: Timestamp?
  package var call: Reported<SystemCall>?
  package var errno: Int32?
  package var bytes: ByteCount?
}

package struct VaultSnapshot: Equatable, Sendable, Codable {
  package var arenaID: UInt64
  /// The name of the arena that holds its keys.
  package var name: SafeText?
  package var cipher: Reported<CipherCode>?
  package var epoch: UInt64?
  package var entries: UInt64?
  package var bytes: ByteCount?
  package var entriesOfOldEpoch: UInt64?
  package var encryptions: UInt64?
  package var decryptions: UInt64?
  package var failures: UInt64?
  package var rotations: UInt64?
  package var failedRotations: UInt64?
  package var lastRotatedAt: Timestamp?
  package var streams: UInt64?
  package var streamChunks: UInt64?
  package var streamBytes: ByteCount?
}

package struct ProcessSnapshot: Equatable, Sendable, Codable {
  /// In the viewer's pid namespace; nil if the process is not visible there.
  package var pid: Int32?
  package var publisherPid: UInt64
  package var publisherID: String
  package var name: SafeText
  package var uid: UInt32
  package var user: SafeText
  package var state: PublisherState
  package var stateDetail: String?
  /// The process stopped publishing before it ended; nil: unknown.
  package var endedInOrder: Bool?
  package var startedAt: Timestamp?
  package var isDumpable: Bool?
  package var addresses: Reported<AddressCode>?
  /// The pid of a debugger; 0: none; nil: unknown.
  package var debugger: Int32?
  /// Whether fatal signals wipe secrets.
  package var emergencyWipe: Bool?
  /// How far a wipe by a signal got; nil: there was none.
  package var wipe: Reported<EmergencyWipeCode>?
  /// The signal that caused the wipe.
  package var endedBySignal: UInt64?
  package var heartbeatAt: Timestamp?
  package var path: SafeText
}

package struct Restart: Equatable, Sendable, Codable {
  package var fromPid: Int32?
  package var toPid: Int32?
  package var at: Timestamp
}

package struct Snapshot: Equatable, Sendable, Codable {
  package var process: ProcessSnapshot
  /// Milliseconds since 1970.
  package var sampledAt: Timestamp
  /// The age of the reading when rendered.
  package var ageMs: UInt64 = 0
  package var complete: Bool
  package var memlock = Memlock()
  package var maps = Maps()
  package var arenas: [ArenaSnapshot] = []
  package var arenasUnlisted: UInt64?
  package var labelsUnlisted: UInt64?
  package var chunksUnlisted: UInt64?
  package var arenasDestroyed: UInt64?
  /// Address ranges that destroyed sealed arenas still occupy until the process ends.
  package var retiredMappings: UInt64?
  package var retiredBytes: ByteCount?
  package var secrets: [SecretSnapshot] = []
  package var vaults: [VaultSnapshot] = []
  package var vaultsUnlisted: UInt64?
  package var events: [EventSnapshot] = []
  package var eventCount: UInt64?
  package var calls: [CallSnapshot] = []
  package var problems: [Problem] = []
  package var restart: Restart?
  /// The last audit; nil: none yet.
  package var audit: Audit?

  /// Inserts a problem by severity.
  mutating func add(_ problem: Problem) {
    let place = problems.firstIndex { problem.severity < $0.severity } ?? problems.count
    problems.insert(problem, at: place)
  }

  package func problem(of arena: ArenaSnapshot) -> Problem? {
    problems.filter { $0.arenaID == arena.id }.min { $0.severity < $1.severity }
  }
}
