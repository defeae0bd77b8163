// Model → grid. Pure: the same model, size, style and time give the same grid.

import MemwatchInspector

/// What the terminal can show.
package struct Style: Equatable, Sendable {
  /// Draw with more than ASCII.
  package var unicode: Bool
  package init(unicode: Bool) { self.unicode = unicode }

  var rule: String { unicode ? "─" : "-" }
  var arenas: String { unicode ? "█" : "#" }
  var others: String { unicode ? "▒" : "=" }
  var free: String { unicode ? "·" : "." }
}

package struct Renderer {
  let model: Model
  let style: Style
  /// Milliseconds since 1970.
  let now: UInt64
  var grid: Grid
  private var layout = ScreenLayout()

  /// Draws the screen.
  package static func render(
    _ model: Model, width: Int, height: Int, style: Style, now: UInt64
  ) -> (grid: Grid, layout: ScreenLayout) {
    var renderer = Renderer(
      model: model, style: style, now: now, grid: Grid(width: width, height: height))
    renderer.layout.pageRows = 1
    renderer.draw()
    return (renderer.grid, renderer.layout)
  }

  private var width: Int { grid.width }
  private var height: Int { grid.height }

  /// Text for this terminal: without UTF-8, what is not ASCII becomes `?`.
  private func shown(_ text: String) -> String {
    style.unicode ? text : String(text.map { $0.isASCII ? $0 : "?" })
  }

  private mutating func draw() {
    guard width > 0, height > 0 else { return }
    if width < 40 || height < 8 {
      grid.put(shown(oneLine).fitted(width), row: 0, column: 0, role: .strong)
      if height > 1 { grid.put("memwatch: 40x8 needed".fitted(width), row: 1, column: 0) }
      drawPrompt()
      return
    }
    drawHeader()
    switch model.view {
    case .arenas:
      if model.snapshot == nil {
        drawText(["no publisher yet"], title: "arenas")
      } else if height < 18 || width < 60 {
        drawSmall()
      } else {
        drawArenas()
      }
    case .secrets, .map, .events:
      if let listing = model.listing {
        drawListing(listing)
      } else {
        drawText(["no arena is selected"], title: "arenas")
      }
    case .history: drawHistory()
    case .processes: drawProcesses()
    case .findings: drawText(model.lines, title: "findings")
    case .host: drawText(model.lines, title: "host")
    case .vaults: drawText(model.lines, title: "vaults and streams")
    case .output: drawText(model.lines, title: "output of the command")
    case .help: drawText(model.lines, title: "help")
    }
    drawKeyLine()
    drawPrompt()
  }

  private var oneLine: String {
    guard let snapshot = model.snapshot else { return "memwatch: no publisher" }
    let seen = snapshot.lastSeenText(at: now).map { " \($0):" } ?? ""
    return snapshot.process.state.rawValue.uppercased() + seen + " " + snapshot.verdict
  }

  // MARK: - Frame

  private mutating func rule(_ row: Int, _ title: String = "", _ end: String = "") {
    grid.fill(row: row, with: Character(style.rule), role: .faint)
    if !title.isEmpty {
      grid.put(" ", row: row, column: 3, role: .faint)
      let room = max(0, width - 8 - (end.isEmpty ? 0 : end.columns + 8))
      let at = grid.put(shown(title).fitted(room), row: row, column: 4, role: .strong)
      grid.put(" ", row: row, column: at)
    }
    if !end.isEmpty { grid.put(" \(end) ", row: row, endingAt: width - 4) }
  }

  /// What changed since the mark, and a view's note, as far as there is room for them beside its title: the
  /// title comes first, then that something changed, then the note.
  private func since(_ note: String, besides title: String = "") -> String {
    guard width >= 80, let mark = model.mark, let snapshot = model.snapshot else { return note }
    func change(_ value: (ArenaSnapshot) -> UInt64?, _ show: (UInt64) -> String) -> String {
      let now = saturatingSum(snapshot.arenas.compactMap(value))
      let then = saturatingSum(mark.arenas.compactMap(value))
      return now >= then ? "+" + show(now - then) : "-" + show(then - now)
    }
    let failures: (ArenaSnapshot) -> UInt64? = { arena in
      saturatingSum([arena.failedLocks, arena.failedOpens, arena.corruptions].compactMap(\.self))
    }
    let secrets = change(\.secretCount) { grouped($0) }
    let short = "since \(clock(mark.sampledAt)): \(secrets) secrets"
    let long =
      short + ", " + change(\.bytesLocked) { bytes($0) } + " locked, "
      + change(failures) { grouped($0) } + " failures"
    let behind = note.isEmpty ? "" : "   " + note
    let room = width - 16 - shown(title).columns
    return [long + behind, short + behind, long, short].first { $0.columns <= room }
      ?? "\(secrets) since mark"
  }

  /// The state of the publisher, and how old what is shown is: first in full, then as short as can be.
  private func stateTexts(_ snapshot: Snapshot) -> [String] {
    let word = snapshot.process.state.rawValue
    let age = Int(clamping: now >= snapshot.sampledAt ? now - snapshot.sampledAt : 0)
    let seen = snapshot.lastSeenText(at: now)
    let old = seen ?? "\(age / 1000).\(age % 1000 / 100) s old"
    if let replay = model.replay {
      let pause = model.isPaused ? " paused" : ""
      return [
        "REPLAY \(replay.index + 1)/\(replay.count)\(pause), \(word)"
          + (seen.map { ", \($0)" } ?? "")
      ]
    }
    let short = old.replacing("last seen ", with: "")
    if model.recording == nil, model.isPaused {
      let paused = Int(clamping: now >= model.pausedAt ? now - model.pausedAt : 0) / 1000
      return ["PAUSED \(paused) s, \(word), \(old)", "PAUSED, \(word), \(short)"]
    }
    let lead = model.recording == nil ? "" : "REC, "
    let live = "\(lead)\(word.uppercased()), \(old)"
    return [
      live + ", every " + seconds(model.intervalMs), live, "\(lead)\(word.uppercased()), \(short)",
    ]
  }

  private mutating func drawHeader() {
    let time = clock(now)
    let isWide = width >= 60
    if isWide { grid.put(time, row: 0, endingAt: width) }
    let edge = isWide ? width - time.columns - 2 : width
    guard let snapshot = model.snapshot else {
      grid.put("memwatch", row: 0, column: 0, role: .strong, limit: edge)
      return
    }
    let process = snapshot.process
    let pid = process.pid.map { "pid \($0)" } ?? "pid n/a (\(process.publisherPid) there)"
    let number = process.pid.map { "\($0)" } ?? "n/a"
    let role: Role = Exposed.isBad(process.state) ? .bad : .strong
    let lead = isWide ? "memwatch  " : ""
    let name = shown(process.name.string)
    // The first that leaves the name its room.
    var tails: [String] = []
    for state in stateTexts(snapshot) {
      if width >= 80 { tails.append("  \(pid)  user \(process.user)  \(state)") }
      if isWide { tails.append("  \(pid)  \(state)") }
    }
    tails.append(" \(number) \(stateTexts(snapshot).last!)")
    let least = min(name.columns, 8)
    let tail = shown(
      tails.first { lead.columns + least + $0.columns <= edge } ?? tails[tails.count - 1])
    let room = max(8, edge - lead.columns - tail.columns)
    var at = grid.put(lead, row: 0, column: 0, role: .strong)
    at = grid.put(name.fitted(room), row: 0, column: at, role: .strong)
    grid.put(tail.fitted(max(0, edge - at)), row: 0, column: at, role: role)
  }

  private enum Exposed {
    static func isBad(_ state: PublisherState) -> Bool { state != .live && state != .stopped }
  }

  /// The verdict: the worst problem, or the one that `n` went to.
  private mutating func drawVerdict(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let problems = model.problems
    guard !problems.isEmpty else {
      if let past = model.alerts.first(where: \.isOver) {
        let key = width >= 50 ? "  a acknowledge" : ""
        let text = "WAS \(clock(past.since))  \(past.text)"
        grid.put(shown(text).fitted(width - key.columns), row: row, column: 0, role: .warning)
        grid.put(key, row: row, endingAt: width)
        return
      }
      grid.put(shown(snapshot.verdict).fitted(width), row: row, column: 0, role: .good)
      return
    }
    let problem = problems[min(model.problemIndex, problems.count - 1)]
    let word: String
    let role: Role
    switch problem.severity {
    case .problem: (word, role) = ("PROBLEM", .bad)
    case .differs: (word, role) = ("DIFFERS", .bad)
    case .warning, .note: (word, role) = ("WARNING", .warning)
    }
    let next = problems.count > 1 && width >= 50 ? "  n next" : ""
    let text = "\(word) \(model.problemIndex + 1)/\(problems.count)  \(problem.text)"
    grid.put(
      shown(text).fitted(width - next.columns), row: row, column: 0, role: role)
    if !next.isEmpty { grid.put(next, row: row, endingAt: width) }
  }

  private mutating func drawKeyLine() {
    let row = height - 1
    if let message = model.message {
      grid.put(shown(message).fitted(width), row: row, column: 0, role: .strong)
      return
    }
    var at = 0
    for binding in Binding.all {
      guard let short = binding.short, let key = binding.keys.first else { continue }
      let text = "\(key.name == "j" ? "j/k" : key.name) \(short)"
      guard at + text.columns <= width else { break }
      grid.put(key.name == "j" ? "j/k" : key.name, row: row, column: at, role: .strong)
      grid.put(text, row: row, column: at)
      at += text.columns + 2
    }
  }

  private mutating func drawPrompt() {
    guard let prompt = model.prompt else { return }
    let row = height - 1
    grid.put(String(repeating: " ", count: width), row: row, column: 0)
    let question = prompt.question.fitted(max(0, width - 4))
    let at = grid.put(question, row: row, column: 0, role: .strong)
    // The end of what is typed stays in sight.
    var text = shown(prompt.text)
    while text.columns > max(0, width - at - 1) { text.removeFirst() }
    let end = grid.put(text, row: row, column: at)
    grid.cursor = (row, min(end, width - 1))
  }

  // MARK: - Gauges

  private mutating func drawMemlock(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let memlock = snapshot.memlock
    let limit = memlock.softIsUnlimited ? "unlimited" : memlock.soft.map { bytes($0) } ?? "n/a"
    let binds =
      switch memlock.binds {
      case .yes: "binds"
      case .no: "does not bind"
      case .unknown: "binds: n/a"
      }
    var tail = "limit \(limit) (\(binds))"
    if memlock.binds == .yes {
      tail += "   free \(memlock.headroom.map { bytes($0) } ?? "n/a")"
    }
    if width >= 100 { tail += "   peak \(bytes(memlock.peakLockedByArenas))" }
    if width < 60 { tail = "\(memlock.locked.map { bytes($0) } ?? "n/a") of \(limit)" }
    let barWidth = max(4, width - 10 - tail.columns - 2)
    grid.put("Memlock ", row: row, column: 0)
    let whole =
      memlock.binds == .no ? memlock.locked.map { max($0, 1) } : memlock.soft ?? memlock.locked
    drawBar(
      row: row, column: 8, width: barWidth,
      parts: [
        (memlock.lockedByArenas, style.arenas, .arenas),
        (memlock.lockedByOthers ?? 0, style.others, .others),
      ], whole: whole)
    grid.put(tail, row: row, column: 8 + barWidth + 2, limit: width - 10 - barWidth)
  }

  private mutating func drawLegend(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let memlock = snapshot.memlock
    let room = snapshot.arenas.flatMap(\.sizes)
    var at = grid.put(style.arenas, row: row, column: 8, role: .arenas)
    at = grid.put(" arenas \(bytes(memlock.lockedByArenas))", row: row, column: at)
    at = grid.put("   ", row: row, column: at)
    at = grid.put(style.others, row: row, column: at, role: .others)
    at = grid.put(
      " other code \(memlock.lockedByOthers.map { bytes($0) } ?? "n/a")", row: row, column: at)
    let next = snapshot.nextChunkText
    let role: Role = memlock.nextChunkFits == false ? .warning : .normal
    at = grid.put("   ", row: row, column: at)
    if at + next.columns <= width { at = grid.put(next, row: row, column: at, role: role) }
    let free = saturatingSum(room.map { UInt64(clamping: $0.freeSlots) })
    let slots = "   free slots \(free)"
    if at + slots.columns <= width { grid.put(slots, row: row, column: at) }
  }

  private mutating func drawMaps(row: Int) {
    guard let maps = model.snapshot?.maps else { return }
    let tail =
      "\(maps.inUse.map { grouped($0) } ?? "n/a") of \(maps.limit.map { grouped($0) } ?? "n/a")"
      + (width >= 80 ? "   by arenas \(grouped(maps.byArenas))" : "")
    let barWidth = max(4, width - 10 - tail.columns - 2)
    grid.put("Maps    ", row: row, column: 0)
    drawBar(
      row: row, column: 8, width: barWidth,
      parts: [
        (UInt64(clamping: maps.inUse ?? 0), style.arenas, .arenas)
      ], whole: maps.limit.map { UInt64(clamping: $0) })
    grid.put(tail, row: row, column: 8 + barWidth + 2)
  }

  private mutating func drawBar(
    row: Int, column: Int, width barWidth: Int, parts: [(UInt64, String, Role)], whole: UInt64?
  ) {
    let inside = max(0, barWidth - 2)
    grid.put("[", row: row, column: column)
    grid.put("]", row: row, column: column + barWidth - 1)
    guard let whole, whole > 0 else {
      grid.put("n/a".fitted(inside), row: row, column: column + 1, role: .faint)
      return
    }
    var at = 0
    for (amount, mark, role) in parts where amount > 0 {
      let share = Double(amount) / Double(whole) * Double(inside)
      let cells = min(inside - at, max(1, wholeNumber(share)))
      guard cells > 0 else { break }
      grid.put(
        String(repeating: mark, count: cells), row: row, column: column + 1 + at, role: role)
      at += cells
    }
    if at < inside {
      grid.put(
        String(repeating: style.free, count: inside - at), row: row, column: column + 1 + at,
        role: .faint)
    }
  }

  // MARK: - Arenas

  private mutating func drawArenas() {
    drawVerdict(row: 1)
    rule(2)
    drawMemlock(row: 3)
    drawLegend(row: 4)
    drawMaps(row: 5)
    if let snapshot = model.snapshot {
      grid.put("Kernel  " + snapshot.kernelLine.fitted(width - 8), row: 6, column: 0)
    }
    rule(7, "", since(""))
    let details = model.selected.map { detail($0) } ?? []
    var detailRows = details.isEmpty ? 0 : details.count + 1
    // A short screen shows fewer details before it shows fewer arenas.
    while detailRows > 0, height - 10 - detailRows < min(6, max(3, model.arenas.count)) {
      detailRows -= 1
    }
    if detailRows == 1 { detailRows = 0 }
    let listRows = height - 10 - detailRows
    drawList(from: 8, rows: listRows)
    guard detailRows > 1, let arena = model.selected else { return }
    let top = height - 1 - detailRows
    let seen = model.snapshot?.lastSeenText(at: now).map { ", \($0)" } ?? ""
    rule(
      top, arena.name.string + seen, "\(model.selectedRow + 1) of \(model.arenas.count)")
    for (index, line) in details.prefix(detailRows - 1).enumerated() {
      grid.put(line.title, row: top + 1 + index, column: 0)
      grid.put(
        shown(line.text).fitted(width - 8), row: top + 1 + index, column: 8, role: line.role)
    }
  }

  /// At 40x10 and the like: the verdict, the limit, and the list.
  private mutating func drawSmall() {
    drawVerdict(row: 1)
    drawMemlock(row: 2)
    drawList(from: 3, rows: height - 5)
  }

  private func columns() -> [(ArenaColumn, Int)] {
    var widths: [(ArenaColumn, Int)] = [
      (.state, 8), (.lock, 8), (.protection, 6), (.open, 4), (.seal, 6), (.gate, 6),
      (.layout, 8), (.secrets, 8), (.since, 8), (.inUse, 8), (.locked, 8),
    ]
    if let chosen = model.chosenColumns[.arenas] {
      let all = [(ArenaColumn.arena, 16)] + widths
      widths = chosen.compactMap { title in all.first { $0.0.rawValue == title } }
      while widths.count > 1, widths.reduce(2, { $0 + $1.1 + 1 }) > width { widths.removeLast() }
      if let name = widths.firstIndex(where: { $0.0 == .arena }) {
        widths[name].1 = min(40, 16 + width - 2 - widths.reduce(0) { $0 + $1.1 + 1 })
      }
      return widths
    }
    if width < 60 { widths = [(.state, 7), (.lock, 8)] }
    if model.mark == nil { widths.removeAll { $0.0 == .since } }
    for dropped in [ArenaColumn.layout, .gate, .inUse, .open, .seal, .protection, .since] {
      if widths.reduce(2 + 16, { $0 + $1.1 + 1 }) <= width { break }
      widths.removeAll { $0.0 == dropped }
    }
    let name = width - 2 - widths.reduce(0) { $0 + $1.1 + 1 }
    return [(.arena, min(name, 40))] + widths
  }

  private func isNumber(_ column: ArenaColumn) -> Bool {
    [.open, .secrets, .since, .inUse, .locked].contains(column)
  }

  private mutating func drawList(from top: Int, rows: Int) {
    let columns = columns()
    var at = 2
    for (column, columnWidth) in columns {
      var title =
        column == model.sort && model.isSorted
        ? column.rawValue + (model.isInverted ? "^" : "v") : column.rawValue
      if column == .arena, let seen = model.snapshot?.lastSeenText(at: now) {
        let short = seen.replacing("last seen ", with: "")
        title =
          ["\(title), \(seen)", "\(title), \(short)", short]
          .first { $0.columns <= columnWidth } ?? short
      }
      if isNumber(column) {
        grid.put(title, row: top, endingAt: at + columnWidth, role: .faint)
      } else {
        grid.put(title, row: top, column: at, role: .faint, limit: columnWidth)
      }
      at += columnWidth + 1
    }
    let arenas = model.arenas
    layout.pageRows = max(1, rows)
    guard rows > 0 else { return }
    if arenas.isEmpty {
      let text =
        model.filter.isEmpty ? "no arenas" : "no arena's name holds \"\(shown(model.filter))\""
      grid.put(text.fitted(width - 2), row: top + 1, column: 2, role: .faint)
      return
    }
    let first = min(max(0, model.selectedRow - rows / 2), max(0, arenas.count - rows))
    (layout.top, layout.firstItem) = (top + 1, first)
    for index in 0..<min(rows, arenas.count - first) {
      drawRow(arenas[first + index], row: top + 1 + index, columns)
    }
    if first + rows < arenas.count, rows > 2 {
      grid.put(" +\(arenas.count - first - rows) more ", row: top, endingAt: width, role: .strong)
    }
  }

  private mutating func drawRow(_ arena: ArenaSnapshot, row: Int, _ columns: [(ArenaColumn, Int)]) {
    let word = model.snapshot?.stateWord(of: arena) ?? "n/a"
    let isSelected = arena.id == model.selectedArena
    var role = Role.normal
    if word == "PROBLEM" || word == "DIFFERS" { role = .bad }
    if word == "warning" { role = .warning }
    let mark = word == "PROBLEM" ? "!" : word == "DIFFERS" || word == "n/a" ? "?" : " "
    grid.put(mark, row: row, column: 0, role: role)
    var at = 2
    for (column, columnWidth) in columns {
      let text = shown(model.cell(column, of: arena)).fitted(columnWidth)
      var cellRole = Role.normal
      if column == .state { cellRole = word == "ok" ? .good : role }
      if column == .lock, arena.lockState == "partial" || arena.lockState == "unlocked" {
        cellRole = .bad
      }
      if isNumber(column) {
        grid.put(text, row: row, endingAt: at + columnWidth, role: cellRole)
      } else {
        grid.put(text, row: row, column: at, role: cellRole, limit: columnWidth)
      }
      at += columnWidth + 1
    }
    if isSelected {
      grid.paint(row: row, role: .selected)
      grid.cursor = (row, 0)
    }
  }

  // MARK: - Lists

  private mutating func drawListing(_ listing: ListModel) {
    drawVerdict(row: 1)
    rule(2, listing.title, since(width >= 60 ? listing.note : "", besides: listing.title))
    var columns = Array(listing.columns.enumerated())
    func needed() -> Int { 2 + columns.reduce(0) { $0 + $1.element.width + 1 } }
    if let chosen = model.chosenColumns[model.view] {
      columns = chosen.compactMap { title in
        columns.first { $0.element.title.filter { !"v^".contains($0) } == title }
      }
      while columns.count > 1, needed() > width { columns.removeLast() }
    }
    while needed() > width,
      let drop = columns.filter({ $0.element.dropsAt > 0 })
        .min(by: { $0.element.dropsAt < $1.element.dropsAt })
    { columns.removeAll { $0.offset == drop.offset } }
    if let first = columns.first {
      columns[0].element.width = min(40, max(4, first.element.width + width - needed()))
    }
    let selected = model.selectedRow(of: listing.rows)
    let details = listing.rows.indices.contains(selected) ? listing.rows[selected].details : []
    let detailRows = height >= 18 && !details.isEmpty ? details.count + 1 : 0
    let rows = max(0, height - 5 - detailRows)
    layout.pageRows = max(1, rows)
    drawCells(columns, row: 3) { listing.columns[$0].title }
    grid.paint(row: 3, role: .faint)
    guard !listing.rows.isEmpty else {
      grid.put(shown(listing.empty).fitted(width - 2), row: 4, column: 2, role: .faint)
      return
    }
    let first = min(max(0, selected - rows / 2), max(0, listing.rows.count - rows))
    (layout.top, layout.firstItem) = (4, first)
    for index in 0..<min(rows, listing.rows.count - first) {
      let item = listing.rows[first + index]
      drawCells(columns, row: 4 + index) { item.cells[$0].text }
      grid.paint(row: 4 + index, role: item.role)
      grid.put(item.mark, row: 4 + index, column: 0, role: item.role)
      if first + index == selected {
        grid.paint(row: 4 + index, role: .selected)
        grid.cursor = (4 + index, 0)
      }
    }
    if first + rows < listing.rows.count, rows > 2 {
      let more = " +\(grouped(listing.rows.count - first - rows)) more "
      grid.put(more, row: 4 + rows - 1, endingAt: width, role: .strong)
    }
    guard detailRows > 0 else { return }
    let top = height - 1 - detailRows
    rule(
      top, listing.rows[selected].id, "\(grouped(selected + 1)) of \(grouped(listing.rows.count))")
    for (index, line) in details.enumerated() {
      grid.put(line.title, row: top + 1 + index, column: 0)
      grid.put(shown(line.text).fitted(width - 8), row: top + 1 + index, column: 8)
    }
  }

  private mutating func drawCells(
    _ columns: [(offset: Int, element: ListModel.Column)], row: Int, _ text: (Int) -> String
  ) {
    var at = 2
    for (index, column) in columns {
      let text = shown(text(index)).fitted(column.width)
      if column.isNumber {
        grid.put(text, row: row, endingAt: at + column.width)
      } else {
        grid.put(text, row: row, column: at)
      }
      at += column.width + 1
    }
  }

  // MARK: - History

  private mutating func drawHistory() {
    drawVerdict(row: 1)
    let moments = model.history.moments
    let span = moments.last.flatMap { last in
      moments.first.map { duration(last.at > $0.at ? last.at - $0.at : 0) }
    }
    let note = span.map { "\($0), \(counted(moments.count, "point"))" } ?? ""
    rule(2, "history", since(note, besides: "history"))
    guard moments.count > 1 else {
      grid.put("the second reading begins it".fitted(width), row: 3, column: 0, role: .faint)
      return
    }
    func peak(_ value: (Moment) -> Double?) -> Double { moments.compactMap(value).max() ?? 0 }
    func rate(_ name: String, _ value: @escaping (Moment) -> Double) -> (String, [Double?], Double)
    {
      let (now, top) = (value(moments[moments.count - 1]), peak(value))
      return (
        "\(name) \(grouped(wholeNumber(now)))/s, peak \(grouped(wholeNumber(top)))/s",
        moments.map(value), top
      )
    }
    let memlock = model.snapshot?.memlock
    let limit = memlock?.binds == .yes ? memlock?.soft : nil
    let top = limit.map { Double($0) } ?? peak(\.locked)
    var title = "Locked \(memlock?.locked.map { bytes($0) } ?? "n/a")"
    title += ", peak \(bytes(UInt64(wholeNumber(peak(\.locked))))), top is "
    title += limit.map { "the limit, \(bytes($0))" } ?? "the peak"
    if let limit, let wait = model.history.millisecondsUntil(limit) {
      title += "; full in \(duration(wait))"
    }
    let plots = [
      (title, moments.map(\.locked), top), rate("Opened", \.opens),
      rate("Allocated and freed", \.operations), rate("Failures", \.failures),
    ]
    let rows = height - 4
    var row = 3
    for (index, plot) in plots.enumerated() {
      // The first has what the others leave.
      let share = rows / (plots.count + 1)
      let room = index == 0 ? rows - share * (plots.count - 1) : share
      guard room >= 2 else { continue }
      grid.put(
        shown(plot.0).fitted(width), row: row, column: 0, role: index == 0 ? .strong : .normal)
      let lines = Plot.rows(
        plot.1, width: width, height: room - 1, top: plot.2, unicode: style.unicode)
      let role: Role = index == plots.count - 1 && plot.2 > 0 ? .bad : .arenas
      for (offset, line) in lines.enumerated() {
        grid.put(line, row: row + 1 + offset, column: 0, role: role)
      }
      row += room
    }
  }

  // MARK: - Detail

  private struct Line {
    var title: String
    var text: String
    var role = Role.normal
  }

  private func detail(_ arena: ArenaSnapshot) -> [Line] {
    guard let snapshot = model.snapshot else { return [] }
    func size(_ number: UInt64?) -> String { number.map { bytes($0) } ?? "n/a" }
    func count(_ number: UInt64?) -> String { number.map { grouped($0) } ?? "n/a" }
    var lines: [Line] = []
    let lock = arena.lock
    if let name = lock.errnoName {
      let at = lock.at.map { " at \(clock($0))" } ?? ""
      lines.append(
        Line(
          title: "Lock",
          text:
            "\(arena.lockState ?? "n/a"): \(lock.failedCall ?? "a call") answered \(name)\(at); "
            + "\(size(lock.bytesInUseThen)) of \(size(lock.limitThen)) was in use, "
            + "\(size(lock.bytesMissing)) missing now",
          role: .bad))
    } else {
      lines.append(
        Line(
          title: "Lock",
          text: "\(arena.lockState ?? "n/a") (\(arena.lockPolicy ?? "n/a")): "
            + "\(size(arena.bytesLocked)) of \(size(arena.bytesMapped)) in "
            + "\(count(arena.chunkCount)) chunks; peak \(size(arena.peakBytesLocked))"))
    }
    for problem in snapshot.problems where problem.arenaID == arena.id {
      if problem.kind != .notLocked {
        lines.append(
          Line(
            title: problem.severity == .warning ? "Warning" : "Problem", text: problem.text,
            role: problem.severity == .warning ? .warning : .bad))
      }
      if let fix = problem.fix {
        lines.append(Line(title: "Fix", text: "now: \(fix)", role: .strong))
      }
      if let keep = problem.keep {
        lines.append(Line(title: "", text: "kept: \(keep)", role: .strong))
      }
    }
    let dump = arena.dumpProtection == "excluded" ? "no" : arena.dumpProtection ?? "n/a"
    let shared = arena.keySharedWith.map { $0 == 0 ? "" : ", shared with \($0)" } ?? ""
    let fork =
      switch arena.forkProtection {
      case "zeros": "zeros in child"
      case "absent": "absent in child"
      case let other: other ?? "n/a"
      }
    lines.append(
      Line(
        title: "Gate",
        text:
          "\(arena.gate ?? "n/a")\(shared)   Guards \(count(arena.guardPages))   Dump \(dump)   "
          + "Fork \(fork)   Maps \(count(arena.mapsUsed))   Seal \(arena.sealState ?? "n/a")"))
    let sizes = arena.sizes.map { size in
      let later = size.freeSlotsAfterGrowth.map { ", \(grouped($0)) after growth" } ?? ""
      return "\(size.payload) B: \(grouped(size.live)) live, \(grouped(size.freeSlots)) free"
        + later
    }
    lines.append(
      Line(
        title: "Room",
        text: sizes.isEmpty
          ? "next chunk \(size(arena.nextChunkBytes)) for each new size"
          : sizes.joined(separator: "; ")))
    if let vault = snapshot.vaults.first(where: { $0.arenaID == arena.id }) {
      let waiting =
        (vault.entriesOfOldEpoch ?? 0) == 0
        ? "" : " (\(count(vault.entriesOfOldEpoch)) of the old key)"
      let streams =
        (vault.streams ?? 0) == 0
        ? "" : "   streams \(count(vault.streams)), \(size(vault.streamBytes))"
      lines.append(
        Line(
          title: "Vault",
          text: "\(vault.cipher ?? "n/a")   epoch \(count(vault.epoch))   encrypted "
            + "\(count(vault.entries)), \(size(vault.bytes))\(waiting)   decrypted "
            + "\(count(vault.decryptions))   failures \(count(vault.failures))\(streams)",
          role: (vault.failures ?? 0) > 0 ? .bad : .normal))
    }
    let rates = model.rates[arena.id]
    func rate(_ value: Double?) -> String {
      value.map { "\(Int(min($0.rounded(), 1e15)))/s" } ?? "n/a"
    }
    lines.append(
      Line(
        title: "Rates",
        text: "opened \(rate(rates?.opens))   allocated \(rate(rates?.allocations))   "
          + "freed \(rate(rates?.frees))   failed locks \(count(arena.failedLocks))   "
          + "longest open \(arena.longestOpenMs.map { duration($0) } ?? "n/a")"))
    if let mark = model.mark, let then = mark.arenas.first(where: { $0.id == arena.id }) {
      lines.append(
        Line(
          title: "Since",
          text: "mark \(clock(mark.sampledAt))   secrets "
            + change(arena.secretCount, then.secretCount) { grouped($0) } + "   in use "
            + change(arena.bytesInUse, then.bytesInUse) { bytes($0) } + "   locked "
            + change(arena.bytesLocked, then.bytesLocked) { bytes($0) }))
    } else if let restart = snapshot.restart {
      let ago = now >= restart.at ? (now - restart.at) / 1000 : 0
      lines.append(
        Line(
          title: "Since",
          text: "restarted \(ago) s ago, \(restart.fromPid.map { "\($0)" } ?? "?") -> "
            + "\(restart.toPid.map { "\($0)" } ?? "?"); rates start anew"))
    }
    return lines
  }

  private func change(_ now: UInt64?, _ then: UInt64?, _ show: (UInt64) -> String) -> String {
    guard let now, let then else { return "n/a" }
    return now >= then ? "+\(show(now - then))" : "-\(show(then - now))"
  }

  // MARK: - Other views

  private mutating func drawProcesses() {
    rule(1, "processes that publish", "\(model.publishers.count)")
    let rows = height - 4
    layout.pageRows = max(1, rows)
    if model.publishers.isEmpty {
      var row = 2
      grid.put("nobody publishes a stats page", row: row, column: 2, role: .strong)
      for place in model.places where row < height - 3 {
        row += 1
        grid.put(
          shown("looked in \(place.path): \(place.outcome)").fitted(width - 2), row: row,
          column: 2)
      }
      return
    }
    grid.put("     PID  STATE          USER      NAME", row: 2, column: 2, role: .faint)
    let seenWidth = width >= 60 ? 12 : 0
    if seenWidth > 0 { grid.put("LAST SEEN", row: 2, endingAt: width, role: .faint) }
    let selected = model.publishers.firstIndex { $0.id == model.selectedProcess } ?? 0
    let first = min(max(0, selected - rows / 2), max(0, model.publishers.count - rows))
    (layout.top, layout.firstItem) = (3, first)
    for index in 0..<min(rows, model.publishers.count - first) {
      let publisher = model.publishers[first + index]
      let row = 3 + index
      grid.put(publisher.pid.map { "\($0)" } ?? "n/a", row: row, endingAt: 10)
      grid.put(publisher.state.rawValue, row: row, column: 12, limit: 14)
      grid.put(
        shown(Users.name(publisher.uid).string).fitted(9), row: row, column: 27, limit: 9)
      grid.put(
        shown(publisher.name.string).fitted(max(0, width - 38 - seenWidth)), row: row, column: 37)
      if seenWidth > 0 { grid.put(publisher.lastSeen(at: now), row: row, endingAt: width) }
      if first + index == selected {
        grid.paint(row: row, role: .selected)
        grid.cursor = (row, 0)
      }
    }
  }

  private mutating func drawText(_ lines: [String], title: String) {
    let rows = height - 3
    layout.pageRows = max(1, rows)
    let first = min(model.scroll, max(0, lines.count - rows))
    let note = "\(min(lines.count, first + rows)) of \(lines.count) lines"
    rule(1, title, since(note, besides: title))
    for index in 0..<max(0, min(rows, lines.count - first)) {
      grid.put(shown(lines[first + index]).fitted(width), row: 2 + index, column: 0)
    }
  }
}

/// A number of another process' making as an integer, whatever it is.
func wholeNumber(_ value: Double) -> Int { value > 0 ? Int(min(value.rounded(), 1e18)) : 0 }

/// `65,530`.
func grouped(_ number: some BinaryInteger) -> String {
  var digits = Array(String(number))
  var at = digits.count - 3
  while at > 0 {
    digits.insert(",", at: at)
    at -= 3
  }
  return String(digits)
}
