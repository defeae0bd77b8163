// The frame of every view: header, verdict, rules, footer and prompt.

import MemwatchInspector

extension Renderer {
  /// Draws the header, tabs and verdict: in every view, at every size with enough rows.
  mutating func drawTop() {
    drawHeader()
    if height >= 10 {
      drawTabs(row: top)
      top += 1
    }
    guard model.snapshot != nil else { return }
    drawVerdict(row: top)
    top += 1
  }

  /// Draws a rule with a title and, at its end, a note.
  ///
  /// - Parameter key: a key that shows more, told before the note.
  mutating func rule(_ row: Int, _ title: String = "", key: String = "", _ note: String = "") {
    let end = key.isEmpty ? note : "\(key) \(note)"
    grid.fill(row: row, with: Character(style.rule), role: .faint)
    if !title.isEmpty {
      grid.put(" ", row: row, column: 3, role: .faint)
      let room = max(0, width - 8 - (end.isEmpty ? 0 : end.columns + 8))
      let at = grid.put(displayable(title).fitted(room), row: row, column: 4, role: .strong)
      grid.put(" ", row: row, column: at)
    }
    if !end.isEmpty {
      grid.put(" \(end) ", row: row, endingAt: width - 4)
      grid.put(key, row: row, column: width - 5 - end.columns, role: .strong)
    }
  }

  /// The right side of a view's rule: changes since the mark, and the view's note. If space is
  /// short, the title has priority, then the changes, then the note.
  func ruleNote(_ note: String, besideTitle title: String = "") -> String {
    let chips = chips.joined(separator: " ")
    let room = width - 16 - displayable(title).columns
    let withNote = [chips, note].filter { !$0.isEmpty }.joined(separator: "  ")
    let note = withNote.columns <= room ? withNote : chips
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
      short + ", " + change(\.bytesLocked?.count) { bytes($0) } + " locked, "
      + change(failures) { grouped($0) } + " failures"
    let behind = note.isEmpty ? "" : "   " + note
    let variants = [long + behind, short + behind, chips.isEmpty ? long : note, chips]
    return variants.first { !$0.isEmpty && $0.columns <= room }
      ?? (chips.isEmpty ? "\(secrets) since mark" : chips)
  }

  /// The publisher's state and the sample's age, in variants from longest to shortest.
  func stateTexts(_ snapshot: Snapshot) -> [String] {
    let word = snapshot.process.state.rawValue.uppercased()
    let age = Int(clamping: now.since(snapshot.sampledAt))
    let seen = snapshot.lastSeenText(at: now)
    if let seen {
      let short = seen.replacing("last seen ", with: "")
      return [
        "\(word), \(seen)  every " + seconds(model.intervalMs), "\(word), \(seen)",
        "\(word), \(short)",
      ]
    }
    // Anything but the latest reading is marked as past, beside its chip.
    if model.replay != nil || model.isPast {
      let was = "was \(snapshot.process.state.rawValue) at "
      let at = was + clock(snapshot.sampledAt)
      return model.replay != nil ? [was + clock(snapshot.sampledAt, withDate: true), at] : [at]
    }
    let live = "\(word) \(age / 1000).\(age % 1000 / 100) s"
    return model.isPaused ? [live + " ago"] : [live + "  every " + seconds(model.intervalMs), live]
  }

