// Gauges: current values of a collection.

package import MemwatchInspector

extension Exporter {
  func gauges(
    _ collection: ExportCollection, _ publishers: [LabelledPublisher], _ plan: Plan
  ) -> Exposition {
    var out = Exposition()
    out.add(.buildInfo, [version], true)
    out.add(.collectionTimestamp, [], Self.seconds(collection.at))
    out.add(.collectionDuration, [], Double(collection.durationMs) / 1000)
    out.add(.folded, ["groups"], UInt64(plan.foldedGroups))
    out.add(.folded, ["arenas"], UInt64(plan.foldedArenas))
    for reason in UnreadableReason.allCases {
      out.add(
        .unreadable, [reason.rawValue], UInt64(collection.unreadable[reason.rawValue] ?? 0))
    }
    for fact in collection.host {
      for judgement in HostFact.Judgement.allCases {
        out.add(.hostCheck, [fact.name, judgement.rawValue], fact.judgement == judgement)
      }
    }
    // A group whose publishers are gone reports 0.
    for group in plan.groups { out.add(.publishers, group.labels + ["live"], UInt64(0)) }
    // There may be many arenas: sum them before making label strings.
    var rows: [Group: [String: ArenaRow]] = [:]
    for labelled in publishers {
      let (publisher, group) = (labelled.publisher, plan.group(labelled.group))
      let g = group.labels
      out.add(.publishers, g + ["live"], UInt64(0))
      out.add(.publishers, g + [publisher.state.rawValue], UInt64(1))
      guard let snapshot = publisher.snapshot else { continue }
      Self.add(snapshot, g, to: &out)
      let named = plan.arenas[group] ?? []
      var own = rows.removeValue(forKey: group) ?? [:]
      for (arena, name) in zip(snapshot.arenas, labelled.arenas) {
        own[named.contains(name) ? name : Exporter.other, default: ArenaRow()]
          .add(arena, at: snapshot.sampledAt)
      }
      rows[group] = own
    }
    for (group, arenas) in rows {
      for (name, row) in arenas { row.write(group.labels + [name], to: &out) }
    }
    return out
  }

  private static func seconds(_ time: Timestamp?) -> Double? {
    time.map { Double($0.realMs) / 1000 }
  }

  private static func seconds(_ milliseconds: UInt64?) -> Double? {
    milliseconds.map { Double($0) / 1000 }
  }

  private static func add(_ snapshot: Snapshot, _ g: [String], to out: inout Exposition) {
    let process = snapshot.process
    out.add(.heartbeat, g, seconds(process.heartbeatAt))
    out.add(.dumpable, g, process.isDumpable)
    out.add(.debugger, g, process.debugger.map { $0 != 0 })
    out.add(.emergencyWipe, g, process.emergencyWipe)
    out.add(.unlisted, g + ["arenas"], snapshot.arenasUnlisted)
    out.add(.unlisted, g + ["chunks"], snapshot.chunksUnlisted)
    out.add(.unlisted, g + ["vaults"], snapshot.vaultsUnlisted)
    let memlock = snapshot.memlock
    out.add(
      .softLimit, g, memlock.softIsUnlimited ? .infinity : memlock.soft.map { Double($0) })
    out.add(
      .hardLimit, g, memlock.hardIsUnlimited ? .infinity : memlock.hard.map { Double($0) })
    out.add(.lockedBytes, g + ["arenas"], memlock.lockedByArenas)
    out.add(.lockedBytes, g + ["other"], memlock.lockedByOthers)
    out.add(.headroom, g, memlock.headroom)
    out.add(.binds, g, memlock.binds == .unknown ? nil : memlock.binds == .yes)
    out.add(.nextChunkFits, g, memlock.nextChunkFits)
    out.add(.arenasPeak, g, memlock.peakLockedByArenas)
    out.add(.maps, g, snapshot.maps.inUse.map { UInt64($0) })
    out.add(.mapsLimit, g, snapshot.maps.limit.map { UInt64($0) })
    out.add(.mapsArenas, g, UInt64(snapshot.maps.byArenas))
    for problem in snapshot.problems {
      out.add(.problems, g + [problem.kind.rawValue, problem.severity.rawValue], UInt64(1))
    }
    guard let audit = snapshot.audit else { return }
    out.add(.auditTimestamp, g, seconds(audit.at))
    out.add(.auditDuration, g, seconds(audit.durationMs))
    // What is not listed cannot be compared.
    let isListed = snapshot.arenasUnlisted == 0 && snapshot.chunksUnlisted == 0
    out.add(.auditComplete, g, audit.scope == .arenas && isListed)
    for finding in audit.findings {
      out.add(.auditFindings, g + [finding.kind.rawValue, finding.severity.rawValue], UInt64(1))
    }
  }
}

