// Values over time, of the process and of each arena, since the screen was opened. Pure.

package import MemwatchInspector

/// One point of a history.
package struct Moment: Equatable, Sendable {
  package var at: Timestamp
  package var locked: Double?
  package var secrets: Double?
  package var opens: Double
  package var operations: Double
  package var failures: Double
  /// The first point may include activity from before the viewer attached; peaks ignore it.
  package var isFirst = false
}

/// About an hour: each point is one sample, or the maximum of several.
package struct History: Equatable, Sendable {
  /// One point for each half column of the widest plot.
  static let capacity = 1024
  package private(set) var moments: [Moment] = []
  private let capacity: Int
  /// The number of samples merged into each point.
  private var samplesPerPoint = 1
  private var samplesInLast = 0

  package init(capacity: Int = Self.capacity) { self.capacity = capacity }

  package static func == (a: History, b: History) -> Bool { a.moments == b.moments }

  mutating func add(_ moment: Moment) {
    var moment = moment
    moment.isFirst = moments.isEmpty
    if samplesInLast > 0, samplesInLast < samplesPerPoint, let last = moments.last {
      moments[moments.count - 1] = last.worst(moment)
      samplesInLast += 1
    } else {
      moments.append(moment)
      samplesInLast = 1
    }
    guard moments.count > capacity else { return }
    moments = stride(from: 0, to: moments.count, by: 2).map { at in
      at + 1 < moments.count ? moments[at].worst(moments[at + 1]) : moments[at]
    }
    samplesPerPoint *= 2
    samplesInLast = samplesPerPoint
  }

  /// The largest value; ignores the first point if there are others.
  package func peak(_ value: (Moment) -> Double?) -> Double? {
    let later = moments.filter { !$0.isFirst }
    return (later.isEmpty ? moments : later).compactMap(value).max()
  }

  /// The point that covers a time.
  package func moment(at time: Timestamp) -> Moment? {
    moments.first { $0.at >= time } ?? moments.last
  }

  /// The time until locked memory reaches a limit, extrapolated from the last points; nil if it is
  /// not growing.
  package func millisecondsUntil(_ limit: UInt64) -> UInt64? {
    let recent = moments.suffix(60).compactMap { moment in
      moment.locked.map { (x: Double(moment.at.realMs), y: $0) }
    }
    guard recent.count >= 10, let last = recent.last, last.y < Double(limit) else { return nil }
    let (mx, my) = (
      recent.reduce(0) { $0 + $1.x } / Double(recent.count),
      recent.reduce(0) { $0 + $1.y } / Double(recent.count)
    )
    let above = recent.reduce(0) { $0 + ($1.x - mx) * ($1.y - my) }
    let below = recent.reduce(0) { $0 + ($1.x - mx) * ($1.x - mx) }
    guard below > 0, above / below > 1e-9 else { return nil }
    let wait = (Double(limit) - last.y) / (above / below)
    return wait < 1000 * 86_400 * 7 ? UInt64(wait) : nil
  }
}

extension Moment {
  fileprivate func worst(_ other: Moment) -> Moment {
    func larger(_ a: Double?, _ b: Double?) -> Double? { [a, b].compactMap { $0 }.max() }
    var worst = other
    worst.locked = larger(locked, other.locked)
    worst.secrets = larger(secrets, other.secrets)
    guard !isFirst else { return worst }
    worst.opens = max(opens, other.opens)
    worst.operations = max(operations, other.operations)
    worst.failures = max(failures, other.failures)
    return worst
  }
}

/// The histories of a process and its arenas.
package struct Histories: Equatable, Sendable {
  package private(set) var process = History()
  package private(set) var arenas: [UInt64: History] = [:]
  /// Bounds memory, however many arenas a hostile publisher invents.
  private static let mostArenas = 64
  private static let arenaCapacity = 512
  private var previous: (at: Timestamp, counts: [UInt64: Counts])?

  private struct Counts {
    var opens: UInt64
    var operations: UInt64
    var failures: UInt64

    init(_ arena: ArenaSnapshot) {
      opens = arena.opens ?? 0
      operations = (arena.allocations ?? 0) &+ (arena.frees ?? 0)
      failures =
        (arena.failedAllocations ?? 0) &+ (arena.failedLocks ?? 0) &+ (arena.failedOpens ?? 0)
    }
  }

  package static func == (a: Histories, b: Histories) -> Bool {
    a.process == b.process && a.arenas == b.arenas
  }

  package init() {}

  /// - Parameter interval: milliseconds between samples. An extra sample, which a key took, makes no
  ///   point: so soon after another, its rates would depend on when the program last published.
  package mutating func add(_ snapshot: Snapshot, every interval: Int = 0) {
    let least = UInt64(clamping: min(interval, 1000) * 3 / 4)
    // (A clock that was set back is no reason to skip.)
    if let at = previous?.at, snapshot.sampledAt >= at, snapshot.sampledAt < at + least { return }
    let counts = Dictionary(
      snapshot.arenas.map { ($0.id, Counts($0)) }, uniquingKeysWith: { first, _ in first })
    defer { previous = (snapshot.sampledAt, counts) }
    guard let before = previous, snapshot.sampledAt > before.at else { return }
    let seconds = Double(snapshot.sampledAt.since(before.at)) / 1000
    func rate(_ a: UInt64, _ b: UInt64) -> Double { a > b ? Double(a - b) / seconds : 0 }
    var whole = Moment(
      at: snapshot.sampledAt, locked: snapshot.memlock.locked.map { Double($0) },
      secrets: 0, opens: 0, operations: 0, failures: 0)
    for (index, arena) in snapshot.arenas.enumerated() {
      whole.secrets = (whole.secrets ?? 0) + Double(arena.secretCount ?? 0)
      // Skip new arenas, whose counts began before this interval, and destroyed ones, whose counts
      // are gone.
      guard let now = counts[arena.id], let then = before.counts[arena.id] else { continue }
      let moment = Moment(
        at: snapshot.sampledAt, locked: arena.bytesLocked.map { Double($0) },
        secrets: arena.secretCount.map { Double($0) }, opens: rate(now.opens, then.opens),
        operations: rate(now.operations, then.operations),
        failures: rate(now.failures, then.failures))
      whole.opens += moment.opens
      whole.operations += moment.operations
      whole.failures += moment.failures
      if index < Self.mostArenas {
        arenas[arena.id, default: History(capacity: Self.arenaCapacity)].add(moment)
      }
    }
    process.add(whole)
    if arenas.count > 2 * Self.mostArenas {
      arenas = arenas.filter { counts[$0.key] != nil }
    }
  }
}
