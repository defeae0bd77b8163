// Counters that outlive the processes they count.

import MemwatchInspector

/// The sums of all counters, and each process's values in the previous collection.
struct ExportCounters {
  typealias Publishers = [Exporter.LabelledPublisher]

  private struct Key: Hashable {
    var metric: String
    var group: Exporter.Group
    var arena: String?
    var extra: String?
  }

  private struct Source {
    var group: Exporter.Group
    var events: UInt64 = 0
    var arenas: [UInt64: [UInt64]] = [:]
  }

  private var sums: [Key: UInt64] = [:]
  private var last: [UInt64: Source] = [:]
  private var lastPlan: Exporter.Plan?
  /// Publishers that ended without a successor so far.
  private var ended: [Exporter.Group: Int] = [:]
  private var errors: [String: UInt64] = [:]

  private static let arenaCounters: [(metric: Metric, extra: String?)] = [
    (.allocations, nil), (.frees, nil), (.corruptions, nil), (.opens, "read"), (.opens, "write"),
    (.failures, "allocate"), (.failures, "lock"), (.failures, "open"),
  ]

  private static func values(_ arena: ArenaSnapshot) -> [UInt64] {
    let writes = arena.opensForWriting ?? 0
    let opens = arena.opens ?? 0
    return [
      arena.allocations ?? 0, arena.frees ?? 0, arena.corruptions ?? 0,
      opens - min(opens, writes), writes, arena.failedAllocations ?? 0, arena.failedLocks ?? 0,
      arena.failedOpens ?? 0,
    ]
  }

  private mutating func grow(_ key: Key, from old: UInt64, to new: UInt64) {
    let (sum, overflow) = sums[key, default: 0].addingReportingOverflow(new - min(new, old))
    sums[key] = overflow ? .max : sum
  }

  mutating func add(
    _ collection: ExportCollection, _ publishers: Publishers, _ plan: Exporter.Plan
  ) {
    for (reason, count) in collection.unreadable {
      errors[reason, default: 0] += UInt64(clamping: count)
    }
    let isSamePlan = plan == lastPlan
    lastPlan = plan
    var now: [UInt64: Source] = [:]
    // Publishers missing from this collection: ended, or temporarily unreadable.
    let present = Set(
      publishers.filter { $0.publisher.state != .exited }.map(\.publisher.id))
    for (id, source) in last where !present.contains(id) { ended[source.group, default: 0] += 1 }
    for labelled in publishers where present.contains(labelled.publisher.id) {
      let (publisher, exact) = (labelled.publisher, labelled.group)
      let group = plan.group(exact)
      var source = last[publisher.id] ?? Source(group: exact)
      let restarts = Key(metric: Metric.restarts.name, group: group)
      let isSuccessor = last[publisher.id] == nil && ended[exact, default: 0] > 0
      if isSuccessor { ended[exact]! -= 1 }
      grow(restarts, from: 0, to: isSuccessor ? 1 : 0)
      if let snapshot = publisher.snapshot {
        if let events = snapshot.eventCount {
          addEvents(snapshot, after: source.events, to: group)
          // A torn or hostile page may lower a value; raising it again must not count twice.
          source.events = max(source.events, events)
        }
        for (arena, label) in zip(snapshot.arenas, labelled.arenas) {
          let new = Self.values(arena)
          let known = source.arenas[arena.id]
          let old = known ?? new.map { _ in 0 }
          // Most have not grown and are already in the right sums.
          if isSamePlan, known != nil, zip(old, new).allSatisfy({ $0 >= $1 }) { continue }
          let name = plan.arena(label, of: group)
          for (index, counter) in Self.arenaCounters.enumerated() {
            let key = Key(
              metric: counter.metric.name, group: group, arena: name, extra: counter.extra)
            grow(key, from: old[index], to: new[index])
          }
          source.arenas[arena.id] = zip(old, new).map { max($0, $1) }
        }
        let live = Set(snapshot.arenas.map(\.id))
        source.arenas = source.arenas.filter { live.contains($0.key) }
      }
      now[publisher.id] = source
    }
    last = now
    ended = ended.filter { $0.value > 0 && plan.groups.contains($0.key) }
  }

  /// Counts new events by kind. Unknown kinds, and events that the ring has already dropped, count
  /// as `(other)`.
  private mutating func addEvents(
    _ snapshot: Snapshot, after last: UInt64, to group: Exporter.Group
  ) {
    var rest = (snapshot.eventCount ?? 0) - min(last, snapshot.eventCount ?? 0)
    var kinds: [String: UInt64] = [:]
    for event in snapshot.events where event.serial > last && rest > 0 {
      kinds[Self.kind(of: event), default: 0] += 1
      rest -= 1
    }
    if rest > 0 { kinds[Exporter.other, default: 0] += rest }
    for (kind, count) in kinds {
      let key = Key(metric: Metric.events.name, group: group, extra: kind)
      grow(key, from: 0, to: count)
    }
  }

  private static func kind(of event: EventSnapshot) -> String {
    event.kind.isKnown ? event.kind.text : Exporter.other
  }

  /// The maximum number of counter series under a plan.
  func mostSeries(_ publishers: Publishers, _ plan: Exporter.Plan) -> Int {
    var kinds: [Exporter.Group: Set<String>] = [:]
    for key in sums.keys where key.metric == Metric.events.name && Self.isNamed(key, plan) {
      kinds[key.group, default: []].insert(key.extra ?? "")
    }
    for labelled in publishers {
      guard let snapshot = labelled.publisher.snapshot else { continue }
      kinds[plan.group(labelled.group), default: []]
        .formUnion(snapshot.events.map { Self.kind(of: $0) } + [Exporter.other])
    }
    // Each group, including `(other)`, has its arenas and an `(other)` arena.
    let groups = plan.groups.count + 1
    let arenas = plan.arenas.values.reduce(groups) { $0 + $1.count }
    return Self.arenaCounters.count * arenas + groups + kinds.values.reduce(0) { $0 + $1.count }
      + UnreadableReason.allCases.count
  }

  private static func isNamed(_ key: Key, _ plan: Exporter.Plan) -> Bool {
    let isGroup = key.group == .other || plan.groups.contains(key.group)
    guard isGroup, let arena = key.arena else { return isGroup }
    return arena == Exporter.other || plan.arenas[key.group]?.contains(arena) ?? false
  }

  /// Writes the counters of the groups and arenas in the plan; at most `most` series in total.
  func write(to out: inout Exposition, _ plan: Exporter.Plan, most: Int) {
    for reason in UnreadableReason.allCases {
      out.add(.collectionErrors, [reason.rawValue], errors[reason.rawValue] ?? 0)
    }
    let metrics = Dictionary(uniqueKeysWithValues: Metric.all.map { ($0.name, $0) })
    for (key, sum) in sums where Self.isNamed(key, plan) {
      guard out.count < most else { return }
      let labels = key.group.labels + [key.arena, key.extra].compactMap { $0 }
      out.add(metrics[key.metric]!, labels, sum)
    }
  }

  /// Drops the sums of groups and arenas outside the plan if there are too many.
  mutating func prune(past most: Int, _ plan: Exporter.Plan) {
    if sums.count > most { sums = sums.filter { Self.isNamed($0.key, plan) } }
  }
}
