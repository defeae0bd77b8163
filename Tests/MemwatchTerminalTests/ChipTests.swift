// Chips show in every view, at every size, that it is paused or filtered.

import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ChipTests {
  static let views = View.allCases.filter { ![.help, .output].contains($0) }

  @Test(arguments: [(100, 30), (80, 24), (60, 15), (40, 10)])
  func everyViewShowsThatItIsPaused(size: (Int, Int)) {
    var model = watched()
    press(&model, "p")
    for view in Self.views {
      model.view = view
      let grid = draw(model, size.0, size.1)
      #expect(grid.text.contains("[paused "), "\(view)\n\(grid.text)")
      // The age of the reading is shown, and grows.
      if size.0 >= 80, view != .processes { #expect(grid.line(0).contains(" s ago")) }
    }
    press(&model, "p")
    #expect(!draw(model, size.0, size.1).text.contains("[paused"))
  }

  @Test func aReplaySaysWhichSampleAndWhen() {
    let samples = (0..<3).map { sample(arenas: 3, at: now + UInt64($0) * 1000) }
    var model = Model(intervalMs: 1000)
    model.replay(samples, at: 1)
    for view in Self.views where view != .processes {
      model.view = view
      let grid = draw(model, 100, 30)
      #expect(grid.text.contains("[replay 2/3]"), "\(view)\n\(grid.text)")
      #expect(grid.line(0).contains("was live at "), "\(grid.line(0))")
      #expect(!grid.line(0).contains("every"))
    }
    press(&model, "p")
    #expect(draw(model, 100, 30).text.contains("[replay 2/3] [paused]"))
  }

  /// Chips are never truncated; a mark and a note give way.
  @Test(arguments: [80, 100, 160]) func chipsComeBeforeChanges(width: Int) {
    var model = watched()
    press(&model, "mp")
    model.recording = "x.record"
    press(&model, "fsess\n")
    let text = draw(model, width, 30).text
    #expect(text.contains("[paused 0 s] [REC] [filter \"sess\": 1 of 3]"), "\(text)")
  }
}
