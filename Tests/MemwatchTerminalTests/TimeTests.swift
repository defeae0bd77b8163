// Steps in time, changes over the last minutes, and plots of the past.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct TimeTests {
  /// One sample per second. From the 61st on, the arena with the problem fails, and it grows by one
  /// per second.
  private func watched(seconds: Int) -> Model {
    setenv("TZ", "UTC", 1)
    tzset()
    var model = Model(intervalMs: 1000)
    for step in 0..<seconds { model.update(at(step)) }
    return model
  }

  private func at(_ step: Int) -> Snapshot {
    var next = sample(arenas: 3, at: 1_795_236_404_000 + UInt64(step) * 1000)
    next.arenas[0].secretCount = UInt64(100 + step)
    next.arenas[0].opens = UInt64(step * 10)
    if step < 60 { next.problems = [] }
    return next
  }

  private func text(_ model: Model, _ width: Int = 100, _ height: Int = 30) -> String {
    draw(model, width, height).text
  }

  // MARK: - Samples

  @Test func historyKeepsAnHourInBoundedMemory() {
    var timeline = Timeline()
    for step in 0..<5000 { timeline.add(at(step)) }
    #expect(timeline.byteCount <= Timeline.maximumBytes)
    let first = timeline.samples.first!.sampledAt
    let last = timeline.samples.last!.sampledAt
    #expect((3_590_000...3_600_000 + 300_000).contains(last.since(first)))
    #expect(!timeline.samples.contains { !$0.secrets.isEmpty })
    let pages = timeline.samples.flatMap { $0.arenas.flatMap { $0.chunks.compactMap { $0.pages } } }
    #expect(pages.isEmpty)
  }

  /// Samples without anything in common: older ones are kept in larger steps.
  @Test func bytesAreBoundedWhateverIsPublished() {
    var timeline = Timeline()
    for step in 0..<300 {
      var next = sample(arenas: 200, at: now + UInt64(step) * 1000)
      for index in next.arenas.indices {
        next.arenas[index].opens = UInt64(step)
        for label in next.arenas[index].labels.indices {
          next.arenas[index].labels[label].opens = UInt64(step)
        }
      }
      timeline.add(next)
      #expect(timeline.byteCount <= Timeline.maximumBytes)
    }
    #expect(timeline.samples.last?.sampledAt == now + 299_000)
    #expect(timeline.samples.count >= 8)
  }

  // MARK: - Steps

  @Test func keysStepThroughTime() {
    var model = watched(seconds: 90)
    #expect(!model.isPast && model.problems.count == 1)
    press(&model, ",")
    #expect(model.isPast && model.snapshot?.sampledAt == at(88).sampledAt)
    #expect(text(model).contains("[time 04:48:12, live is 1 s on]"))
    #expect(draw(model, 100, 30).line(0).contains("was live at 04:48:12"))
    // Sampling continues meanwhile.
    model.update(at(90))
    model.update(at(91))
    #expect(model.snapshot?.sampledAt == at(88).sampledAt)
    #expect(model.lastSample?.sampledAt == at(91).sampledAt)
    #expect(text(model).contains("live is 3 s on"))
    press(&model, "...")
    #expect(!model.isPast && model.snapshot?.sampledAt == at(91).sampledAt)
    #expect(model.rates[1]?.opens == 10)
    press(&model, "t-1h\n")
    #expect(model.message == "the history begins here")
    #expect(model.snapshot?.sampledAt == at(0).sampledAt && model.rates.isEmpty)
    _ = model.handle(.escape, now: now)
    #expect(!model.isPast)
  }

  /// Seven keys show what was wrong at a given time, in every view.
  @Test func jumpingToATimeShowsItsProblems() {
    var model = watched(seconds: 200)
    press(&model, "t04:47\n")
    #expect(model.isPast && model.snapshot?.sampledAt == at(16).sampledAt)
    #expect(model.problems.isEmpty && draw(model, 80, 24).line(2).contains("no problem seen"))
    press(&model, "t+60s\n")
    #expect(model.problems.count == 1 && draw(model, 80, 24).line(2).hasPrefix("PROBLEM"))
    for view in ["2", "4", "9"] {
      press(&model, view)
      #expect(text(model).contains("[time 04:48:00"), "view \(view)")
    }
    press(&model, "tnever\n")
    #expect(model.message?.contains("no time") == true)
    press(&model, "tlive\n")
    #expect(!model.isPast)
  }

  @Test func switchingProcessesClearsTheHistory() {
    var model = watched(seconds: 20)
    press(&model, ",")
    var other = at(30)
    other.process.publisherID = "00000000000000bb"
    model.update(other)
    #expect(!model.isPast && model.timeline.samples.count == 1 && model.history.moments.isEmpty)
    #expect(model.base == nil)
  }

  // MARK: - Changes

  @Test func changesAreOfTheLastFiveMinutes() {
    var model = watched(seconds: 30)
    #expect(text(model).contains(" 29 S ") && text(model).contains("+29"))
    #expect(text(model).contains("+0 B in 29 s"))
    model = watched(seconds: 420)
    let grid = draw(model, 100, 30)
    #expect(grid.line(titlesRow(grid)).contains("5 MIN"))
    #expect(grid.text.contains("+300"))
    // The changes of the displayed time, not of now.
    press(&model, "t-60s\n")
    #expect(model.growth(of: model.arenas.first { $0.id == 1 }!) == 300)
    press(&model, "tlive\n")
    press(&model, "m")
    model.update(at(425))
    #expect(text(model).contains("SINCE") && text(model).contains("+6 "))
  }

  // MARK: - Plots

  /// Values from before watching started do not distort the scale.
  @Test func theFirstSampleMakesNoPeak() {
    var model = Model(intervalMs: 1000)
    for step in 0..<30 {
      var next = sample(arenas: 1, at: now + UInt64(step) * 1000)
      next.arenas[0].opens = UInt64(step == 0 ? 0 : 1_000_000 + step * 10)
      model.update(next)
    }
    #expect(model.history.moments[0].opens > 1_000_000)
    #expect(model.history.peak { $0.opens } == 10)
    model.view = .history
    #expect(text(model).contains("Opened 10/s, peak 10/s"))
  }

  @Test func aNewArenaBringsNoPeak() {
    var model = Model(intervalMs: 1000)
    for step in 0..<10 {
      var next = sample(arenas: step < 5 ? 1 : 2, at: now + UInt64(step) * 1000)
      for index in next.arenas.indices {
        next.arenas[index].opens = UInt64(index * 1_000_000 + step)
      }
      model.update(next)
    }
    #expect((model.history.moments.map { $0.opens }.max() ?? 0) <= 2)
  }

  @Test func theTimeAxisIsLabelled() {
    var model = watched(seconds: 61)
    press(&model, "9")
    let axis = draw(model, 100, 30).line(28)
    #expect(axis.contains("+04:46:44") && axis.hasSuffix("04:47:44"), "\(axis)")
    #expect(axis.contains("04:46:58"), "\(axis)")
  }

  /// The cursor is at the displayed time, and the titles show its values.
  @Test func theCursorReadsValues() {
    var model = Model(intervalMs: 1000)
    for step in 0..<60 {
      var next = sample(arenas: 1, at: at(step).sampledAt)
      next.arenas[0].opens = UInt64(step * step)
      model.update(next)
    }
    press(&model, "9")
    #expect(!draw(model, 100, 30).rows[10].contains { $0.role == .selected })
    press(&model, ",,,")
    let grid = draw(model, 100, 30)
    #expect(grid.text.contains("Opened 111/s at 04:47:40, peak 117/s"))
    #expect(grid.line(28).hasSuffix(" 04:47:40"))
    let columns = (8...20).compactMap { row in
      grid.rows[row].firstIndex { $0.role == .selected }
    }
    #expect(columns.count >= 6 && Set(columns).count == 1, "\(columns)")
    #expect(columns[0] > 85, "near the end")
  }

  @Test func anArenaHasAHistory() {
    var model = watched(seconds: 30)
    press(&model, "9")
    #expect(text(model).contains("history > the process"))
    let whole = text(model)
    press(&model, "j")
    #expect(text(model).contains("history > tls-keys") && text(model) != whole)
    #expect(text(model).contains("Secrets 129, peak 129"))
    press(&model, "jjjj")
    #expect(text(model).contains("history > scratch"))
    press(&model, "g")
    #expect(text(model).contains("history > the process"))
  }

  /// A picture of a very short history is not empty.
  @Test(arguments: [2, 9]) func aPictureOfAShortHistoryIsNotEmpty(samples: Int) {
    let picture = Screen.picture(
      of: (0..<samples).map { at($0) }, view: .history, width: 100, height: 30)
    #expect(picture.contains(">Opened<") && picture.contains("<path class=\"arenas\""))
    #expect(!picture.contains("starts with the second sample"))
  }
}
