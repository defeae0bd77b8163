// The process list: each process's verdict and its share of the lock limit.

package import MemwatchInspector

package struct ProcessSummary: Equatable, Sendable {
  /// The severity of the worst problem; nil: no problem is known.
  package var severity: Severity?
  /// The verdict in one sentence.
  package var verdict: String
  package var arenas: Int
  /// Locked bytes and the limit; nil: unknown, or no limit.
  package var locked: ByteCount?
  package var limit: ByteCount?
  /// Its arenas and problems, for the pane below the list; at most so many.
  package var arenaRows: [[String]] = []
  package var problems: [Problem] = []
  private static let mostRows = 32

  package init(_ snapshot: Snapshot) {
    severity = snapshot.problems.filter { $0.severity != .note }.map(\.severity).min()
    verdict = snapshot.verdict
    arenas = snapshot.arenas.count
    locked = snapshot.memlock.locked
    limit = snapshot.memlock.binds == .no ? nil : snapshot.memlock.soft
    arenaRows = snapshot.arenas.prefix(Self.mostRows).map { arena in
      [
        arena.name.string, snapshot.stateText(of: arena), arena.lockState.text,
        arena.bytesLocked.text, arena.protectionState.text, arena.sealState.text,
        arena.secretCount.map { grouped($0) } ?? "n/a",
      ]
    }
    problems = Array(
      snapshot.problems.filter { $0.severity != .note }.prefix(Self.mostRows))
  }

  /// The verdict for a narrow column: `PROBLEM  session-tokens: …`, `no problem seen`.
  var shortVerdict: String {
    guard let worst = problems.first else {
      return String(verdict.prefix { $0 != ":" })
    }
    let word =
      switch worst.severity {
      case .problem: "PROBLEM"
      case .differs: "DIFFERS"
      case .warning, .note: "WARNING"
      }
    return "\(word)  \(worst.text)"
  }

  /// `1 MiB of 8 MiB`.
  var lockedText: String {
    (locked.map { bytes($0) } ?? "n/a") + (limit.map { " of \(bytes($0))" } ?? ", no limit")
  }

  /// Samples every publisher, up to 64, over connections that are kept open.
  static func all(_ known: inout [UInt64: Inspector]) -> (Discovery, [UInt64: ProcessSummary]) {
    let discovery = Discovery.run()
    let publishers = discovery.publishers.prefix(64)
    known = known.filter { id, _ in publishers.contains { $0.id == id } }
    var summaries: [UInt64: ProcessSummary] = [:]
    for publisher in publishers {
      if known[publisher.id] == nil { known[publisher.id] = try? Inspector.attach(to: publisher) }
      guard let inspector = known[publisher.id] else { continue }
      summaries[publisher.id] = ProcessSummary(inspector.sample(auditing: .never))
    }
    return (discovery, summaries)
  }
}

extension Renderer {
  private struct ProcessColumn {
    var title: String
    var width: Int
    var isNumber = false
    var isVerdict = false
    var text: (Publisher) -> String
  }

  private var processColumns: [ProcessColumn] {
    func summary(_ publisher: Publisher) -> ProcessSummary? { model.summaries[publisher.id] }
    var columns: [ProcessColumn] = [
      ProcessColumn(title: "PID", width: 8, isNumber: true) { $0.pid.map { "\($0)" } ?? "n/a" },
      ProcessColumn(title: "NAME", width: width < 60 ? 12 : 16) { $0.name.string },
      ProcessColumn(title: "VERDICT", width: 8, isVerdict: true) { verdict(of: $0).text },
    ]
    if width >= 100 {
      columns.insert(
        ProcessColumn(title: "USER", width: 9) { Users.name($0.uid).string }, at: 2)
      columns.insert(
        ProcessColumn(title: "AGE", width: 7, isNumber: true) {
          duration(now.since($0.createdAt))
        }, at: 3)
    }
    if width >= 60 {
      columns.append(
        ProcessColumn(title: "ARENAS", width: 6, isNumber: true) {
          summary($0).map { grouped($0.arenas) } ?? "n/a"
        })
      columns.append(
        ProcessColumn(title: "LOCKED OF LIMIT", width: 18, isNumber: true) {
          summary($0)?.lockedText ?? "n/a"
        })
    }
    let widest = columns.firstIndex(where: \.isVerdict)!
    columns[widest].width += max(0, width - place(columns).width)
    return columns
  }

