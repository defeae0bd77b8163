// The state of the screen. Pure: no curses, no files, no clock.

package import MemwatchInspector

package enum View: String, Sendable, Equatable, CaseIterable {
  case arenas
  case secrets = "labels"
  case map, events
  case findings = "audit"
  case host, vaults, processes, history, output, help
  /// All details of the selected arena.
  case detail

  var showsProcess: Bool { ![.host, .processes, .output, .help].contains(self) }
}

/// A side effect that the model requests from the screen loop.
package enum Effect: Equatable, Sendable {
  case sample
  /// Replay: steps by a number of samples, or goes to a time.
  case step(Int)
  case goTo(time: String)
  /// Takes a sample with an audit.
  case audit
  case write(String)
  /// Writes what the view shows.
  case writeView(String)
  case attach(Publisher)
  /// Starts recording samples to a new file; nil: stops.
  case record(String?)
  /// Sends text to the terminal's clipboard.
  case copy(String)
  /// Saves settings in the configuration file.
  case save(SavedSettings)
  case redraw
  case quit(leaveRunning: Bool)
}

/// Where the renderer put things: for paging and for mouse clicks.
package struct ScreenLayout: Equatable, Sendable {
  /// The number of visible list rows.
  package var pageRows = 10
  /// The screen row of the list's first visible item, and that item's index.
  package var top = 0
  package var firstItem = 0
  /// The visible columns, and the list they belong to.
  package var columns: [String] = []
  package var listID = ""
  /// Areas that act like a key when clicked: tabs and footer items.
  package var clickTargets: [ClickTarget] = []
  /// The column titles and the row they are on.
  package var titles: [Title] = []
  package var titlesRow: Int?
  /// The width that texts are wrapped to.
  package var width = Int.max
  package init() {}

  package struct ClickTarget: Equatable, Sendable {
    package var row: Int
    package var columns: Range<Int>
    package var key: Key
  }

  package struct Title: Equatable, Sendable {
    package var columns: Range<Int>
    package var title: String
  }
}

package struct Rates: Equatable, Sendable {
  package var opens: Double
  package var allocations: Double
  package var frees: Double
}

