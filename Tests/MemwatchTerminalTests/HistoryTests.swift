// The screen's history: former problems, and values over time.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct HistoryTests {
  @Test func alertsStayUntilAcknowledged() {
    var model = model(sample())
    #expect(model.alerts.map(\.kind) == [.notLocked] && model.takeNewAlerts().count == 1)
    #expect(model.takeNewAlerts().isEmpty)
    model.update(sample(at: now + 1000))
    #expect(model.alerts.count == 1 && model.takeNewAlerts().isEmpty)
    press(&model, "a")
    #expect(model.alerts.count == 1, "it goes on")
    var good = sample(at: now + 2000)
    good.problems = []
    model.update(good)
    func verdict() -> String { String(draw(model, 100, 30).rows[2].compactMap(\.character)) }
    #expect(verdict().hasPrefix("WAS ") && verdict().contains("session-tokens: 16 KiB"))
    #expect(verdict().contains("a acknowledge"))
    press(&model, "a")
    #expect(!verdict().hasPrefix("WAS ") && model.alerts.isEmpty)
    // It starts again.
    model.update(sample(at: now + 3000))
    #expect(model.takeNewAlerts().count == 1)
  }

  @Test func historyKeepsTheWorst() {
    var model = Model(intervalMs: 100)
    for step in 0..<10_000 {
      var next = sample(arenas: 1, at: now + UInt64(step) * 100)
      next.arenas[0].opens = UInt64(step)
      next.memlock.locked = step == 777 ? 8 << 20 : 1 << 20
      model.update(next)
    }
    let moments = model.history.moments
    #expect((256...1024).contains(moments.count))
    #expect(moments.compactMap(\.locked).max() == Double(8 << 20))
    #expect(zip(moments, moments.dropFirst()).allSatisfy { $0.at < $1.at })
    #expect(moments.allSatisfy { abs($0.opens - 10) < 1e-6 })
    #expect(model.history.millisecondsUntil(8 << 20) == nil)
  }

  /// A short history has fewer seconds than its axis has room for.
  @Test func timesOfTheAxisDiffer() {
    var model = Model(intervalMs: 1000)
    for step in 0..<4 { model.update(sample(at: now + UInt64(step) * 1000)) }
    model.view = .history
    let axis = draw(model, 160, 50).line(48)
    let times = axis.matches(of: /\d\d:\d\d:\d\d/).map(\.output)
    #expect(times.count >= 3 && Set(times).count == times.count, "\(axis)")
    #expect(draw(model, 40, 10).line(3).contains(" history > the process "))
  }

  /// The axis spans at least a minute: a few seconds are not drawn as if they were all there is.
  @Test(arguments: [3, 30, 90]) func aShortHistoryStartsAtTheRight(samples: Int) {
    var model = Model(intervalMs: 1000)
    for step in 0...samples { model.update(sample(at: now + UInt64(step) * 1000)) }
    model.view = .history
    let grid = draw(model, 100, 30)
    let bottom = (0..<30).map { grid.line($0) }.first { $0.hasPrefix("        0|") } ?? ""
    #expect(bottom.count == 100 && bottom.hasSuffix("#"))
    let drawn = bottom.count { $0 == "#" }
    #expect(abs(drawn - 90 * min(samples, 60) / 60) <= 2, "\(grid.text)")
  }

  /// A sample between two regular ones makes no point of its own; its counts belong to the next.
  @Test func extraSamplesAreNoPeaks() {
    var model = Model(intervalMs: 1000)
    for (milliseconds, opens) in [(0, 0), (1000, 500), (2000, 1000), (2100, 1250), (3000, 1500)] {
      var next = sample(arenas: 1, at: now + UInt64(milliseconds))
      next.arenas[0].opens = UInt64(opens)
      model.update(next)
    }
    #expect(model.history.moments.map(\.opens) == [500, 500, 500])
    // After the clock was set back, the history goes on.
    for step in 0..<3 { model.update(sample(at: now - 3_600_000 + UInt64(step) * 1000)) }
    #expect(model.history.moments.count >= 5)
  }

  /// All samples count of a record, and of a few that were taken for a picture.
  @Test(arguments: [100, 250, 500]) func denseSamplesAreAllShown(milliseconds: Int) {
    let samples = (0..<9).map { step in
      var next = sample(at: now + UInt64(step * milliseconds))
      next.memlock.locked = ByteCount(step == 5 ? 8 << 20 : 1 << 20)
      return next
    }
    var playing = Model(intervalMs: 1000)
    for index in samples.indices { playing.replay(samples, at: index) }
    var jumping = Model(intervalMs: 1000)
    jumping.replay(samples, at: 8)
    for model in [playing, jumping] {
      #expect(model.history.moments.count == 8)
      #expect(model.history.peak(\.locked) == Double(8 << 20))
    }
    let view = Screen.export(of: samples, view: .history, host: Host(root: "/nonexistent"))
    #expect(view.rows.count == 8)
  }

  /// The times of the axis leave room for the cursor's.
  @Test(arguments: 1...60) func theCursorsTimeIsWhole(steps: Int) {
    var model = Model(intervalMs: 1000)
    for step in 0...60 { model.update(sample(at: now + UInt64(step) * 1000)) }
    model.view = .history
    for _ in 0..<steps { press(&model, ",") }
    let axis = draw(model, 100, 30).line(28)
    let times = axis.split { "-+ ".contains($0) }
    #expect(
      times.count >= 3 && times.allSatisfy { $0.wholeMatch(of: /\d\d:\d\d:\d\d/) != nil }, "\(axis)"
    )
  }

  @Test func theTrendEstimatesWhenTheLimitIsReached() {
    var model = Model(intervalMs: 1000)
    for step in 0..<30 {
      var next = sample(arenas: 1, at: now + UInt64(step) * 1000)
      next.memlock.locked = ByteCount(UInt64(step) << 16)
      model.update(next)
    }
    // 64 KiB/s, with room for 99 more seconds.
    let wait = model.history.millisecondsUntil(128 << 16)!
    #expect((98_000...100_000).contains(wait))
  }
}
