// Lists made from a snapshot: labels, secrets and events. Pure.

import MemwatchInspector

/// A table that can be searched, filtered and sorted.
package struct ListModel: Sendable {
  package struct ListColumn: Equatable, Sendable {
    package var title: String
    package var width: Int
    package var isNumber = false
    /// The order in which columns are dropped when the screen is narrow; 0: never.
    package var dropsAt = 0
    /// Shown only on wide screens, unless it was chosen.
    package var isWide = false
    /// Takes the width that the other columns leave.
    package var fillsWidth = false
    /// The width from which `isWide` columns are shown.
    package static let wideFrom = 140
  }
  package struct ListCell: Equatable, Sendable {
    package var text: String
    /// The sort key; nil: sort by the text.
    package var key: Double?
    /// The last word of the text, if it stays when the text is cut.
    var keptWord: String?
    init(_ text: String, _ key: Double? = nil, keeping word: String? = nil) {
      (self.text, self.key, keptWord) = (text, key, word)
    }

    func fitted(_ width: Int) -> String {
      guard let keptWord, text.columns > width, keptWord.columns + 2 < width else {
        return text.fitted(width)
      }
      let rest = String(text.dropLast(keptWord.count + 2))
      return rest.fitted(width - keptWord.columns - 1) + " " + keptWord
    }
  }
  package struct Row: Equatable, Sendable {
    /// Identifies the row across updates.
    package var id: String
    package var cells: [ListCell]
    /// The row's name, where `id` is not one.
    package var label: String?
    package var name: String { label ?? id }
    package var isMarked = false
    package var role = Role.normal
    /// Lines shown below the list while the row is selected.
    package var details: [(title: String, text: String)] = []

    package static func == (a: Row, b: Row) -> Bool {
      a.id == b.id && a.cells == b.cells && a.isMarked == b.isMarked && a.role == b.role
    }
  }
  package var title: String
  /// Shown at the right of the title.
  package var note: String
  /// The first column grows to at most 40; what remains goes to a column that takes the rest.
  package var columns: [ListColumn]
  package var rows: Rows
  /// The number of rows before filtering.
  package var total = 0
  /// The index of the sorted column.
  package var sortedColumn: Int?
  package var empty: String
  /// What the page does not list, in words; nil: everything is listed.
  package var unlisted: String?

  /// Rows built on access: of 100,000 rows a screen shows thirty.
  package struct Rows: RandomAccessCollection, Sendable {
    /// Indices of the visible items, in display order.
    fileprivate var order: [Int]
    private let make: @Sendable (Int) -> Row
    /// The sort key of an item in a column, without building its row; nil: use the row's cell.
    fileprivate let key: (@Sendable (Int, Int) -> Double)?
    /// Whether an item contains a text, without building its row.
    fileprivate let contains: (@Sendable (Int, String) -> Bool)?
    private let find: (@Sendable (String) -> Int?)?

    init(_ rows: [Row]) {
      order = Array(rows.indices)
      make = { rows[$0] }
      (key, contains, find) = (nil, nil, nil)
    }

    /// - Parameter find: maps a row id to its item.
    init(
      _ items: [Int], make: @escaping @Sendable (Int) -> Row,
      key: @escaping @Sendable (Int, Int) -> Double,
      contains: @escaping @Sendable (Int, String) -> Bool,
      find: @escaping @Sendable (String) -> Int?
    ) {
      order = items
      self.make = make
      (self.key, self.contains, self.find) = (key, contains, find)
    }

    package var startIndex: Int { 0 }
    package var endIndex: Int { order.count }
    package subscript(position: Int) -> Row { make(order[position]) }

    /// The position of a row.
    package func firstIndex(ofID id: String) -> Int? {
      guard let find else { return firstIndex { $0.id == id } }
      return find(id).flatMap { order.firstIndex(of: $0) }
    }

    fileprivate mutating func filter(_ text: String) {
      let (make, contains) = (make, contains)
      order.removeAll { item in
        !(contains?(item, text) ?? make(item).cells.contains { Model.contains($0.text, text) })
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

    /// Whether a row contains a text.
    func contains(_ text: String, at index: Int) -> Bool {
      contains?(order[index], text) ?? self[index].cells.contains { Model.contains($0.text, text) }
    }
  }
}

extension Model {
  /// Whether the current view has a list.
  var hasListing: Bool {
    guard let snapshot else { return false }
    return switch view {
    case .events: true
    case .secrets where showsAllLabels && !isOneByOne: true
    case .secrets, .map: snapshot.arenas.contains { $0.id == selectedArena }
    default: false
    }
  }

  /// The list of the current view; nil for views without one.
  package var listing: ListModel? {
    guard let snapshot else { return nil }
    var listing: ListModel
    switch view {
    case .secrets where showsAllLabels && !isOneByOne: listing = labels(in: snapshot)
    case .secrets:
      guard let arena = snapshot.arenas.first(where: { $0.id == selectedArena }) else { return nil }
      listing =
        shownLabel.map { secrets(of: arena, label: $0, in: snapshot) }
        ?? labels(of: arena, in: snapshot)
    case .map:
      guard let arena = snapshot.arenas.first(where: { $0.id == selectedArena }) else { return nil }
      listing = map(of: arena, in: snapshot)
    case .events: listing = events(in: snapshot)
    default: return nil
    }
    listing.total = listing.rows.count
    if !filter.isEmpty {
      listing.rows.filter(filter)
      listing.empty = "nothing here contains \"\(filter)\""
    }
    if let column = sorting, listing.columns.indices.contains(column) {
      listing.rows.sort(by: column)
      listing.sortedColumn = column
    }
    if isInverted { listing.rows.invert() }
    return listing
  }

  /// Whether a text contains another, ignoring case. Upper case folds more pairs together (ß and
  /// SS, σ and ς) than lower case does.
  static func contains(_ text: String, _ part: String) -> Bool {
    text.uppercased().contains(part.uppercased())
  }

  private func secrets(
    of arena: ArenaSnapshot, label: String, in snapshot: Snapshot
  ) -> ListModel {
    // Secrets of a dead process do not age.
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    let names = Dictionary(arena.labels.map { ($0.index, $0.label.string) }) { first, _ in first }
    let all = snapshot.secrets
    let groups = secretGroups(in: snapshot)
    let shown = arena.labels.filter { $0.label.string == label }
      .compactMap { groups[arena: arena.id, label: $0.index]?.secrets }
    let order = shown.count == 1 ? shown[0] : Set(shown.joined()).sorted()
    let ranks = Dictionary(
      names.values.sorted().enumerated().map { ($1, -Double($0)) }, uniquingKeysWith: { a, _ in a })
    let keys = names.mapValues { ranks[$0] ?? 0 }
    @Sendable func ms(_ since: Timestamp?) -> UInt64? { since.map { now.since($0) } }
    @Sendable func held(_ secret: SecretSnapshot) -> UInt64? {
      secret.openNow > 0 ? ms(secret.lastOpenedAt) : nil
    }
    @Sendable func row(_ index: Int) -> ListModel.Row {
      let secret = all[index]
      let label = names[secret.labelIndex] ?? "?"
      func age(_ ms: UInt64?) -> ListModel.ListCell {
        ms.map { .init(duration($0), Double($0)) } ?? .init("-")
      }
      func time(_ at: Timestamp?) -> ListModel.ListCell {
        at.map { .init(clock($0, withDate: true), Double($0.realMs)) } ?? .init("-")
      }
      return ListModel.Row(
        id: "\(secret.serial)",
        cells: [
          .init(label), .init("\(secret.serial)", Double(secret.serial)),
          .init(bytes(secret.byteCount), Double(secret.byteCount)), age(ms(secret.allocatedAt)),
          age(ms(secret.lastOpenedAt)), .init(grouped(secret.opens), Double(secret.opens)),
          .init(grouped(secret.openNow), Double(secret.openNow)), age(held(secret)),
          time(secret.allocatedAt), time(secret.lastOpenedAt),
        ], role: secret.openNow > 0 ? .strong : .normal)
    }
    let rows = ListModel.Rows(
      order.map { Int($0) },
      make: row,
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
        case 7: held(secret).map { Double($0) } ?? -1
        case 8: secret.allocatedAt.map { Double($0.realMs) } ?? -1
        default: secret.lastOpenedAt.map { Double($0.realMs) } ?? -1
        }
      },
      // Search covers labels and numbers.
      contains: { index, text in
        Model.contains(names[all[index].labelIndex] ?? "?", text)
          || "\(all[index].serial)".contains(text)
      }, find: { id in UInt64(id).flatMap { id in all.firstIndex { $0.serial == id } } })
    let unlisted = arena.unlistedSecrets ?? 0
    let isRecorded = arena.labels.contains { $0.ages != nil }
    let others = unlisted > 0 ? "\(grouped(unlisted)) more are only counted" : "all are listed"
    return ListModel(
      title: "arenas > \(arena.name) > secrets > \(label)",
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
        .init(title: "ALLOCATED", width: 19, isNumber: true, dropsAt: 1, isWide: true),
        .init(title: "LAST OPENED", width: 19, isNumber: true, dropsAt: 1, isWide: true),
      ], rows: rows,
      empty: isRecorded
        ? "a record lists secrets by label, not one by one" : "no secret of this label is listed",
      unlisted: isRecorded ? nil : arena.unlistedSecrets.unlistedText("secret", "only counted"))
  }

  private func events(in snapshot: Snapshot) -> ListModel {
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
    let now = snapshot.lastSeenAt ?? snapshot.sampledAt
    let rows = snapshot.events.map { event in
      let arena = event.arenaID.map { names[$0] ?? "arena \($0), gone" } ?? "-"
      let isBad = event.isFailure
      return ListModel.Row(
        id: "\(event.serial)",
        cells: [
          .init(event.kind.text),
          .init(event.at.map { clock($0) } ?? "n/a", event.at.map { Double($0.realMs) }),
          .init(arena), .init(event.call?.text ?? "-"),
          .init(event.errno.map { errnoName($0) } ?? "-"),
          .init(event.bytes.map { bytes($0) } ?? "-", event.bytes.map { Double($0) }),
          .init(
            event.at.map { duration(now.since($0)) } ?? "n/a",
            event.at.map { Double(now.since($0)) }),
          .init(event.sentence),
        ], isMarked: isBad, role: isBad ? .bad : .normal)
    }
    let total = snapshot.eventCount ?? UInt64(rows.count)
    return ListModel(
      title: "events", note: "the last \(grouped(rows.count)) of \(grouped(total))",
      columns: [
        .init(title: "EVENT", width: 18), .init(title: "TIME", width: 8, dropsAt: 4),
        .init(title: "ARENA", width: 18), .init(title: "CALL", width: 12, dropsAt: 2),
        .init(title: "ANSWER", width: 8, dropsAt: 3),
        .init(title: "BYTES", width: 9, isNumber: true, dropsAt: 1),
        .init(title: "AGO", width: 7, isNumber: true, dropsAt: 1, isWide: true),
        .init(title: "WHAT", width: 30, dropsAt: 1, isWide: true, fillsWidth: true),
      ], rows: .init(rows), empty: "no events",
      unlisted: total > UInt64(rows.count)
        ? "\(grouped(total - UInt64(rows.count))) earlier, no longer kept" : nil)
  }
}

extension UInt64? {
  /// `3 labels not listed (in all arenas)`; nil if everything is listed or the count is unknown.
  func unlistedText(_ noun: String, _ note: String) -> String? {
    guard let count = self, count > 0 else { return nil }
    return "\(grouped(count)) \(noun)\(count == 1 ? "" : "s") not listed (\(note))"
  }
}

extension Snapshot {
  var unlistedArenasText: String? { arenasUnlisted.unlistedText("arena", "only counted") }
}
