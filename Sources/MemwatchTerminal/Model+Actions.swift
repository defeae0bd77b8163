// Key handling: keys change the model and return effects; they draw nothing.

package import MemwatchInspector

extension Model {
  package mutating func handle(_ key: Key, now: Timestamp) -> [Effect] {
    message = nil
    if key != .resize { followsProblem = false }
    if case .paste(let text) = key {
      paste(text)
      return []
    }
    if prompt != nil { return type(key) }
    if checklist != nil { return handleChecklist(key) }
    if case .click(let row, let column) = key {
      if let spot = layout.clickTargets.first(where: {
        $0.row == row && $0.columns.contains(column)
      }) {
        return handle(spot.key, now: now)
      }
      click(row, column)
      return []
    }
    guard let action = Binding.action(for: key) else {
      if !key.name.isEmpty { showMessage("\(key.name) does nothing here; ? for help") }
      return []
    }
    if snapshot == nil, action.needsProcess {
      showMessage("no process is attached\(allPublishers.isEmpty ? "" : ": Enter attaches to one")")
      return []
    }
    return perform(action, now: now)
  }

  mutating func perform(_ action: Action, now: Timestamp) -> [Effect] {
    switch action {
    case .down: move(1)
    case .up: move(-1)
    case .pageDown: move(max(1, pageRows - 1))
    case .pageUp: move(-max(1, pageRows - 1))
    case .top: move(-1_000_000)
    case .bottom: move(1_000_000)
    case .back:
      if !filter.isEmpty || !search.isEmpty {
        clearSearch()
      } else if view == .help {
        leaveHelp()
      } else if view == .detail {
        leaveDetail()
      } else if view == .secrets, isOneByOne {
        selectedItem[.secrets] = shownLabel.flatMap { label in
          showsAllLabels ? selectedArena.map { Self.labelID(label, of: $0) } : label
        }
        shownLabel = nil
      } else if view == .map, isPageByPage {
        selectedItem[.map] = chunkOfMap
        chunkOfMap = nil
      } else if view != home {
        show(home)
      } else {
        goLive()
      }
    case .enter:
      if view == .arenas, selected != nil {
        (shownLabel, showsAllLabels) = (nil, false)
        enter(.secrets)
      } else if view == .secrets, !isOneByOne, let row = selectedListRow {
        enter(.secrets)
        if showsAllLabels, let slash = row.id.firstIndex(of: "/") {
          selectedArena = UInt64(row.id[..<slash]) ?? selectedArena
          shownLabel = String(row.id[row.id.index(after: slash)...])
        } else {
          shownLabel = row.id
        }
        selectedItem[.secrets] = nil
      } else if view == .map, !isPageByPage, let row = selectedListRow {
        chunkOfMap = row.id
        selectedItem[.map] = nil
        if !isPageByPage { chunkOfMap = nil }
      }
      if view == .events { goToArenaOfEvent() }
      if view == .processes, let publisher = publishers.first(where: { $0.id == selectedProcess }) {
        show(.arenas)
        return [.attach(publisher)]
      }
    case .detail:
      if view == .detail {
        leaveDetail()
      } else if selected == nil {
        showMessage("no arena is selected")
      } else {
        viewBeforeDetail = view == .help ? home : view
        show(.detail)
      }
    case .nextView:
      let views = View.allCases.filter {
        $0 != .help && $0 != .detail && ($0 != .output || output != nil)
          && (snapshot != nil || !$0.showsProcess)
      }
      let at = views.firstIndex(of: view) ?? views.count - 1
      show(views[(at + 1) % views.count])
    case .arenas: show(.arenas)
    case .secrets:
      (shownLabel, showsAllLabels) = (nil, true)
      show(.secrets)
    case .map: show(.map)
    case .events: show(.events)
    case .history: show(.history)
    case .findings: show(.findings)
    case .host: show(.host)
    case .vaults: show(.vaults)
    case .processes: show(.processes)
    case .output:
      if output == nil {
        showMessage("no output: memwatch did not start the process (memwatch run)")
      } else {
        show(.output)
      }
    case .search:
      guard view != .history else {
        showMessage("nothing to search here")
        break
      }
      prompt = Prompt(kind: .search, text: "", question: "search: ")
    case .filter:
      guard view != .history else {
        showMessage("nothing to filter here")
        break
      }
      prompt = Prompt(kind: .filter, text: filter, question: "show only: ")
    case .next: goToMatch(1)
    case .previous: goToMatch(-1)
    case .nextProblem: goToProblem(1)
    case .previousProblem: goToProblem(-1)
    case .sort:
      if view == .arenas {
        sortArenas()
      } else if let listing {
        sort(listing)
      } else {
        showMessage("nothing to sort here")
      }
    case .columns: openChecklist()
    case .record:
      guard recording == nil else { return [.record(nil)] }
      guard let snapshot, replay == nil else {
        showMessage("only a live process can be recorded")
        break
      }
      prompt = Prompt(
        kind: .record, text: fileName(snapshot, now, "record"), question: "record to: ")
    case .invert:
      guard view == .arenas || listing != nil else {
        showMessage("nothing to invert here")
        break
      }
      if inverted.remove(listID) == nil { inverted.insert(listID) }
      arrange()
      showSortOrder(
        view == .arenas
          ? isSorted ? sort.rawValue : nil
          : sorting.flatMap { column in listing.map { $0.columns[column].title } })
    case .mark:
      mark = snapshot
      showMessage("marked: every view shows what changed since; m marks again")
    case .copyFix: return copyFix()
    case .pause:
      isPaused.toggle()
      pausedAt = now
      return isPaused ? [] : [.sample]
    case .refresh:
      goLive()
      return [.sample]
    case .acknowledge:
      let over = alerts.count { $0.isOver }
      alerts.removeAll { $0.isOver }
      acknowledgedAt = snapshot?.sampledAt ?? 0
      showMessage("\(counted(over, "alert")) acknowledged; \(alerts.count) still active")
    case .stepForward, .stepBack:
      let step = action == .stepForward ? 1 : -1
      guard replay != nil else {
        self.step(step)
        return []
      }
      isPaused = true
      pausedAt = now
      return [.step(step)]
    case .goToTime:
      let live = replay == nil ? ", live" : ""
      prompt = Prompt(
        kind: .time, text: "", question: "go to (14:02, 14:02:11, +30s, -5m\(live)): ")
    case .audit:
      guard replay == nil else {
        showMessage("a record cannot be audited")
        return []
      }
      guard snapshot != nil, !isPaused else { return [] }
      goLive()
      showMessage("audited: claims and mappings were compared")
      return [.audit]
    case .slower:
      intervalMs = min(intervalMs * 2, 3_600_000)
      showMessage("every \(seconds(intervalMs))")
    case .faster:
      intervalMs = max(intervalMs / 2, 50)
      showMessage("every \(seconds(intervalMs))")
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
    case .help:
      if view == .help {
        leaveHelp()
      } else {
        viewBeforeHelp = view
        show(.help)
      }
    case .quit:
      if view == .help {
        leaveHelp()
      } else if view == .detail {
        leaveDetail()
      } else if view != home {
        show(home)
      } else {
        return quit()
      }
    case .quitNow: return quit()
    case .redraw: return [.redraw]
    }
    return []
  }

