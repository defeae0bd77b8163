// Where the columns of a list stand. Pure.

/// The columns of a list, from the left.
struct Columns {
  struct Width {
    var width: Int
    var isNumber: Bool
  }
  /// Where each begins; behind the list's mark.
  let starts: [Int]
  let widths: [Int]
  /// What they take with the gaps between them.
  let width: Int

  /// A number ends at its column's edge: a text behind it needs more than one blank.
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
