// Lists that are made from a snapshot: secrets by label and one by one, and events. Pure.

import MemwatchInspector

/// A table that can be searched, filtered and sorted.
package struct ListModel: Sendable {
  package struct Column: Equatable, Sendable {
    package var title: String
    package var width: Int
    package var isNumber = false
    /// Columns go in this order where there is no room; 0 stays.
    package var dropsAt = 0
  }
  package struct Cell: Equatable, Sendable {
    package var text: String
    /// What it is sorted by; nil for the text.
    package var key: Double?
    init(_ text: String, _ key: Double? = nil) { (self.text, self.key) = (text, key) }
  }
  package struct Row: Equatable, Sendable {
    /// Stays the same while rows come and go.
    package var id: String
    package var cells: [Cell]
    package var mark = " "
    package var role = Role.normal
    /// What is said of it below the list.
    package var details: [(title: String, text: String)] = []

    package static func == (a: Row, b: Row) -> Bool {
      a.id == b.id && a.cells == b.cells && a.mark == b.mark && a.role == b.role
    }
  }
  package var title: String
  /// At the right of the title.
  package var note: String
  /// The first takes the room that the others leave.
  package var columns: [Column]
  package var rows: Rows
  package var empty: String

  /// Rows that are made when they are looked at: of 100,000 a screen shows thirty.
  package struct Rows: RandomAccessCollection, Sendable {
    /// The items that are shown, in their order.
    fileprivate var order: [Int]
    private let make: @Sendable (Int) -> Row
    /// What an item is sorted by in a column, where no row need be made for it; nil: its cell tells.
    fileprivate let key: (@Sendable (Int, Int) -> Double)?
    /// Whether an item holds a text, likewise.
    fileprivate let holds: (@Sendable (Int, String) -> Bool)?
    private let find: (@Sendable (String) -> Int?)?

    init(_ rows: [Row]) {
      order = Array(rows.indices)
      make = { rows[$0] }
      (key, holds, find) = (nil, nil, nil)
    }

    /// - Parameter find: the item of an identity.
    init(
      _ items: [Int], make: @escaping @Sendable (Int) -> Row,
      key: @escaping @Sendable (Int, Int) -> Double,
      holds: @escaping @Sendable (Int, String) -> Bool,
      find: @escaping @Sendable (String) -> Int?
    ) {
      order = items
      self.make = make
      (self.key, self.holds, self.find) = (key, holds, find)
    }

    package var startIndex: Int { 0 }
    package var endIndex: Int { order.count }
    package subscript(position: Int) -> Row { make(order[position]) }

    /// Where a row is.
    package func firstIndex(ofID id: String) -> Int? {
      guard let find else { return firstIndex { $0.id == id } }
      return find(id).flatMap { order.firstIndex(of: $0) }
    }

    fileprivate mutating func filter(_ text: String) {
      let (make, holds) = (make, holds)
      order.removeAll { item in
        !(holds?(item, text) ?? make(item).cells.contains { Model.holds($0.text, text) })
      }
    }

    fileprivate mutating func sort(by column: Int) {
      if let key {
        let keys = order.map { (key: key($0, column), item: $0) }
        order = keys.sorted { $0.key != $1.key ? $0.key > $1.key : $0.item < $1.item }
          .map(\.item)
        return
      }
      let cells = order.map { (cell: make($0).cells[column], item: $0) }
      order = cells.sorted { a, b in
        if let x = a.cell.key, let y = b.cell.key { return x > y }
        return a.cell.key == nil && b.cell.key == nil
          ? a.cell.text < b.cell.text : a.cell.key != nil
      }.map(\.item)
    }

    fileprivate mutating func invert() { order.reverse() }

    /// The first match from a row on, in steps of 1 or -1, going round.
    func match(_ text: String, from start: Int, step: Int) -> Int? {
      for offset in 0..<count {
        let index = ((start + offset * step) % count + count) % count
        let isMatch =
          holds?(order[index], text)
          ?? self[index].cells.contains { Model.holds($0.text, text) }
        if isMatch { return index }
      }
      return nil
    }
  }
}

