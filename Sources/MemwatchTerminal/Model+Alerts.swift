// Problems, and alerts that stay until they are acknowledged.

package import MemwatchInspector

/// A problem that was seen; it stays until it is acknowledged.
package struct Alert: Equatable, Sendable {
  package var kind: ProblemKind
  package var arenaID: UInt64?
  package var text: String
  package var since: Timestamp
  package var overSince: Timestamp?
  package var isOver: Bool { overSince != nil }
}

extension Model {
  /// Starts an alert for each new problem, and ends those whose problem is gone.
  mutating func updateAlerts(_ snapshot: Snapshot) {
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
    // Bounds memory, however many arenas a hostile publisher invents.
    if alerts.count > 1000 { alerts.removeFirst(alerts.count - 1000) }
  }

  /// The alerts that began since the last call.
  package mutating func takeNewAlerts() -> [Alert] {
    defer { newAlerts = [] }
    return newAlerts
  }

  /// Goes to the next or previous problem.
  mutating func goToProblem(_ step: Int) {
    guard !problems.isEmpty else { return showMessage("no problem to go to") }
    // The first press goes to the problem in the verdict, later ones to the next.
    let isThere = problems[problemIndex].arenaID.map { $0 == selectedArena } ?? true
    if isThere { problemIndex = (problemIndex + step + problems.count) % problems.count }
    guard let id = problems[problemIndex].arenaID else { return }
    if arenas.contains(where: { $0.id == id }) {
      selectedArena = id
    } else if let arena = snapshot?.arenas.first(where: { $0.id == id }) {
      showMessage("\(arena.name) is hidden by the filter")
    }
  }
}
