// The settings that the screen saves: the columns and the order of the arena list. Pure.

/// What `s` in the column checklist keeps. It is sent to another process as two words, so a confined
/// process can ask for nothing but columns to be saved.
package struct SavedSettings: Equatable, Sendable {
  package let columns: [ArenaColumn]
  /// nil: arenas as published.
  package let sort: ArenaColumn?

  /// Returns nil without columns, or if one occurs twice.
  package init?(columns: [ArenaColumn], sort: ArenaColumn?) {
    guard !columns.isEmpty, Set(columns).count == columns.count else { return nil }
    (self.columns, self.sort) = (columns, sort)
  }

  /// Five bits a column: its position in `ArenaColumn.allCases` plus one, and 0 for none. Twelve columns
  /// in the first word; in the second, the sort column and the other columns.
  package var words: (UInt64, UInt64) {
    var words: [UInt64] = [0, Self.code(sort)]
    for (index, column) in columns.enumerated() {
      let (word, place) = index < 12 ? (0, index) : (1, index - 11)
      words[word] |= Self.code(column) << UInt64(5 * place)
    }
    return (words[0], words[1])
  }

  package init?(words: (UInt64, UInt64)) {
    guard words.0 >> 60 == 0, words.1 >> 60 == 0 else { return nil }
    func codes(_ word: UInt64) -> [UInt64] { (0..<12).map { word >> UInt64(5 * $0) & 31 } }
    let second = codes(words.1)
    let all = codes(words.0) + second.dropFirst()
    let used = all.prefix { $0 != 0 }
    guard all.dropFirst(used.count).allSatisfy({ $0 == 0 }) else { return nil }
    let columns = used.compactMap { Self.column($0) }
    guard columns.count == used.count, second[0] == 0 || Self.column(second[0]) != nil else {
      return nil
    }
    self.init(columns: columns, sort: Self.column(second[0]))
  }

  private static func code(_ column: ArenaColumn?) -> UInt64 {
    column.flatMap { ArenaColumn.allCases.firstIndex(of: $0) }.map { UInt64($0) + 1 } ?? 0
  }

  private static func column(_ code: UInt64) -> ArenaColumn? {
    let index = Int(code) - 1
    return ArenaColumn.allCases.indices.contains(index) ? ArenaColumn.allCases[index] : nil
  }

  /// A configuration file with these settings in place of its own; all other lines stay.
  package func merged(into text: String) -> String {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { String($0) }
    if lines.last == "" { lines.removeLast() }
    func set(_ name: String, _ value: String?) {
      let line = value.map { "\(name) = \($0)" }
      let isOld = { (text: String) in
        text.prefix { $0 != "=" }.filter { !$0.isWhitespace } == name && text.contains("=")
      }
      let place = lines.firstIndex(where: isOld)
      lines.removeAll(where: isOld)
      if let line { lines.insert(line, at: place ?? lines.count) }
    }
    set("columns", columns.map(\.rawValue).joined(separator: ", "))
    set("sort", sort?.rawValue)
    return lines.map { $0 + "\n" }.joined()
  }
}

extension Model {
  /// The settings of the arena list as they are now; nil for other lists, which are not saved.
  mutating func saveColumns(_ list: Checklist) -> [Effect] {
    guard listID == View.arenas.rawValue,
      let settings = SavedSettings(
        columns: list.chosen.compactMap(ArenaColumn.init(rawValue:)), sort: isSorted ? sort : nil)
    else {
      showMessage("only the columns of the arena list can be saved")
      return []
    }
    return [.save(settings)]
  }
}
