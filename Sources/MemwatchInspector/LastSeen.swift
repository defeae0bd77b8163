// States of a process that is gone or stopped are shown as last seen, with their age.

extension PublisherState {
  /// A running process keeps the page up to date.
  package var isCurrent: Bool { self == .live || self == .unlinked }

  /// A process holds the page and may write to it again.
  package var isHeld: Bool {
    switch self {
    case .live, .unlinked, .stopped, .midUpdate: true
    case .detached, .exited, .exec, .replaced, .incompatible, .notPermitted, .corrupt: false
    }
  }

  /// The arena's condition in place of `ok` when the page is not current.
  fileprivate var arenaCondition: ArenaCondition? {
    switch self {
    case .live, .unlinked: nil
    case .exited, .exec, .replaced: .gone
    case .stopped, .midUpdate: .stopped
    case .detached: .detached
    case .incompatible, .notPermitted, .corrupt: .unknown
    }
  }
}

/// The condition of an arena in the STATE column.
package enum ArenaCondition: String, Sendable {
  case problem = "PROBLEM"
  case differs = "DIFFERS"
  case warning, ok, gone, stopped, detached
  case unknown = "n/a"
}

extension Snapshot {
  /// When the reported states were true: now for a running process, otherwise at its last
  /// heartbeat. nil: unknown.
  package var lastSeenAt: Timestamp? {
    if process.state.isCurrent { return sampledAt }
    // A hostile publisher may write a time in the future.
    return process.heartbeatAt.map { min($0, sampledAt) }
  }

  /// `last seen 12 s ago`; nil if the page is current.
  ///
  /// - Parameter now: the current time.
  package func lastSeenText(at now: Timestamp) -> String? {
    process.state.isCurrent ? nil : MemwatchInspector.lastSeenText(lastSeenAt, at: now)
  }

  /// Never `ok` for a process that is gone or stopped.
  package func condition(of arena: ArenaSnapshot) -> ArenaCondition {
    switch problem(of: arena)?.severity {
    case .problem: .problem
    case .differs: .differs
    case .warning: .warning
    case .note, nil:
      process.state.arenaCondition
        ?? (arena.lockState == nil || arena.protectionState == nil ? .unknown : .ok)
    }
  }

  /// The state in at most two words; for a warning, its reason.
  package func stateText(of arena: ArenaSnapshot) -> String {
    let condition = condition(of: arena)
    guard condition == .warning, let problem = problem(of: arena) else {
      return condition.rawValue
    }
    return switch problem.kind {
    case .nextChunkWillFail: "no room"
    case .stuckOpen: "stuck open"
    case .openTooLong: "held open"
    case .mapsLow: "few maps"
    default: condition.rawValue
    }
  }
}

extension Publisher {
  /// `now`, `12 s ago` or `n/a`, for lists.
  package func lastSeen(at time: Timestamp) -> String {
    state.isCurrent
      ? "now" : lastSeenText(lastSeenAt, at: time).replacing("last seen ", with: "")
  }
}

/// `last seen 12 s ago`, for a time that may be unknown.
package func lastSeenText(_ time: Timestamp?, at now: Timestamp) -> String {
  guard let time else { return "last seen n/a" }
  return "last seen \(duration(now.since(time))) ago"
}

/// `0 ms`, `29 s`, `28 min`, `6h 12m`, `2 days`.
package func duration(_ ms: UInt64) -> String {
  let seconds = ms / 1000
  switch seconds {
  case 0: return "\(ms) ms"
  case ..<120: return "\(seconds) s"
  case ..<7200: return "\(seconds / 60) min"
  case ..<172_800: return "\(seconds / 3600)h \(seconds / 60 % 60)m"
  default: return "\(seconds / 86_400) days"
  }
}
