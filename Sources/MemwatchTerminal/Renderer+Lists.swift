// Draws any `ListModel`.

import MemwatchInspector

extension Renderer {
  mutating func drawListing(_ listing: ListModel) {
    rule(
      top, listing.title,
      ruleNote(
        model.filterChips.isEmpty && width >= 60 ? listing.note : "", besideTitle: listing.title)
    )
    var columns = Array(listing.columns.enumerated())
    if let sorted = listing.sortedColumn {
      let least = listing.columns[sorted].title.columns + (style.unicode ? 1 : 2)
      columns[sorted].element.width = max(least, columns[sorted].element.width)
    }
    func needed() -> Int { place(columns).width }
    if let chosen = model.chosenColumns {
      columns = chosen.compactMap { title in
        columns.first { $0.element.title == title }
      }
      while columns.count > 1, needed() > width { columns.removeLast() }
    }
    if model.chosenColumns == nil, width < ListModel.ListColumn.wideFrom {
      columns.removeAll { $0.element.isWide }
    }
    // Drop empty columns first, then the least important.
    let sample = listing.rows.prefix(60)
    func isEmpty(_ column: Int) -> Bool {
      sample.allSatisfy { ["-", "n/a", ""].contains($0.cells[column].text) }
    }
    func rank(_ column: (offset: Int, element: ListModel.ListColumn)) -> (Int, Int, Int) {
      let column = (column.element.isWide, isEmpty(column.offset), column.element.dropsAt)
      return (column.0 ? 0 : 1, column.1 ? 0 : 1, column.2)
    }
    while needed() > width,
      let drop = columns.filter({ $0.element.dropsAt > 0 }).min(by: { rank($0) < rank($1) })
    { columns.removeAll { $0.offset == drop.offset } }
    layout.columns = columns.map(\.element.title)
    if let first = columns.first {
      columns[0].element.width = min(40, max(4, first.element.width + width - needed()))
    }
    if let flexible = columns.lastIndex(where: \.element.fillsWidth) {
      columns[flexible].element.width += max(0, width - needed())
    }
    let selected = model.selectedRow(of: listing.rows)
    let details = listing.rows.indices.contains(selected) ? listing.rows[selected].details : []
    let detailRows = height >= 18 && !details.isEmpty ? details.count + 1 : 0
    let bottom = height - 1 - detailRows
    let first = top + 2
    let needed = max(1, listing.rows.count) + (listing.unlisted == nil ? 0 : 1)
    let room = max(0, bottom - first)
    let rest = ListOverflow(
      count: listing.rows.count, rows: room, unlisted: listing.unlisted)
    layout.pageRows = max(1, rest.rows)
    let titles = listing.columns.enumerated().map { index, column in
      column.title
        + (index == listing.sortedColumn ? orderMark(isNumber: column.isNumber) : "")
    }
    layout.titlesRow = top + 1
    layout.titles = zip(columns, place(columns).starts).map { column, start in
      .init(columns: start - 1..<start + column.element.width, title: column.element.title)
    }
    drawCells(columns, row: top + 1) { index, _ in titles[index] }
    grid.paint(row: top + 1, role: .faint)
    // If the list leaves room, `drawBelow` fills it.
    let shownRows = room - needed >= 3 ? needed - (listing.unlisted == nil ? 0 : 1) : rest.rows
    defer { drawBelow(from: first + shownRows + (listing.unlisted == nil ? 0 : 1), to: bottom) }
    guard !listing.rows.isEmpty else {
      grid.put(displayable(listing.empty).fitted(width - 2), row: first, column: 2, role: .faint)
      draw(rest, from: 0, row: first + shownRows)
      return
    }
    let item = rest.first(showing: selected)
    let firstCellEnd = (place(columns).starts.first ?? 0) + (columns.first?.element.width ?? 0)
    (layout.top, layout.firstItem) = (first, item)
    for index in 0..<min(rest.rows, listing.rows.count - item) {
      let row = listing.rows[item + index]
      drawCells(columns, row: first + index) { row.cells[$0].fitted($1) }
      // Of the selected row, the mark and the first cell keep the severity: a row that is all red
      // would look like the verdict, not like a selection.
      let isSelected = item + index == selected
      let end = isSelected ? firstCellEnd : width
      grid.paint(row: first + index, columns: 0..<end, role: row.role)
      grid.put(row.isMarked ? "!" : " ", row: first + index, column: 0, role: row.role)
      if isSelected { grid.select(row: first + index) }
    }
    draw(rest, from: item, row: first + shownRows)
    guard detailRows > 0 else { return }
    rule(
      bottom, listing.rows[selected].name,
      "\(grouped(selected + 1)) of \(grouped(listing.rows.count))")
    for (index, line) in details.enumerated() {
      grid.put(line.title, row: bottom + 1 + index, column: 0)
      grid.put(displayable(line.text).fitted(width - 8), row: bottom + 1 + index, column: 8)
    }
  }

  mutating func drawCells(
    _ columns: [(offset: Int, element: ListModel.ListColumn)], row: Int,
    _ text: (_ index: Int, _ width: Int) -> String
  ) {
    for ((index, column), at) in zip(columns, place(columns).starts) {
      let text = displayable(text(index, column.width)).fitted(column.width)
      if column.isNumber {
        grid.put(text, row: row, endingAt: at + column.width)
      } else {
        grid.put(text, row: row, column: at)
      }
    }
  }

  private func place(_ columns: [(offset: Int, element: ListModel.ListColumn)]) -> Columns {
    Columns(columns.map { .init(width: $0.element.width, isNumber: $0.element.isNumber) })
  }
}