package struct Model: Sendable {
  package var view = View.arenas
  package internal(set) var snapshot: Snapshot?
  /// The latest sample, while an earlier one is shown.
  var newest: Snapshot?
  package internal(set) var mark: Snapshot?
  package internal(set) var timeline = Timeline()
  /// The secret count of each arena in the baseline sample.
  var baseCounts: [UInt64: UInt64?] = [:]
  package internal(set) var rates: [UInt64: Rates] = [:]
  /// Windows per second, by arena and label.
  package internal(set) var labelRates: [String: Double] = [:]
  package internal(set) var histories = Histories()
  /// The arena whose history is shown; nil: the process.
  package internal(set) var historyArena: UInt64?
  package internal(set) var alerts: [Alert] = []
  var newAlerts: [Alert] = []
  /// The time of the sample at which alerts were last acknowledged.
  var acknowledgedAt: Timestamp = 0
  package internal(set) var summaries: [UInt64: ProcessSummary] = [:]
  package internal(set) var allPublishers: [Publisher] = []
  package internal(set) var places: [Location] = []
  /// Read when the host view is opened.
  package internal(set) var host: Host?
  package internal(set) var prompt: Prompt?
  package internal(set) var checklist: Checklist?
  package internal(set) var message: String?
  /// The header while no process is attached: what the screen waits for.
  package var waiting: String?
  package internal(set) var isPaused = false
  /// The position in a replay.
  package internal(set) var replay: (index: Int, count: Int)?
  package internal(set) var pausedAt: Timestamp = 0
  package internal(set) var intervalMs: Int
  package internal(set) var sort = ArenaColumn.state
  package internal(set) var isSorted = true
  /// The lists shown in reverse order.
  var inverted: Set<String> = []
  package var isInverted: Bool { inverted.contains(listID) }
  /// The filter text of each view.
  var filters: [View: String] = [:]
  package var filter: String { filters[view] ?? "" }
  package internal(set) var search = ""
  /// The view to return to from the help.
  var viewBeforeHelp: View?
  package internal(set) var problemIndex = 0
  /// Until the first key press, the selection follows the worst problem.
  var followsProblem = true
  /// The view to return to from the details.
  var viewBeforeDetail: View?
  /// The event count when the events view was last shown.
  var seenEvents: UInt64?
  package var newEvents: Int {
    guard let count = snapshot?.eventCount, let seenEvents, count > seenEvents else { return 0 }
    return Int(clamping: count - seenEvents)
  }
  package internal(set) var selectedArena: UInt64? {
    didSet { if selectedArena != oldValue { shownLabel = nil } }
  }
  package internal(set) var selectedProcess: UInt64?
  /// The id of the selected row in each list view.
  package internal(set) var selectedItem: [View: String] = [:]
  /// The column that each list is sorted by; nil: the natural order.
  var sortings: [String: Int] = [:]
  package var sorting: Int? { sortings[listID] }
  /// The label whose individual secrets are shown.
  package internal(set) var shownLabel: String?
  /// Whether the labels view covers all arenas.
  package internal(set) var showsAllLabels = false
  /// The samples of a record have their own interval.
  private var isReplaying = false
  /// Shows a few samples once: their history has each of them, on an axis of their own.
  var isPicture = false
  /// How long a window may stay open before a warning.
  package var openLimitMs: UInt64 = 60_000
  package var isOneByOne: Bool { shownLabel != nil }
  /// The map row whose pages are shown.
  package internal(set) var chunkOfMap: String?
  /// The first visible line of a text view.
  package internal(set) var scroll = 0
  /// The matching line in a text view.
  var matchingLine: Int?
  /// The columns chosen for a list, in order; nil: as many as fit.
  var columnChoices: [String: [String]] = [:]
  package var chosenColumns: [String]? { columnChoices[listID] }
  /// The file that samples are recorded to.
  package var recording: String?
  /// The layout of the last frame.
  package var layout = ScreenLayout()
  package var output: [String]?
  /// The pid of a command started by `memwatch run` that is still running.
  package var runningChild: Int32?
  /// The number of rows in a page, for page keys.
  package var pageRows: Int { layout.pageRows }
  /// The visible arenas, in display order.
  package internal(set) var arenas: [ArenaSnapshot] = []

  /// The secrets of the sample shown by label, while they are shown.
  private(set) var secretGroups: SecretGroups?

  package init(intervalMs: Int) { self.intervalMs = intervalMs }

  // MARK: - Input

  package mutating func update(_ new: Snapshot) {
    let isSame = lastSample?.process.publisherID == new.process.publisherID
    if isSame {
      if !isPast { setRates(snapshot, new) }
    } else {
      (rates, labelRates) = ([:], [:])
      (timeline, histories, newest, historyArena) = (Timeline(), Histories(), nil, nil)
      seenEvents = nil
      if mark?.process.publisherID != new.process.publisherID { mark = nil }
    }
    if new.process.state.isCurrent {
      timeline.add(new)
      histories.add(new, every: isPicture || isReplaying ? 0 : intervalMs)
    }
    updateAlerts(new)
    if isPast {
      newest = new
      return
    }
    let isFirst = snapshot == nil
    if !isSame { followsProblem = true }
    snapshot = new
    groupSecrets()
    if seenEvents == nil || view == .events { seenEvents = new.eventCount }
    arrange()
    // Select the arena with the worst problem first.
    if isFirst || followsProblem, let arena = problems.first?.arenaID,
      arenas.contains(where: { $0.id == arena })
    {
      selectedArena = arena
    }
    problemIndex = min(problemIndex, max(0, problems.count - 1))
  }

  /// Shows a sample of a record, with the history, alerts and rates that a viewer of all samples up
  /// to it would see. O(1) for the next sample, O(index) for any other.
  package mutating func replay(_ samples: [Snapshot], at index: Int) {
    if replay.map({ $0.index + 1 }) != index {
      (timeline, histories, newest) = (Timeline(), Histories(), nil)
      alerts = []
      for past in samples[..<index] {
        if snapshot?.process.publisherID != past.process.publisherID {
          (timeline, histories) = (Timeline(), Histories())
        }
        snapshot = past
        if past.process.state.isCurrent {
          timeline.add(past)
          histories.add(past)
        }
        updateAlerts(past)
      }
      alerts.removeAll { $0.overSince.map { $0 <= acknowledgedAt } ?? false }
      if index == 0 { snapshot = nil }
    }
    let arena = selectedArena
    isReplaying = true
    update(samples[index])
    newAlerts = []
    if index == 0, replay != nil {
      selectedArena = arena
      arrange()
    }
    replay = (index, samples.count)
  }

  /// - Parameter summaries: by publisher id. The worst processes come first.
  package mutating func update(
    _ discovery: Discovery, _ summaries: [UInt64: ProcessSummary] = [:]
  ) {
    self.summaries = summaries
    func rank(_ publisher: Publisher) -> Int {
      guard publisher.state.isCurrent else { return Severity.allCases.count + 1 }
      return summaries[publisher.id]?.severity.flatMap { Severity.allCases.firstIndex(of: $0) }
        ?? Severity.allCases.count
    }
    allPublishers = discovery.publishers.enumerated().sorted { a, b in
      (rank(a.element), a.offset) < (rank(b.element), b.offset)
    }.map(\.element)
    places = discovery.places
    if !publishers.contains(where: { $0.id == selectedProcess }) {
      selectedProcess = publishers.first?.id
    }
  }

  package mutating func update(_ host: Host) { self.host = host }

  package mutating func showMessage(_ text: String) { message = text }

  mutating func groupSecrets() {
    guard view == .secrets, let snapshot else {
      secretGroups = nil
      return
    }
    if secretGroups?.isMade(from: snapshot) != true { secretGroups = SecretGroups(snapshot) }
  }

  // MARK: - What is shown

  /// The secrets of a snapshot by label. O(1) for the newest while they are shown, else O(secrets).
  func secretGroups(in snapshot: Snapshot) -> SecretGroups {
    if let secretGroups, secretGroups.isMade(from: snapshot) { return secretGroups }
    return SecretGroups(snapshot)
  }

  /// The problems that the verdict line cycles through.
  package var problems: [Problem] {
    (snapshot?.problems ?? []).filter { $0.severity != .note }
  }

  /// The view that `q` returns to: the arenas, or the processes if none is attached.
  var home: View { snapshot == nil ? .processes : .arenas }

  /// Identifies the list on the screen; sorting and columns are kept per list.
  package var listID: String {
    switch view {
    case .secrets where isOneByOne: "labels/one"
    case .secrets where showsAllLabels: "labels/all"
    case .map where isPageByPage: "map/pages"
    default: view.rawValue
    }
  }

  package var selected: ArenaSnapshot? { arenas.first { $0.id == selectedArena } }
  package var selectedRow: Int { arenas.firstIndex { $0.id == selectedArena } ?? 0 }

  /// The detail that samples need for this view and for recording.
  package var detail: Inspector.SampleDetail {
    if recording != nil { return .all }
    return switch view {
    case .secrets: .secrets
    case .map: .pages
    default: .none
    }
  }

  /// The index of the selected row. The events view follows the newest event until one is selected.
  package func selectedRow(of rows: ListModel.Rows) -> Int {
    if let id = selectedItem[view], let row = rows.firstIndex(ofID: id) { return row }
    return view == .events && sorting == nil && !isInverted ? max(0, rows.count - 1) : 0
  }
}

/// `1 s`, `0.5 s`, `250 ms`.
func seconds(_ ms: Int) -> String {
  if ms < 500 { return "\(ms) ms" }
  return ms % 1000 == 0 ? "\(ms / 1000) s" : "\(ms / 1000).\(ms % 1000 / 100) s"
}
