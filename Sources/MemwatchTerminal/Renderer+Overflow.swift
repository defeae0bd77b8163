// The row below a list that counts what is not shown: hidden by the screen, or not listed by the
// page.

import MemwatchInspector

/// Splits the rows below a list's titles between items and one line that counts the rest.
struct ListOverflow {
  let count: Int
  /// The rows for items.
  let rows: Int
  /// What the page does not list, in words; nil: it lists everything.
  let unlisted: String?
  /// Whether the line is shown. A single row goes to an item.
  let hasLine: Bool

  init(count: Int, rows: Int, unlisted: String? = nil) {
    (self.count, self.unlisted) = (count, unlisted)
    hasLine = rows > 1 && (count > rows || unlisted != nil)
    self.rows = max(0, hasLine ? rows - 1 : rows)
  }

  /// The first visible item, so that the selected one is visible.
  func first(showing selected: Int) -> Int {
    min(max(0, selected - rows / 2), max(0, count - rows))
  }

  /// `+12 more, 210 arenas not listed`.
  func text(from first: Int) -> String {
    let below = max(0, count - first - rows)
    let hidden = below > 0 ? "+\(grouped(below)) more" : first > 0 ? "\(grouped(first)) above" : ""
    return [hidden, unlisted ?? ""].filter { !$0.isEmpty }.joined(separator: ", ")
  }
}

extension Renderer {
  mutating func draw(_ rest: ListOverflow, from first: Int, row: Int) {
    guard rest.hasLine else { return }
    let text = displayable(rest.text(from: first)).fitted(width - 1)
    grid.put(text, row: row, endingAt: width - 1, role: .strong)
  }
}
