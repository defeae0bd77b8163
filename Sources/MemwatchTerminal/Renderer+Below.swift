// Fills the space below a short list or text: the last events, then the history.

import MemwatchInspector

extension Renderer {
  /// Fills the rows from `first` up to `end`.
  mutating func drawBelow(from first: Int, to end: Int) {
    guard model.snapshot != nil else { return }
    var row = first
    if model.view != .events { row = drawEvents(from: row, to: end) }
    guard end - row >= 8, model.view != .history else { return }
    if row > first { row += 1 }
    rule(row, "history of the process", key: "9", "history")
    drawPlots(of: model.histories.process, isWhole: true, from: row + 1, to: end)
  }

  /// Fills the rows from `first` up to `end` with the host's settings, worst first.
  mutating func drawHost(from first: Int, to end: Int) {
    guard let facts = model.host?.worstFirst, end - first >= 8 else { return }
    rule(first + 1, "host", key: "6", "all settings")
    var row = first + 2
    for fact in facts {
      let heading = fact.judgement.heading
      let lines =
        ["\(heading)  \(fact.name): \(fact.value)"] + (fact.fix.map { ["    fix: \($0)"] } ?? [])
      for (index, line) in lines.enumerated() where row < end {
        grid.put(displayable(line).fitted(width), row: row, column: 0)
        if index == 0 { grid.put(heading, row: row, column: 0, role: fact.judgement.role) }
        row += 1
      }
    }
  }

  /// Draws the last events, newest first. Returns the next free row.
  private mutating func drawEvents(from first: Int, to end: Int) -> Int {
    guard let snapshot = model.snapshot, !snapshot.events.isEmpty, end - first >= 3 else {
      return first
    }
    let room = end - first - 2
    let count = min(snapshot.events.count, room < 12 ? room : max(4, room / 3))
    rule(first + 1, "last events, newest first", key: "4", "all events")
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name.string) }) { first, _ in first }
    for (index, event) in snapshot.events.suffix(count).reversed().enumerated() {
      let row = first + 2 + index
      grid.put(event.at.map { clock($0) } ?? "n/a", row: row, column: 0, role: .faint)
      let name = event.arenaID.map { names[$0] ?? "arena \($0), gone" } ?? "-"
      grid.put(displayable(name).fitted(15), row: row, column: 10)
      grid.put(
        displayable(event.sentence).fitted(width - 26), row: row, column: 26,
        role: event.isFailure ? .bad : .normal)
    }
    return first + 2 + count
  }
}

extension EventSnapshot {
  /// `mlock of 4 KiB: ENOMEM`, `chunk mapped, 16 KiB`.
  var sentence: String {
    let bytes = bytes.map { MemwatchInspector.bytes($0) }
    let what = kind.text.replacing("-", with: " ")
    if let call {
      let failure = errno.map { ": \(errnoName($0))" } ?? ""
      return call.text + (bytes.map { " of \($0)" } ?? "") + failure
        + (isFailure && errno == nil ? ": \(what)" : "")
    }
    return what + (bytes.map { ", \($0)" } ?? "") + (errno.map { ": \(errnoName($0))" } ?? "")
  }
}
