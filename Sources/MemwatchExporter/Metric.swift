// The metrics: one table for the exposition and the documentation.

/// A metric's declaration. Names follow Prometheus' conventions: base units, `_total` for counters.
package struct Metric: Sendable {
  package enum Kind: String, Sendable { case gauge, counter }

  /// How the values of a group are combined.
  package enum Aggregation: String, Sendable {
    case sum, largest, smallest

    func combine(_ a: Double, _ b: Double) -> Double {
      switch self {
      case .sum: a + b
      case .largest: max(a, b)
      case .smallest: min(a, b)
      }
    }
  }

  package let name: String
  package let kind: Kind
  /// `bytes`, `seconds`, or nil for plain numbers.
  package let unit: String?
  package let aggregation: Aggregation
  package let labels: [String]
  /// The description, one sentence.
  package let help: String

  init(
    _ name: String, _ kind: Kind = .gauge, _ unit: String? = nil, _ aggregation: Aggregation,
    _ labels: [String], _ help: String
  ) {
    self.name = "memwatch_" + name
    (self.kind, self.unit, self.aggregation) = (kind, unit, aggregation)
    (self.labels, self.help) = (labels, help)
  }
}

private let group = ["process", "unit"]
private let arena = group + ["arena"]

extension Metric {
  // MARK: - The collection itself

  static let buildInfo = Metric(
    "build_info", .gauge, nil, .largest, ["version"], "The exporter's version; always 1.")
  static let collectionTimestamp = Metric(
    "collection_timestamp_seconds", .gauge, "seconds", .largest, [],
    "When the last collection began, since 1970.")
  static let collectionDuration = Metric(
    "collection_duration_seconds", .gauge, "seconds", .largest, [],
    "How long the last collection took.")
  static let unreadable = Metric(
    "unreadable", .gauge, nil, .sum, ["reason"],
    "Pages, directories and files of /proc that the last collection could not read: publishers and "
      + "values may be missing.")
  static let folded = Metric(
    "folded", .gauge, nil, .sum, ["level"],
    "Groups and arenas that the last collection counted under (other).")
  static let collectionErrors = Metric(
    "collection_errors_total", .counter, nil, .sum, ["reason"],
    "Pages, directories and files of /proc that could not be read, over all collections.")
  static let hostCheck = Metric(
    "host_check", .gauge, nil, .largest, ["check", "judgement"],
    "The checks of memwatch host: 1 for the judgement that holds, 0 for the others.")

  // MARK: - Processes

  static let publishers = Metric(
    "publishers", .gauge, nil, .sum, group + ["state"], "Publishers by state; sum of the group.")
  static let heartbeat = Metric(
    "publisher_heartbeat_timestamp_seconds", .gauge, "seconds", .smallest, group,
    "When the publisher wrote last, since 1970; oldest of the group.")
  static let dumpable = Metric(
    "publisher_dumpable", .gauge, nil, .largest, group,
    "Whether the kernel may dump the process; 1 if any of the group.")
  static let debugger = Metric(
    "publisher_debugger_attached", .gauge, nil, .largest, group,
    "Whether a debugger is attached; 1 if any of the group.")
  static let emergencyWipe = Metric(
    "publisher_emergency_wipe", .gauge, nil, .smallest, group,
    "Whether fatal signals wipe; 0 if any of the group does not.")
  static let unlisted = Metric(
    "publisher_unlisted", .gauge, nil, .sum, group + ["kind"],
    "Arenas, chunks and vaults beyond the page's tables, which no other metric includes; sum of the "
      + "group.")
  static let restarts = Metric(
    "publisher_restarts_total", .counter, nil, .sum, group,
    "Publishers that took the place of one that ended; sum of the group.")
  static let events = Metric(
    "events_total", .counter, nil, .sum, group + ["kind"],
    "Events of the stats page, those that were missed as (other); sum of the group.")

  static let softLimit = Metric(
    "memlock_soft_limit_bytes", .gauge, "bytes", .smallest, group,
    "Soft RLIMIT_MEMLOCK, +Inf where unlimited; smallest of the group.")
  static let hardLimit = Metric(
    "memlock_hard_limit_bytes", .gauge, "bytes", .smallest, group,
    "Hard RLIMIT_MEMLOCK, +Inf where unlimited; smallest of the group.")
  static let lockedBytes = Metric(
    "memlock_locked_bytes", .gauge, "bytes", .sum, group + ["owner"],
    "Locked bytes by owner; sum of the group.")
  static let headroom = Metric(
    "memlock_headroom_bytes", .gauge, "bytes", .smallest, group,
    "What can still be locked, where the limit binds; smallest of the group.")
  static let binds = Metric(
    "memlock_binds", .gauge, nil, .largest, group,
    "Whether RLIMIT_MEMLOCK binds; 1 if for any of the group.")
  static let nextChunkFits = Metric(
    "memlock_next_chunk_fits", .gauge, nil, .smallest, group,
    "Whether the next chunk can be locked; 0 if not for any of the group.")
  static let arenasPeak = Metric(
    "memlock_arenas_peak_bytes", .gauge, "bytes", .largest, group,
    "The most bytes that arenas had locked; largest of the group.")
  static let maps = Metric(
    "maps", .gauge, nil, .largest, group, "Mappings of the process; largest of the group.")
  static let mapsLimit = Metric(
    "maps_limit", .gauge, nil, .smallest, group, "vm.max_map_count; smallest of the group.")
  static let mapsArenas = Metric(
    "maps_arenas", .gauge, nil, .largest, group, "Mappings of arenas; largest of the group.")