/// The gauges of all arenas with one name in a group.
private struct ArenaRow {
  private struct Gauge {
    var metric: Metric
    /// The value of the additional label, for metrics that have one.
    var state: String?
    var value: @Sendable (ArenaSnapshot, Timestamp) -> Double?

    init(
      _ metric: Metric, state: String? = nil,
      value: @escaping @Sendable (ArenaSnapshot, Timestamp) -> Double?
    ) {
      (self.metric, self.state, self.value) = (metric, state, value)
    }

    init(_ metric: Metric, bytes: @escaping @Sendable (ArenaSnapshot) -> ByteCount?) {
      self.init(metric) { arena, _ in bytes(arena).map { Double($0) } }
    }

    init(_ metric: Metric, _ count: @escaping @Sendable (ArenaSnapshot) -> UInt64?) {
      self.init(metric) { arena, _ in count(arena).map { Double($0) } }
    }
  }

  private static let gauges: [Gauge] =
    ArenaSnapshot.lockStates.map { state in
      Gauge(.lockState, state: state.text) { arena, _ in arena.lockState.map { $0 == state ? 1 : 0 }
      }
    } + [
      Gauge(.arenaLocked, bytes: \.bytesLocked), Gauge(.arenaMapped, bytes: \.bytesMapped),
      Gauge(.arenaUsed, bytes: \.bytesInUse), Gauge(.arenaIdle, bytes: \.idleBytes),
      Gauge(.arenaLockMissing, bytes: \.lock.bytesMissing),
      Gauge(.arenaSecrets) { $0.secretCount }, Gauge(.arenaEncrypted) { $0.encryptedCount },
      Gauge(.arenaOpen) { $0.openWindows }, Gauge(.arenaStuck) { $0.stuckOpenPages },
      Gauge(.arenaOpenTime, state: nil) { arena, now in
        if arena.isOpenByDesign { return nil }
        let since = arena.openWindows == 0 ? now : arena.openSince
        return since.map { Double(now.since($0)) / 1000 }
      },
    ]

  private var values = [Double?](repeating: nil, count: Self.gauges.count)

  mutating func add(_ arena: ArenaSnapshot, at now: Timestamp) {
    for (index, gauge) in Self.gauges.enumerated() {
      guard let value = gauge.value(arena, now) else { continue }
      values[index] = values[index].map { gauge.metric.aggregation.combine($0, value) } ?? value
    }
  }

  func write(_ labels: [String], to out: inout Exposition) {
    for (gauge, value) in zip(Self.gauges, values) {
      out.add(gauge.metric, labels + (gauge.state.map { [$0] } ?? []), value)
    }
  }
}

/// Why something could not be read: the values of the label `reason`.
package enum UnreadableReason: String, CaseIterable, Sendable {
  case notPermitted = "not-permitted"
  case corrupt, incompatible
  case inconsistent
  case failed
  /// The exporter or the system may open no more files.
  case noDescriptors = "no-descriptors"

  package init?(_ state: PublisherState) {
    switch state {
    case .notPermitted: self = .notPermitted
    case .corrupt: self = .corrupt
    case .incompatible: self = .incompatible
    case .midUpdate, .detached, .unlinked: self = .inconsistent
    case .live, .stopped, .exited, .exec, .replaced: return nil
    }
  }
}
