// The contents of a view, for files: all rows, filtered and sorted, not only those on the screen.
// Pure.

package import MemwatchInspector

package struct ViewExport: Equatable, Sendable {
  package var title: String
  /// Empty: the rows are lines of text.
  package var columns: [String] = []
  package var rows: [[String]]
  /// What the page does not list, in words; nil: everything is listed.
  package var unlisted: String?

  package var text: String {
    let lines = columns.isEmpty ? rows.map { $0.joined() } : table([columns] + rows)
    return ([title, ""] + lines + (unlisted.map { ["", $0] } ?? [])).joined(separator: "\n") + "\n"
  }

  /// If rows are not listed, a last row says so in its first cell.
  package var csv: String {
    let last = unlisted.map { text in
      [columns.indices.map { $0 == 0 ? text : "" }].map { $0.isEmpty ? [text] : $0 }
    }
    return commaSeparated((columns.isEmpty ? [] : [columns]) + rows + (last ?? []))
  }

  package var document: Value {
    func texts(_ list: [String]) -> Value { .list(list.map { .text($0) }) }
    return Value.document(
      .view,
      [
        ("message", .text(title)), ("columns", texts(columns)), ("rows", .list(rows.map(texts))),
        ("unlistedMessage", unlisted.map { .text($0) } ?? .null),
      ])
  }
}

/// What the screen writes to a file.
package enum Export: Sendable {
  case everything(Snapshot)
  case view(ViewExport)
}

extension Model {
  /// The contents of the current view; for a dead or stopped process, with the time they were last
  /// seen.
  package var viewExport: ViewExport {
    var export = shownRows
    if let snapshot, !snapshot.process.state.isCurrent, ![.processes, .host, .help].contains(view) {
      let at = snapshot.lastSeenAt.map { clock($0, withDate: true) } ?? "n/a"
      export.title += ", \(snapshot.process.state.rawValue), last seen \(at)"
    }
    return export
  }

  private var shownRows: ViewExport {
    if let listing {
      let titles = listing.columns.map(\.title)
      return chosen(
        ViewExport(
          title: listing.title, columns: ["MARK"] + titles,
          rows: listing.rows.map { row in
            [row.isMarked ? "!" : ""] + row.cells.map(\.text)
          }, unlisted: listing.unlisted))
    }
    switch view {
    case .arenas:
      let columns = ArenaColumn.allCases.filter { $0 != .since || base != nil }
      return chosen(
        ViewExport(
          title: "arenas", columns: columns.map(\.rawValue),
          rows: arenas.map { arena in columns.map { cell($0, of: arena) } },
          unlisted: snapshot?.unlistedArenasText))
    case .processes:
      return ViewExport(
        title: "processes that publish",
        columns: [
          "PID", "STATE", "LAST SEEN", "USER", "NAME", "VERDICT", "ARENAS", "LOCKED", "PAGE",
        ],
        rows: publishers.map {
          [
            $0.pid.map { "\($0)" } ?? "n/a", $0.state.rawValue,
            $0.lastSeenAt.map { clock($0, withDate: true) } ?? ($0.state.isCurrent ? "now" : "n/a"),
            Users.name($0.uid).string, $0.name.string, summaries[$0.id]?.verdict ?? "n/a",
            summaries[$0.id].map { grouped($0.arenas) } ?? "n/a",
            summaries[$0.id]?.lockedText ?? "n/a", SafeText($0.path).string,
          ]
        })
    case .history:
      return ViewExport(
        title: historyTitle, columns: ["TIME", "LOCKED", "OPENS/S", "OPERATIONS/S", "FAILURES/S"],
        rows: history.moments.map {
          [
            clock($0.at), $0.locked.map { bytes(UInt64(wholeNumber($0))) } ?? "n/a",
            grouped(wholeNumber($0.opens)), grouped(wholeNumber($0.operations)),
            grouped(wholeNumber($0.failures)),
          ]
        })
    case .secrets, .map, .events, .findings, .host, .vaults, .output, .help, .detail:
      return ViewExport(title: view.rawValue, rows: lines.map { [$0] })
    }
  }

  /// Keeps only the columns chosen for this view, in their order.
  private func chosen(_ export: ViewExport) -> ViewExport {
    guard let titles = chosenColumns else { return export }
    let places = titles.compactMap { export.columns.firstIndex(of: $0) }
    return ViewExport(
      title: export.title, columns: places.map { export.columns[$0] },
      rows: export.rows.map { row in places.map { row[$0] } }, unlisted: export.unlisted)
  }

  /// A cell of the arena list.
  func cell(_ column: ArenaColumn, of arena: ArenaSnapshot) -> String {
    func count(_ number: UInt64?) -> String { number.map { grouped($0) } ?? "n/a" }
    func size(_ size: ByteCount?) -> String { size.text }
    return switch column {
    case .arena: arena.name.string
    case .state: stateText(of: arena)
    case .lock: arena.lockState.text
    case .protection: arena.protectionState.text
    case .open: count(arena.openWindows)
    case .seal: arena.sealState.text
    case .gate: arena.gate.text
    case .layout: arena.layout.text
    case .secrets: count(arena.secretCount)
    case .since: growth(of: arena).map { ($0 < 0 ? "-" : "+") + grouped($0.magnitude) } ?? "-"
    case .inUse: size(arena.bytesInUse)
    case .locked: size(arena.bytesLocked)
    case .rate: rates[arena.id].map { grouped(wholeNumber($0.opens)) + "/s" } ?? "n/a"
    case .peak: size(arena.peakBytesLocked)
    case .chunks: count(arena.chunkCount)
    case .maps: count(arena.mapsUsed)
    case .failed: grouped(arena.failures)
    case .longest: arena.longestOpenMs.map { duration($0) } ?? "n/a"
    }
  }
}
