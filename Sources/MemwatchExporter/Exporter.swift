// Turns snapshots of a host's publishers into metrics: aggregated and bounded.

package import MemwatchInspector

/// One publisher in a collection.
package struct ExportedPublisher: Sendable {
  /// The publisher's id; never used as a label.
  package var id: UInt64
  package var name: SafeText
  package var unit: SafeText?
  package var state: PublisherState
  /// nil: the publisher ended, or its page could not be read.
  package var snapshot: Snapshot?

  package init(
    id: UInt64, name: SafeText, unit: SafeText?, state: PublisherState, snapshot: Snapshot?
  ) {
    (self.id, self.name, self.unit) = (id, name, unit)
    (self.state, self.snapshot) = (state, snapshot)
  }
}

/// One collection of all publishers of a host.
package struct ExportCollection: Sendable {
  package var publishers: [ExportedPublisher] = []
  /// The number of unreadable pages and directories, by reason.
  package var unreadable: [String: Int] = [:]
  package var host: [HostFact] = []
  package var at: Timestamp
  package var durationMs: UInt64 = 0

  package init(at: Timestamp) { self.at = at }
}

/// Writes each collection as text, and keeps the state that counters need. One thread at a time.
///
/// A group is a process name and a unit. Unhealthy groups and arenas get series of their own first,
/// then those that had one before, then the rest by name; what does not fit is summed under
/// `(other)`. A counter grows by what its processes added since the previous collection, under
/// their current name, so it never falls: not when a process ends, nor when its series is folded.
package struct Exporter {
  package static let mostGroups = 64
  package static let mostArenas = 32
  package static let mostSeries = 5000
  static let other = "(other)"
  /// How long a group without publishers is kept.
  static let groupRetentionMs: UInt64 = 3_600_000
  private static let mostRemembered = 20_000

  let version: String
  /// False: a single collection, without counters.
  private let hasCounters: Bool
  private var counters = ExportCounters()
  private var groups: [Group: Timestamp] = [:]
  private var units: [UInt64: SafeText] = [:]
  private var plan = Plan()

  package init(version: String, hasCounters: Bool) {
    (self.version, self.hasCounters) = (version, hasCounters)
  }

  struct Group: Hashable {
    var process: String
    var unit: String
    static let other = Group(process: Exporter.other, unit: "")
    var labels: [String] { [process, unit] }
  }

  /// A publisher with its sanitised label values.
  struct LabelledPublisher {
    var publisher: ExportedPublisher
    var group: Group
    /// The label of each arena in the snapshot.
    var arenas: [String]
  }

  /// The groups and arenas that get series of their own.
  struct Plan: Equatable {
    var groups: Set<Group> = []
    var arenas: [Group: Set<String>] = [:]
    var foldedGroups = 0
    var foldedArenas = 0

    func group(_ group: Group) -> Group { groups.contains(group) ? group : .other }
    func arena(_ name: String, of group: Group) -> String {
      arenas[group]?.contains(name) ?? false ? name : Exporter.other
    }
  }

  /// Writes a collection as text.
  package mutating func text(of collection: ExportCollection) -> String {
    var labels: [SafeText: String] = [:]
    let publishers = collection.publishers.map { publisher in
      let names = (publisher.snapshot?.arenas ?? []).map { arena in
        if let label = labels[arena.name] { return label }
        let label = Self.label(arena.name)
        labels[arena.name] = label
        return label
      }
      return LabelledPublisher(publisher: publisher, group: group(of: publisher), arenas: names)
    }
    let ids = Set(publishers.map(\.publisher.id))
    units = units.filter { ids.contains($0.key) }
    for publisher in publishers { groups[publisher.group] = collection.at }
    groups = groups.filter { collection.at.since($0.value) < Self.groupRetentionMs }
    var exposition = Exposition()
    var (groupLimit, arenaLimit) = (Self.mostGroups, Self.mostArenas)
    let census = Census(publishers)
    var next = plan
    repeat {
      next = planned(census, groupLimit, arenaLimit)
      let reserve = hasCounters ? counters.mostSeries(publishers, next) : 0
      // Skip gauges that cannot fit.
      if reserve < Self.mostSeries { exposition = gauges(collection, publishers, next) }
      if reserve < Self.mostSeries, exposition.count + reserve <= Self.mostSeries { break }
      if arenaLimit > 0 { arenaLimit /= 2 } else { groupLimit /= 2 }
    } while groupLimit > 0
    plan = next
    if hasCounters {
      counters.add(collection, publishers, plan)
      counters.write(to: &exposition, plan, most: Self.mostSeries)
      counters.prune(past: Self.mostRemembered, plan)
    }
    return exposition.text
  }

  private mutating func group(of publisher: ExportedPublisher) -> Group {
    if let unit = publisher.unit { units[publisher.id] = unit }
    return Group(
      process: Self.label(publisher.name), unit: units[publisher.id].map { Self.label($0) } ?? "")
  }

  /// Label values are sanitised here, whatever their source, and cut short.
  static func label(_ text: SafeText) -> String {
    SafeText(Array(text.string.utf8), limit: 128).string
  }

  private static func isUnhealthy(_ arena: ArenaSnapshot) -> Bool {
    arena.isNotFullyLocked || (arena.stuckOpenPages ?? 0) > 0 || (arena.corruptions ?? 0) > 0
  }

  /// The groups and arenas of a collection, and which are unhealthy.
  private struct Census {
    var present: Set<Group> = []
    var bad: Set<Group> = []
    var arenas: [Group: [String: Bool]] = [:]

    init(_ publishers: [LabelledPublisher]) {
      for labelled in publishers {
        present.insert(labelled.group)
        guard let snapshot = labelled.publisher.snapshot else { continue }
        let problems = snapshot.problems.filter { $0.severity < .note }
        let badArenas = Set(problems.compactMap(\.arenaID))
        var isBad = !problems.isEmpty
        var own = arenas.removeValue(forKey: labelled.group) ?? [:]
        for (arena, name) in zip(snapshot.arenas, labelled.arenas) {
          let isBadArena = Exporter.isUnhealthy(arena) || badArenas.contains(arena.id)
          isBad = isBad || isBadArena
          if isBadArena || own[name] == nil { own[name] = isBadArena }
        }
        arenas[labelled.group] = own
        if isBad { bad.insert(labelled.group) }
      }
    }
  }

  private func planned(_ census: Census, _ groupLimit: Int, _ arenaLimit: Int) -> Plan {
    var plan = Plan()
    let (present, arenas) = (census.present, census.arenas)
    func rank(_ isBad: Bool, _ isPresent: Bool, _ isKept: Bool) -> Int {
      (isBad ? 0 : 4) + (isPresent ? 0 : 2) + (isKept ? 0 : 1)
    }
    let ranked = groups.keys.map {
      (rank(census.bad.contains($0), present.contains($0), self.plan.groups.contains($0)), $0)
    }.sorted { ($0.0, $0.1.process, $0.1.unit) < ($1.0, $1.1.process, $1.1.unit) }
    plan.groups = Set(ranked.prefix(groupLimit).map(\.1))
    plan.foldedGroups = ranked.count - plan.groups.count
    for group in plan.groups {
      let names = arenas[group] ?? [:]
      let kept = self.plan.arenas[group] ?? []
      // Arenas of ended processes come last.
      let all = Set(names.keys).union(kept)
      let ranked = all.map { name in
        (rank(names[name] ?? false, names[name] != nil, kept.contains(name)), name)
      }.sorted { $0 < $1 }
      plan.arenas[group] = Set(ranked.prefix(arenaLimit).map(\.1))
      plan.foldedArenas += ranked.count - plan.arenas[group]!.count
    }
    for (group, names) in arenas where !plan.groups.contains(group) {
      plan.foldedArenas += names.count
    }
    return plan
  }
}
