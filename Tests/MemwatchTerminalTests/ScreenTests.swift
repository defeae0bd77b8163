// The model and the grid, without a terminal: every key, every size.

import Foundation
import FoundationXML
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ScreenTests {
  @Test(arguments: [nil, 0, 1, 3, 10_000] as [Int?])
  func everySizeOfEveryView(arenas: Int?) {
    var sizes: [(Int, Int)] = []
    let heights = [1, 2, 7, 8, 9, 10, 17, 18, 24, 30, 60]
    let widths = [1, 2, 20, 39, 40, 41, 59, 60, 79, 80, 100, 160, 200]
    // Drawing many arenas takes longer, and depends no more on the size.
    if arenas ?? 0 < 1000 { for width in 1...200 { sizes += [9, 24].map { (width, $0) } } }
    for width in widths { sizes += heights.map { (width, $0) } }
    for height in 1...60 { sizes += [40, 80].map { ($0, height) } }
    let base = model(arenas.map { sample(arenas: $0) })
    for view in View.allCases {
      var model = base
      model.view = view
      for (width, height) in sizes {
        let grid = draw(model, width, height, unicode: width % 2 == 0)
        #expect(grid.rows.count == height && grid.rows.allSatisfy { $0.count == width })
        #expect((0..<height).contains(grid.cursor.row) && (0..<width).contains(grid.cursor.column))
      }
    }
  }

  @Test func everyKeyInEveryView() {
    for arenas in [nil, 0, 3, 200] as [Int?] {
      for view in View.allCases {
        for first in allKeys {
          var model = model(arenas.map { sample(arenas: $0) })
          model.view = view
          _ = model.handle(first, now: now)
          for second in [Key.down, .character("x"), .enter, .escape, .character("G")] {
            _ = model.handle(second, now: now)
            if let selected = model.selectedArena {
              #expect(model.arenas.contains { $0.id == selected })
            }
          }
          _ = draw(model, 80, 24)
        }
      }
    }
  }

  @Test func aLongRunOfRandomKeys() {
    var generator = SeededGenerator()
    var model = model(sample(arenas: 40))
    for step in 0..<3000 {
      let key = allKeys[Int.random(in: 0..<allKeys.count, using: &generator)]
      _ = model.handle(key, now: now)
      if step % 7 == 0 { model.update(sample(arenas: step % 50, at: now + UInt64(step))) }
      if step % 5 == 0 {
        _ = draw(
          model, Int.random(in: 1...220, using: &generator),
          Int.random(in: 1...70, using: &generator))
      }
    }
  }

  @Test func keysDoWhatTheHelpSays() {
    var model = model(sample(arenas: 3))
    func press(_ keys: Key...) -> [Effect] { keys.flatMap { model.handle($0, now: now) } }
    #expect(model.selectedArena == 2, "the arena of the worst problem")
    _ = press(.character("k"))
    #expect(model.selectedArena == 1)
    _ = press(.character("j"))
    #expect(model.selectedArena == 2)
    _ = press(.character("G"))
    #expect(model.selectedArena == 3)
    _ = press(.character("g"))
    #expect(model.selectedArena == 1)
    _ = press(.character("n"))
    #expect(model.selectedArena == 2, "the next problem")
    _ = press(.character("/"), .character("s"), .character("c"), .character("r"))
    #expect(model.selectedArena == 3, "the search goes along")
    _ = press(.escape, .character("f"), .character("t"), .character("l"), .character("s"), .enter)
    #expect(model.arenas.map(\.id) == [1])
    _ = press(.escape)
    #expect(model.arenas.count == 3)
    _ = press(.character("s"), .character("I"))
    #expect(model.arenas.map(\.name.string) == ["tls-keys", "session-tokens", "scratch"])
    _ = press(.character("p"))
    #expect(model.isPaused)
    #expect(press(.character("p")) == [.sample])
    #expect(press(.character("r")) == [.sample])
    _ = press(.character("+"))
    #expect(model.intervalMs == 2000)
    _ = press(.character("-"))
    #expect(model.intervalMs == 1000)
    #expect(press(.character("?")) == [] && model.view == .help)
    #expect(press(.character("q")) == [] && model.view == .arenas)
    #expect(press(.character("q")) == [.quit(leaveRunning: false)])
    _ = press(.character("w"))
    #expect(model.prompt?.text.hasPrefix("memwatch-tls-gateway-4127-") == true)
    _ = press(.character("\u{15}"), .character("a"))
    #expect(press(.enter) == [.write("a")])
  }

  @Test func quittingARunAsksForConfirmation() {
    var model = model(sample())
    model.runningChild = 99
    #expect(model.handle(.character("q"), now: now).isEmpty)
    #expect(draw(model, 100, 30).text.contains("leave process 99 running?"))
    #expect(model.handle(.character("y"), now: now) == [.quit(leaveRunning: true)])
    _ = model.handle(.escape, now: now)
    #expect(model.handle(.interrupt, now: now).isEmpty)
    #expect(model.handle(.character("n"), now: now) == [.quit(leaveRunning: false)])
  }

  @Test func changesSinceAMark() {
    var model = model(sample(arenas: 3))
    _ = model.handle(.character("g"), now: now)
    _ = model.handle(.character("m"), now: now)
    var later = sample(arenas: 3, at: 1_795_236_406_000)
    later.arenas[0].secretCount = 1210
    later.arenas[0].opens = 25
    model.update(later)
    let text = draw(model, 100, 30).text
    #expect(text.contains("secrets +1,204"))
    #expect(text.contains("opened 10/s"))
    #expect(text.split(separator: "\n")[10].contains(" 1,210 +1,204 "))
    #expect(text.split(separator: "\n")[11].contains(" 1,006     +0 "))
    #expect(!draw(model, 50, 24).text.contains("SINCE"))
    // Sorted by growth, and by shrinkage.
    later.arenas[2].secretCount = 2000
    model.update(later)
    while model.sort != .since { _ = model.handle(.character("s"), now: now) }
    #expect(model.arenas.map(\.id) == [1, 2, 3])
    _ = model.handle(.character("I"), now: now)
    #expect(model.arenas.map(\.id) == [3, 2, 1])
    #expect(draw(model, 100, 30).line(10).contains(" 2,000     -6 "))
  }

  /// In every view the mark shows what changed, and does not cover the title.
  @Test(arguments: [80, 100, 160]) func theMarkDoesNotCoverTitles(width: Int) {
    var model = model(sample(arenas: 3))
    press(&model, "m")
    for (key, title) in [
      ("1\n", "arenas > session-tokens > secrets "), ("G\n", " > secrets > oauth refresh "),
      ("3", "arenas > session-tokens > map "), ("\n", " > map > pages "), ("4", "events "),
      ("5", "audit "), ("6", "host "), ("7", "vaults "), ("9", "history "),
    ] {
      press(&model, key)
      let rules = (2...3).map { draw(model, width, 24).line($0) }
      #expect(rules.contains { $0.contains(title) && $0.contains("since ") }, "\(rules)")
    }
  }

  @Test func headerShowsEveryState() {
    for state in PublisherState.allCases {
      var snapshot = sample(arenas: 1)
      snapshot.process.state = state
      let text = draw(model(snapshot), 100, 30).line(0)
      #expect(text.contains(state.rawValue.uppercased()))
    }
  }

  @Test func withoutUTF8EverythingIsASCII() {
    var snapshot = sample(arenas: 3)
    snapshot.arenas[0].name = SafeText("größe-鍵")
    for view in View.allCases {
      var model = model(snapshot)
      model.view = view
      #expect(draw(model, 120, 40).text.utf8.allSatisfy { $0 < 128 })
    }
  }

  @Test func wideCharactersKeepColumnsStraight() {
    var snapshot = sample(arenas: 3)
    snapshot.arenas[0].name = SafeText("鍵鍵鍵")
    snapshot.arenas[1].name = SafeText("e\u{301}e\u{301}")
    let grid = draw(model(snapshot), 100, 30, unicode: true)
    for row in 10...12 {
      #expect(grid.rows[row][grid.rows[9].firstIndex { $0.character == "T" }! - 1].character != nil)
    }
    let state = String(grid.rows[9].compactMap(\.character)).range(of: "STATE")!
    let column = String(grid.rows[9].compactMap(\.character)).distance(
      from: String(grid.rows[9].compactMap(\.character)).startIndex, to: state.lowerBound)
    for (row, word) in [(10, "ok"), (11, "PROBLEM"), (12, "ok")] {
      let cells = grid.rows[row][column..<(column + word.count)].compactMap(\.character)
      #expect(String(cells) == word)
    }
  }

  @Test func recordingIsShownAndEnds() {
    var model = model(sample())
    press(&model, "R")
    #expect(model.prompt?.text.hasSuffix(".record") == true)
    #expect(model.handle(.enter, now: now).count == 1)
    model.recording = "x.record"
    for (width, height) in [(100, 30), (80, 24), (40, 10), (30, 5)] {
      let grid = draw(model, width, height)
      #expect(grid.text.contains("[REC]"), "\(width)x\(height)")
      #expect(width < 80 || grid.line(0).contains("LIVE 0.3 s"))
    }
    #expect(model.handle(.character("R"), now: now) == [.record(nil)])
  }

  /// A picture has the contents of the grid, whatever the names are.
  @Test func aPictureHasTheGridsContents() throws {
    var snapshot = sample()
    snapshot.arenas[0].name = SafeText("<script>&\"鍵")
    let grid = draw(model(snapshot), 100, 30, unicode: true)
    let parser = XMLParser(data: Data(grid.svg.utf8))
    final class Texts: NSObject, XMLParserDelegate {
      var text = ""
      var elements: Set<String> = []
      func parser(
        _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
        qualifiedName: String?, attributes: [String: String]
      ) { elements.insert(name) }
      func parser(_ parser: XMLParser, foundCharacters string: String) { text += string }
    }
    let texts = Texts()
    parser.delegate = texts
    #expect(parser.parse() && texts.elements == ["svg", "style", "rect", "path", "text", "tspan"])
    #expect(texts.text.contains("<script>&\"鍵") && texts.text.contains("PROBLEM"))
  }

  @Test func theHelpHasEveryBinding() {
    let lines = model(nil).helpLines
    for binding in Binding.all { #expect(lines.contains { $0.contains(binding.help) }) }
    for action in Action.allCases {
      #expect(Binding.all.contains { $0.action == action }, "\(action) has no key")
    }
    let keys = Binding.all.flatMap(\.keys)
    #expect(Set(keys).count == keys.count, "a key with two meanings")
  }
}
