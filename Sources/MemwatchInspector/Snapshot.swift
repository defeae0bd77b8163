// One reading of a publisher, as plain values: what the screen, the text and the JSON are made
// from. nil is "not known".

/// What the publisher is doing.
package enum PublisherState: String, Sendable, Codable, CaseIterable {
  case live
  /// By a signal (SIGSTOP) or a debugger.
  case stopped
  case midUpdate = "mid-update"
  case detached
  case unlinked
  case exited
  /// The process runs another program (execve(2)), which does not publish.
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

/// Something that a person should know.
package struct Problem: Equatable, Sendable, Codable {
  package var severity: Severity
  package var kind: ProblemKind
  package var arenaID: UInt64?
  /// One sentence.
  package var text: String
  /// What to type, or nil where there is nothing to type.
  package var fix: String?
  /// How to make it last.
  package var keep: String?
}

package enum Binds: String, Sendable, Codable, CaseIterable { case yes, no, unknown }

/// RLIMIT_MEMLOCK of the process, in bytes.
package struct Memlock: Equatable, Sendable, Codable {
  package var soft: UInt64?
  package var hard: UInt64?
  package var softIsUnlimited = false
  package var hardIsUnlimited = false
  package var binds = Binds.unknown
  /// VmLck.
  package var locked: UInt64?
  package var lockedByArenas: UInt64 = 0
  package var lockedByOthers: UInt64?
  /// What can still be locked; nil where the limit does not bind, or something is not known.
  package var headroom: UInt64?
  package var nextChunk: UInt64?
  package var nextChunkFits: Bool?
  package var peakLockedByArenas: UInt64 = 0
}

/// Mappings against vm.max_map_count.
package struct Maps: Equatable, Sendable, Codable {
  package var inUse: Int?
  package var limit: Int?
  package var byArenas: Int = 0
  package var headroom: Int?
}

package struct SizeRoom: Equatable, Sendable, Codable {
  /// The largest secret of this size class, in bytes.
  package var payload: Int
  package var live: Int
  package var freeSlots: Int
  /// Free slots once the headroom is used for this size alone; nil where it is not limited, or not
  /// known.
  package var freeSlotsAfterGrowth: Int?
}

package struct LockDetail: Equatable, Sendable, Codable {
  package var errno: Int32?
  package var errnoName: String?
  package var failedCall: String?
  package var bytesMissing: UInt64?
  /// Milliseconds since 1970.
  package var at: UInt64?
  package var bytesInUseThen: UInt64?
  package var limitThen: UInt64?
}

package struct ArenaSnapshot: Equatable, Sendable, Codable {
  package var id: UInt64
  package var name: SafeText
  package var layout: String?
  package var gate: String?
  /// How many other arenas that are listed are under the same protection key; nil without one.
  package var keySharedWith: UInt64?
  package var backing: String?
  package var lockPolicy: String?
  package var lockState: String?
  package var lock = LockDetail()
  package var protectionState: String?
  package var openWindows: UInt64?
  package var sealState: String?
  package var forkProtection: String?
  package var dumpProtection: String?
  package var secretCount: UInt64?
  package var bytesInUse: UInt64?
  package var bytesLocked: UInt64?
  package var bytesMapped: UInt64?
  package var chunkCount: UInt64?
  package var mapsUsed: UInt64?
  /// Pages of slabs that are mappings of their own, and of chunks in one piece; nil but under a page
  /// gate, and where an older library does not tell.
  package var separatePages: UInt64?
  package var mergedPages: UInt64?
  package var guardPages: UInt64?
  package var allocations: UInt64?
  package var frees: UInt64?
  package var opens: UInt64?
  package var opensForWriting: UInt64?
  package var failedAllocations: UInt64?
  package var failedLocks: UInt64?
  package var failedOpens: UInt64?
  package var peakSecretCount: UInt64?
  package var peakBytesInUse: UInt64?
  package var peakBytesLocked: UInt64?
  package var nextChunkBytes: UInt64?
  package var capacityBytes: UInt64?
  package var createdAt: UInt64?
  package var stuckOpenPages: UInt64?
  package var corruptions: UInt64?
  package var longestOpenMs: UInt64?
  /// Windows are open, and none was opened since then (ms since 1970); nil: none open, or not known.
  package var openSince: UInt64?
  package var encryptedCount: UInt64?
  package var unlistedSecrets: UInt64?
  package var sizes: [SizeRoom] = []
  package var chunks: [ChunkSnapshot] = []
  package var labels: [LabelSnapshot] = []
}

package struct ChunkSnapshot: Equatable, Sendable, Codable {
  package var address: UInt64?
  package var dataBytes: UInt64?
  package var guardBytes: UInt64?
  package var lockState: String?
  package var errno: Int32?
  package var kind: String?
  /// What lies in its pages, from the first to the last; nil: not known, or not asked for.
  package var pages: [PagesSnapshot]?
}

extension ChunkSnapshot {
  /// nil: it is not known what lies in its pages.
  package var pageCounts: PageCounts? { pages.map { PageCounts($0) } }
}

/// What lies in some pages, in numbers.
package struct PageCounts: Equatable, Sendable {
  /// Pages that hold secrets, have windows open, could not be closed again; and the secrets.
  package var holding: UInt64
  package var open: UInt64
  package var stuck: UInt64
  package var secrets: UInt64

  package init(_ pages: [PagesSnapshot]) {
    func count(_ isCounted: (PagesSnapshot) -> Bool) -> UInt64 {
      saturatingSum(pages.filter(isCounted).map { UInt64($0.count) })
    }
    holding = count { $0.live > 0 }
    open = count { $0.isOpen && !$0.isStuck }
    stuck = count(\.isStuck)
    secrets = saturatingSum(pages.map(\.live))
  }
}

/// Pages of a chunk that are opened together, or that hold nothing yet.
package struct PagesSnapshot: Equatable, Sendable, Codable {
  /// Counted from the chunk's first, which is 0.
  package var first: Int
  package var count: Int
  package var use: Use
  /// The bytes that a slot holds, and slots; nil where the pages are not cut into slots.
  package var payload: UInt64?
  package var slots: UInt64?
  /// Secrets that live here.
  package var live: UInt64
  /// A window lies here.
  package var isOpen: Bool
  /// They could not be closed again.
  package var isStuck: Bool

  package enum Use: UInt64, Sendable, Codable {
    case unused, slots, whole
    /// The page says what no publisher writes.
    case odd
  }

  package init(
    first: Int, count: Int, use: Use, payload: UInt64? = nil, slots: UInt64? = nil, live: UInt64,
    isOpen: Bool, isStuck: Bool
  ) {
    (self.first, self.count, self.use, self.live) = (first, count, use, live)
    (self.payload, self.slots, self.isOpen, self.isStuck) = (payload, slots, isOpen, isStuck)
  }

  /// In records: `[first, count, use, live, 1 open + 2 stuck]`, and `payload, slots` where it has
  /// some. A chunk has many of them.
  package func encode(to encoder: any Encoder) throws {
    var list = encoder.unkeyedContainer()
    let windows: UInt64 = (isOpen ? 1 : 0) + (isStuck ? 2 : 0)
    var numbers = [UInt64(first), UInt64(count), use.rawValue, live, windows]
    if let payload, let slots { numbers += [payload, slots] }
    for number in numbers { try list.encode(number) }
  }

  package init(from decoder: any Decoder) throws {
    var list = try decoder.unkeyedContainer()
    func number(_ range: ClosedRange<UInt64> = 0 ... .max) throws -> UInt64 {
      let number = try list.decode(UInt64.self)
      guard range.contains(number) else {
        throw DecodingError.dataCorruptedError(in: list, debugDescription: "\(number)")
      }
      return number
    }
    // As far as a chunk can reach.
    first = Int(try number(0...1 << 40))
    count = Int(try number(1...1 << 40))
    use = Use(rawValue: try number()) ?? .odd
    live = try number()
    let windows = try number()
    (isOpen, isStuck) = (windows & 1 == 1, windows & 2 == 2)
    if !list.isAtEnd { (payload, slots) = (try number(), try number()) }
  }
}

package struct LabelSnapshot: Equatable, Sendable, Codable {
  package var label: SafeText
  package var origin: String?
  package var live: UInt64?
  package var bytes: UInt64?
  package var allocations: UInt64?
  package var frees: UInt64?
  package var opens: UInt64?
  package var openNow: UInt64?
  package var lastOpenedAt: UInt64?
  package var minimumSize: UInt64?
  package var maximumSize: UInt64?
  /// Its number in its arena, which secrets name.
  package var index: UInt64 = 0
  /// Of its secrets, where a record does not hold them one by one.
  package var ages: SecretAges?
}

/// What the secrets of a label that are listed one by one have in common. Times are milliseconds
/// since 1970; `.max` where there is none.
package struct SecretAges: Equatable, Sendable {
  package var listed: UInt64 = 0
  package var oldest = UInt64.max
  /// Of the one that was not opened for the longest time: when that was, or when it was allocated.
  package var leastRecent = UInt64.max
  /// When the one that is open for the longest time was opened.
  package var openSince = UInt64.max
  /// Those that were never opened, and were allocated before the mark.
  package var neverOpened: UInt64 = 0
  package var oldestNeverOpened = UInt64.max

  package init() {}

  package mutating func add(_ secret: SecretSnapshot, at now: UInt64, mark: UInt64) {
    listed += 1
    let born = secret.allocatedAt ?? now
    oldest = min(oldest, born)
    leastRecent = min(leastRecent, secret.lastOpenedAt ?? born)
    if secret.openNow > 0 { openSince = min(openSince, secret.lastOpenedAt ?? .max) }
    if secret.opens == 0, born < mark {
      neverOpened += 1
      oldestNeverOpened = min(oldestNeverOpened, born)
    }
  }
}

/// In records, a list.
extension SecretAges: Codable {
  private static let fields: [any WritableKeyPath<SecretAges, UInt64> & Sendable] = [
    \.listed, \.oldest, \.leastRecent, \.openSince, \.neverOpened, \.oldestNeverOpened,
  ]

  package func encode(to encoder: any Encoder) throws {
    var list = encoder.unkeyedContainer()
    for field in Self.fields { try list.encode(self[keyPath: field]) }
  }

  package init(from decoder: any Decoder) throws {
    var list = try decoder.unkeyedContainer()
    for field in Self.fields { self[keyPath: field] = try list.decode(UInt64.self) }
  }
}

package struct SecretSnapshot: Equatable, Sendable, Codable {
  package var arenaID: UInt64
  package var serial: UInt64
  package var labelIndex: UInt64
  package var byteCount: UInt64
  package var allocatedAt: UInt64?
  package var opens: UInt64
  package var lastOpenedAt: UInt64?
  package var openNow: UInt64
}

package struct EventSnapshot: Equatable, Sendable, Codable {
  package var serial: UInt64
  package var kind: String
  package var arenaID: UInt64?
  package var at: UInt64?
  package var call: String?
  package var errno: Int32?
  package var bytes: UInt64?
}

package struct CallSnapshot: Equatable, Sendable, Codable {
  package var function: String
  package var purpose: String
  package var count: UInt64
  package var failures: UInt64
  package var lastErrno: Int32?
}

package struct VaultSnapshot: Equatable, Sendable, Codable {
  package var arenaID: UInt64
  /// The name of the arena that holds its keys.
  package var name: SafeText?
  package var cipher: String?
  package var epoch: UInt64?
  package var entries: UInt64?
  package var bytes: UInt64?
  package var entriesOfOldEpoch: UInt64?
  package var encryptions: UInt64?
  package var decryptions: UInt64?
  package var failures: UInt64?
  package var rotations: UInt64?
  package var failedRotations: UInt64?
  package var lastRotatedAt: UInt64?
  package var streams: UInt64?
  package var streamChunks: UInt64?
  package var streamBytes: UInt64?
}

package struct ProcessSnapshot: Equatable, Sendable, Codable {
  /// In the viewer's pid namespace; nil when the process cannot be seen there.
  package var pid: Int32?
  package var publisherPid: UInt64
  package var publisherID: String
  package var name: SafeText
  package var uid: UInt32
  package var user: SafeText
  package var state: PublisherState
  package var stateDetail: String?
  package var startedAt: UInt64?
  package var isDumpable: Bool?
  package var addresses: String?
  /// The pid of a debugger; nil when not known, 0 when there is none.
  package var debugger: Int32?
  /// Whether signals wipe.
  package var emergencyWipe: Bool?
  /// How far a signal's wipe came: `begun`, `done`, `left` (but for open windows); nil without one.
  package var wipe: String?
  /// The signal whose handler wiped.
  package var endedBySignal: UInt64?
  package var heartbeatAt: UInt64?
  package var path: SafeText
}

package struct Restart: Equatable, Sendable, Codable {
  package var fromPid: Int32?
  package var toPid: Int32?
  package var at: UInt64
}

package struct Snapshot: Equatable, Sendable, Codable {
  package var process: ProcessSnapshot
  /// Milliseconds since 1970.
  package var sampledAt: UInt64
  /// How old the reading is, at the time of rendering.
  package var ageMs: UInt64 = 0
  package var complete: Bool
  package var memlock = Memlock()
  package var maps = Maps()
  package var arenas: [ArenaSnapshot] = []
  package var arenasUnlisted: UInt64?
  package var labelsUnlisted: UInt64?
  package var chunksUnlisted: UInt64?
  package var arenasDestroyed: UInt64?
  /// Addresses that sealed arenas left behind; they are taken until the process ends.
  package var retiredMappings: UInt64?
  package var retiredBytes: UInt64?
  package var secrets: [SecretSnapshot] = []
  package var vaults: [VaultSnapshot] = []
  package var vaultsUnlisted: UInt64?
  package var events: [EventSnapshot] = []
  package var eventCount: UInt64?
  package var calls: [CallSnapshot] = []
  package var problems: [Problem] = []
  package var restart: Restart?
  /// The last comparison with the kernel; nil when there was none.
  package var audit: Audit?

  /// One more problem, where it belongs by its severity.
  mutating func add(_ problem: Problem) {
    let place = problems.firstIndex { problem.severity < $0.severity } ?? problems.count
    problems.insert(problem, at: place)
  }

  package func problem(of arena: ArenaSnapshot) -> Problem? {
    problems.filter { $0.arenaID == arena.id }.min { $0.severity < $1.severity }
  }
}
