// Filters and searches in every view, and the chips that show them.

package import MemwatchInspector

extension Model {
  /// The searchable items of the view: their count, and whether one contains a text.
  private var items: (count: Int, contains: (Int, String) -> Bool)? {
    if let rows = listing?.rows { return (rows.count, { rows.contains($1, at: $0) }) }
    switch view {
    case .arenas:
      let arenas = arenas
      return (arenas.count, { Self.contains(arenas[$0].name.string, $1) })
    case .processes:
      let publishers = publishers
      return (publishers.count, { Self.contains(publishers[$0].searchText, $1) })
    case .findings, .host, .vaults, .output, .help, .detail:
      let lines = lines
      return (lines.count, { Self.contains(lines[$0], $1) })
    case .secrets, .map, .events, .history: return nil
    }
  }

  /// The index of the selected item.
  private var selectedIndex: Int {
    if let rows = listing?.rows { return selectedRow(of: rows) }
    return switch view {
    case .arenas: selectedRow
    case .processes: publishers.firstIndex { $0.id == selectedProcess } ?? 0
    default: matchingLine ?? scroll
    }
  }

  private mutating func select(_ index: Int) {
    if let rows = listing?.rows {
      selectedItem[view] = rows[index].id
      return
    }
    switch view {
    case .arenas: selectedArena = arenas[index].id
    case .processes: selectedProcess = publishers[index].id
    default:
      matchingLine = index
      scroll = min(max(0, index - 1), max(0, lines.count - pageRows))
    }
  }

  /// Selects the next match after the selection, in steps of 1 or -1, wrapping around.
  ///
  /// - Returns: whether there is a match.
  mutating func find(step: Int, includingThis: Bool) -> Bool {
    guard let items, items.count > 0 else { return false }
    let start = selectedIndex + (includingThis ? 0 : step)
    for offset in 0..<items.count {
      let index = ((start + offset * step) % items.count + items.count) % items.count
      if items.contains(index, search) {
        select(index)
        return true
      }
    }
    return false
  }

  /// Goes to the next match, or to the next problem if there is no search.
  mutating func goToMatch(_ step: Int) {
    if search.isEmpty { return goToProblem(step) }
    if !find(step: step, includingThis: false) { showNoMatch() }
  }

  mutating func showNoMatch() { showMessage("no match for \"\(search)\"") }

  /// The number of the selected match (nil: the selection is not on a match) and the number of
  /// matches; nil: no match.
  var match: (number: Int?, count: Int)? {
    guard let items else { return nil }
    let selected = selectedIndex
    var (number, count): (Int?, Int) = (nil, 0)
    for index in 0..<items.count where items.contains(index, search) {
      count += 1
      if index == selected { number = count }
    }
    return count > 0 ? (number, count) : nil
  }

  /// Chips for states that affect every view: `[replay 2/51]`, `[time 14:02:10, live is 3 min on]`,
  /// `[paused 12 s]`, `[REC]`.
  func stateChips(at now: Timestamp) -> [String] {
    var chips: [String] = []
    if let replay { chips.append("[replay \(replay.index + 1)/\(replay.count)]") }
    if let newest, let snapshot {
      let ahead = newest.sampledAt.since(snapshot.sampledAt)
      chips.append("[time \(clock(snapshot.sampledAt)), live is \(duration(ahead)) on]")
    }
    if isPaused {
      // The clock of a replay stands still.
      chips.append(replay == nil ? "[paused \(now.since(pausedAt) / 1000) s]" : "[paused]")
    }
    if recording != nil { chips.append("[REC]") }
    return chips
  }

  /// Chips for filters and searches of this view: `[filter "vault": 1 of 6]`, `[search "tls": 2 of
  /// 3]`.
  var filterChips: [String] {
    func quoted(_ text: String) -> String { "\"\(text.fitted(16))\"" }
    var chips: [String] = []
    if !filter.isEmpty, let counts = filterCounts {
      chips.append(
        "[filter \(quoted(filter)): \(grouped(counts.count)) of \(grouped(counts.total))]")
    }
    if !search.isEmpty {
      // Counting matches in very long lists would take longer than drawing them.
      let isCounted = (items?.count ?? 0) <= 10_000
      let match = isCounted ? match : nil
      let place = match.map { found in
        found.number.map { "\(grouped($0)) of \(grouped(found.count))" }
          ?? "\(grouped(found.count)) found"
      }
      let text = isCounted ? ": " + (place ?? "no match") : ""
      chips.append("[search \(quoted(search))\(text)]")
    }
    return chips
  }

  /// The number of items that pass the filter, and the total.
  private var filterCounts: (count: Int, total: Int)? {
    if let listing { return (listing.rows.count, listing.total) }
    return switch view {
    case .arenas: (arenas.count, snapshot?.arenas.count ?? 0)
    case .processes: (publishers.count, allPublishers.count)
    case .findings, .host, .vaults, .output, .help, .detail: (filteredLines.count, allLines.count)
    case .secrets, .map, .events, .history: nil
    }
  }

  /// The processes that pass the filter.
  package var publishers: [Publisher] {
    guard let filter = filters[.processes] else { return allPublishers }
    return allPublishers.filter { Self.contains($0.searchText, filter) }
  }

  mutating func clearSearch() {
    search = ""
    matchingLine = nil
    setFilter("")
  }

  mutating func setFilter(_ text: String) {
    filters[view] = text.isEmpty ? nil : text
    (scroll, matchingLine) = (0, nil)
    arrange()
  }
}

extension Publisher {
  fileprivate var searchText: String { "\(pid.map { "\($0)" } ?? "") \(name)" }
}
