// Lists of secrets by label, for one arena and for all. Pure.

import MemwatchInspector

extension Model {
  /// The row id of a label in the list of all arenas.
  static func labelID(_ label: String, of arena: UInt64) -> String { "\(arena)/\(label)" }

  private static let columns: [ListModel.ListColumn] = [
    .init(title: "LABEL", width: 16), .init(title: "LIVE", width: 7, isNumber: true),
    .init(title: "CHANGE", width: 7, isNumber: true, dropsAt: 5),
    .init(title: "SIZE", width: 14, isNumber: true, dropsAt: 4),
    .init(title: "BYTES", width: 8, isNumber: true, dropsAt: 3),
    .init(title: "OLDEST", width: 7, isNumber: true, dropsAt: 2),
    .init(title: "IDLE", width: 7, isNumber: true, dropsAt: 2),
    .init(title: "OPEN", width: 4, isNumber: true),
    .init(title: "HELD", width: 6, isNumber: true, dropsAt: 7),
    .init(title: "OPENS/s", width: 7, isNumber: true, dropsAt: 1),
    .init(title: "OPENED", width: 11, isNumber: true, dropsAt: 1, isWide: true),
    .init(title: "ALLOCATED", width: 10, isNumber: true, dropsAt: 1, isWide: true),
    .init(title: "FREED", width: 10, isNumber: true, dropsAt: 1, isWide: true),
    .init(title: "LAST OPENED", width: 11, isNumber: true, dropsAt: 1, isWide: true),
    .init(title: "ORIGIN", width: 10, dropsAt: 1, isWide: true, fillsWidth: true),
  ]

  /// The columns, with room for ranges of sizes (`16 B-32 B`) where there are any.
  private static func columns(_ labels: [LabelSnapshot]) -> [ListModel.ListColumn] {
    var columns = columns
    if !labels.contains(where: \.hasSizeRange) {
      columns[columns.firstIndex { $0.title == "SIZE" }!].width = 8
    }
    return columns
  }

  func labels(of arena: ArenaSnapshot, in snapshot: Snapshot) -> ListModel {
    let (ages, listed) = ages(of: [arena], in: snapshot)
    let live = arena.secretCount.map { grouped($0) } ?? "n/a"
    let columns = Self.columns(arena.labels)
    let rows = rows(of: arena, ages[arena.id] ?? [:], in: snapshot, isNamed: false)
    return ListModel(
      title: "arenas > \(arena.name) > secrets",
      note: "\(live) live, \(grouped(listed)) listed   by label", columns: columns,
      rows: .init(rows.sorted { ($0.cells[1].key ?? 0) > ($1.cells[1].key ?? 0) }),
      empty: "no secret was ever allocated here",
      unlisted: snapshot.labelsUnlisted.unlistedText("label", "in all arenas"))
  }

  /// The labels of all arenas: suspected leaks and long-held secrets first, then by live count.
  func labels(in snapshot: Snapshot) -> ListModel {
    let (ages, listed) = ages(of: snapshot.arenas, in: snapshot)
    var columns = Self.columns(snapshot.arenas.flatMap(\.labels))
    // Room for "leak?" or "held" after the label.
    columns[0].width = 20
    columns.insert(.init(title: "ARENA", width: 14, dropsAt: 8), at: 1)
    let rows = snapshot.arenas.flatMap {
      self.rows(of: $0, ages[$0.id] ?? [:], in: snapshot, isNamed: true)
    }
    let sorted = rows.sorted { a, b in
      if a.isMarked != b.isMarked { return a.isMarked }
      return (a.cells[2].key ?? 0, b.id) > (b.cells[2].key ?? 0, a.id)
    }
    let live = grouped(saturatingSum(snapshot.arenas.compactMap(\.secretCount)))
    return ListModel(
      title: "labels of all arenas", note: "\(live) live, \(grouped(listed)) listed",
      columns: columns, rows: .init(sorted), empty: "no secret was ever allocated",
      unlisted: snapshot.labelsUnlisted.unlistedText("label", "in all arenas"))
  }

  /// The ages of each label's secrets, by label index, and the number of secrets that were listed.
  private func ages(
    of arenas: [ArenaSnapshot], in snapshot: Snapshot
  ) -> (ages: [UInt64: [UInt64: SecretAges]], listed: UInt64) {
    let secrets = secretGroups(in: snapshot)
    let markedAt = base?.sampledAt ?? 0
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    var ages: [UInt64: [UInt64: SecretAges]] = [:]
    var listed: UInt64 = 0
    for arena in arenas where ages[arena.id] == nil {
      listed = saturatingSum([listed, secrets.listed(in: arena.id)])
      for label in arena.labels {
        // Records hold ages by label in place of single secrets.
        if var recorded = label.ages {
          if recorded.oldestNeverOpened >= markedAt { recorded.neverOpened = 0 }
          ages[arena.id, default: [:]][label.index] = recorded
          listed = saturatingSum([listed, recorded.listed])
        } else if let group = secrets[arena: arena.id, label: label.index] {
          ages[arena.id, default: [:]][label.index] = group.ages(at: now, mark: markedAt)
        }
      }
    }
    return (ages, listed)
  }