extension Model {
  /// The list of this view; nil where it shows none.
  package var listing: ListModel? {
    guard let snapshot else { return nil }
    var listing: ListModel
    switch view {
    case .secrets:
      guard let arena = snapshot.arenas.first(where: { $0.id == selectedArena }) else { return nil }
      listing =
        isOneByOne ? secrets(of: arena, in: snapshot) : labels(of: arena, in: snapshot)
    case .map:
      guard let arena = snapshot.arenas.first(where: { $0.id == selectedArena }) else { return nil }
      listing = map(of: arena, in: snapshot)
    case .events: listing = events(in: snapshot)
    default: return nil
    }
    if !filter.isEmpty {
      listing.rows.filter(filter)
      listing.empty = "nothing here holds \"\(filter)\""
    }
    if let column = sorting[view], listing.columns.indices.contains(column) {
      listing.rows.sort(by: column)
      listing.columns[column].title += isInverted ? "^" : "v"
    }
    if isInverted { listing.rows.invert() }
    return listing
  }

  static func holds(_ text: String, _ part: String) -> Bool {
    text.lowercased().contains(part.lowercased())
  }

  private func labels(of arena: ArenaSnapshot, in snapshot: Snapshot) -> ListModel {
    // A number that no label has is a page's mistake: it has no row either.
    let highest = arena.labels.map(\.index).max().map { min($0, 65535) } ?? 0
    var ages = [SecretAges](repeating: SecretAges(), count: Int(highest) + 1)
    var listed: UInt64 = 0
    let markedAt = mark?.sampledAt ?? 0
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    for secret in snapshot.secrets where secret.arenaID == arena.id {
      listed += 1
      guard secret.labelIndex <= highest else { continue }
      ages[Int(secret.labelIndex)].add(secret, at: now, mark: markedAt)
    }
    // A record holds what they have in common.
    for label in arena.labels where label.index <= highest {
      guard var recorded = label.ages else { continue }
      if recorded.oldestNeverOpened >= markedAt { recorded.neverOpened = 0 }
      ages[Int(label.index)] = recorded
      listed = saturatingSum([listed, recorded.listed])
    }
    let marked = mark?.arenas.first { $0.id == arena.id }
    let before = Dictionary(
      (marked?.labels ?? []).map { ($0.label, $0.live ?? 0) }, uniquingKeysWith: { a, _ in a })
    let rows = arena.labels.map { label in
      row(
        label, label.index <= highest ? ages[Int(label.index)] : nil,
        since: marked.map { _ in before[label.label] ?? 0 },
        rate: labelRates["\(arena.id)/\(label.label)"], now: now)
    }.sorted { ($0.cells[1].key ?? 0) > ($1.cells[1].key ?? 0) }
    let live = arena.secretCount.map { grouped($0) } ?? "n/a"
    return ListModel(
      title: "arenas > \(arena.name) > secrets",
      note: "\(live) live, \(grouped(listed)) listed   by label",
      columns: [
        .init(title: "LABEL", width: 16), .init(title: "LIVE", width: 7, isNumber: true),
        .init(title: "SINCE MARK", width: 10, isNumber: true, dropsAt: 5),
        .init(title: "SIZE", width: 14, isNumber: true, dropsAt: 4),
        .init(title: "BYTES", width: 8, isNumber: true, dropsAt: 6),
        .init(title: "OLDEST", width: 7, isNumber: true, dropsAt: 2),
        .init(title: "IDLE", width: 7, isNumber: true, dropsAt: 3),
        .init(title: "OPEN", width: 4, isNumber: true),
        .init(title: "HELD", width: 6, isNumber: true, dropsAt: 7),
        .init(
          title: "OPENS/s", width: 7, isNumber: true, dropsAt: 1),
      ], rows: .init(rows), empty: "no secret was ever allocated here")
  }

