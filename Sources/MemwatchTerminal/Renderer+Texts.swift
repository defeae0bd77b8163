// Draws the process view and text views.

import MemwatchInspector

extension Renderer {
  mutating func drawProcesses() {
    rule(
      top, "processes that publish",
      ruleNote("\(model.publishers.count)", besideTitle: "processes that publish"))
    let top = top + 1
    let hasNoPublishers = model.publishers.isEmpty && model.filter.isEmpty
    let showsHint = (model.waiting != nil || hasNoPublishers) && height > top + 5
    if showsHint {
      let hint = "to publish: call StatsPublisher.start(), or run with ENCLAVE_STATS=1"
      grid.put(displayable(hint).fitted(width - 2), row: height - 2, column: 2, role: .faint)
    }
    let rest = ListOverflow(count: model.publishers.count, rows: height - top - (showsHint ? 3 : 2))
    layout.pageRows = max(1, rest.rows)
    let end = height - (showsHint ? 2 : 1)
    if model.publishers.isEmpty {
      var row = top
      let none = model.filter.isEmpty ? "no process publishes a stats page" : "no process matches"
      grid.put(none, row: row, column: 2, role: .strong)
      let last = height - (showsHint ? 3 : 2)
      for (index, place) in model.places.enumerated() where row < last {
        row += 1
        if row == last, index + 1 < model.places.count {
          grid.put(
            "+\(counted(model.places.count - index, "place")) more", row: row, column: 2,
            role: .strong)
          break
        }
        grid.put(
          displayable("searched \(place.path): \(place.outcome)").fitted(width - 2), row: row,
          column: 2)
      }
      drawHost(from: row + 1, to: end)
      return
    }
    drawProcessList(from: top, to: end, rest: rest)
  }

  mutating func drawText(_ lines: [String], title: String) {
    let rows = height - 2 - top
    layout.pageRows = max(1, rows)
    let first = min(model.scroll, max(0, lines.count - rows))
    let last = min(lines.count, first + max(0, rows))
    let note =
      lines.count <= rows
      ? counted(lines.count, "line") : "lines \(first + 1)-\(last) of \(grouped(lines.count))"
    rule(top, title, ruleNote(note, besideTitle: title))
    let top = top + 1
    defer {
      if lines.count < rows, model.view != .output {
        drawBelow(from: top + max(1, lines.count), to: height - 1)
      }
    }
    if lines.isEmpty, !model.filter.isEmpty {
      grid.put("no line matches", row: top, column: 0, role: .faint)
    }
    for index in 0..<max(0, min(rows, lines.count - first)) {
      let line = lines[first + index]
      grid.put(displayable(line).fitted(width), row: top + index, column: 0)
      if let (length, role) = verdict(of: line) {
        grid.put(line.prefix(length), row: top + index, column: 0, role: role)
      }
      if first + index == model.matchingLine { grid.select(row: top + index) }
    }
  }

  /// The verdict word at the start of a host or audit line, and its role.
  private func verdict(of line: String) -> (length: Int, role: Role)? {
    let words: [(String, Role)]
    switch model.view {
    case .host:
      words = HostFact.Judgement.allCases.map { ($0.heading, $0.role) }
    case .findings:
      words = [
        (Severity.problem.rawValue, .bad), (Severity.differs.rawValue, .bad),
        (Severity.warning.rawValue, .warning), ("no findings", .good),
      ]
    default: return nil
    }
    return words.first { line == $0.0 || line.hasPrefix($0.0 + "  ") }
      .map { ($0.0.utf8.count, $0.1) }
  }
}

extension HostFact.Judgement {
  var role: Role {
    switch self {
    case .good: .good
    case .bad: .bad
    case .unknown: .warning
    }
  }
}
