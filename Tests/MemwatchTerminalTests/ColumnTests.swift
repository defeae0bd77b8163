// Selecting columns, and the marks of sort orders.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ColumnTests {
  /// The model after drawing, when it knows which columns fit.
  private func laidOut(_ model: Model, _ width: Int, _ height: Int) -> (model: Model, grid: Grid) {
    var model = model
    let (grid, layout) = Renderer.render(
      model, width: width, height: height, style: Style(unicode: false), now: now)
    model.layout = layout
    return (model, grid)
  }

  private func titles(_ model: Model, _ width: Int = 100) -> [Substring] {
    let grid = draw(model, width, 30)
    return grid.line(titlesRow(grid)).split(separator: " ")
  }

  /// Nothing is wider than the screen, and every column can be reached, at every size.
  @Test(arguments: [(40, 10), (60, 15), (80, 24), (160, 50)])
  func columnsAreTicked(width: Int, height: Int) {
    var (model, grid) = laidOut(model(sample(arenas: 3)), width, height)
    press(&model, ">")
    let count = model.checklist?.items.count ?? 0
    #expect(count >= 12)
    var seen: Set<String> = []
    for _ in 0..<count {
      grid = draw(model, width, height)
      for row in 0..<height where grid.line(row).contains("] ") {
        seen.insert(String(grid.line(row).split(separator: "] ").last ?? ""))
      }
      #expect(!grid.text.contains("] ~") && grid.rows.allSatisfy { $0.count == width })
      press(&model, "j")
    }
    #expect(seen.isSuperset(of: ["ARENA", "STATE", "LONGEST", "IN USE", "OPENS"]), "\(seen)")
  }

  @Test func tickingShowsHidesAndMoves() {
    var (model, _) = laidOut(model(sample(arenas: 3)), 100, 30)
    let before = titles(model)
    press(&model, ">j ")
    press(&model, "q")
    #expect(titles(model) == before.filter { $0 != "STATE" })
    (model, _) = laidOut(model, 100, 30)
    press(&model, ">J")
    press(&model, "q")
    #expect(Array(titles(model).prefix(2)) == ["LOCK", "ARENA"])
    press(&model, ">r")
    #expect(titles(model) == before && model.checklist == nil)
    // At least one column stays.
    press(&model, ">")
    for _ in 0..<20 { press(&model, " j") }
    for _ in 0..<20 { press(&model, "k") }
    #expect(model.checklist?.chosen.isEmpty == false)
    #expect(model.handle(.interrupt, now: now) == [.quit(leaveRunning: false)])
  }

  /// Every title, in any case.
  @Test func columnsOfListsAreTicked() {
    var model = model(sample(arenas: 3))
    press(&model, "\n>")
    let titles = model.checklist!.items.map(\.title)
    #expect(titles.contains("OPENS/s"))
    for title in titles where title != "OPENS/s" && title != "LABEL" {
      while model.checklist!.items[model.checklist!.selected].title != title { press(&model, "j") }
      press(&model, " g")
    }
    press(&model, "q")
    #expect(draw(model, 100, 30).line(4).split(separator: " ") == ["LABEL", "OPENS/s"])
    press(&model, "6>")
    #expect(model.checklist == nil && model.message == "this view has no columns")
  }

  /// `LOCK>` could be a name, `LOCK ^` could not.
  @Test func orderMarksStandApart() {
    var (model, _) = laidOut(model(sample(arenas: 3)), 100, 30)
    while model.sort != .lock || !model.isSorted { press(&model, "s") }
    #expect(draw(model, 100, 30).text.contains("LOCK ^ "))
    press(&model, "I")
    #expect(draw(model, 100, 30).text.contains("LOCK v "))
    while model.sort != .secrets { press(&model, "s") }
    #expect(draw(model, 100, 30).text.contains("SECRETS ^ "), "inverted: the fewest first")
    #expect(draw(model, 100, 30, unicode: true).text.contains("SECRETS▲"))
    press(&model, "4s")
    #expect(draw(model, 80, 24).text.contains("EVENT ^ "))
  }

  /// The help of a key is never truncated; it is wrapped below itself if there is no room.
  @Test(arguments: [40, 60, 80, 100]) func helpIsNotCut(width: Int) {
    var model = model(sample(arenas: 3))
    press(&model, "?")
    for _ in 0..<40 {
      let (next, grid) = laidOut(model, width, 24)
      model = next
      for row in 3..<23 { #expect(!grid.line(row).hasSuffix("~"), "\(grid.line(row))") }
      press(&model, "jjjjj")
    }
  }

  /// Each word, bar and dot of a picture has its own position, so that no renderer has to stretch
  /// text.
  @Test func picturesPlaceEveryWord() throws {
    var model = model(sample(arenas: 3))
    for step in 1...20 {
      var next = sample(arenas: 3, at: now + UInt64(step) * 1000)
      next.arenas[0].opens = UInt64(step * step)
      model.update(next)
    }
    for view in [View.arenas, .history] {
      model.view = view
      let svg = draw(model, 100, 30, unicode: true).svg
      #expect(!svg.contains("textLength"))
      #expect(svg.contains("prefers-color-scheme: light"))
      let words = svg.matches(of: /<tspan x="(\d+)">([^<]*)<\/tspan>/)
      #expect(words.count > 100)
      for word in words {
        #expect(!word.output.2.contains(" ") && (Int(word.output.1)! - 8) % 8 == 0)
      }
      let isDrawn = svg.unicodeScalars.contains { (0x2580...0x259f).contains($0.value) }
      #expect(!isDrawn, "blocks are drawn")
    }
  }

  // MARK: - Mouse

  private func click(_ model: inout Model, _ text: String, row: Int, _ width: Int = 100) {
    let (laid, grid) = laidOut(model, width, 30)
    model = laid
    let line = String(grid.rows[row].map { $0.character ?? " " })
    guard let range = line.range(of: text) else {
      Issue.record("no \(text) in \(line)")
      return
    }
    let column = line.distance(from: line.startIndex, to: range.lowerBound)
    _ = model.handle(.click(row: row, column: column), now: now)
  }

  @Test func clicksOpenTabsSortAndPressKeys() {
    var model = model(sample(arenas: 3))
    click(&model, "4 Events", row: 1)
    #expect(model.view == .events)
    click(&model, "EVENT", row: 4)
    #expect(model.listing?.sortedColumn == 0 && model.isInverted == false)
    click(&model, "EVENT", row: 4)
    #expect(model.listing?.sortedColumn == 0 && model.isInverted)
    // (A message disappears with the next event.)
    _ = model.handle(.resize, now: now)
    click(&model, "q back", row: 29)
    #expect(model.view == .arenas)
    let titles = titlesRow(laidOut(model, 100, 30).grid)
    click(&model, "SECRETS", row: titles)
    #expect(model.isSorted && model.sort == .secrets && model.arenas.map(\.id) == [3, 2, 1])
    click(&model, "SECRETS", row: titles)
    #expect(model.arenas.map(\.id) == [1, 2, 3])
    // Clicks have no effect in a prompt.
    press(&model, "/")
    click(&model, "4 Events", row: 1)
    #expect(model.view == .arenas && model.prompt != nil)
  }
}