  private func row(
    _ label: LabelSnapshot, _ ages: SecretAges?, since: UInt64?, rate: Double?, now: UInt64
  ) -> ListModel.Row {
    let live = label.live ?? 0
    let change = since.map { Int64(clamping: live) - Int64(clamping: $0) }
    // It grew, and what it grew from was never used.
    let isLeak = (change ?? 0) > 0 && (ages?.neverOpened ?? 0) > 0
    func age(_ since: UInt64?) -> (String, Double?) {
      guard let since, since != .max, live > 0 else { return ("-", nil) }
      let ms = now > since ? now - since : 0
      return (duration(ms), Double(ms))
    }
    let (oldest, idle, held) = (age(ages?.oldest), age(ages?.leastRecent), age(ages?.openSince))
    let sizes =
      label.minimumSize == label.maximumSize || label.maximumSize == nil
      ? "\(label.maximumSize.map { bytes($0) } ?? "-")"
      : "\(bytes(label.minimumSize ?? 0))-\(bytes(label.maximumSize!))"
    let isOpen = (label.openNow ?? 0) > 0
    var row = ListModel.Row(
      id: label.label.string,
      cells: [
        .init(label.label.string + (isLeak ? "  leak?" : "")), .init(grouped(live), Double(live)),
        .init(
          change.map { $0 == 0 ? "0" : ($0 > 0 ? "+" : "-") + grouped($0.magnitude) } ?? "-",
          change.map { Double($0) }),
        .init(sizes, Double(label.maximumSize ?? 0)),
        .init(label.bytes.map { bytes($0) } ?? "n/a", Double(label.bytes ?? 0)),
        .init(oldest.0, oldest.1), .init(idle.0, idle.1),
        .init(label.openNow.map { grouped($0) } ?? "n/a", Double(label.openNow ?? 0)),
        .init(held.0, held.1),
        .init(rate.map { grouped(Int(min($0.rounded(), 1e15))) } ?? "n/a", rate),
      ], mark: isLeak ? "!" : " ", role: isLeak ? .warning : isOpen ? .strong : .normal)
    let origin =
      label.origin == "label" ? "label given by the program" : "the place that allocated it"
    let opened = label.lastOpenedAt.map { ", last at \(clock($0))" } ?? ""
    row.details = [
      ("Where", "\(label.label): \(origin)"),
      (
        "Used",
        "opened \(label.opens.map { grouped($0) } ?? "n/a") times\(opened); allocated "
          + "\(label.allocations.map { grouped($0) } ?? "n/a"), freed \(label.frees.map { grouped($0) } ?? "n/a")"
      ),
    ]
    if isLeak {
      row.details.insert(
        (
          "leak?",
          "\(grouped(change ?? 0)) more since mark, and \(label.ages == nil ? grouped(ages!.neverOpened) : "some") "
            + "from before it were never opened"
        ), at: 0)
    }
    row.details.append(
      ("", "Never shown: contents, hashes of them, canaries, keys. memwatch cannot read them."))
    return row
  }

