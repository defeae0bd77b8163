// Whole screens, compared cell by cell with files in Golden.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct GoldenScreenTests {
  /// Main screens, cell by cell. `MEMWATCH_RECORD=1 swift test` rewrites the files.
  @Test(arguments: [(100, 30), (80, 24), (40, 10), (30, 5)])
  func goldenScreens(width: Int, height: Int) throws {
    setenv("TZ", "UTC", 1)
    tzset()
    var model = Model(intervalMs: 1000)
    model.update(sample(arenas: 3))
    try compare(draw(model, width, height).text + "\n", with: "main-\(width)x\(height)")
  }

  @Test(arguments: [
    (View.secrets, "secrets-100x30", 100, 30), (.events, "events-80x24", 80, 24),
    (.history, "history-80x24", 80, 24), (.map, "map-80x24", 80, 24),
  ])
  func goldenViews(view: View, name: String, width: Int, height: Int) throws {
    setenv("TZ", "UTC", 1)
    tzset()
    var model = model(sample(arenas: 3))
    model.view = view
    for step in 1...40 {
      var next = sample(arenas: 3, at: now + UInt64(step) * 1000)
      next.memlock.locked = ByteCount(UInt64(4 << 20) + UInt64(step) << 16)
      for index in next.arenas.indices {
        next.arenas[index].opens = UInt64(step * step * 7 + 5)
        next.arenas[index].failedLocks = step > 30 ? 3 : 0
      }
      model.update(next)
    }
    let grid = Renderer.render(
      model, width: width, height: height, style: Style(unicode: false), now: now + 40_300
    ).grid
    try compare(grid.text + "\n", with: name)
  }

  private func compare(_ text: String, with name: String) throws {
    let file = Programs.package.appending(path: "Tests/MemwatchTerminalTests/Golden/\(name).txt")
    if ProcessInfo.processInfo.environment["MEMWATCH_RECORD"] == "1" {
      try text.write(to: file, atomically: true, encoding: .utf8)
    }
    #expect(text == (try String(contentsOf: file, encoding: .utf8)))
  }
}
