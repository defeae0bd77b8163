// The arena list: which arenas are shown, and in which order.

package import MemwatchInspector

package enum ArenaColumn: String, CaseIterable, Sendable {
  case arena = "ARENA"
  case state = "STATE"
  case lock = "LOCK"
  case protection = "PROT"
  case open = "OPEN"
  case seal = "SEAL"
  case gate = "GATE"
  case layout = "LAYOUT"
  case secrets = "SECRETS"
  case since = "SINCE"
  case inUse = "IN USE"
  case locked = "LOCKED"
  case rate = "OPENS"
  case peak = "PEAK"
  case chunks = "CHUNKS"
  case maps = "MAPS"
  case failed = "FAILED"
  case longest = "LONGEST"

  /// Columns for wide screens only.
  static let wide: Set<ArenaColumn> = [.peak, .chunks, .maps, .failed, .longest]
}

extension Model {
  mutating func arrange() {
    guard let snapshot else { return }
    baseCounts = Dictionary(
      (base?.arenas ?? []).map { ($0.id, $0.secretCount) }, uniquingKeysWith: { first, _ in first })
    var arenas = snapshot.arenas
    if let filter = filters[.arenas] { arenas = arenas.filter { matches($0, filter) } }
    if isSorted, sort == .state {
      let worst = ranks
      arenas = arenas.enumerated().sorted { a, b in
        (worst[a.element.id] ?? 9, a.offset) < (worst[b.element.id] ?? 9, b.offset)
      }.map(\.element)
    } else if isSorted {
      arenas.sort { a, b in
        switch sort {
        case .arena: a.name.string < b.name.string
        case .state: false
        case .lock: (a.lockState?.text ?? "") < (b.lockState?.text ?? "")
        case .protection: (a.protectionState?.text ?? "") < (b.protectionState?.text ?? "")
        case .open: (a.openWindows ?? 0) > (b.openWindows ?? 0)
        case .seal: (a.sealState?.text ?? "") < (b.sealState?.text ?? "")
        case .gate: (a.gate?.text ?? "") < (b.gate?.text ?? "")
        case .layout: (a.layout?.text ?? "") < (b.layout?.text ?? "")
        case .secrets: (a.secretCount ?? 0) > (b.secretCount ?? 0)
        case .since: (growth(of: a) ?? .min) > (growth(of: b) ?? .min)
        case .inUse: (a.bytesInUse ?? 0) > (b.bytesInUse ?? 0)
        case .locked: (a.bytesLocked ?? 0) > (b.bytesLocked ?? 0)
        case .rate: (rates[a.id]?.opens ?? 0) > (rates[b.id]?.opens ?? 0)
        case .peak: (a.peakBytesLocked ?? 0) > (b.peakBytesLocked ?? 0)
        case .chunks: (a.chunkCount ?? 0) > (b.chunkCount ?? 0)
        case .maps: (a.mapsUsed ?? 0) > (b.mapsUsed ?? 0)
        case .failed: a.failures > b.failures
        case .longest: (a.longestOpenMs ?? 0) > (b.longestOpenMs ?? 0)
        }
      }
    }
    if inverted.contains(View.arenas.rawValue) { arenas.reverse() }
    self.arenas = arenas
    keepSelection()
  }

  /// The change in an arena's secret count since the mark, or over five minutes; nil if unknown.
  package func growth(of arena: ArenaSnapshot) -> Int64? {
    guard base != nil, let now = arena.secretCount else { return nil }
    // A new arena grew from zero.
    guard let then = baseCounts[arena.id, default: 0] else { return nil }
    return now >= then ? Int64(clamping: now - then) : -Int64(clamping: then - now)
  }

  /// Sorts by the next visible column; after the last one, restores the published order.
  mutating func sortArenas() {
    let titles =
      layout.listID == listID && !layout.columns.isEmpty
      ? layout.columns : ArenaColumn.allCases.filter { $0 != .since || base != nil }.map(\.rawValue)
    let columns = titles.compactMap(ArenaColumn.init(rawValue:))
    let next = isSorted ? columns.firstIndex(of: sort).map { $0 + 1 } ?? columns.count : 0
    isSorted = next < columns.count
    if isSorted { sort = columns[next] }
    arrange()
    showSortOrder(isSorted ? sort.rawValue : nil)
  }

  mutating func showSortOrder(_ column: String?) {
    let order = column.map { "sorted by \($0)" } ?? "in published order"
    showMessage(order + (isInverted ? ", inverted" : ""))
  }

  /// Keeps the selection on its arena, or moves it to the first if that arena is gone.
  mutating func keepSelection() {
    if !arenas.contains(where: { $0.id == selectedArena }) { selectedArena = arenas.first?.id }
  }

  /// The rank of each arena's worst problem; 0 is the most severe.
  private var ranks: [UInt64: Int] {
    var ranks: [UInt64: Int] = [:]
    for problem in snapshot?.problems ?? [] {
      guard let id = problem.arenaID else { continue }
      let rank = Severity.allCases.firstIndex(of: problem.severity) ?? 9
      ranks[id] = min(ranks[id] ?? 9, rank)
    }
    return ranks
  }

  package func stateText(of arena: ArenaSnapshot) -> String {
    snapshot?.stateText(of: arena) ?? "n/a"
  }

  func matches(_ arena: ArenaSnapshot, _ text: String) -> Bool {
    Self.contains(arena.name.string, text)
  }
}

extension ArenaSnapshot {
  /// Failed allocations, locks and opens.
  var failures: UInt64 {
    saturatingSum([failedAllocations, failedLocks, failedOpens].compactMap(\.self))
  }
}
