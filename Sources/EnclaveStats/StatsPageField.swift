// Every field of the stats page, declared once: its kind, and where else it appears. The table in
// PageFormat.md is generated from these declarations; tests compare the publisher, the snapshot's
// document, its JSON schema, the metrics and both kinds of statistics with them. A word without a
// declaration does not compile. The declarations: StatsPageFields+….swift.

/// A field of the page.
package struct StatsPageField: Equatable, Sendable {
  package enum Kind: Sendable {
    /// What identifies a record, or holds the page together.
    case identity
    case text
    /// An enumeration's number; 0 is "not known".
    case code
    /// A current value; may fall.
    case gauge
    /// Only grows.
    case counter
    /// The maximum so far.
    case peak
    /// A clock reading.
    case time
  }

  package enum Unit: Sendable { case none, bytes, milliseconds }

  /// How values of several records are combined.
  package enum Merging: String, Sendable { case sum, largest, smallest }

  package var kind: Kind
  package var unit = Unit.none
  package var merging: Merging?
  /// One line for PageFormat.md; empty if the name is enough.
  package var note = ""
  /// The path in the record's part of the snapshot's document; nil: not included.
  package var document: String?
  /// The metric of `memwatch export` made from it.
  package var metric: String?
  /// The member of `Arena.Statistics`; in C, the same in snake case.
  package var statistic: String?

  init(_ kind: Kind, _ note: String = "", document: String? = nil) {
    (self.kind, self.note, self.document) = (kind, note, document)
  }

  static func gauge(
    _ unit: Unit = .none, _ merging: Merging = .sum, _ note: String = "",
    document: String? = nil, metric: String? = nil, statistic: String? = nil
  ) -> StatsPageField {
    var field = StatsPageField(.gauge, note, document: document)
    (field.unit, field.merging, field.metric) = (unit, merging, metric)
    field.statistic = statistic
    return field
  }

  static func counter(
    _ unit: Unit = .none, _ note: String = "", document: String? = nil, metric: String? = nil,
    statistic: String? = nil
  ) -> StatsPageField {
    var field = gauge(unit, .sum, note, document: document, metric: metric, statistic: statistic)
    field.kind = .counter
    return field
  }

  static func peak(
    _ unit: Unit = .none, _ note: String = "", document: String? = nil, metric: String? = nil
  ) -> StatsPageField {
    var field = gauge(unit, .largest, note, document: document, metric: metric)
    field.kind = .peak
    return field
  }

  static func time(
    _ note: String = "", document: String? = nil, metric: String? = nil,
    merging: Merging? = nil
  ) -> StatsPageField {
    var field = StatsPageField(.time, note, document: document)
    (field.unit, field.metric, field.merging) = (.milliseconds, metric, merging)
    return field
  }

  static let sequence = StatsPageField(.identity, "odd while the record is written")
}

extension StatsPageFormat {
  /// The rows of the table of offsets in PageFormat.md.
  package static var offsetRows: [String] {
    func rows<Word: RecordWord & CaseIterable>(_ words: Word.Type) -> [String] {
      words.allCases.map { "| \(Word.record) | \($0.rawValue * 8) | \($0) | \($0.field.note) |" }
    }
    return rows(HeaderWord.self) + rows(ProcessWord.self) + rows(CallWord.self)
      + rows(ArenaWord.self) + rows(LabelWord.self) + rows(ChunkWord.self)
      + rows(SecretWord.self) + rows(EventWord.self) + rows(VaultWord.self) + rows(MapWord.self)
  }
}