  static let auditTimestamp = Metric(
    "audit_timestamp_seconds", .gauge, "seconds", .smallest, group,
    "When the page was last compared with the kernel, since 1970; oldest of the group.")
  static let auditDuration = Metric(
    "audit_duration_seconds", .gauge, "seconds", .largest, group,
    "How long the last audit took; largest of the group.")
  static let auditComplete = Metric(
    "audit_complete", .gauge, nil, .smallest, group,
    "Whether the last audit compared each arena; 0 if not for any of the group.")
  static let auditFindings = Metric(
    "audit_findings", .gauge, nil, .sum, group + ["kind", "severity"],
    "Differences between the page and the kernel; sum of the group.")
  static let problems = Metric(
    "problems", .gauge, nil, .sum, group + ["kind", "severity"],
    "Problems that memwatch reports; sum of the group.")

  // MARK: - Arenas

  static let lockState = Metric(
    "arena_lock_state", .gauge, nil, .sum, arena + ["state"],
    "Arenas by lock state; sum of the group's arenas of this name.")
  static let arenaLocked = Metric(
    "arena_locked_bytes", .gauge, "bytes", .sum, arena,
    "Locked bytes; sum of the group's arenas of this name.")
  static let arenaMapped = Metric(
    "arena_mapped_bytes", .gauge, "bytes", .sum, arena,
    "Mapped bytes; sum of the group's arenas of this name.")
  static let arenaUsed = Metric(
    "arena_used_bytes", .gauge, "bytes", .sum, arena,
    "Bytes that secrets take; sum of the group's arenas of this name.")
  static let arenaIdle = Metric(
    "arena_idle_bytes", .gauge, "bytes", .sum, arena,
    "Mapped bytes of chunks that hold no secret; sum of the group's arenas of this name.")
  static let arenaLockMissing = Metric(
    "arena_lock_missing_bytes", .gauge, "bytes", .sum, arena,
    "Bytes that could not be locked; sum of the group's arenas of this name.")
  static let arenaSecrets = Metric(
    "arena_secrets", .gauge, nil, .sum, arena,
    "Live secrets; sum of the group's arenas of this name.")
  static let arenaEncrypted = Metric(
    "arena_encrypted_secrets", .gauge, nil, .sum, arena,
    "Secrets that rest encrypted; sum of the group's arenas of this name.")
  static let arenaOpen = Metric(
    "arena_open_windows", .gauge, nil, .sum, arena,
    "Open windows; sum of the group's arenas of this name.")
  static let arenaOpenTime = Metric(
    "arena_open_window_seconds", .gauge, "seconds", .largest, arena,
    "How long windows are open with none opened since, 0 where none is; not of adopted libsodium "
      + "memory, which its program alone closes; longest of the group's arenas of this name.")
  static let arenaStuck = Metric(
    "arena_stuck_open_pages", .gauge, nil, .sum, arena,
    "Pages that could not be closed again; sum of the group's arenas of this name.")
  static let allocations = Metric(
    "arena_allocations_total", .counter, nil, .sum, arena,
    "Allocations; sum of the group's arenas of this name.")
  static let frees = Metric(
    "arena_frees_total", .counter, nil, .sum, arena,
    "Frees; sum of the group's arenas of this name.")
  static let corruptions = Metric(
    "arena_corruptions_total", .counter, nil, .sum, arena,
    "Canaries that were found changed; sum of the group's arenas of this name.")
  static let opens = Metric(
    "arena_opens_total", .counter, nil, .sum, arena + ["mode"],
    "Windows by mode; sum of the group's arenas of this name.")
  static let failures = Metric(
    "arena_failures_total", .counter, nil, .sum, arena + ["operation"],
    "Operations that failed; sum of the group's arenas of this name.")

  /// All metrics, in output order.
  package static let all: [Metric] = [
    buildInfo, collectionTimestamp, collectionDuration, unreadable, folded, collectionErrors,
    hostCheck, publishers, heartbeat, dumpable, debugger, emergencyWipe, unlisted, restarts,
    events, softLimit, hardLimit, lockedBytes, headroom, binds, nextChunkFits, arenasPeak, maps,
    mapsLimit, mapsArenas, auditTimestamp, auditDuration, auditComplete, auditFindings, problems,
    lockState, arenaLocked, arenaMapped, arenaUsed, arenaIdle, arenaLockMissing, arenaSecrets,
    arenaEncrypted, arenaOpen, arenaOpenTime, arenaStuck, allocations, frees, corruptions, opens,
    failures,
  ]

  /// The documentation page, in Markdown.
  package static var document: String {
    var text = """
      # Metrics of `memwatch export`

      Made by `memwatch export --describe`. Processes are grouped by their published name and their
      systemd unit. There is no label for a pid, a publisher or a secret. Counters are left out with
      `--once`. At most 64 groups, 32 arenas a group and 5,000 series are written; the rest is counted
      under `(other)`.

      | metric | type | labels | meaning |
      |---|---|---|---|

      """
    for metric in all {
      let labels = metric.labels.map { "`\($0)`" }.joined(separator: ", ")
      text += "| `\(metric.name)` | \(metric.kind.rawValue) | \(labels) | \(metric.help) |\n"
    }
    return text
  }
}
