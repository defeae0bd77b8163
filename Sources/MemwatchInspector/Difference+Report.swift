// What changed between two snapshot documents, for people: states first, then growth.

/// A report of the changes between two snapshots.
package struct ChangeReport: Equatable, Sendable {
  /// One line a change of a state, of a problem or of an arena that came or went, and one an event.
  package private(set) var states: [String] = []
  /// A table of counts and sizes with their changes.
  package private(set) var growth: [String] = []
  private var title = ""

  /// Whether anything changed but times.
  package var hasChanges: Bool { !states.isEmpty || !growth.isEmpty }

  /// Empty if the documents are of the same reading.
  package var text: String {
    guard !title.isEmpty else { return "" }
    var lines = [title]
    if !hasChanges { lines.append("no changes") }
    if !states.isEmpty { lines += ["", "State"] + states.map { "  " + $0 } }
    if !growth.isEmpty { lines += ["", "Growth"] + growth.map { "  " + $0 } }
    return lines.joined(separator: "\n") + "\n"
  }

  /// - Parameters: documents of snapshots.
  package init(from old: Value, to new: Value) {
    guard old != new else { return }
    title = Self.title(old, new)
    compareProcesses(old, new)
    compareArenas(old, new)
    compareProblems(old, new)
    compareEvents(old, new)
    addProcessGrowth(old, new)
    addArenaGrowth(old, new)
    addLabelGrowth(old, new)
  }

  private static func title(_ old: Value, _ new: Value) -> String {
    let process = new["process"]
    let name = process?["name"]?.plain ?? "n/a"
    guard let then = old["sampledAt"]?.number, let now = new["sampledAt"]?.number else {
      return name
    }
    let (first, last) = (Timestamp(realMs: then), Timestamp(realMs: now))
    let span = now >= then ? duration(last.since(first)) : "earlier by \(duration(then - now))"
    return "\(name)  pid \(process?["pid"]?.plain ?? "n/a")  from \(clock(first, withDate: true)) "
      + "to \(clock(last, withDate: true))  (\(span))"
  }

  // MARK: - States

  private mutating func compare(
    _ what: String, _ members: [(name: String, word: String)], _ old: Value?, _ new: Value?
  ) {
    let changes = members.compactMap { name, word -> String? in
      let (before, after) = (old?[name], new?[name])
      // What an older memwatch did not tell is no change.
      guard let before, let after, before != after else { return nil }
      return "\(word) \(before.shown(name)) -> \(after.shown(name))"
    }
    if !changes.isEmpty { states.append("\(what): " + changes.joined(separator: ", ")) }
  }

  private mutating func compareProcesses(_ old: Value, _ new: Value) {
    compare(
      "process",
      [
        ("publisherId", "publisher"), ("pid", "pid"), ("name", "name"), ("user", "user"),
        ("state", "state"), ("dumpable", "dumpable"), ("addresses", "addresses"),
        ("debuggerPid", "debugger"), ("emergencyWipe", "wiped on signals"), ("wipe", "wipe"),
        ("endedBySignal", "signal"),
      ], old["process"], new["process"])
    compare(
      "memlock",
      [
        ("softLimitBytes", "soft limit"), ("hardLimitBytes", "hard limit"),
        ("softUnlimited", "unlimited"), ("hardUnlimited", "hard limit unlimited"),
        ("binds", "binds"), ("nextChunkFits", "next chunk fits"),
      ], old["memlock"], new["memlock"])
    compare("audit", [("scope", "scope")], old["audit"], new["audit"])
    compare("maps", [("mapsLimit", "limit")], old["maps"], new["maps"])
    for pair in Self.pairs(old["vaults"], new["vaults"]) {
      compare(
        "vault \(pair.name)", [("cipher", "cipher"), ("epoch", "epoch")], pair.old, pair.new)
      noteComingAndGoing("vault", pair)
    }
  }

  private mutating func compareArenas(_ old: Value, _ new: Value) {
    for pair in Self.pairs(old["arenas"], new["arenas"]) {
      noteComingAndGoing("arena", pair)
      compare(
        pair.name,
        [
          ("state", "state"), ("verdict", "kernel"), ("lockState", "lock"),
          ("protectionState", "protection"), ("sealState", "seal"), ("gate", "gate"),
          ("keyNumber", "key"), ("lockPolicy", "lock policy"), ("layout", "layout"),
          ("backing", "backing"), ("forkProtection", "fork"), ("dumpProtection", "dumps"),
        ], pair.old, pair.new)
    }
  }

  private mutating func noteComingAndGoing(_ what: String, _ pair: ItemPair) {
    if pair.old == nil { states.append("\(what) \(pair.name) is new") }
    if pair.new == nil { states.append("\(what) \(pair.name) is gone") }
  }

  private mutating func compareProblems(_ old: Value, _ new: Value) {
    func key(_ problem: Value) -> [Value?] { [problem["kind"], problem["arenaId"]] }
    let (before, after) = (old["problems"]?.items ?? [], new["problems"]?.items ?? [])
    var advice: [String: Int] = [:]
    for problem in after where !before.contains(where: { key($0) == key(problem) }) {
      states.append(
        "new \(problem["severity"]?.plain ?? "problem"): \(problem["message"]?.plain ?? "n/a")")
      if case .text(let text)? = problem["advice"] { advice[text, default: 0] += 1 }
    }
    for text in advice.keys.sorted() { states.append("  fix: \(text)") }
    for problem in before where !after.contains(where: { key($0) == key(problem) }) {
      states.append("over: \(problem["message"]?.plain ?? "n/a")")
    }
  }

  private mutating func compareEvents(_ old: Value, _ new: Value) {
    let most = 10
    let last =
      old["process"]?["publisherId"] == new["process"]?["publisherId"]
      ? old["events"]?.items.last?["serial"]?.number ?? 0 : 0
    let arenas = (old["arenas"]?.items ?? []) + (new["arenas"]?.items ?? [])
    let names = Dictionary(
      arenas.map { ($0["id"]?.number ?? 0, $0["name"]?.plain ?? "n/a") }
    ) { _, new in new }
    let events = (new["events"]?.items ?? []).filter { ($0["serial"]?.number ?? 0) > last }
    if events.count > most { states.append("\(grouped(events.count - most)) earlier events") }
    for event in events.suffix(most) {
      let time = event["at"]?.number.map { clock(Timestamp(realMs: $0)) } ?? "n/a"
      var parts = ["event \(time)", event["kind"]?.plain ?? "n/a"]
      if case .text(let errno)? = event["errnoName"] { parts.append(errno) }
      if let id = event["arenaId"]?.number { parts.append(names[id] ?? "arena \(id)") }
      states.append(parts.joined(separator: "  "))
    }
  }

  // MARK: - Growth

  private mutating func addProcessGrowth(_ old: Value, _ new: Value) {
    let rows = [
      ("memlock", "lockedBytes", "locked"), ("memlock", "headroomBytes", "free"),
      ("memlock", "lockedByOthersBytes", "locked by other code"), ("maps", "mapsInUse", "maps"),
    ].compactMap { part, name, word -> [String]? in
      guard let change = Self.change(name, old[part], new[part]), change.hasChanged else {
        return nil
      }
      return [word, change.text]
    }
    let failures = Self.pairs(old["calls"], new["calls"]).compactMap { pair -> [String]? in
      guard let change = Self.change("failures", pair.old, pair.new), change.hasChanged else {
        return nil
      }
      let function = (pair.new ?? pair.old)?["function"]?.plain ?? "n/a"
      return ["\(function) failures", change.text]
    }
    growth += table(rows + failures)
  }

  private mutating func addTable(
    _ titles: [String], _ names: [String], _ rows: [(heading: [String], old: Value?, new: Value?)]
  ) {
    let changes = rows.map { row in names.map { Self.change($0, row.old, row.new) } }
    let columns = names.indices.filter { column in
      changes.contains { $0[column]?.hasChanged ?? false }
    }
    let changed = rows.indices.filter { changes[$0].contains { $0?.hasChanged ?? false } }
    guard !changed.isEmpty else { return }
    // What grew most in the first column that changed comes first.
    let sorted = changed.sorted {
      let (a, b) = (changes[$0][columns[0]], changes[$1][columns[0]])
      return (b?.magnitude ?? 0, $0) < (a?.magnitude ?? 0, $1)
    }
    let most = 20
    let headings = titles.count - names.count
    let head = titles.prefix(headings) + columns.map { titles[headings + $0] }
    growth += table(
      [Array(head)]
        + sorted.prefix(most).map { row in
          rows[row].heading + columns.map { changes[row][$0]?.text ?? "n/a" }
        })
    if sorted.count > most { growth.append("and \(grouped(sorted.count - most)) more (--raw)") }
  }

  private mutating func addArenaGrowth(_ old: Value, _ new: Value) {
    addTable(
      [
        "ARENA", "SECRETS", "IN USE", "LOCKED", "MAPPED", "OPEN", "OPENS", "ALLOCATED", "FREED",
        "FAILED LOCKS", "FAILED", "FAILED OPENS", "STUCK", "CORRUPTIONS",
      ],
      [
        "secretCount", "bytesInUse", "bytesLocked", "bytesMapped", "openWindows", "opens",
        "allocations", "frees", "failedLocks", "failedAllocations", "failedOpens",
        "stuckOpenPages", "corruptions",
      ],
      Self.pairs(old["arenas"], new["arenas"]).map { ([$0.name], $0.old, $0.new) })
  }

  private mutating func addLabelGrowth(_ old: Value, _ new: Value) {
    let rows = Self.pairs(old["arenas"], new["arenas"]).flatMap { arena in
      Self.pairs(arena.old?["labels"], arena.new?["labels"]).map { label in
        ([label.name, arena.name], label.old, label.new)
      }
    }
    addTable(
      ["LABEL", "ARENA", "LIVE", "BYTES", "OPENS"], ["live", "bytes", "opens"], rows)
  }

  /// A number before and after.
  private struct CountChange {
    var name: String
    var before: UInt64
    var after: UInt64

    var hasChanged: Bool { before != after }
    var magnitude: UInt64 { after > before ? after - before : before - after }
    /// `19,910 +1,204`, `701 KiB +32 KiB`.
    var text: String {
      func show(_ number: UInt64) -> String {
        name.lowercased().contains("bytes") ? bytes(number) : grouped(number)
      }
      guard hasChanged else { return show(after) }
      return "\(show(after)) \(after > before ? "+" : "-")\(show(magnitude))"
    }
  }

  /// nil: unknown. What is not there any more, or not yet, counts as 0.
  private static func change(_ name: String, _ old: Value?, _ new: Value?) -> CountChange? {
    func number(_ value: Value?) -> UInt64? { value == nil ? 0 : value?[name]?.number }
    guard let before = number(old), let after = number(new) else { return nil }
    return CountChange(name: name, before: before, after: after)
  }

  private typealias ItemPair = (name: String, old: Value?, new: Value?)

  /// The items of two lists by their names, in the order of the new list; then those that are gone.
  private static func pairs(_ old: Value?, _ new: Value?) -> [ItemPair] {
    func named(_ list: Value?) -> [(String, Value)] {
      var taken: Set<String> = []
      return (list?.items ?? []).enumerated().map { index, item in
        var name = item.listName ?? "\(index)"
        if !taken.insert(name).inserted { name += "#\(index)" }
        return (name, item)
      }
    }
    let (before, after) = (named(old), named(new))
    let then = Dictionary(before) { first, _ in first }
    let now = Set(after.map(\.0))
    return after.map { ($0.0, then[$0.0], $0.1) }
      + before.filter { !now.contains($0.0) }.map { ($0.0, $0.1, nil) }
  }
}

extension Value {
  fileprivate var number: UInt64? {
    if case .number(let number) = self { return number }
    return nil
  }

  fileprivate var items: [Value] {
    if case .list(let items) = self { return items }
    return []
  }

  /// For people: sizes with units, numbers as they are (of pids, keys, epochs).
  fileprivate func shown(_ name: String) -> String {
    guard case .number(let number) = self, name.lowercased().contains("bytes") else { return plain }
    return bytes(number)
  }
}
