// The state of each view: verdict, filters, searches, orders, the picker.

import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ViewStateTests {
  private static let sizes = [(40, 10), (60, 15), (80, 24), (100, 30), (160, 50)]

  /// The worst problem is visible in every view.
  @Test func theVerdictStaysInEveryView() {
    var model = model(sample(arenas: 3))
    model.update(Discovery())
    for view in View.allCases {
      model.view = view
      for (width, height) in Self.sizes {
        let grid = draw(model, width, height)
        let line = grid.line(verdictRow(grid))
        #expect(line.hasPrefix("PROBLEM 1/1  session-tokens"), "\(view) at \(width)x\(height)")
      }
    }
  }

  private func text(_ model: Model, _ size: (Int, Int)) -> String {
    draw(model, size.0, size.1).text
  }

  @Test func aFilterIsShown() {
    var model = model(sample(arenas: 3))
    for (view, filter, chip) in [
      ("1", "tls", #"[filter "tls": 1 of 3]"#), ("2", "http", #"[filter "http": 3 of 9]"#),
      ("4", "lock", #"[filter "lock": 1 of 5]"#), ("?", "suspend", #"[filter "suspend": 1 of "#),
    ] {
      press(&model, view + "f\u{15}\(filter)\n")
      for size in Self.sizes { #expect(text(model, size).contains(chip), "\(view) \(size)") }
      if view == "?" { #expect(model.lines.count == 1, "a text is filtered by lines") }
      press(&model, "\u{15}f\u{15}\n")
      #expect(!text(model, (100, 30)).contains("[filter"))
    }
  }

  @Test func aSearchIsShown() {
    var model = model(sample(arenas: 3))
    press(&model, "/s\n")
    for size in Self.sizes { #expect(text(model, size).contains(#"[search "s": "#), "\(size)") }
    #expect(text(model, (100, 30)).contains(#"[search "s": 2 of 3]"#))
    press(&model, "n")
    #expect(text(model, (100, 30)).contains(#"[search "s": 3 of 3]"#))
    // The banner's key still goes to the next problem.
    #expect(draw(model, 100, 30).line(2).contains("]/[ next") == (model.problems.count > 1))
    press(&model, "]")
    #expect(model.selectedArena == 2)
    _ = model.handle(.escape, now: now)
    #expect(!text(model, (100, 30)).contains("[search"))
  }

  @Test func aSearchWithoutMatchesSaysSo() {
    var model = model(sample(arenas: 3))
    for view in View.allCases where view != .history {
      model.view = view
      press(&model, "/qqzzy")
      #expect(draw(model, 80, 24).line(23).contains("no match"), "\(view), while it is typed")
      press(&model, "\n")
      #expect(model.message == #"no match for "qqzzy""#, "\(view)")
      #expect(text(model, (80, 24)).contains(#"[search "qqzzy": no match]"#), "\(view)")
      press(&model, "n")
      #expect(model.message == #"no match for "qqzzy""#, "\(view)")
      press(&model, "/")
      _ = model.handle(.escape, now: now)
    }
  }

  /// A search in a text moves between its lines, and does not affect the arenas.
  @Test func searchWorksInTextViews() {
    var model = model(sample(arenas: 3))
    let selected = model.selectedArena
    press(&model, "?")
    _ = draw(model, 80, 12)
    press(&model, "/suspend\n")
    #expect(model.selectedArena == selected)
    #expect(text(model, (80, 12)).contains("^Z  suspend"))
  }

  @Test func viewsWithoutAListIgnoreSorting() {
    var model = model(sample(arenas: 3))
    model.update(Discovery())
    let order = model.arenas.map(\.id)
    for view in [View.history, .findings, .host, .vaults, .output, .help, .processes] {
      for key in ["s", "I"] {
        model.view = view
        press(&model, key)
        #expect(model.message?.contains("nothing to") == true, "\(key) in \(view)")
      }
    }
    model.view = .history
    press(&model, "f")
    #expect(model.prompt == nil && model.message?.contains("nothing to filter") == true)
    model.view = .arenas
    #expect(model.arenas.map(\.id) == order && !model.isSorted)
    // Each list keeps its own order.
    press(&model, "4I1")
    #expect(model.arenas.map(\.id) == order)
  }

  @Test func sortingCyclesBackToTheOriginalOrder() {
    var model = model(sample(arenas: 3))
    let order = model.arenas.map(\.id)
    for (width, hidden) in [(100, ["SINCE"]), (60, ["SINCE", "LAYOUT", "GATE"])] {
      var said: [String] = []
      repeat {
        model.layout =
          Renderer.render(model, width: width, height: 30, style: Style(unicode: false), now: now)
          .layout
        press(&model, "s")
        said.append(model.message ?? "")
      } while model.isSorted && said.count < 20
      #expect(!model.isSorted && model.arenas.map(\.id) == order, "\(said)")
      #expect(said.last?.contains("published order") == true)
      for title in hidden { #expect(!said.contains { $0.contains(title) }, "\(title): \(said)") }
    }
  }

  /// Leaving help returns to the previous view, with or without a process.
  @Test func helpReturnsToWhereItWasOpened() {
    for key in [Key.escape, .backspace, .character("q"), .character("?"), .character("h")] {
      var model = Model(intervalMs: 1000)
      model.view = .processes
      _ = model.handle(.character("?"), now: now)
      #expect(model.view == .help)
      #expect(model.handle(key, now: now) == [], "\(key)")
      #expect(model.view == .processes, "\(key)")
    }
    var model = Model(intervalMs: 1000)
    model.view = .processes
    for key in "1234579mwWRA" {
      press(&model, String(key))
      #expect(model.view == .processes)
      #expect(model.message?.contains("no process is attached") == true, "\(key)")
    }
    press(&model, "6")
    #expect(model.view == .host)
    press(&model, "q")
    #expect(model.view == .processes)
    #expect(model.handle(.character("q"), now: now) == [.quit(leaveRunning: false)])
    // From a view, back to that view.
    var attached = ViewStateTests.attached
    press(&attached, "4?")
    #expect(attached.view == .help)
    press(&attached, "?")
    #expect(attached.view == .events)
  }

  private static var attached: Model { model(sample(arenas: 3)) }

  @Test func aKeyWithoutAMeaningSaysSo() {
    var model = model(sample())
    press(&model, "x")
    #expect(model.message == "x does nothing here; ? for help")
  }

  @Test func enterOnALabelListsItsSecrets() {
    var model = model(sample(arenas: 3))
    press(&model, "gj\n")
    press(&model, "/http\n")
    _ = model.handle(.enter, now: now)
    #expect(model.listing?.rows.map { $0.cells[0].text } == ["http session"])
    #expect(model.listing?.title == "arenas > session-tokens > secrets > http session")
    // Back to the row from which it was opened.
    press(&model, "h")
    #expect(model.selectedItem[.secrets] == "http session" && model.listing?.rows.count == 3)
  }

  // MARK: - Frame

  @Test(arguments: [40, 50, 60, 70, 80, 100, 160]) func theFooterKeepsHelpAndQuit(width: Int) {
    var model = model(sample(arenas: 3))
    for view in View.allCases {
      model.view = view
      let line = draw(model, width, 24).line(23)
      #expect(line.contains("? help") && line.contains("q "), "\(view): \(line)")
    }
  }

  /// The program's name identifies the process, so everything else is truncated first.
  @Test(arguments: [40, 50, 60, 70, 80, 100]) func theHeaderKeepsTheName(width: Int) {
    var snapshot = sample(arenas: 3)
    for name in ["tls-gateway", "payments-worker-7"] {
      snapshot.process.name = SafeText(name)
      let line = draw(model(snapshot), width, 24).line(0)
      #expect(line.contains(name) && line.contains("LIVE") && line.contains("4127"), "\(line)")
    }
    snapshot.process.name = SafeText(String(repeating: "long-", count: 30))
    let line = draw(model(snapshot), width, 24).line(0)
    #expect(line.contains("~") && line.contains("LIVE") && line.contains("4127"), "\(line)")
  }

  /// Empty parts are dropped first, and the time is kept.
  @Test(arguments: [60, 80]) func eventsKeepTheirTime(width: Int) {
    var model = model(sample(arenas: 3))
    press(&model, "4")
    #expect(draw(model, width, 24).line(4).contains("TIME"))
    var snapshot = sample(arenas: 3)
    for index in snapshot.events.indices { snapshot.events[index].bytes = nil }
    model.update(snapshot)
    #expect(!draw(model, width - 10, 24).line(4).contains("BYTES"))
  }
}
