// The states of an ended or stopped process are shown as last seen, with their age, and never as
// ok.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct LastSeenTests {
  static let states: [PublisherState] = [
    .stopped, .midUpdate, .detached, .exited, .exec, .replaced, .incompatible, .notPermitted,
    .corrupt,
  ]

  /// A state from 75 s before `now`, sampled at `now`.
  private func snapshot(_ state: PublisherState) -> Snapshot {
    var snapshot = sample(arenas: 3, at: now)
    snapshot.process.state = state
    snapshot.process.heartbeatAt = now - 75_000
    snapshot.problems = []
    return snapshot
  }

  private func words(_ line: String) -> [Substring] { line.split(separator: " ") }

  @Test(arguments: states, [(100, 30), (80, 24), (60, 18), (40, 10), (40, 8)])
  func noArenaIsOkAndItsAgeIsShown(state: PublisherState, size: (Int, Int)) {
    let grid = draw(model(snapshot(state)), size.0, size.1)
    for row in 0..<grid.height { #expect(!words(grid.line(row)).contains("ok"), "\(grid.text)") }
    #expect(grid.line(0).contains(state.rawValue.uppercased()))
    #expect(grid.line(0).contains("75 s ago"), "\(grid.line(0))")
    let titles = (1..<grid.height).map(grid.line).first { $0.contains("STATE") }
    #expect(titles?.contains("75 s ago") == true, "\(grid.text)")
  }

  @Test(arguments: states) func everyViewShowsWhenItWasLastSeen(state: PublisherState) {
    for view in View.allCases {
      var model = model(snapshot(state))
      model.view = view
      for (width, height) in [(100, 30), (80, 24), (40, 10)] {
        #expect(draw(model, width, height).line(0).contains("75 s ago"), "\(view) \(width)")
      }
      guard ![.processes, .host, .help].contains(view) else { continue }
      #expect(model.viewExport.title.contains("last seen"), "\(view): \(model.viewExport.title)")
      #expect(!model.viewExport.rows.contains { $0.contains("ok") })
    }
  }

  /// The twin: a running process.
  @Test(arguments: [PublisherState.live, .unlinked]) func runningProcessHasNoAge(
    state: PublisherState
  ) {
    let grid = draw(model(snapshot(state)), 100, 30)
    #expect(
      !grid.text.contains("ago") && grid.line(0).contains("\(state.rawValue.uppercased()) 0.0 s"))
    #expect((10...12).allSatisfy { words(grid.line($0)).contains("ok") })
  }

  @Test func textAndJSONShowLastSeen() throws {
    let exited = snapshot(.exited)
    #expect(exited.text.split(separator: "\n")[0].contains("last seen 75 s ago"))
    #expect(!exited.text.split(separator: "\n").contains { words(String($0)).contains("ok") })
    #expect(exited.kernelLine.contains("gone"))
    let leaves = Dictionary(
      uniqueKeysWithValues: exited.document.leaves.map { ($0.path, $0.value) })
    #expect(leaves["ageMs"] == .number(75_000))
    #expect(leaves["arenas[0].state"] == .text("gone"))
    var unknown = exited
    unknown.process.heartbeatAt = nil
    #expect(unknown.text.contains("last seen n/a"))
    #expect(unknown.document.leaves.contains { $0.path == "ageMs" && $0.value == .null })
    // A publisher may write any number: a time in the future is ignored.
    unknown.process.heartbeatAt = .max
    #expect(unknown.text.contains("last seen 0 ms ago"))
    #expect(draw(model(unknown), 100, 30).line(0).contains("last seen"))
    #expect(exited.changes(since: nil).contains { $0.contains("last seen 75 s ago") })
    #expect(exited.changes(since: nil).contains { $0.hasPrefix("arena tls-keys: gone") })
  }

  @Test func nothingIsUpdatedAfterTheEnd() {
    var model = model(sample(arenas: 3, at: now - 3000))
    for step in 1...3 {
      var next = sample(arenas: 3, at: now - 3000 + UInt64(step) * 500)
      next.arenas[0].opens = UInt64(5 + step * 10)
      model.update(next)
    }
    #expect(model.rates[1]?.opens == 20)
    let points = model.history.moments.count
    var lists: [[[String]]] = []
    for step in 1...3 {
      var gone = snapshot(.exited)
      gone.sampledAt += UInt64(step) * 3_600_000
      model.update(gone)
      let rows = View.allCases.flatMap { view in
        model.view = view
        return model.listing?.rows.map { $0.cells.map(\.text) } ?? []
      }
      lists.append(rows)
    }
    #expect(lists.allSatisfy { $0 == lists[0] && !$0.isEmpty }, "no age in any list grows")
    #expect(model.rates.isEmpty && model.labelRates.isEmpty, "n/a, not 0/s")
    #expect(model.history.moments.count == points, "the plot ends")
    model.view = .secrets
    #expect(model.listing?.rows.first?.cells.map(\.text).contains("6h 10m") == true)
  }
}
