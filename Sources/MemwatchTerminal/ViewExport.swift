// What a view shows, for files: all of its rows, filtered and in their order, and not only those that
// the screen has room for. Pure.

package import MemwatchInspector

package struct ViewExport: Equatable, Sendable {
  package var title: String
  /// Empty: the rows are lines of text.
  package var columns: [String] = []
  package var rows: [[String]]

  package var text: String {
    let lines = columns.isEmpty ? rows.map { $0.joined() } : table([columns] + rows)
    return ([title, ""] + lines).joined(separator: "\n") + "\n"
  }

  package var csv: String { commaSeparated((columns.isEmpty ? [] : [columns]) + rows) }

  package var document: Value {
    .object([
      ("view", .text(title)),
      (
        "rows",
        .list(
          rows.map { row in
            columns.isEmpty
              ? .text(row.joined())
              : .object(zip(columns, row).map { ($0, .text($1)) })
          })
      ),
    ])
  }
}

/// What is written to a file from the screen.
package enum Export: Sendable {
  case everything(Snapshot)
  case seen(ViewExport)
}

extension Model {
  /// What this view shows; of a process that is gone or stopped, when that was so.
  package var seen: ViewExport {
    var seen = shownRows
    if let snapshot, !snapshot.process.state.isCurrent, ![.processes, .host, .help].contains(view) {
      let at = snapshot.lastSeenAt.map { clock($0, withDate: true) } ?? "n/a"
      seen.title += ", \(snapshot.process.state.rawValue), last seen \(at)"
    }
    return seen
  }

  private var shownRows: ViewExport {
    if let listing {
      let titles = listing.columns.map { $0.title.filter { !"v^".contains($0) } }
      return chosen(
        ViewExport(
          title: listing.title, columns: ["MARK"] + titles,
          rows: listing.rows.map { row in
            [row.mark == " " ? "" : row.mark] + row.cells.map(\.text)
          }))
    }
    switch view {
    case .arenas:
      let columns = ArenaColumn.allCases.filter { $0 != .since || mark != nil }
      return chosen(
        ViewExport(
          title: "arenas", columns: columns.map(\.rawValue),
          rows: arenas.map { arena in columns.map { cell($0, of: arena) } }))
    case .processes:
      return ViewExport(
        title: "processes that publish",
        columns: ["PID", "STATE", "LAST SEEN", "USER", "NAME", "PAGE"],
        rows: publishers.map {
          [
            $0.pid.map { "\($0)" } ?? "n/a", $0.state.rawValue,
            $0.lastSeenAt.map { clock($0, withDate: true) } ?? ($0.state.isCurrent ? "now" : "n/a"),
            Users.name($0.uid).string, $0.name.string, SafeText($0.path).string,
          ]
        })
    case .history:
      return ViewExport(
        title: "history", columns: ["TIME", "LOCKED", "OPENS/S", "OPERATIONS/S", "FAILURES/S"],
        rows: history.moments.map {
          [
            clock($0.at), $0.locked.map { bytes(UInt64(wholeNumber($0))) } ?? "n/a",
            grouped(wholeNumber($0.opens)), grouped(wholeNumber($0.operations)),
            grouped(wholeNumber($0.failures)),
          ]
        })
    case .secrets, .map, .events, .findings, .host, .vaults, .output, .help:
      return ViewExport(title: view.rawValue, rows: lines.map { [$0] })
    }
  }

  /// With the columns that were chosen for this view, in their order.
  private func chosen(_ seen: ViewExport) -> ViewExport {
    guard let titles = chosenColumns[view] else { return seen }
    let places = titles.compactMap { seen.columns.firstIndex(of: $0) }
    return ViewExport(
      title: seen.title, columns: places.map { seen.columns[$0] },
      rows: seen.rows.map { row in places.map { row[$0] } })
  }

  /// A cell of the list of arenas.
  func cell(_ column: ArenaColumn, of arena: ArenaSnapshot) -> String {
    func count(_ number: UInt64?) -> String { number.map { grouped($0) } ?? "n/a" }
    func size(_ number: UInt64?) -> String { number.map { bytes($0) } ?? "n/a" }
    return switch column {
    case .arena: arena.name.string
    case .state: snapshot?.stateWord(of: arena) ?? "n/a"
    case .lock: arena.lockState ?? "n/a"
    case .protection: arena.protectionState ?? "n/a"
    case .open: count(arena.openWindows)
    case .seal: arena.sealState ?? "n/a"
    case .gate: arena.gate ?? "n/a"
    case .layout: arena.layout ?? "n/a"
    case .secrets: count(arena.secretCount)
    case .since: growth(of: arena).map { ($0 < 0 ? "-" : "+") + grouped($0.magnitude) } ?? "-"
    case .inUse: size(arena.bytesInUse)
    case .locked: size(arena.bytesLocked)
    }
  }
}
