// What a list does not show, because the screen or the page has no room for it: said on a row of its own.

import MemwatchInspector

/// How the rows below a list's header are shared between its items and one line for the rest.
struct Rest {
  let count: Int
  /// For items.
  let rows: Int
  /// What the page does not list; nil: it lists everything.
  let unlisted: String?
  /// Whether a row is kept for the line. Of one row alone an item gets it.
  let isTold: Bool

  init(count: Int, rows: Int, unlisted: String? = nil) {
    (self.count, self.unlisted) = (count, unlisted)
    isTold = rows > 1 && (count > rows || unlisted != nil)
    self.rows = max(0, isTold ? rows - 1 : rows)
  }

  /// The first item to show, so that this one is in sight.
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
  mutating func draw(_ rest: Rest, from first: Int, row: Int) {
    guard rest.isTold else { return }
    let text = shown(rest.text(from: first)).fitted(width - 1)
    grid.put(text, row: row, endingAt: width - 1, role: .strong)
  }
}
