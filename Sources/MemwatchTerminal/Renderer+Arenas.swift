// Draws the arena list and the detail pane.

import MemwatchInspector

extension Renderer {
  mutating func drawArenas() {
    let first = drawGauges(from: top)
    rule(first, chips.isEmpty ? "" : "arenas", ruleNote("", besideTitle: "arenas"))
    let details = model.selected.map { model.details(of: $0).wrapped(width) } ?? []
    var detailRows = details.isEmpty ? 0 : details.count + 1
    let room = height - 1 - first - 2
    // On a short screen, drop details before arenas.
    while detailRows > 0, room - detailRows < min(5, max(3, model.arenas.count)) { detailRows -= 1 }
    if detailRows == 1 { detailRows = 0 }
    let bottom = height - 1 - detailRows
    let rows = min(bottom - first - 2, max(1, listedRows))
    drawList(from: first + 1, rows: rows)
    drawBelow(from: first + 2 + rows, to: bottom)
    guard detailRows > 1, let arena = model.selected else { return }
    let seen = model.snapshot?.lastSeenText(at: now).map { ", \($0)" } ?? ""
    let hidden = details.count + 1 - detailRows
    rule(
      bottom, arena.name.string + seen,
      key: "d",
      (hidden > 0 ? counted(hidden, "more line") : "full detail")
        + "   \(model.selectedRow + 1) of \(model.arenas.count)")
    for (index, line) in details.prefix(detailRows - 1).enumerated() {
      draw(line, row: bottom + 1 + index)
    }
  }

  /// The number of rows the list needs.
  private var listedRows: Int {
    model.arenas.count + (model.snapshot?.unlistedArenasText == nil ? 0 : 1)
  }

  private mutating func draw(_ detail: Detail, row: Int) {
    defer {
      if detail.text == model.fixToCopy, detail.text.columns + 18 <= width {
        grid.put("y copy", row: row, endingAt: width, role: .faint)
      }
    }
    grid.put(detail.title, row: row, column: 0)
    grid.put(displayable(detail.text).fitted(width - 8), row: row, column: 8, role: detail.role)
  }

  /// Draws the limits and the kernel's view of them. Returns the next free row.
  mutating func drawGauges(from first: Int) -> Int {
    rule(first)
    drawMemlock(row: first + 1)
    drawLegend(row: first + 2)
    drawMaps(row: first + 3)
    drawKernel(row: first + 4)
    return first + 5
  }

  private mutating func drawKernel(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let wipes = snapshot.process.emergencyWipe.map {
      "   wiped on signal: \($0 ? "yes" : "no")"
    }
    let line = snapshot.kernelLine
    let full = line + (wipes ?? "")
    grid.put(
      "Kernel  " + (full.columns <= width - 8 ? full : line.fitted(width - 8)), row: row, column: 0)
  }

  /// Small screens: the limit and the list; `d` shows the rest.
  mutating func drawSmall() {
    var row = top
    drawMemlock(row: row)
    row += 1
    if height >= 14 {
      drawKernel(row: row)
      rule(row + 1)
      row += 2
    }
    let chips = chips.joined(separator: " ")
    let bottom = height - (chips.isEmpty ? 1 : 2)
    let rows = min(bottom - row - 1, max(1, listedRows))
    drawList(from: row, rows: rows)
    drawBelow(from: row + 1 + rows, to: bottom)
    if !chips.isEmpty {
      grid.put(displayable(chips).fitted(width), row: height - 2, column: 0, role: .strong)
    }
  }

  /// Draws all details of the selected arena.
  mutating func drawDetail() {
    guard let arena = model.selected else {
      return drawText(["no arena is selected"], title: "detail")
    }
    let details = model.filteredDetails.wrapped(width)
    drawText(details.map(\.line), title: arena.name.string)
    let first = min(model.scroll, max(0, details.count - layout.pageRows))
    for index in 0..<max(0, min(layout.pageRows, details.count - first))
    where first + index != model.matchingLine {
      draw(details[first + index], row: top + 1 + index)
    }
  }

  /// The arrow after the sorted column's title. By default numbers sort largest first, words from
  /// A, states worst first. (In ASCII a blank separates the mark from the title.)
  func orderMark(isNumber: Bool) -> String {
    let isDown = isNumber != model.isInverted
    return style.unicode ? (isDown ? "▼" : "▲") : isDown ? " v" : " ^"
  }

  private func place(_ columns: [(ArenaColumn, Int)]) -> Columns {
    Columns(columns.map { .init(width: $0.1, isNumber: isNumber($0.0)) })
  }

  /// As wide as the longest value shown: most arenas are `closed`, few are `encrypted`.
  private var protectionWidth: Int {
    max(7, model.arenas.map { $0.protectionState.text.count }.max() ?? 0)
  }

