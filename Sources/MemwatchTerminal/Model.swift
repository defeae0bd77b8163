// What the screen shows and what keys do to it. Pure: no curses, no files, no clock of its own.

package import MemwatchInspector

package enum View: String, Sendable, Equatable, CaseIterable {
  case arenas, secrets, map, events, findings, host, vaults, processes, history, output, help
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
  case redraw
  case quit(leaveRunning: Bool)
}

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
}

/// Something that needed a person; it stays until it is acknowledged.
package struct Alert: Equatable, Sendable {
  package var kind: ProblemKind
  package var arenaID: UInt64?
  package var text: String
  /// Milliseconds since 1970.
  package var since: UInt64
  package var overSince: UInt64?
  package var isOver: Bool { overSince != nil }
}

/// Where a list is on the screen.
package struct ScreenLayout: Equatable, Sendable {
  /// The rows that there is room for.
  package var pageRows = 10
  /// The first row of the list, and the item that is in it.
  package var top = 0
  package var firstItem = 0
  package init() {}
}

/// A line that is being typed.
package struct Prompt: Equatable, Sendable {
  package enum Kind: Sendable {
    case search, filter, write, writeView, leave, time, columns, record
  }
  package var kind: Kind
  package var text: String
  package var question: String
}

package struct Rates: Equatable, Sendable {
  package var opens: Double
  package var allocations: Double
  package var frees: Double
}

