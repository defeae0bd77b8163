// Changes between two snapshots as sentences: for screen readers, logs and pipes.

extension Snapshot {
  /// One line for each change worth reporting; for the first snapshot, its state. Constantly
  /// changing counts are left out.
  package func changes(since old: Snapshot?) -> [String] {
    var lines: [String] = []
    guard let old, old.process.publisherID == process.publisherID else {
      let pid = process.pid.map { "pid \($0)" } ?? "pid n/a"
      let seen = lastSeenText(at: sampledAt).map { ", \($0)" } ?? ""
      lines.append("\(process.name), \(pid), is \(process.state.rawValue)\(seen)")
      lines.append(verdict)
      for arena in arenas {
        lines.append(
          "arena \(arena.name): \(stateText(of: arena)), "
            + "\(arena.lockState?.text ?? "lock n/a"), "
            + "gate \(arena.gate.text), \(arena.sealState?.text ?? "seal n/a"), "
            + counted(Int(clamping: arena.secretCount ?? 0), "secret"))
      }
      return lines
    }
    if old.process.state != process.state {
      let detail = process.stateDetail.map { ": \($0)" } ?? ""
      lines.append("\(process.name) is \(process.state.rawValue)\(detail)")
    }
    let before = Dictionary(old.arenas.map { ($0.id, $0) }) { first, _ in first }
    let now = Set(arenas.map(\.id))
    for arena in old.arenas where !now.contains(arena.id) {
      lines.append("arena \(arena.name) is gone")
    }
    for arena in arenas {
      guard let past = before[arena.id] else {
        lines.append("arena \(arena.name) is new")
        continue
      }
      func tell(_ what: String, _ then: String?, _ now: String?) {
        guard then != now else { return }
        lines.append("arena \(arena.name): \(what) \(now ?? "n/a"), was \(then ?? "n/a")")
      }
      tell("lock", past.lockState?.text, arena.lockState?.text)
      tell("seal", past.sealState?.text, arena.sealState?.text)
      tell("gate", past.gate?.text, arena.gate?.text)
    }
    func isSame(_ a: Problem, _ b: Problem) -> Bool { a.kind == b.kind && a.arenaID == b.arenaID }
    let new = problems.filter { problem in !old.problems.contains { isSame($0, problem) } }
    lines += new.map { "\($0.severity.rawValue): \($0.text)" }
    lines += new.adviceLines(\.fix, title: "fix")
    for problem in old.problems where !problems.contains(where: { isSame($0, problem) }) {
      lines.append("over: \(problem.text)")
    }
    let last = old.events.last?.serial ?? 0
    let names = Dictionary((old.arenas + arenas).map { ($0.id, $0.name.string) }) { _, new in new }
    for event in events where event.serial > last {
      let arena = event.arenaID.map { ", arena \(names[$0] ?? "\($0)")" } ?? ""
      let answer = event.errno.map { ", \(errnoName($0))" } ?? ""
      lines.append("event \(event.kind.text)\(arena)\(answer)")
    }
    return lines
  }
}

extension [Problem] {
  /// Distinct fixes, each with the number of problems it solves.
  func adviceLines(_ text: (Problem) -> String?, title: String) -> [String] {
    var counts: [String: Int] = [:]
    for case let text? in map(text) { counts[text, default: 0] += 1 }
    var lines: [String] = []
    for case let text? in map(text) {
      guard let count = counts.removeValue(forKey: text) else { continue }
      lines.append("\(title)\(count == 1 ? "" : ", for \(count) problems"): \(text)")
    }
    return lines
  }
}
