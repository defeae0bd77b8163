// The column checklist (`>`): which columns a list shows, and in which order. Pure.

import MemwatchInspector

/// Which columns a list shows, and in which order.
package struct Checklist: Equatable, Sendable {
  package struct Item: Equatable, Sendable {
    package var title: String
    package var isOn: Bool
  }
  package var items: [Item]
  package var selected = 0

  /// The titles of the checked items, in order.
  package var chosen: [String] { items.filter(\.isOn).map(\.title) }

  mutating func move(_ distance: Int) {
    selected = min(max(0, selected + distance), items.count - 1)
  }

  /// Moves the selected item up or down; it stays selected.
  mutating func moveItem(_ distance: Int) {
    let place = min(max(0, selected + distance), items.count - 1)
    items.insert(items.remove(at: selected), at: place)
    selected = place
  }
}

extension Model {
  mutating func openChecklist() {
    let all = availableColumns
    guard !all.isEmpty else { return showMessage("this view has no columns") }
    let isLaidOut = layout.listID == listID && !layout.columns.isEmpty
    let shown = chosenColumns ?? (isLaidOut ? layout.columns : all)
    let others = all.filter { !shown.contains($0) }
    checklist = Checklist(
      items: shown.map { .init(title: $0, isOn: true) }
        + others.map { .init(title: $0, isOn: false) })
  }

  /// Every change takes effect immediately.
  mutating func handleChecklist(_ key: Key) -> [Effect] {
    guard var list = checklist else { return [] }
    switch key {
    case .down, .character("j"): list.move(1)
    case .up, .character("k"): list.move(-1)
    case .home, .character("g"): list.move(-list.items.count)
    case .end, .character("G"): list.move(list.items.count)
    case .character("J"): list.moveItem(1)
    case .character("K"): list.moveItem(-1)
    case .character(" "):
      // At least one column must stay.
      guard !list.items[list.selected].isOn || list.chosen.count > 1 else {
        showMessage("at least one column must stay")
        return []
      }
      list.items[list.selected].isOn.toggle()
    case .character("s"): return saveColumns(list)
    case .character("r"):
      columnChoices[listID] = nil
      checklist = nil
      showMessage("columns chosen by the available width")
      return []
    case .enter, .escape, .backspace, .left, .character("q"), .character("h"), .character(">"):
      checklist = nil
      return []
    case .interrupt, .character("Q"): return quit()
    case .paste: showMessage("pasted text ignored: it would have acted as keys")
    default:
      if !key.name.isEmpty {
        showMessage("\(key.name): Space ticks, J/K moves, s saves, r resets, q ends")
      }
    }
    if list.items != checklist?.items { columnChoices[listID] = list.chosen }
    checklist = list
    return []
  }
}

extension Renderer {
  /// Draws in place of the view, so that it fits on screens of any size.
  mutating func drawChecklist(_ list: Checklist) {
    rule(top, "columns of this list", "\(list.chosen.count) of \(list.items.count)")
    let rest = ListOverflow(count: list.items.count, rows: max(0, height - 2 - top))
    let first = rest.first(showing: list.selected)
    for index in 0..<max(0, min(rest.rows, list.items.count - first)) {
      let item = list.items[first + index]
      let row = top + 1 + index
      grid.put("[\(item.isOn ? "x" : " ")] \(item.title)".fitted(width - 2), row: row, column: 2)
      if first + index == list.selected { grid.select(row: row) }
    }
    draw(rest, from: first, row: top + 1 + rest.rows)
    let keys = [
      ("Space", "on/off"), ("J/K", "move"), ("q", "done"), ("s", "save"), ("r", "reset"),
      ("j/k", "select"),
    ]
    var at = 0
    if let message = model.message {
      grid.put(displayable(message).fitted(width), row: height - 1, column: 0, role: .strong)
      return
    }
    for (key, word) in keys where at + key.count + word.count + 1 <= width {
      grid.put("\(key) \(word)", row: height - 1, column: at)
      grid.put(key, row: height - 1, column: at, role: .strong)
      at += key.count + word.count + 3
    }
  }
}
