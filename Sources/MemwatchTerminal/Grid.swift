// The screen as a value: cells in rows, each a character and a role. Pure.

import MemwatchInspector

package struct Cell: Equatable, Sendable {
  /// nil: the right half of a wide character.
  package var character: Character?
  package var role: Role
  package static let blank = Cell(character: " ", role: .normal)
}

package struct Grid: Equatable, Sendable {
  package let width: Int
  package let height: Int
  package private(set) var rows: [[Cell]]
  /// The cursor is on the selected row, for screen readers and magnifiers.
  package var cursor: (row: Int, column: Int) = (0, 0)

  package static func == (a: Grid, b: Grid) -> Bool {
    a.width == b.width && a.height == b.height && a.rows == b.rows && a.cursor == b.cursor
  }

  package init(width: Int, height: Int) {
    self.width = max(0, width)
    self.height = max(0, height)
    rows = Array(
      repeating: Array(repeating: .blank, count: self.width), count: self.height)
  }

  /// Writes text, cut at `limit` columns and at the edge of the grid. Returns the column after it.
  @discardableResult
  package mutating func put(
    _ text: some StringProtocol, row: Int, column: Int, role: Role = .normal, limit: Int = .max
  ) -> Int {
    guard row >= 0, row < height, column >= 0 else { return column }
    var at = column
    let edge = min(width, limit == .max ? .max : column + max(0, limit))
    if text.isPrintableASCII {
      // Fast path for nearly all text: every byte is one character of one column.
      for byte in text.utf8 {
        guard at < edge else { break }
        rows[row][at] = Cell(character: Self.ascii[Int(byte)], role: role)
        at += 1
      }
      return at
    }
    for character in text {
      let columns = character.columns
      if columns == 0 { continue }
      guard at + columns <= edge else { break }
      rows[row][at] = Cell(character: character, role: role)
      if columns == 2 { rows[row][at + 1] = Cell(character: nil, role: role) }
      at += columns
    }
    return at
  }

  private static let ascii = (UInt8(0)..<128).map { Character(Unicode.Scalar($0)) }

  /// Fills a row with one single-width character.
  package mutating func fill(row: Int, with character: Character, role: Role) {
    guard row >= 0, row < height else { return }
    rows[row] = Array(repeating: Cell(character: character, role: role), count: width)
  }

  /// Writes text that ends just before a column.
  package mutating func put(
    _ text: some StringProtocol, row: Int, endingAt end: Int, role: Role = .normal
  ) {
    put(text, row: row, column: max(0, end - text.columns), role: role)
  }

  /// Sets the role of every cell in a row.
  package mutating func paint(row: Int, role: Role) {
    paint(row: row, columns: 0..<width, role: role)
  }

  /// Sets the role of some of a row's cells.
  package mutating func paint(row: Int, columns: Range<Int>, role: Role) {
    guard (0..<height).contains(row) else { return }
    for column in columns.clamped(to: 0..<width) { rows[row][column].role = role }
  }

  /// Highlights a row as selected; each cell keeps its severity.
  package mutating func select(row: Int) {
    guard row >= 0, row < height else { return }
    for column in 0..<width { rows[row][column].role = rows[row][column].role.whenSelected }
    cursor = (row, 0)
  }

  /// The text of a row, without trailing blanks.
  package func line(_ row: Int) -> String {
    var line = String(rows[row].compactMap(\.character))
    while line.last == " " { line.removeLast() }
    return line
  }

  package var text: String { (0..<height).map(line).joined(separator: "\n") }
}

extension StringProtocol {
  /// The width of the text in columns.
  package var columns: Int { isPrintableASCII ? utf8.count : reduce(0) { $0 + $1.columns } }

  fileprivate var isPrintableASCII: Bool { utf8.allSatisfy { $0 >= 32 && $0 < 127 } }

  /// The text cut to `limit` columns; ends with `~` if anything was cut.
  package func fitted(_ limit: Int) -> String {
    guard columns > limit else { return String(self) }
    guard limit > 0 else { return "" }
    var result = ""
    var used = 0
    for character in self {
      if used + character.columns > limit - 1 { break }
      result.append(character)
      used += character.columns
    }
    return result + "~"
  }
}

extension Character {
  /// The width in columns, 0 to 2, by wcwidth(3), which curses uses too.
  package var columns: Int {
    guard let scalar = unicodeScalars.first else { return 0 }
    if scalar.value < 0x300 { return scalar.value < 32 || scalar.value == 127 ? 0 : 1 }
    return Console.columns(of: scalar)
  }
}