  private func rows(
    of arena: ArenaSnapshot, _ ages: [UInt64: SecretAges], in snapshot: Snapshot, isNamed: Bool
  ) -> [ListModel.Row] {
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    let marked = base?.arenas.first { $0.id == arena.id }
    let before = Dictionary(
      (marked?.labels ?? []).map { ($0.label, $0.live ?? 0) }, uniquingKeysWith: { a, _ in a })
    return arena.labels.map { label in
      row(
        label, of: arena, isNamed: isNamed, ages[label.index],
        since: marked.map { _ in before[label.label] ?? 0 },
        rate: labelRates["\(arena.id)/\(label.label)"], now: now)
    }
  }

  /// Secrets that were never opened are suspicious only after a minute.
  private var canLeak: Bool {
    guard mark == nil else { return true }
    guard let base, let snapshot else { return false }
    return snapshot.sampledAt >= base.sampledAt + 60_000
  }

  private func row(
    _ label: LabelSnapshot, of arena: ArenaSnapshot, isNamed: Bool, _ ages: SecretAges?,
    since: UInt64?, rate: Double?, now: Timestamp
  ) -> ListModel.Row {
    let live = label.live ?? 0
    let change = since.map { Int64(clamping: live) - Int64(clamping: $0) }
    // The count grew, and older secrets of this label were never opened.
    let isLeak = canLeak && (change ?? 0) > 0 && (ages?.neverOpened ?? 0) > 0
    func age(_ since: Timestamp?) -> (String, Double?) {
      guard let since, since != .max, live > 0 else { return ("-", nil) }
      let ms = now.since(since)
      return (duration(ms), Double(ms))
    }
    let (oldest, idle, held) = (age(ages?.oldest), age(ages?.leastRecent), age(ages?.openSince))
    let sizes =
      label.hasSizeRange
      ? "\(bytes(label.minimumSize ?? 0))-\(bytes(label.maximumSize!))"
      : "\(label.maximumSize.map { bytes($0) } ?? "-")"
    let isOpen = (label.openNow ?? 0) > 0
    let isHeld = isOpen && !arena.isOpenByDesign && (held.1 ?? 0) >= Double(openLimitMs)
    let warning = isLeak ? "leak?" : isHeld ? "held" : nil
    var row = ListModel.Row(
      id: isNamed ? Self.labelID(label.label.string, of: arena.id) : label.label.string,
      cells: [
        .init(label.label.string + (warning.map { "  \($0)" } ?? ""), keeping: warning),
        .init(grouped(live), Double(live)),
        .init(
          change.map { $0 == 0 ? "0" : ($0 > 0 ? "+" : "-") + grouped($0.magnitude) } ?? "-",
          change.map { Double($0) }),
        .init(sizes, Double(label.maximumSize ?? 0)),
        .init(label.bytes.map { bytes($0) } ?? "n/a", Double(label.bytes ?? 0)),
        .init(oldest.0, oldest.1), .init(idle.0, idle.1),
        .init(label.openNow.map { grouped($0) } ?? "n/a", Double(label.openNow ?? 0)),
        .init(held.0, held.1),
        .init(rate.map { grouped(Int(min($0.rounded(), 1e15))) } ?? "n/a", rate),
        .init(label.opens.map { grouped($0) } ?? "n/a", label.opens.map { Double($0) }),
        .init(label.allocations.map { grouped($0) } ?? "n/a", label.allocations.map { Double($0) }),
        .init(label.frees.map { grouped($0) } ?? "n/a", label.frees.map { Double($0) }),
        .init(
          label.lastOpenedAt.map { clock($0) } ?? "-",
          label.lastOpenedAt.map { Double($0.realMs) }),
        .init(label.isGiven ? arena.isAdopted ? "library" : "program" : "call site"),
      ], isMarked: isLeak || isHeld,
      role: isLeak || isHeld ? .warning : isOpen ? .strong : .normal)
    let origin =
      !label.isGiven
      ? "the call site that allocated it"
      : arena.isAdopted ? "where the library allocated it" : "label given by the program"
    let last = label.lastOpenedAt.map { ", last \(clock($0))" } ?? ""
    row.details = [
      ("Where", "\(label.label): \(origin)"),
      (
        "Used",
        "opened \(label.opens.map { grouped($0) } ?? "n/a")\(last); allocated "
          + "\(label.allocations.map { grouped($0) } ?? "n/a"), freed \(label.frees.map { grouped($0) } ?? "n/a")"
      ),
    ]
    if isLeak {
      row.details.insert(
        (
          "leak?",
          "\(grouped(change ?? 0)) more \(mark == nil ? "in \(changeSpanText ?? "n/a")" : "since mark"), and \(label.ages == nil ? grouped(ages!.neverOpened) : "some") "
            + "from before it were never opened"
        ), at: 0)
    }
    if isHeld {
      row.details.insert(
        ("held", "a window has been open for \(held.0): close it, or copy less"), at: 0)
    }
    row.label = label.label.string
    if isNamed { row.cells.insert(.init(arena.name.string), at: 1) }
    row.details.append(
      ("", "Never shown: contents, hashes, canaries, keys; memwatch cannot read them"))
    return row
  }
}

extension LabelSnapshot {
  /// Whether its secrets have had different sizes.
  fileprivate var hasSizeRange: Bool { maximumSize != nil && minimumSize != maximumSize }
}
