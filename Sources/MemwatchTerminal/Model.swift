// What the screen shows and what keys do to it. Pure: no curses, no files, no clock of its own.

package import MemwatchInspector

package enum View: String, Sendable, Equatable, CaseIterable {
  case arenas, secrets, map, events, findings, host, vaults, processes, history, output, help
  /// Everything of the selected arena.
  case detail

  var isOfAProcess: Bool { ![.host, .processes, .output, .help].contains(self) }
}

/// What the model asks its surroundings for.
package enum Effect: Equatable, Sendable {
  case sample
  /// Another sample of a replay: so many on, or the first at or after a time of day.
  case step(Int)
  case goTo(time: String)
  /// A sample that compares the page with the kernel.
  case audit
  case write(String)
  /// What the view shows.
  case writeView(String)
  case attach(Publisher)
  /// Writes each sample to a new file from now on, or no more.
  case record(String?)
  /// A text for the terminal's clipboard.
  case copy(String)
  case redraw
  case quit(leaveRunning: Bool)
}

/// Where a list is on the screen.
package struct ScreenLayout: Equatable, Sendable {
  /// The rows that there is room for.
  package var pageRows = 10
  /// The first row of the list, and the item that is in it.
  package var top = 0
  package var firstItem = 0
  /// The columns that there was room for, and the list that they are of.
  package var columns: [String] = []
  package var listID = ""
  /// What a click does as a key would: tabs, and the keys of the footer.
  package var spots: [Spot] = []
  /// The titles of the list's columns, on their row.
  package var titles: [Title] = []
  package var titlesRow: Int?
  /// Texts are wrapped at this column.
  package var width = Int.max
  package init() {}

  package struct Spot: Equatable, Sendable {
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
  /// The last sample, where one of before is shown.
  var newest: Snapshot?
  package internal(set) var mark: Snapshot?
  package internal(set) var timeline = Timeline()
  /// Secrets of each arena in the sample that changes are told from.
  var baseCounts: [UInt64: UInt64?] = [:]
  package internal(set) var rates: [UInt64: Rates] = [:]
  /// Windows a second, by arena and label.
  package internal(set) var labelRates: [String: Double] = [:]
  package internal(set) var histories = Histories()
  /// The arena whose history is looked at; nil: the process.
  package internal(set) var historyArena: UInt64?
  package internal(set) var alerts: [Alert] = []
  var newAlerts: [Alert] = []
  /// The time of the sample at which alerts were acknowledged last.
  var acknowledgedAt: Timestamp = 0
  package internal(set) var summaries: [UInt64: ProcessSummary] = [:]
  package internal(set) var allPublishers: [Publisher] = []
  package internal(set) var places: [Location] = []
  /// Read when its view is opened.
  package internal(set) var host: Host?
  package internal(set) var prompt: Prompt?
  package internal(set) var checklist: Checklist?
  package internal(set) var message: String?
  /// What is waited for, where no process is attached yet.
  package var waiting: String?
  package internal(set) var isPaused = false
  /// Which sample of how many, where they come from a record.
  package internal(set) var replay: (index: Int, count: Int)?
  package internal(set) var pausedAt: Timestamp = 0
  package internal(set) var intervalMs: Int
  package internal(set) var sort = ArenaColumn.state
  package internal(set) var isSorted = true
  /// The lists that are shown from their end.
  var inverted: Set<String> = []
  package var isInverted: Bool { inverted.contains(listID) }
  /// What each view shows only.
  var filters: [View: String] = [:]
  package var filter: String { filters[view] ?? "" }
  package internal(set) var search = ""
  /// The view that the help was opened from.
  var viewBeforeHelp: View?
  package internal(set) var problemIndex = 0
  /// Until the first key, the selection goes to the arena of the worst problem.
  var followsProblem = true
  /// The view that the details were opened from.
  var viewBeforeDetail: View?
  /// How many events there were when the events were looked at last.
  var seenEvents: UInt64?
  package var newEvents: Int {
    guard let count = snapshot?.eventCount, let seenEvents, count > seenEvents else { return 0 }
    return Int(clamping: count - seenEvents)
  }
  package internal(set) var selectedArena: UInt64? {
    didSet { if selectedArena != oldValue { shownLabel = nil } }
  }
  package internal(set) var selectedProcess: UInt64?
  /// The rows that are selected in lists.
  package internal(set) var selectedItem: [View: String] = [:]
  /// The columns that lists are sorted by; nil: as they come.
  var sortings: [String: Int] = [:]
  package var sorting: Int? { sortings[listID] }
  /// The label whose secrets are shown one by one.
  package internal(set) var shownLabel: String?
  /// Whether the labels are those of all arenas.
  package internal(set) var showsAllLabels = false
  /// How long a window may stay open before it is told.
  package var openLimitMs: UInt64 = 60_000
  package var isOneByOne: Bool { shownLabel != nil }
  /// The chunk of the map that is shown page by page.
  package internal(set) var chunkOfMap: String?
  /// The first line shown of a text view.
  package internal(set) var scroll = 0
  /// The line of a text that was found.
  var foundLine: Int?
  /// The columns that a view shows, in their order; nil: all that there is room for.
  var columnChoices: [String: [String]] = [:]
  package var chosenColumns: [String]? { columnChoices[listID] }
  /// The file that samples are written to.
  package var recording: String?
  /// Where the renderer put the list.
  package var layout = ScreenLayout()
  package var output: [String]?
  /// The command that `memwatch run` started and that would go on without the screen.
  package var runningChild: Int32?
  /// How many list rows the renderer had room for: what a page is.
  package var pageRows: Int { layout.pageRows }
  /// The arenas that are shown, in the order of the screen.
  package internal(set) var arenas: [ArenaSnapshot] = []

  package init(intervalMs: Int) { self.intervalMs = intervalMs }

  // MARK: - What comes from outside

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
      histories.add(new)
    }
    watch(new)
    if isPast {
      newest = new
      return
    }
    let isFirst = snapshot == nil
    if !isSame { followsProblem = true }
    snapshot = new
    if seenEvents == nil || view == .events { seenEvents = new.eventCount }
    arrange()
    // What is wrong is what a person came to see.
    if isFirst || followsProblem, let arena = problems.first?.arenaID,
      arenas.contains(where: { $0.id == arena })
    {
      selectedArena = arena
    }
    problemIndex = min(problemIndex, max(0, problems.count - 1))
  }

  /// Shows a sample of a record: with the history, the alerts and the rates that who had watched all
  /// samples up to it would see. O(1) for the next sample, O(its index) for any other.
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
        watch(past)
      }
      alerts.removeAll { $0.overSince.map { $0 <= acknowledgedAt } ?? false }
      if index == 0 { snapshot = nil }
    }
    let arena = selectedArena
    update(samples[index])
    newAlerts = []
    if index == 0, replay != nil {
      selectedArena = arena
      arrange()
    }
    replay = (index, samples.count)
  }

  /// - Parameter summaries: of each process, by its publisher's number; they come the worst first.
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

  package mutating func say(_ text: String) { message = text }

  // MARK: - What is shown

  /// The problems that the verdict line goes through.
  package var problems: [Problem] {
    (snapshot?.problems ?? []).filter { $0.severity != .note }
  }

  /// Where views are left to: without a process to look at, the list of processes.
  var home: View { snapshot == nil ? .processes : .arenas }

  /// The list of this view: what is sorted and chosen there stays there.
  package var listID: String {
    switch view {
    case .secrets where isOneByOne: "secrets/one"
    case .secrets where showsAllLabels: "secrets/all"
    case .map where isPageByPage: "map/pages"
    default: view.rawValue
    }
  }

  package var selected: ArenaSnapshot? { arenas.first { $0.id == selectedArena } }
  package var selectedRow: Int { arenas.firstIndex { $0.id == selectedArena } ?? 0 }

  /// What a sample need hold one by one for this view, and for a record.
  package var detail: Inspector.SampleDetail {
    if recording != nil { return .all }
    return switch view {
    case .secrets: .secrets
    case .map: .pages
    default: .none
    }
  }

  /// Where the selection of a list is. Events follow the newest until another one is selected.
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