  /// The program's name is shortened last.
  mutating func drawHeader() {
    guard let snapshot = model.snapshot else {
      let title = model.waiting ?? "memwatch"
      grid.put(displayable(title).fitted(width), row: 0, column: 0, role: .strong)
      if title.columns + 10 <= width { grid.put(clock(now), row: 0, endingAt: width) }
      return
    }
    let process = snapshot.process
    let pid = process.pid.map { "pid \($0)" } ?? "pid n/a (\(process.publisherPid) there)"
    let number = process.pid.map { "\($0)" } ?? "n/a"
    let role: Role = isAlarming(process.state) ? .bad : .strong
    let name = displayable(process.name.string)
    let time = "  " + clock(now)
    let states = stateTexts(snapshot)
    var tails: [(text: String, time: String)] = []
    for state in states { tails.append(("  \(pid)  \(process.user)  \(state)", time)) }
    for state in states { tails.append(("  \(pid)  \(state)", time)) }
    tails.append(("  \(number)  \(states[states.count - 1])", time))
    tails.append((" \(number) \(states[states.count - 1])", ""))
    tails.append((" \(number) \(stateWord(snapshot))", ""))
    let fitting = tails.first { name.columns + $0.text.columns + $0.time.columns <= width }
    let tail = fitting ?? tails[tails.count - 2]
    let room = max(8, width - tail.text.columns - tail.time.columns)
    let at = grid.put(name.fitted(room), row: 0, column: 0, role: .strong)
    grid.put(displayable(tail.text).fitted(max(0, width - at)), row: 0, column: at, role: role)
    if !tail.time.isEmpty { grid.put(tail.time, row: 0, endingAt: width) }
    let end = at + tail.text.columns
    drawHostFacts(from: end + 3, to: width - tail.time.columns - 1)
  }

  /// Swap, and the number of bad host settings, if there is room.
  private mutating func drawHostFacts(from start: Int, to end: Int) {
    guard let host = model.host else { return }
    let room = end - start
    var facts: [(text: String, role: Role)] = []
    if let swap = host.swapFact {
      switch swap.judgement {
      case .bad: facts.append(("swap ON", .bad))
      case .good: facts.append((host.hasSwap == true ? "swap safe" : "swap off", .good))
      case .unknown: facts.append(("swap n/a", .warning))
      }
    }
    facts.append(
      host.badFacts.isEmpty ? ("host ok", .good) : ("host \(host.badFacts.count) bad", .bad))
    func length() -> Int { facts.reduce(-2) { $0 + $1.text.columns + 2 } }
    // Whether secrets can reach swap matters most.
    if length() > room { facts = Array(facts.dropLast()) }
    guard !facts.isEmpty, length() <= room else { return }
    var at = start + (room - length()) / 2
    for fact in facts { at = grid.put(fact.text, row: 0, column: at, role: fact.role) + 2 }
  }

  /// The publisher's state in one word.
  func stateWord(_ snapshot: Snapshot) -> String {
    snapshot.process.state.rawValue.uppercased()
  }

  private func isAlarming(_ state: PublisherState) -> Bool {
    state != .live && state != .stopped
  }

  /// Draws the verdict: the worst problem, or the one that `]` or `n` selected.
  mutating func drawVerdict(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let problems = model.problems
    guard !problems.isEmpty else {
      if let past = model.alerts.first(where: \.isOver) {
        let key = width >= 50 ? "  a acknowledge" : ""
        let text = "WAS \(clock(past.since))  \(past.text)"
        grid.put(displayable(text).fitted(width - key.columns), row: row, column: 0)
        grid.put(key, row: row, endingAt: width)
        grid.paint(row: row, role: .bandWarning)
        return
      }
      // Green only if everything was checked and found right.
      grid.put(displayable(snapshot.verdict).fitted(width), row: row, column: 0)
      grid.paint(row: row, role: snapshot.isConfirmedGood ? .bandGood : .bandWarning)
      return
    }
    let problem = problems[min(model.problemIndex, problems.count - 1)]
    let word: String
    let role: Role
    switch problem.severity {
    case .problem: (word, role) = ("PROBLEM", .bandBad)
    case .differs: (word, role) = ("DIFFERS", .bandBad)
    case .warning, .note: (word, role) = ("WARNING", .bandWarning)
    }
    let next = problems.count > 1 && width >= 50 ? "  ]/[ next " : ""
    let text = "\(word) \(model.problemIndex + 1)/\(problems.count)  \(problem.text)"
    grid.put(displayable(text).fitted(width - next.columns), row: row, column: 0)
    if !next.isEmpty { grid.put(next, row: row, endingAt: width) }
    grid.paint(row: row, role: role)
  }