package struct Model: Sendable {
  package var view = View.arenas
  package private(set) var snapshot: Snapshot?
  package private(set) var mark: Snapshot? {
    didSet {
      markedCounts = Dictionary(
        (mark?.arenas ?? []).map { ($0.id, $0.secretCount) },
        uniquingKeysWith: { first, _ in first })
    }
  }
  /// Secrets of each arena at the mark.
  private var markedCounts: [UInt64: UInt64?] = [:]
  package private(set) var rates: [UInt64: Rates] = [:]
  /// Windows a second, by arena and label.
  package private(set) var labelRates: [String: Double] = [:]
  package private(set) var history = History()
  package private(set) var alerts: [Alert] = []
  private var newAlerts: [Alert] = []
  /// The time of the sample at which alerts were acknowledged last.
  private var acknowledgedAt: UInt64 = 0
  package private(set) var publishers: [Publisher] = []
  package private(set) var places: [Location] = []
  /// Read when its view is opened.
  package private(set) var host: Host?
  package private(set) var prompt: Prompt?
  package private(set) var message: String?
  package private(set) var isPaused = false
  /// Which sample of how many, where they come from a record.
  package private(set) var replay: (index: Int, count: Int)?
  package private(set) var pausedAt: UInt64 = 0
  package private(set) var intervalMs: Int
  package private(set) var sort = ArenaColumn.arena
  package private(set) var isSorted = false
  package private(set) var isInverted = false
  /// What each view shows only.
  private var filters: [View: String] = [:]
  package var filter: String { filters[view] ?? "" }
  package private(set) var search = ""
  package private(set) var problemIndex = 0
  package private(set) var selectedArena: UInt64?
  package private(set) var selectedProcess: UInt64?
  /// The rows that are selected in lists.
  package private(set) var selectedItem: [View: String] = [:]
  /// The columns that lists are sorted by; nil: as they come.
  package private(set) var sorting: [View: Int] = [:]
  /// The secrets of an arena, not by label.
  package private(set) var isOneByOne = false
  /// The chunk of the map that is shown page by page.
  package private(set) var chunkOfMap: String?
  /// The first line shown of a text view.
  package private(set) var scroll = 0
  /// The columns that a view shows, in their order; nil: all that there is room for.
  package private(set) var chosenColumns: [View: [String]] = [:]
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
  package private(set) var arenas: [ArenaSnapshot] = []

  package init(intervalMs: Int) { self.intervalMs = intervalMs }

  // MARK: - What comes from outside

  package mutating func update(_ new: Snapshot) {
    if let old = snapshot, old.process.publisherID == new.process.publisherID,
      new.sampledAt > old.sampledAt, new.process.state.isCurrent
    {
      let seconds = Double(new.sampledAt - old.sampledAt) / 1000
      let before = Dictionary(
        old.arenas.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
      rates = [:]
      labelRates = [:]
      for arena in new.arenas {
        guard let past = before[arena.id] else { continue }
        let then = Dictionary(
          past.labels.map { ($0.label, $0.opens) }, uniquingKeysWith: { first, _ in first })
        for label in arena.labels {
          guard let opens = label.opens, let earlier = then[label.label] ?? nil, opens >= earlier
          else { continue }
          labelRates["\(arena.id)/\(label.label)"] = Double(opens - earlier) / seconds
        }
        func rate(_ now: UInt64?, _ then: UInt64?) -> Double {
          guard let now, let then, now >= then else { return 0 }
          return Double(now - then) / seconds
        }
        rates[arena.id] = Rates(
          opens: rate(arena.opens, past.opens),
          allocations: rate(arena.allocations, past.allocations),
          frees: rate(arena.frees, past.frees))
      }
    } else {
      (rates, labelRates) = ([:], [:])
      if snapshot?.process.publisherID != new.process.publisherID { history = History() }
      if mark?.process.publisherID != new.process.publisherID { mark = nil }
    }
    let isFirst = snapshot == nil
    snapshot = new
    if new.process.state.isCurrent { history.add(new) }
    watch(new)
    arrange()
    // What is wrong is what a person came to see.
    if isFirst, let arena = problems.first?.arenaID, arenas.contains(where: { $0.id == arena }) {
      selectedArena = arena
    }
    problemIndex = min(problemIndex, max(0, problems.count - 1))
  }

  /// Shows a sample of a record: with the history, the alerts and the rates that who had watched all
  /// samples up to it would see. O(1) for the next sample, O(its index) for any other.
  package mutating func replay(_ samples: [Snapshot], at index: Int) {
    if replay.map({ $0.index + 1 }) != index {
      history = History()
      alerts = []
      for past in samples[..<index] {
        if snapshot?.process.publisherID != past.process.publisherID { history = History() }
        snapshot = past
        if past.process.state.isCurrent { history.add(past) }
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

  package mutating func update(_ discovery: Discovery) {
    publishers = discovery.publishers
    places = discovery.places
    if !publishers.contains(where: { $0.id == selectedProcess }) {
      selectedProcess = publishers.first?.id
    }
  }

  package mutating func update(_ host: Host) { self.host = host }

  package mutating func say(_ text: String) { message = text }

  /// Begins alerts, and ends them.
  private mutating func watch(_ snapshot: Snapshot) {
    let now = snapshot.problems.filter {
      $0.severity <= .differs
        || [.nextChunkWillFail, .mapsLow, .debugger, .openTooLong].contains($0.kind)
    }
    func isSame(_ alert: Alert, _ problem: Problem) -> Bool {
      alert.kind == problem.kind && alert.arenaID == problem.arenaID
    }
    for index in alerts.indices {
      if let problem = now.first(where: { isSame(alerts[index], $0) }) {
        alerts[index].text = problem.text
        alerts[index].overSince = nil
      } else if !alerts[index].isOver {
        alerts[index].overSince = snapshot.sampledAt
      }
    }
    for problem in now where !alerts.contains(where: { isSame($0, problem) }) {
      let alert = Alert(
        kind: problem.kind, arenaID: problem.arenaID, text: problem.text,
        since: snapshot.sampledAt)
      alerts.append(alert)
      newAlerts.append(alert)
    }
    // A publisher that makes up arenas makes up no memory here.
    if alerts.count > 1000 { alerts.removeFirst(alerts.count - 1000) }
  }

  /// The alerts that began since this was asked last.
  package mutating func takeNewAlerts() -> [Alert] {
    defer { newAlerts = [] }
    return newAlerts
  }

  // MARK: - What is shown

  /// The problems that the verdict line goes through.
  package var problems: [Problem] {
    (snapshot?.problems ?? []).filter { $0.severity != .note }
  }

  package var selected: ArenaSnapshot? { arenas.first { $0.id == selectedArena } }
  package var selectedRow: Int { arenas.firstIndex { $0.id == selectedArena } ?? 0 }

  private mutating func arrange() {
    guard let snapshot else { return }
    var arenas = snapshot.arenas
    if let filter = filters[.arenas] { arenas = arenas.filter { matches($0, filter) } }
    if isSorted {
      arenas.sort { a, b in
        switch sort {
        case .arena: a.name.string < b.name.string
        case .state: rank(a) < rank(b)
        case .lock: (a.lockState ?? "") < (b.lockState ?? "")
        case .protection: (a.protectionState ?? "") < (b.protectionState ?? "")
        case .open: (a.openWindows ?? 0) > (b.openWindows ?? 0)
        case .seal: (a.sealState ?? "") < (b.sealState ?? "")
        case .gate: (a.gate ?? "") < (b.gate ?? "")
        case .layout: (a.layout ?? "") < (b.layout ?? "")
        case .secrets: (a.secretCount ?? 0) > (b.secretCount ?? 0)
        case .since: (growth(of: a) ?? .min) > (growth(of: b) ?? .min)
        case .inUse: (a.bytesInUse ?? 0) > (b.bytesInUse ?? 0)
        case .locked: (a.bytesLocked ?? 0) > (b.bytesLocked ?? 0)
        }
      }
    }
    if isInverted { arenas.reverse() }
    self.arenas = arenas
    keepSelection()
  }

  /// The secrets that an arena has more than at the mark; nil where there is none, or it is not known.
  package func growth(of arena: ArenaSnapshot) -> Int64? {
    guard mark != nil, let now = arena.secretCount else { return nil }
    // An arena that is new has grown from nothing.
    guard let then = markedCounts[arena.id, default: 0] else { return nil }
    return now >= then ? Int64(clamping: now - then) : -Int64(clamping: then - now)
  }

  /// The selection stays on its arena; when that is gone, it goes to the first.
  private mutating func keepSelection() {
    if !arenas.contains(where: { $0.id == selectedArena }) { selectedArena = arenas.first?.id }
  }

  private func rank(_ arena: ArenaSnapshot) -> Int {
    snapshot?.problem(of: arena).map { Severity.allCases.firstIndex(of: $0.severity)! } ?? 9
  }

  private func matches(_ arena: ArenaSnapshot, _ text: String) -> Bool {
    Self.holds(arena.name.string, text)
  }

  /// What a view of text shows.
  package var lines: [String] {
    switch view {
    case .findings: findingLines
    case .host: host?.lines ?? []
    case .vaults: snapshot?.vaultLines ?? []
    case .output: output ?? []
    case .help: helpLines
    case .arenas, .secrets, .map, .events, .processes, .history: []
    }
  }

  private var findingLines: [String] {
    guard let snapshot else { return [] }
    if snapshot.process.state == .exited { return Array(snapshot.postMortemLines.dropFirst()) }
    guard let audit = snapshot.audit else { return ["not audited yet: A audits now"] }
    let summary = "audited at \(clock(audit.at)) in \(audit.durationMs) ms: \(snapshot.auditCounts)"
    let found = snapshot.findingLines.dropFirst(2)
    return [summary] + (audit.reason.map { [$0] } ?? []) + [""]
      + (found.isEmpty ? ["no findings"] : Array(found))
  }

  package var helpLines: [String] {
    let rows = Binding.all.map { binding in
      [binding.keys.map(\.name).joined(separator: " "), binding.help]
    }
    return table(rows) + [
      "^Z  suspend", "",
      "STATE   ok, warning, PROBLEM, DIFFERS (from the kernel), n/a (not known);",
      "        gone, stopped, detached: so is the process, and the row is as last seen",
      "LOCK    locked, partial, unlocked, off (not asked for)",
      "PROT    closed, read, r-w: the most open state of any thread now",
      "SEAL    open, frozen (read until destroyed), sealed (mapping fixed until exit)",
      "GATE    key N, pages (mprotect), none",
      "",
      "memwatch changes nothing in the process that it watches, and shows no contents:",
      "it reads a page of counts and states, and /proc; never another process' memory.",
    ]
  }

  // MARK: - Keys

  package mutating func handle(_ key: Key, now: UInt64) -> [Effect] {
    message = nil
    if prompt != nil { return type(key) }
    if case .click(let row) = key {
      click(row)
      return []
    }
    guard let action = Binding.action(for: key) else { return [] }
    return perform(action, now: now)
  }

  private mutating func perform(_ action: Action, now: UInt64) -> [Effect] {
    switch action {
    case .down: move(1)
    case .up: move(-1)
    case .pageDown: move(max(1, pageRows - 1))
    case .pageUp: move(-max(1, pageRows - 1))
    case .top: move(-1_000_000)
    case .bottom: move(1_000_000)
    case .back:
      if view != .arenas, !filter.isEmpty {
        setFilter("")
      } else if view == .secrets, isOneByOne {
        isOneByOne = false
      } else if view == .map, isPageByPage {
        selectedItem[.map] = chunkOfMap
        chunkOfMap = nil
      } else if view != .arenas, snapshot != nil {
        show(.arenas)
      } else {
        clearSearch()
      }
    case .enter:
      if view == .arenas, selected != nil {
        isOneByOne = false
        show(.secrets)
      } else if view == .secrets, !isOneByOne {
        isOneByOne = true
        selectedItem[.secrets] = nil
      } else if view == .map, !isPageByPage, let row = selectedListRow {
        chunkOfMap = row.id
        selectedItem[.map] = nil
        if !isPageByPage { chunkOfMap = nil }
      }
      if view == .events { jump() }
      if view == .processes, let publisher = publishers.first(where: { $0.id == selectedProcess }) {
        show(.arenas)
        return [.attach(publisher)]
      }
    case .nextView:
      let views = View.allCases.filter { $0 != .help && ($0 != .output || output != nil) }
      let at = views.firstIndex(of: view) ?? views.count - 1
      show(views[(at + 1) % views.count])
    case .arenas: if snapshot != nil { show(.arenas) }
    case .secrets: if snapshot != nil { show(.secrets) }
    case .map: if snapshot != nil { show(.map) }
    case .events: if snapshot != nil { show(.events) }
    case .history: if snapshot != nil { show(.history) }
    case .findings: if snapshot != nil { show(.findings) }
    case .host: show(.host)
    case .vaults: if snapshot != nil { show(.vaults) }
    case .processes: show(.processes)
    case .output:
      if output == nil {
        say("no output: memwatch did not start the process (memwatch run)")
      } else {
        show(.output)
      }
    case .search: prompt = Prompt(kind: .search, text: "", question: "search: ")
    case .filter: prompt = Prompt(kind: .filter, text: filter, question: "show only: ")
    case .next: goOn(1)
    case .previous: goOn(-1)
    case .sort:
      if let listing {
        let next = (sorting[view].map { $0 + 1 } ?? 0)
        sorting[view] = next < listing.columns.count ? next : nil
        let name = sorting[view].map { listing.columns[$0].title.filter { !"v^".contains($0) } }
        say("sorted by \(name ?? "what it comes by")\(isInverted ? ", inverted" : "")")
        break
      }
      let columns = ArenaColumn.allCases
      sort = isSorted ? columns[(columns.firstIndex(of: sort)! + 1) % columns.count] : .arena
      isSorted = true
      arrange()
      say("sorted by \(sort.rawValue)\(isInverted ? ", inverted" : "")")
    case .columns:
      let now = chosenColumns[view] ?? availableColumns
      guard !now.isEmpty else {
        say("this view has no columns")
        break
      }
      prompt = Prompt(
        kind: .columns, text: now.joined(separator: ", "), question: "columns (empty: all): ")
    case .record:
      guard recording == nil else { return [.record(nil)] }
      guard let snapshot, replay == nil else {
        say("only a live process can be recorded")
        break
      }
      prompt = Prompt(
        kind: .record, text: fileName(snapshot, now, "record"), question: "record to: ")
    case .invert:
      isInverted.toggle()
      arrange()
    case .mark:
      mark = snapshot
      say("marked: each view tells what changed since; m marks anew")
    case .pause:
      isPaused.toggle()
      pausedAt = now
      return isPaused ? [] : [.sample]
    case .refresh: return [.sample]
    case .acknowledge:
      let over = alerts.count { $0.isOver }
      alerts.removeAll { $0.isOver }
      acknowledgedAt = snapshot?.sampledAt ?? 0
      say("\(counted(over, "alert")) acknowledged; \(alerts.count) go on")
    case .stepForward, .stepBack:
      guard replay != nil else {
        say("only a replay can step: memwatch replay FILE")
        return []
      }
      isPaused = true
      pausedAt = now
      return [.step(action == .stepForward ? 1 : -1)]
    case .goToTime:
      guard replay != nil else {
        say("only a replay can go back: memwatch replay FILE")
        return []
      }
      prompt = Prompt(kind: .time, text: "", question: "go to (14:02:11): ")
    case .audit:
      guard replay == nil else {
        say("a record cannot be audited")
        return []
      }
      guard snapshot != nil, !isPaused else { return [] }
      say("audited: claims and mappings were compared")
      return [.audit]
    case .slower:
      intervalMs = min(intervalMs * 2, 3_600_000)
      say("every \(seconds(intervalMs))")
    case .faster:
      intervalMs = max(intervalMs / 2, 50)
      say("every \(seconds(intervalMs))")
    case .write:
      guard let snapshot else { return [] }
      prompt = Prompt(
        kind: .write, text: fileName(snapshot, now, "txt"),
        question: "write all to (.txt, .json, .csv; .svg: this screen): ")
    case .writeView:
      guard let snapshot else { return [] }
      prompt = Prompt(
        kind: .writeView, text: fileName(snapshot, now, "txt", view.rawValue + "-"),
        question: "write this view to (.txt, .json, .csv, .svg): ")
    case .help: show(view == .help ? .arenas : .help)
    case .quit:
      if view != .arenas, snapshot != nil {
        show(.arenas)
      } else {
        return quit()
      }
    case .quitNow: return quit()
    case .redraw: return [.redraw]
    }
    return []
  }

  /// A name for a new file.
  private func fileName(
    _ snapshot: Snapshot, _ now: UInt64, _ ending: String, _ what: String = ""
  ) -> String {
    let pid = snapshot.process.pid.map { "-\($0)" } ?? ""
    let time = clock(now).filter { $0 != ":" }
    let name = snapshot.process.name.string.map { $0.isSafeInFileName ? $0 : "_" }
    return "memwatch-\(String(name.prefix(64)))\(pid)-\(what)\(time).\(ending)"
  }

  /// The titles of the columns of this view.
  private var availableColumns: [String] {
    view == .arenas
      ? ArenaColumn.allCases.map(\.rawValue)
      : (listing?.columns ?? []).map { $0.title.filter { !"v^".contains($0) } }
  }

  private mutating func choose(_ text: String) {
    let wanted = text.split(separator: ",").map {
      $0.split(separator: " ").joined(separator: " ").uppercased()
    }.filter { !$0.isEmpty }
    let known = availableColumns
    if let unknown = wanted.first(where: { !known.contains($0) }) {
      return say("no column \(SafeText(unknown)); there are: \(known.joined(separator: ", "))")
    }
    chosenColumns[view] = wanted.isEmpty || wanted == known ? nil : wanted
  }

  /// A row of the screen was clicked on.
  private mutating func click(_ row: Int) {
    let index = layout.firstItem + row - layout.top
    guard row >= layout.top, row < layout.top + layout.pageRows else { return }
    switch view {
    case .arenas: if arenas.indices.contains(index) { selectedArena = arenas[index].id }
    case .processes:
      if publishers.indices.contains(index) { selectedProcess = publishers[index].id }
    case .secrets, .map, .events:
      if let rows = listing?.rows, rows.indices.contains(index) {
        selectedItem[view] = rows[index].id
      }
    case .findings, .host, .vaults, .history, .output, .help: break
    }
  }

  private mutating func quit() -> [Effect] {
    guard let child = runningChild else { return [.quit(leaveRunning: false)] }
    prompt = Prompt(
      kind: .leave, text: "",
      question: "leave process \(child) running? y: yes, n: end it, Esc: stay here ")
    return []
  }

  private mutating func show(_ new: View) {
    view = new
    scroll = 0
    if new == .output, let output { scroll = max(0, output.count - pageRows) }
  }

  private mutating func clearSearch() {
    search = ""
    setFilter("")
  }

  private mutating func move(_ distance: Int) {
    switch view {
    case .arenas:
      guard !arenas.isEmpty else { return }
      selectedArena = arenas[min(max(0, selectedRow + distance), arenas.count - 1)].id
    case .processes:
      guard !publishers.isEmpty else { return }
      let at = publishers.firstIndex { $0.id == selectedProcess } ?? 0
      selectedProcess = publishers[min(max(0, at + distance), publishers.count - 1)].id
    case .secrets, .map, .events:
      guard let rows = listing?.rows, !rows.isEmpty else { return }
      let row = min(max(0, selectedRow(of: rows) + distance), rows.count - 1)
      selectedItem[view] = rows[row].id
    case .history: break
    case .findings, .host, .vaults, .output, .help:
      scroll = min(max(0, scroll + distance), max(0, lines.count - pageRows))
    }
  }

  /// From an event to its arena.
  private mutating func jump() {
    guard let row = selectedListRow,
      let event = snapshot?.events.first(where: { "\($0.serial)" == row.id })
    else { return }
    guard let arena = event.arenaID, snapshot?.arenas.contains(where: { $0.id == arena }) == true
    else { return say("that event is of no arena that is there") }
    filters[.arenas] = nil
    arrange()
    selectedArena = arena
    show(.arenas)
  }

  private var selectedListRow: ListModel.Row? {
    guard let rows = listing?.rows, !rows.isEmpty else { return nil }
    return rows[min(selectedRow(of: rows), rows.count - 1)]
  }

  /// What a sample need hold one by one for this view, and for a record.
  package var detail: Inspector.Detail {
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
    return view == .events && sorting[view] == nil && !isInverted ? max(0, rows.count - 1) : 0
  }

  /// To the next match of the search, or to the next problem.
  private mutating func goOn(_ step: Int) {
    if search.isEmpty {
      guard !problems.isEmpty else { return say("no problem to go to") }
      // First to the problem that the verdict names; from there to the next.
      let isThere = problems[problemIndex].arenaID.map { $0 == selectedArena } ?? true
      if isThere { problemIndex = (problemIndex + step + problems.count) % problems.count }
      if let arena = problems[problemIndex].arenaID, arenas.contains(where: { $0.id == arena }) {
        selectedArena = arena
      }
    } else {
      find(step: step, includingThis: false)
    }
  }

  private mutating func find(step: Int, includingThis: Bool) {
    if let rows = listing?.rows, !rows.isEmpty {
      let start = selectedRow(of: rows) + (includingThis ? 0 : step)
      if let index = rows.match(search, from: start, step: step) {
        selectedItem[view] = rows[index].id
        return
      }
      return say("nothing here holds \(search)")
    }
    let start = selectedRow + (includingThis ? 0 : step)
    let shown = arenas
    guard !shown.isEmpty else { return }
    for offset in 0..<shown.count {
      let index = ((start + offset * step) % shown.count + shown.count) % shown.count
      if matches(shown[index], search) {
        selectedArena = shown[index].id
        return
      }
    }
    say("no arena's name holds \(search)")
  }

  private mutating func type(_ key: Key) -> [Effect] {
    guard var line = prompt else { return [] }
    if line.kind == .leave {
      switch key {
      case .character("y"), .character("Y"): return [.quit(leaveRunning: true)]
      case .character("n"), .character("N"): return [.quit(leaveRunning: false)]
      case .interrupt: return [.quit(leaveRunning: false)]
      case .escape, .backspace, .character("q"): prompt = nil
      default: break
      }
      return []
    }
    switch key {
    case .interrupt: return quit()
    case .escape:
      if line.kind == .search { search = "" }
      prompt = nil
      return []
    case .backspace: if !line.text.isEmpty { line.text.removeLast() }
    case .character(let character):
      if character.asciiValue == 21 {  // ^U
        line.text = ""
      } else if character.columns > 0, line.text.count < 200 {
        line.text.append(character)
      }
    case .enter:
      prompt = nil
      switch line.kind {
      case .write: return line.text.isEmpty ? [] : [.write(line.text)]
      case .writeView: return line.text.isEmpty ? [] : [.writeView(line.text)]
      case .filter: setFilter(line.text)
      case .columns: choose(line.text)
      case .record: return line.text.isEmpty ? [] : [.record(line.text)]
      case .time: return line.text.isEmpty ? [] : [.goTo(time: line.text)]
      case .search, .leave: break
      }
      return []
    default: break
    }
    prompt = line
    switch line.kind {
    case .search:
      search = line.text
      if !search.isEmpty { find(step: 1, includingThis: true) }
    case .filter: setFilter(line.text)
    case .write, .writeView, .leave, .time, .columns, .record: break
    }
    return []
  }

  private mutating func setFilter(_ text: String) {
    filters[view] = text.isEmpty ? nil : text
    arrange()
  }
}

extension Character {
  fileprivate var isSafeInFileName: Bool { isLetter || isNumber || "-_.".contains(self) }
}

/// `1 s`, `0.5 s`, `250 ms`.
func seconds(_ ms: Int) -> String {
  if ms < 500 { return "\(ms) ms" }
  return ms % 1000 == 0 ? "\(ms / 1000) s" : "\(ms / 1000).\(ms % 1000 / 100) s"
}