  func columns() -> [(ArenaColumn, Int)] {
    var widths: [(ArenaColumn, Int)] = [
      (.state, 9), (.lock, 8), (.protection, protectionWidth), (.open, 4), (.seal, 6), (.gate, 6),
      (.layout, 8), (.secrets, 8), (.since, 6), (.inUse, 8), (.locked, 8), (.rate, 7),
      (.peak, 8), (.chunks, 6), (.maps, 6), (.failed, 6), (.longest, 8),
    ]
    if let chosen = model.chosenColumns {
      let all = [(ArenaColumn.arena, 16)] + widths
      widths = chosen.compactMap { title in all.first { $0.0.rawValue == title } }
      while widths.count > 1, place(widths).width > width { widths.removeLast() }
      if let name = widths.firstIndex(where: { $0.0 == .arena }) {
        widths[name].1 = min(40, 16 + max(0, width - place(widths).width))
      }
      return widths
    }
    if width < 60 { widths = [(.state, 9), (.lock, 8)] }
    if model.base == nil { widths.removeAll { $0.0 == .since } }
    if width < 140 { widths.removeAll { ArenaColumn.wide.contains($0.0) } }
    for dropped in [
      ArenaColumn.longest, .failed, .maps, .chunks, .peak, .layout, .gate, .rate, .inUse, .open,
      .seal,
      .protection, .since,
    ] {
      if place([(.arena, 14)] + widths).width <= width { break }
      widths.removeAll { $0.0 == dropped }
    }
    let rest = width - place([(.arena, 0)] + widths).width
    return [(.arena, min(rest, 60))] + widths
  }

  func isNumber(_ column: ArenaColumn) -> Bool {
    [.open, .secrets, .since, .inUse, .locked].contains(column)
      || ArenaColumn.wide.contains(column)
  }

  mutating func drawList(from top: Int, rows: Int) {
    let columns = columns()
    layout.columns = columns.map(\.0.rawValue)
    layout.titlesRow = top
    layout.titles = zip(columns, place(columns).starts).map { column, start in
      .init(columns: start - 1..<start + max(0, column.1), title: column.0.rawValue)
    }
    for ((column, columnWidth), at) in zip(columns, place(columns).starts) {
      let name = column == .since ? model.changeTitle : column == .rate ? "opens" : column.rawValue
      var title =
        column == model.sort && model.isSorted ? name + orderMark(isNumber: isNumber(column)) : name
      if column == .arena, let seen = model.snapshot?.lastSeenText(at: now) {
        let short = seen.replacing("last seen ", with: "")
        title =
          ["\(title), \(seen)", "\(title), \(short)", short]
          .first { $0.columns <= columnWidth } ?? short
      }
      if isNumber(column) {
        grid.put(title, row: top, endingAt: at + columnWidth, role: .faint)
      } else {
        grid.put(title.fitted(columnWidth), row: top, column: at, role: .faint)
      }
    }
    let arenas = model.arenas
    let unlisted = model.snapshot?.unlistedArenasText
    let rest = ListOverflow(count: arenas.count, rows: rows, unlisted: unlisted)
    layout.pageRows = max(1, rest.rows)
    guard rows > 0 else { return }
    if arenas.isEmpty {
      let text =
        model.filter.isEmpty
        ? "no arenas" : "no arena name contains \"\(displayable(model.filter))\""
      let note = rest.hasLine ? unlisted ?? text : text
      grid.put(note.fitted(width - 2), row: top + 1, column: 2, role: .faint)
      return
    }
    let first = rest.first(showing: model.selectedRow)
    (layout.top, layout.firstItem) = (top + 1, first)
    for index in 0..<min(rest.rows, arenas.count - first) {
      drawRow(arenas[first + index], row: top + 1 + index, columns)
    }
    draw(rest, from: first, row: top + 1 + rest.rows)
  }

  mutating func drawRow(_ arena: ArenaSnapshot, row: Int, _ columns: [(ArenaColumn, Int)]) {
    let condition = model.snapshot?.condition(of: arena) ?? .unknown
    let (mark, role): (String, Role) =
      switch condition {
      case .problem: ("!", .bad)
      case .differs: ("?", .bad)
      case .unknown: ("?", .normal)
      case .warning: (" ", .warning)
      case .ok, .gone, .stopped, .detached: (" ", .normal)
      }
    grid.put(mark, row: row, column: 0, role: role)
    for ((column, columnWidth), at) in zip(columns, place(columns).starts) {
      let text =
        column == .rate
        ? Plot.spark(
          model.histories.arenas[arena.id]?.moments.map(\.opens) ?? [], width: columnWidth,
          unicode: style.unicode) : displayable(model.cell(column, of: arena)).fitted(columnWidth)
      var cellRole = Role.normal
      if column == .state { cellRole = condition == .ok ? .good : role }
      if column == .lock, arena.isNotFullyLocked { cellRole = .bad }
      if isNumber(column) {
        grid.put(text, row: row, endingAt: at + columnWidth, role: cellRole)
      } else {
        grid.put(text, row: row, column: at, role: cellRole, limit: columnWidth)
      }
    }
    if arena.id == model.selectedArena { grid.select(row: row) }
  }
}
