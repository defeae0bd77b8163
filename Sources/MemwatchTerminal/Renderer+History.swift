// Draws the history as plots over one time axis.

import MemwatchInspector

extension Renderer {
  private struct Line {
    var name: String
    var value: (Moment) -> Double?
    var text: (Double) -> String
    /// The top of the axis; nil: the peak.
    var limit: Double? = nil
    var isBad = false
  }

  mutating func drawHistory() {
    let moments = model.history.moments
    let span = Plot.span(of: moments).map { duration($0.upperBound.since($0.lowerBound)) }
    var note = span.map { "\($0), \(counted(moments.count, "point"))" } ?? ""
    if model.histories.arenas.count > 0 { note += "   j/k arena" }
    rule(top, model.historyTitle, ruleNote(note, besideTitle: model.historyTitle))
    drawPlots(of: model.history, isWhole: model.historyArena == nil, from: top + 1, to: height - 1)
  }

  private func lines(isWhole: Bool) -> [Line] {
    let memlock = model.snapshot?.memlock
    let limit = isWhole && memlock?.binds == .yes ? memlock?.soft.map { Double($0) } : nil
    func size(_ value: Double) -> String { bytes(UInt64(wholeNumber(value))) }
    func rate(_ value: Double) -> String { grouped(wholeNumber(value)) + "/s" }
    return [
      Line(name: "Locked", value: \.locked, text: size, limit: limit),
      Line(name: "Opened", value: \.opens, text: rate),
      Line(
        name: "Secrets", value: \.secrets, text: { grouped(wholeNumber($0)) }),
      Line(name: "Allocated and freed", value: \.operations, text: rate),
      Line(name: "Failures", value: \.failures, text: rate, isBad: true),
    ]
  }

  /// Draws as many plots as fit, the first one largest.
  mutating func drawPlots(
    of history: History, isWhole: Bool, from first: Int, to end: Int
  ) {
    let moments = history.moments
    guard let span = Plot.axis(of: moments, atLeast: model.isPicture ? 0 : 60_000) else {
      grid.put("starts with the second sample".fitted(width), row: first, column: 0, role: .faint)
      return
    }
    let lines = lines(isWhole: isWhole)
    let rows = end - first - 1
    let count = min(lines.count, max(1, rows / 4))
    let share = rows / (count + 1)
    var row = first
    for (index, line) in lines.prefix(count).enumerated() {
      let room = index == 0 ? rows - share * (count - 1) : share
      guard room >= 2 else { continue }
      draw(line, history, span, row: row, rows: room, isFirst: index == 0)
      row += room
    }
    drawTimes(span, row: row)
    guard let column = cursor(in: span) else { return }
    for line in first..<row where grid.rows[line][gutter].role == .faint {
      grid.paint(row: line, columns: column..<column + 1, role: .selected)
    }
  }

  /// The time shown, if it is not the newest sample's.
  private var cursorTime: Timestamp? {
    guard let at = model.snapshot?.sampledAt else { return nil }
    return model.isPast ? at : nil
  }

  /// The screen column of the cursor's time.
  private func cursor(in span: ClosedRange<Timestamp>) -> Int? {
    guard let time = cursorTime, span.contains(time) else { return nil }
    let columns = max(1, width - gutter - 1)
    let length = Double(max(1, span.upperBound.since(span.lowerBound)))
    let share = Double(time.since(span.lowerBound)) / length
    return gutter + 1 + min(columns - 1, Int(share * Double(columns)))
  }

  /// The width of the axis labels at the left.
  private var gutter: Int { 9 }

  private mutating func draw(
    _ line: Line, _ history: History, _ span: ClosedRange<Timestamp>, row: Int, rows: Int,
    isFirst: Bool
  ) {
    let moments = history.moments
    let peak = history.peak(line.value)
    let moment = cursorTime.map { history.moment(at: $0) } ?? moments.last
    var title = "\(line.name) \(moment.flatMap(line.value).map(line.text) ?? "n/a")"
    if let time = cursorTime { title += " at \(clock(time))" }
    title += ", peak \(peak.map(line.text) ?? "n/a")"
    if let limit = line.limit {
      title += ", limit \(line.text(limit))"
      if let wait = history.millisecondsUntil(UInt64(wholeNumber(limit))) {
        title += "; full in \(duration(wait))"
      }
    }
    grid.put(
      displayable(title).fitted(width), row: row, column: 0, role: isFirst ? .strong : .normal)
    let top = line.limit ?? peak ?? 0
    let columns = max(1, width - gutter - 1)
    let values = Plot.values(
      moments, over: span, points: columns * Plot.pointsAcross(unicode: style.unicode), line.value)
    let drawn = Plot.rows(values, height: rows - 1, top: top, unicode: style.unicode)
    for (offset, text) in drawn.enumerated() {
      let at = row + 1 + offset
      grid.put(style.unicode ? "│" : "|", row: at, column: gutter, role: .faint)
      grid.put(text, row: at, column: gutter + 1, role: line.isBad && top > 0 ? .meterBad : .arenas)
    }
    if top > 0 {
      grid.put(line.text(top).fitted(gutter - 1), row: row + 1, endingAt: gutter, role: .faint)
    }
    if rows > 2 || top == 0 { grid.put("0", row: row + rows - 1, endingAt: gutter, role: .faint) }
  }

  /// Draws the time axis.
  private mutating func drawTimes(_ span: ClosedRange<Timestamp>, row: Int) {
    let columns = width - gutter - 1
    grid.put(
      (style.unicode ? "└" : "+")
        + String(repeating: style.rule, count: max(0, columns)), row: row, column: gutter,
      role: .faint)
    let length = Double(span.upperBound.since(span.lowerBound))
    let count = max(1, columns / 20)
    let last = clock(span.upperBound)
    var told = ""
    // The cursor's time has priority over those of the axis.
    let pointer = cursor(in: span).map { column -> Range<Int> in
      let start = min(max(gutter + 1, column - 4), width - 10)
      return start..<start + 10
    }
    func isFree(_ start: Int) -> Bool { pointer?.overlaps(start - 1..<start + 9) != true }
    for index in 0..<count where isFree(gutter + 1 + columns * index / count) {
      let column = columns * index / count
      let time = clock(
        span.lowerBound + UInt64(length * Double(column) / Double(max(1, columns))))
      // A short span has fewer seconds than room for them.
      guard time != told, columns < 20 || time != last else { continue }
      grid.put(time, row: row, column: gutter + 1 + column, role: .faint)
      told = time
    }
    if columns >= 20, isFree(width - 9) {
      grid.put(" " + last, row: row, endingAt: width, role: .faint)
    }
    if let pointer, let time = cursorTime {
      grid.put(" \(clock(time)) ", row: row, column: pointer.lowerBound, role: .selected)
    }
  }
}