  mutating func drawKeyLine() {
    let row = height - 1
    if let message = model.message {
      grid.put(displayable(message).fitted(width), row: row, column: 0, role: .strong)
      return
    }
    // `?` and `q` come first, so they always fit.
    var at = 0
    for item in footer {
      let text = "\(item.name) \(item.word)"
      guard at + text.columns <= width else { break }
      grid.put(text, row: row, column: at)
      grid.put(item.name, row: row, column: at, role: .strong)
      if let key = item.key {
        layout.clickTargets.append(.init(row: row, columns: at..<at + text.columns, key: key))
      }
      at += text.columns + 2
    }
  }

  /// A key and its word in the footer.
  private struct FooterItem {
    var name: String
    /// The key that a click presses; nil for an item that stands for two keys.
    var key: Key?
    var word: String

    init(_ name: String, _ key: Key?, _ word: String) {
      (self.name, self.key, self.word) = (name, key, word)
    }

    init(_ key: Key, _ word: String) { self.init(key.name, key, word) }
  }

  /// The keys of this view, most important first.
  private var footer: [FooterItem] {
    let isHelp = model.view == .help
    var items = [
      FooterItem(.character("?"), isHelp ? "help off" : "help"),
      FooterItem(.character("q"), isTop ? "quit" : "back"),
    ]
    if model.replay != nil || model.view == .history || model.isPast {
      items += [
        // All of them fit into 40 columns.
        FooterItem(width < 44 ? ",." : ",/.", nil, width < 100 ? "step" : "earlier/later"),
        FooterItem(.character("t"), "time"), FooterItem(.character("p"), "pause"),
      ]
    }
    if model.view == .arenas, height < 20 || width < 80, model.selected != nil {
      let hasFix = model.problems.contains { $0.fix != nil }
      items.append(FooterItem(.character("d"), hasFix ? "fix" : "detail"))
    }
    switch model.view {
    case .arenas: items.append(FooterItem(.enter, "labels"))
    case .secrets where !model.isOneByOne: items.append(FooterItem(.enter, "secrets"))
    case .map where !model.isPageByPage: items.append(FooterItem(.enter, "pages"))
    case .events: items.append(FooterItem(.enter, "arena"))
    case .processes: items.append(FooterItem(.enter, "attach"))
    default: break
    }
    if model.problems.count > 1 { items.append(FooterItem("]/[", .character("]"), "problem")) }
    items += Binding.all.compactMap { binding in
      guard let word = binding.short, let key = binding.keys.first,
        !items.contains(where: { $0.name == key.name }), !hasNoEffect(binding.action)
      else { return nil }
      return binding.action == .down ? FooterItem("j/k", nil, word) : FooterItem(key, word)
    }
    return items
  }

  /// Whether an action does nothing in this view.
  private func hasNoEffect(_ action: Action) -> Bool {
    switch action {
    case .search, .filter: model.view == .history
    case .sort: model.view != .arenas && !model.hasListing
    default: model.snapshot == nil && action.needsProcess
    }
  }

  private var isTop: Bool { model.view == (model.snapshot == nil ? .processes : .arenas) }

  mutating func drawPrompt() {
    guard let prompt = model.prompt else { return }
    let row = height - 1
    grid.put(String(repeating: " ", count: width), row: row, column: 0)
    let question = prompt.question.fitted(max(0, width - 4))
    if prompt.kind == .search, !model.search.isEmpty, model.match == nil {
      grid.put("  (no match)", row: row, endingAt: width, role: .warning)
    }
    let at = grid.put(question, row: row, column: 0, role: .strong)
    // Keep the end of the typed text visible.
    var text = displayable(prompt.text)
    while text.columns > max(0, width - at - 1) { text.removeFirst() }
    let end = grid.put(text, row: row, column: at)
    grid.cursor = (row, min(end, width - 1))
  }
}