  private func secrets(of arena: ArenaSnapshot, in snapshot: Snapshot) -> ListModel {
    // The secrets of a process that is gone grow no older.
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    let names = Dictionary(arena.labels.map { ($0.index, $0.label.string) }) { first, _ in first }
    let all = snapshot.secrets
    let ranks = Dictionary(
      names.values.sorted().enumerated().map { ($1, -Double($0)) }, uniquingKeysWith: { a, _ in a })
    let keys = names.mapValues { ranks[$0] ?? 0 }
    @Sendable func ms(_ since: UInt64?) -> UInt64? { since.map { now > $0 ? now - $0 : 0 } }
    @Sendable func held(_ secret: SecretSnapshot) -> UInt64? {
      secret.openNow > 0 ? ms(secret.lastOpenedAt) : nil
    }
    @Sendable func row(_ index: Int) -> ListModel.Row {
      let secret = all[index]
      let label = names[secret.labelIndex] ?? "?"
      func age(_ ms: UInt64?) -> ListModel.Cell {
        ms.map { .init(duration($0), Double($0)) } ?? .init("-")
      }
      return ListModel.Row(
        id: "\(secret.serial)",
        cells: [
          .init(label), .init("\(secret.serial)", Double(secret.serial)),
          .init(bytes(secret.byteCount), Double(secret.byteCount)), age(ms(secret.allocatedAt)),
          age(ms(secret.lastOpenedAt)), .init(grouped(secret.opens), Double(secret.opens)),
          .init(grouped(secret.openNow), Double(secret.openNow)), age(held(secret)),
        ], role: secret.openNow > 0 ? .strong : .normal)
    }
    let rows = ListModel.Rows(
      all.indices.filter { all[$0].arenaID == arena.id }, make: row,
      key: { index, column in
        let secret = all[index]
        return switch column {
        case 0: keys[secret.labelIndex] ?? -.infinity
        case 1: Double(secret.serial)
        case 2: Double(secret.byteCount)
        case 3: ms(secret.allocatedAt).map { Double($0) } ?? -1
        case 4: ms(secret.lastOpenedAt).map { Double($0) } ?? -1
        case 5: Double(secret.opens)
        case 6: Double(secret.openNow)
        default: held(secret).map { Double($0) } ?? -1
        }
      },
      // A text is looked for in labels and numbers.
      holds: { index, text in
        Model.holds(names[all[index].labelIndex] ?? "?", text)
          || "\(all[index].serial)".contains(text)
      }, find: { id in UInt64(id).flatMap { id in all.firstIndex { $0.serial == id } } })
    let unlisted = arena.unlistedSecrets ?? 0
    let isRecorded = arena.labels.contains { $0.ages != nil }
    let others = unlisted > 0 ? "\(grouped(unlisted)) more are only counted" : "all are listed"
    return ListModel(
      title: "arenas > \(arena.name) > secrets > one by one",
      note: isRecorded ? "a record" : others,
      columns: [
        .init(title: "LABEL", width: 16),
        .init(title: "NUMBER", width: 9, isNumber: true, dropsAt: 1),
        .init(title: "SIZE", width: 9, isNumber: true),
        .init(title: "AGE", width: 8, isNumber: true),
        .init(title: "IDLE", width: 8, isNumber: true),
        .init(title: "OPENED", width: 10, isNumber: true, dropsAt: 2),
        .init(title: "OPEN", width: 4, isNumber: true),
        .init(title: "HELD", width: 6, isNumber: true, dropsAt: 3),
      ], rows: rows,
      empty: isRecorded ? "a record holds secrets by label, not one by one" : "no secret is listed")
  }

  private func events(in snapshot: Snapshot) -> ListModel {
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
    let rows = snapshot.events.map { event in
      let arena = event.arenaID.map { names[$0] ?? "arena \($0), gone" } ?? "-"
      let isBad = ["failed", "corruption", "lost"].contains { event.kind.contains($0) }
      return ListModel.Row(
        id: "\(event.serial)",
        cells: [
          .init(event.kind),
          .init(event.at.map { clock($0) } ?? "n/a", event.at.map { Double($0) }),
          .init(arena), .init(event.call ?? "-"), .init(event.errno.map { errnoName($0) } ?? "-"),
          .init(event.bytes.map { bytes($0) } ?? "-", event.bytes.map { Double($0) }),
        ], mark: isBad ? "!" : " ", role: isBad ? .bad : .normal)
    }
    let total = snapshot.eventCount ?? UInt64(rows.count)
    return ListModel(
      title: "events", note: "the last \(grouped(rows.count)) of \(grouped(total))",
      columns: [
        .init(title: "EVENT", width: 18), .init(title: "TIME", width: 8, dropsAt: 1),
        .init(title: "ARENA", width: 18), .init(title: "CALL", width: 12, dropsAt: 3),
        .init(title: "ANSWER", width: 8, dropsAt: 2),
        .init(title: "BYTES", width: 9, isNumber: true, dropsAt: 4),
      ], rows: .init(rows), empty: "no events")
  }
}