  /// Handles a click on a list row or a column title.
  mutating func click(_ row: Int, _ column: Int) {
    if row == layout.titlesRow, layout.listID == listID {
      if let title = layout.titles.first(where: { $0.columns.contains(column) }) {
        sort(by: title.title)
      }
      return
    }
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
    case .findings, .host, .vaults, .history, .output, .help, .detail: break
    }
  }

  mutating func quit() -> [Effect] {
    guard let child = runningChild else { return [.quit(leaveRunning: false)] }
    prompt = Prompt(
      kind: .leave, text: "",
      question: "leave process \(child) running? y: yes, n: end it, Esc: stay here ")
    return []
  }

  mutating func leaveHelp() {
    show(viewBeforeHelp ?? home)
    viewBeforeHelp = nil
  }

  /// The fix for the selected arena, in the views that show one; otherwise for the problem in the
  /// verdict.
  var fixToCopy: String? {
    let shown = problems.isEmpty ? nil : problems[min(problemIndex, problems.count - 1)]
    guard view == .arenas || view == .detail, let selected else { return shown?.fix }
    return problems.first { $0.arenaID == selected.id && $0.fix != nil }?.fix ?? shown?.fix
  }

  /// The terminal never confirms, so the message says "sent".
  private mutating func copyFix() -> [Effect] {
    guard let fix = fixToCopy else {
      showMessage("nothing to copy: there is no fix here")
      return []
    }
    showMessage("sent to the terminal's clipboard: \(fix)")
    return [.copy(fix)]
  }

  mutating func leaveDetail() {
    show(viewBeforeDetail ?? home)
    viewBeforeDetail = nil
  }

  /// Enters the selected item, which ends the search.
  mutating func enter(_ new: View) {
    search = ""
    show(new)
  }

  /// Sorts by a column; reverses the order if it is sorted by that column already.
  mutating func sort(by title: String) {
    if view == .arenas, let column = ArenaColumn(rawValue: title) {
      if isSorted, sort == column {
        _ = perform(.invert, now: 0)
        return
      }
      (sort, isSorted) = (column, true)
      arrange()
      showSortOrder(title)
    } else if let listing, let place = listing.columns.firstIndex(where: { $0.title == title }) {
      if sorting == place {
        _ = perform(.invert, now: 0)
        return
      }
      sortings[listID] = place
      showSortOrder(title)
    }
  }

  mutating func sort(_ listing: ListModel) {
    let all = listing.columns.map(\.title)
    let shown = layout.listID == listID && !layout.columns.isEmpty ? layout.columns : all
    let places = shown.compactMap { all.firstIndex(of: $0) }
    let next = sorting.map { places.firstIndex(of: $0).map { $0 + 1 } ?? places.count } ?? 0
    sortings[listID] = next < places.count ? places[next] : nil
    showSortOrder(sorting.map { all[$0] })
  }

  mutating func show(_ new: View) {
    view = new
    groupSecrets()
    if new == .events { seenEvents = snapshot?.eventCount }
    (scroll, matchingLine) = (0, nil)
    if new == .output, let output { scroll = max(0, output.count - pageRows) }
  }

  mutating func move(_ distance: Int) {
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
    case .history: moveHistory(distance)
    case .findings, .host, .vaults, .output, .help, .detail:
      matchingLine = nil
      scroll = min(max(0, scroll + distance), max(0, lines.count - pageRows))
    }
  }

  /// Goes from an event to its arena.
  mutating func goToArenaOfEvent() {
    guard let row = selectedListRow,
      let event = snapshot?.events.first(where: { "\($0.serial)" == row.id })
    else { return }
    guard let arena = event.arenaID, snapshot?.arenas.contains(where: { $0.id == arena }) == true
    else { return showMessage("the arena of that event is gone") }
    filters[.arenas] = nil
    arrange()
    selectedArena = arena
    show(.arenas)
  }

  var selectedListRow: ListModel.Row? {
    guard let rows = listing?.rows, !rows.isEmpty else { return nil }
    return rows[min(selectedRow(of: rows), rows.count - 1)]
  }
}
