// Stepping through past samples, and changes since the mark or over five minutes. Pure.

package import MemwatchInspector

extension Model {
  /// Whether an earlier sample is shown while sampling continues.
  package var isPast: Bool { newest != nil }

  /// The latest sample, even while an earlier one is shown.
  package var lastSample: Snapshot? { newest ?? snapshot }

  /// The baseline for changes: the mark, or the sample from five minutes earlier; nil: there is
  /// none yet.
  package var base: Snapshot? {
    if let mark { return mark }
    guard let snapshot else { return nil }
    let then = snapshot.sampledAt - Self.changeSpan
    guard let base = timeline.sample(notAfter: then), base.sampledAt < snapshot.sampledAt else {
      return nil
    }
    return base
  }

  static let changeSpan: UInt64 = 300_000

  /// The change column's title: `5 MIN`, a shorter span until there are five minutes of samples, or
  /// `SINCE` the mark.
  package var changeTitle: String {
    guard mark == nil else { return "SINCE" }
    return changeSpanText?.uppercased() ?? "5 MIN"
  }

  /// The span of the change column, `5 min`; nil without an earlier sample.
  package var changeSpanText: String? {
    guard let base, let snapshot, snapshot.sampledAt > base.sampledAt else { return nil }
    let span = snapshot.sampledAt.since(base.sampledAt)
    // Samples never fall exactly on the five minutes.
    if mark == nil, span + 10_000 >= Self.changeSpan { return "5 min" }
    return duration(max(1000, span))
  }

  /// Steps forward or back by `count` samples; stepping past the newest goes live.
  mutating func step(_ count: Int) {
    guard let snapshot, let index = timeline.index(at: snapshot.sampledAt) else { return }
    show(sample: index + count)
  }

  /// `14:02`, `-5m`, `+30s`, `live`.
  mutating func goTo(_ time: String) {
    guard time.lowercased().filter({ $0 != " " }) != "live" else { return goLive() }
    guard let snapshot, let index = timeline.index(at: snapshot.sampledAt) else { return }
    let (found, note) = ReplayTime.index(
      of: time, in: timeline.samples.map(\.sampledAt.realMs), at: index,
      secondOfDay: { secondOfDay(Timestamp(realMs: $0)) })
    if let found { show(sample: found) }
    if let note { showMessage(note.replacing("the record", with: "the history")) }
  }

  private mutating func show(sample index: Int) {
    guard index < timeline.samples.count - 1 else { return goLive() }
    guard index >= 0 else { return showMessage("the history begins here") }
    if newest == nil { newest = snapshot }
    snapshot = timeline.samples[index]
    arrangeShown(after: index > 0 ? timeline.samples[index - 1] : nil)
  }

  mutating func goLive() {
    guard let live = newest else { return }
    newest = nil
    snapshot = live
    let index = timeline.index(at: live.sampledAt) ?? 0
    arrangeShown(after: index > 0 ? timeline.samples[index - 1] : nil)
  }

  private mutating func arrangeShown(after before: Snapshot?) {
    guard let snapshot else { return }
    groupSecrets()
    setRates(before, snapshot)
    arrange()
    problemIndex = min(problemIndex, max(0, problems.count - 1))
  }

  /// Computes rates per second between two samples of one publisher.
  mutating func setRates(_ old: Snapshot?, _ new: Snapshot) {
    (rates, labelRates) = ([:], [:])
    guard let old, new.sampledAt > old.sampledAt, new.process.state.isCurrent else { return }
    let seconds = Double(new.sampledAt.since(old.sampledAt)) / 1000
    let before = Dictionary(old.arenas.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
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
  }

  // MARK: - History

  /// The history shown: the process's, or an arena's.
  package var history: History {
    historyArena.flatMap { histories.arenas[$0] } ?? histories.process
  }

  /// Moves to the next history: the process, then each arena.
  mutating func moveHistory(_ distance: Int) {
    let choices: [UInt64?] = [nil] + arenas.map(\.id).filter { histories.arenas[$0] != nil }
    let at = choices.firstIndex { $0 == historyArena } ?? 0
    historyArena = choices[min(max(0, at + distance), choices.count - 1)]
  }

  var historyTitle: String {
    guard let historyArena, let arena = snapshot?.arenas.first(where: { $0.id == historyArena })
    else { return "history > the process" }
    return "history > \(arena.name)"
  }
}

/// Seconds since local midnight.
func secondOfDay(_ time: Timestamp) -> Int {
  clock(time).split(separator: ":").reduce(0) { $0 * 60 + (Int($1) ?? 0) }
}