  private func place(_ columns: [ProcessColumn]) -> Columns {
    Columns(columns.map { .init(width: $0.width, isNumber: $0.isNumber) })
  }

  /// The verdict; for a process that is gone or stopped, its state and when it was last seen.
  private func verdict(of publisher: Publisher) -> (text: String, role: Role) {
    guard publisher.state.isCurrent else {
      let seen = publisher.lastSeen(at: now)
      return ("\(publisher.state.rawValue), last seen \(seen)", .warning)
    }
    guard let summary = model.summaries[publisher.id] else {
      return (publisher.state.rawValue, .normal)
    }
    let role: Role =
      switch summary.severity {
      case .problem, .differs: .bad
      case .warning: .warning
      case .note, nil: .normal
      }
    return (summary.shortVerdict, role)
  }

  /// - Parameter end: the row behind the last one that may be used.
  mutating func drawProcessList(from top: Int, to end: Int, rest: ListOverflow) {
    let columns = processColumns
    let places = place(columns)
    for (column, at) in zip(columns, places.starts) {
      if column.isNumber {
        grid.put(column.title, row: top, endingAt: at + column.width, role: .faint)
      } else {
        grid.put(column.title, row: top, column: at, role: .faint)
      }
    }
    let selected = model.publishers.firstIndex { $0.id == model.selectedProcess } ?? 0
    let first = rest.first(showing: selected)
    (layout.top, layout.firstItem) = (top + 1, first)
    for index in 0..<min(rest.rows, model.publishers.count - first) {
      let publisher = model.publishers[first + index]
      let row = top + 1 + index
      for (column, at) in zip(columns, places.starts) {
        let text = displayable(column.text(publisher)).fitted(column.width)
        if column.isNumber {
          grid.put(text, row: row, endingAt: at + column.width)
        } else {
          let role = column.isVerdict ? verdict(of: publisher).role : .normal
          grid.put(text, row: row, column: at, role: role)
        }
      }
      if first + index == selected { grid.select(row: row) }
    }
    draw(rest, from: first, row: top + 1 + rest.rows)
    let listed = min(rest.rows, model.publishers.count - first)
    let row = drawSelectedProcess(from: top + 1 + listed, to: end)
    drawHost(from: row, to: end)
  }

  /// Draws the arenas and problems of the selected process below the list, if there is room. Returns
  /// the next free row.
  private mutating func drawSelectedProcess(from first: Int, to end: Int) -> Int {
    guard let publisher = model.publishers.first(where: { $0.id == model.selectedProcess }),
      let summary = model.summaries[publisher.id], end - first >= 4
    else { return first }
    rule(first + 1, publisher.name.string, "Enter attaches")
    var lines: [(text: String, role: Role)] = []
    for problem in summary.problems {
      let role: Role = problem.severity == .warning ? .warning : .bad
      lines += problem.text.wrapped(width).map { ($0, role) }
    }
    if summary.problems.isEmpty {
      lines += summary.verdict.wrapped(width).map { ($0, .normal) }
    }
    var told: Set<String> = []
    for case let fix? in summary.problems.map(\.fix) where told.insert(fix).inserted {
      lines.append(("Now     " + fix, .strong))
    }
    if !lines.isEmpty { lines.append(("", .normal)) }
    let titles = ["ARENA", "STATE", "LOCK", "LOCKED", "PROT", "SEAL", "SECRETS"]
    if !summary.arenaRows.isEmpty {
      let rows = table([titles] + summary.arenaRows)
      lines += rows.enumerated().map { ($1, $0 == 0 ? .faint : .normal) }
    }
    for (index, line) in lines.prefix(end - first - 2).enumerated() {
      grid.put(
        displayable(line.text).fitted(width), row: first + 2 + index, column: 0, role: line.role)
    }
    return min(end, first + 2 + lines.count)
  }
}
