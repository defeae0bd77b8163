// Positions of a list's columns. Pure.

/// The columns of a list, left to right.
struct Columns {
  struct Width {
    var width: Int
    var isNumber: Bool
  }
  /// The first screen column of each, after the two columns of the row's mark.
  let starts: [Int]
  let widths: [Int]
  /// The total width, with the gaps.
  let width: Int

  /// Numbers are right-aligned: text after one needs two blanks.
  init(_ columns: [Width]) {
    var (at, starts) = (2, [Int]())
    for (index, column) in columns.enumerated() {
      if index > 0 { at += columns[index - 1].isNumber && !column.isNumber ? 2 : 1 }
      starts.append(at)
      at += column.width
    }
    (self.starts, width) = (starts, at)
    widths = columns.map(\.width)
  }
}
