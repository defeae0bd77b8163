// Lists of secrets, labels, events and pages: sorted, filtered, selected and exported.

import EnclaveStats
import EnclaveSystem
import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ListTests {
  private func titles(_ model: Model) -> [String] { model.listing!.rows.map { $0.cells[0].text } }

  @Test func secretsByLabelAndOneByOne() {
    var model = model(sample())
    press(&model, "j\n")
    #expect(model.view == .secrets)
    // The arena with the problem was selected first; j selected the next.
    #expect(model.listing?.title == "arenas > scratch > secrets")
    #expect(titles(model) == ["Sessions.swift:118", "http session", "oauth refresh"])
    press(&model, "jj")
    #expect(model.selectedItem[.secrets] == "oauth refresh")
    // The selection stays on its item while the order changes.
    press(&model, "I")
    #expect(model.selectedRow(of: model.listing!.rows) == 0)
    press(&model, "I/http")
    #expect(model.selectedItem[.secrets] == "http session")
    press(&model, "\n\n")
    #expect(model.isOneByOne && titles(model) == ["http session"])
    press(&model, "h")
    #expect(!model.isOneByOne && model.view == .secrets)
    press(&model, "h")
    #expect(model.view == .arenas)
  }

  @Test func theMapTellsWhatLiesInPages() {
    var model = model(sample())
    press(&model, "3")
    // The arena with the problem has 64 pages in two rows, one secret of 40 pages, and four
    // unlocked pages.
    #expect(
      titles(model) == [
        "GLlLLLLOO" + String(repeating: "l", count: 24),
        " " + String(repeating: "l", count: 32) + "G",
        "GLLLLLLLL 40 pages LLLLLLLLG", "GUuuuG",
      ])
    let rows = model.listing!.rows
    #expect(rows.map { $0.cells[1].text } == ["91", "0", "1", "9"])
    #expect(rows.map(\.isMarked) == [true, false, false, true])
    func detail(_ title: String) -> String? {
      model.listing!.rows[model.selectedRow(of: model.listing!.rows)].details
        .first { $0.title == title }?.text
    }
    #expect(
      detail("Here") == "pages 0-31 of 64: 91 live in 7 of them, 1 open, 1 could not be closed")
    #expect(detail("Slots") == "32 B: 88 of 340 live; 4 KiB: 3 of 3 live")
    press(&model, "j")
    #expect(detail("Here") == "pages 32-63 of 64: no secret in them")
    press(&model, "j")
    #expect(detail("Slots") == "none: the chunk belongs to one secret")
    press(&model, "j")
    #expect(detail("Lock") == "unlocked: ENOMEM")
    // Page by page, and back to the row.
    press(&model, "g\n")
    #expect(model.isPageByPage)
    #expect(
      titles(model) == [
        "page 0: 85 slots of 32 B", "page 1: 85 slots of 32 B", "pages 2-5: 3 slots of 4 KiB",
        "page 6: 85 slots of 32 B", "page 7: 85 slots of 32 B", "pages 8-63: nothing yet",
      ])
    #expect(model.listing!.rows.map { $0.cells[4].text } == ["-", "-", "-", "open", "STUCK", "-"])
    #expect(model.listing!.rows.map { $0.cells[3].text } == ["0", "85", "0", "83", "84", "-"])
    press(&model, "jj")
    #expect(model.selectedItem[.map] == "page 2")
    press(&model, "h")
    #expect(!model.isPageByPage && model.view == .map && model.selectedItem[.map] == "7f0000100000")
    // Chunks of another arena, without published addresses; one also without a page map.
    press(&model, "1j3")
    #expect(!model.isPageByPage && model.listing!.rows[0].cells[2].text == "not published")
    press(&model, "\n")
    #expect(model.isPageByPage && model.listing!.rows[0].cells[5].text == "not published")
    press(&model, "1g3")
    #expect(!model.isPageByPage && titles(model)[0] == "G" + String(repeating: "L", count: 32))
    #expect(detail("Here") == "pages 0-31 of 64; their use was not recorded")
    press(&model, "\n")
    #expect(!model.isPageByPage && model.view == .map)
    // The letters of other states.
    var other = sample(at: now + 1000)
    other.arenas[1].sealState = .known(.sealed)
    other.arenas[1].chunks[2].lockState = .known(.off)
    model.update(other)
    press(&model, "1n3")
    #expect(titles(model)[0].hasPrefix("GSsSSSSOOs") && titles(model)[3] == "GNnnnG")
  }

  /// A view written to files: filtered, sorted, and with more rows than fit on the screen.
  @Test func shownRowsCanBeExported() throws {
    var model = model(sample(arenas: 200))
    press(&model, "fscratch\n")
    #expect(model.viewExport.rows.map { $0[0] } == ["scratch"])
    #expect(model.viewExport.columns.count == ArenaColumn.allCases.count - 1)
    press(&model, "m")
    #expect(model.viewExport.columns.contains("SINCE"))
    press(&model, "f\u{15}\n>")
    for item in model.checklist!.items {
      press(&model, ["ARENA", "LOCKED"].contains(item.title) ? "j" : " j")
    }
    press(&model, "q")
    #expect(model.viewExport.columns == ["ARENA", "LOCKED"] && model.viewExport.rows.count == 200)
    #expect(model.viewExport.csv.hasPrefix("ARENA,LOCKED\r\ntls-keys,48 KiB\r\n"))
    press(&model, "n\n")
    #expect(model.viewExport.title == "arenas > session-tokens > secrets")
    #expect(model.viewExport.rows.map { $0[1] } == titles(model))
    press(&model, "3")
    #expect(model.viewExport.rows.map { $0[0] } == ["!", "", "", "!"])
    #expect(
      model.viewExport.text.contains("! ")
        && model.viewExport.text.hasPrefix("arenas > session-tokens > map\n")
    )
    guard case .object(let members) = model.viewExport.document,
      case .list(let columns)? = members.first(where: { $0.0 == "columns" })?.1,
      case .list(let rows)? = members.first(where: { $0.0 == "rows" })?.1,
      case .list(let first) = rows[0]
    else {
      Issue.record("no rows")
      return
    }
    #expect(rows.count == 4 && columns[1] == .text("PAGES") && first[2] == .text("91"))
    #expect(columns.count == first.count)
    for view in View.allCases {
      model.view = view
      let seen = model.viewExport
      #expect(seen.rows.allSatisfy { $0.count == max(1, seen.columns.count) }, "\(view)")
      #expect(seen.text.hasPrefix(seen.title))
      #expect(try Schema.violations(in: Schema.decoded(seen.document)) == [], "\(view)")
    }
    model.view = .arenas
    press(&model, "W")
    #expect(model.prompt?.text.hasPrefix("memwatch-tls-gateway-4127-arenas-") == true)
    #expect(model.handle(.enter, now: now).count == 1)
  }

  @Test func anEventLeadsToItsArena() {
    var model = model(sample())
    press(&model, "fscratch\n4")
    press(&model, "g\n")
    // The first event belongs to arena 2, which the filter of the arenas hides.
    #expect(model.view == .arenas && model.selectedArena == 2 && model.arenas.count == 3)
    var later = sample(at: now + 1000)
    later.events[0].arenaID = 99
    model.update(later)
    press(&model, "4g\n")
    #expect(model.view == .events && model.message != nil)
  }

  /// At the end of a label that is cut, the warning stays.
  @Test(arguments: [(80, 24), (40, 10)]) func warningsOfLabelsAreNotCut(width: Int, height: Int) {
    func renamed(_ snapshot: Snapshot) -> Snapshot {
      var snapshot = snapshot
      snapshot.arenas[0].labels[0].label = SafeText("Sources/Gateway/Sessions/Tokens.swift:118")
      return snapshot
    }
    var model = model(renamed(sample()))
    press(&model, "2m")
    var grown = renamed(sample(at: now + 60_000))
    grown.arenas[0].labels[0].live = 1500
    model.update(grown)
    let text = draw(model, width, height).text
    #expect(text.contains(/\n! Sources.* leak\? .*1,500/), "\(text)")
  }

  @Test func growthThatIsNeverOpenedMayBeALeak() {
    var model = model(sample())
    press(&model, "k\nm")
    #expect(model.listing!.rows.allSatisfy { !$0.isMarked && $0.cells[2].text == "0" })
    var grown = sample(at: now + 60_000)
    grown.arenas[0].labels[0].live = 1500
    grown.arenas[0].labels[1].live = 1
    model.update(grown)
    let rows = model.listing!.rows
    #expect(rows[0].cells[0].text == "oauth refresh  leak?" && rows[0].isMarked)
    #expect(rows[0].cells[2].text == "+1,499")
    // A label that grew and is used is not a leak, and neither is one that shrank.
    #expect(rows.count { $0.isMarked } == 1)
    #expect(rows.first { $0.id == "http session" }?.cells[2].text == "-2")
  }

  @Test func csvEscapesSpreadsheetFormulas() {
    let text = commaSeparated([
      ["=1+1", "a,b", "say \"x\"", "-5", "12"], ["@x", "\r\n", "", "+", "é"],
    ])
    #expect(text == "'=1+1,\"a,b\",\"say \"\"x\"\"\",'-5,12\r\n'@x,\"\r\n\",,'+,é\r\n")
  }

  @Test func listsAreSortedAndFiltered() {
    var model = model(sample())
    press(&model, "4")
    #expect(model.listing?.rows.count == 5 && model.selectedRow(of: model.listing!.rows) == 4)
    press(&model, "flock\n")
    #expect(titles(model) == ["lock-failed"])
    press(&model, "f")
    for _ in 0..<4 { _ = model.handle(.backspace, now: now) }
    press(&model, "\nss")
    let times = model.listing!.rows.map { $0.cells[1].key! }
    #expect(times == times.sorted(by: >) && model.listing!.sortedColumn == 1)
    press(&model, "I")
    #expect(model.listing!.rows.map { $0.cells[1].key! } == times.reversed())
  }

  @Test func everyViewTellsWhatChangedSinceTheMark() {
    var model = model(sample())
    press(&model, "m")
    var grown = sample(at: now + 60_000)
    grown.arenas[0].secretCount = (grown.arenas[0].secretCount ?? 0) + 120
    grown.arenas[1].failedLocks = (grown.arenas[1].failedLocks ?? 0) + 2
    model.update(grown)
    for view in View.allCases where view != .processes {
      model.view = view
      #expect(
        draw(model, 140, 30).text.contains(": +120 secrets, +0 B locked, +2 failures"), "\(view)")
    }
  }

  @Test func clicksSelectRows() {
    var model = model(sample())
    for view in ["1", "2", "4"] {
      press(&model, view)
      let (grid, layout) = Renderer.render(
        model, width: 100, height: 30, style: Style(unicode: false), now: now)
      model.layout = layout
      let second = String(grid.rows[layout.top + 1].compactMap(\.character))
      _ = model.handle(.click(row: layout.top + 1, column: 5), now: now)
      let row = draw(model, 100, 30).rows.dropFirst(2).first {
        $0.contains { $0.role == .selected }
      }
      #expect(String(row?.compactMap(\.character) ?? []) == second, "view \(view)")
    }
    for row in [-1, 0, 29, 1_000_000] { _ = model.handle(.click(row: row, column: 5), now: now) }
  }

  /// Scrolling through 100,000 secrets costs as much per key as drawing one screen of them.
  @Test func manyRowsAreSortedAndFound() {
    var snapshot = sample()
    let template = snapshot.secrets[0]
    snapshot.secrets = (0..<100_000).map { number in
      var secret = template
      secret.serial = UInt64(number)
      secret.byteCount = ByteCount(UInt64(number % 1000))
      return secret
    }
    let arena = snapshot.arenas.first { $0.id == template.arenaID }!
    snapshot.problems = []
    var model = model(snapshot)
    while model.selectedArena != arena.id { press(&model, "j") }
    press(&model, "\n/oauth\n\nsss")
    let rows = model.listing!.rows
    #expect(rows.count == 100_000 && rows[0].cells[2].key == 999 && rows[99_999].cells[2].key == 0)
    #expect(rows[0].id == "999", "alike rows stay in their order")
    press(&model, "f99999\n")
    #expect(model.listing?.rows.map(\.id) == ["99999"])
    #expect(rows.firstIndex(ofID: "1999") == 1 && rows.firstIndex(ofID: "x") == nil)
  }
}
