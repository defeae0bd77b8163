// The model and the grid, without a terminal: every key, every size, and the main screens whole.

import Foundation
import FoundationXML
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

func sample(arenas count: Int = 3, at time: UInt64 = 1_795_236_404_000) -> Snapshot {
  var snapshot = Snapshot(
    process: ProcessSnapshot(
      pid: 4127, publisherPid: 4127, publisherID: "00000000000000aa", name: SafeText("tls-gateway"),
      uid: 1000, user: SafeText("keysvc"), state: .live, path: SafeText("/dev/shm/x.page")),
    sampledAt: time, complete: true)
  snapshot.process.debugger = 0
  snapshot.process.isDumpable = true
  snapshot.memlock = Memlock(
    soft: 8 << 20, hard: 8 << 20, binds: .yes, locked: 6 << 20, lockedByArenas: 4 << 20,
    lockedByOthers: 2 << 20, headroom: 2 << 20, nextChunk: 256 << 10, nextChunkFits: true,
    peakLockedByArenas: 5 << 20)
  snapshot.maps = Maps(inUse: 412, limit: 65530, byArenas: 30, headroom: 65118)
  let names = ["tls-keys", "session-tokens", "scratch"]
  snapshot.arenas = (0..<count).map { index in
    var arena = ArenaSnapshot(
      id: UInt64(index + 1),
      name: SafeText(index < 3 ? names[index] : "arena-\(index)"))
    arena.layout = "slab"
    arena.gate = "pages"
    arena.lockPolicy = "preferred"
    arena.lockState = index == 1 ? "partial" : "locked"
    arena.protectionState = "closed"
    arena.sealState = "open"
    arena.openWindows = 0
    arena.secretCount = UInt64(index * 1000 + 6)
    arena.bytesInUse = 1536
    arena.bytesLocked = 48 << 10
    arena.bytesMapped = index == 1 ? 64 << 10 : 48 << 10
    arena.chunkCount = 3
    arena.guardPages = 6
    arena.mapsUsed = 9
    arena.forkProtection = "zeros"
    arena.dumpProtection = "excluded"
    arena.opens = 5
    arena.allocations = 10
    arena.frees = 4
    arena.failedLocks = index == 1 ? 1 : 0
    let names = ["oauth refresh", "http session", "Sessions.swift:118"]
    arena.labels = names.enumerated().map { number, name in
      LabelSnapshot(
        label: SafeText(name), origin: number < 2 ? "label" : "call-site",
        live: UInt64(index * 1000 + 2 * number + 1), bytes: 48 << number, allocations: 100,
        frees: 50, opens: UInt64(number * 10), openNow: number == 1 ? 1 : 0,
        lastOpenedAt: number == 0 ? nil : time - 29_000, minimumSize: 16,
        maximumSize: UInt64(16 << number), index: UInt64(number * 2))
    }
    arena.sizes = [SizeRoom(payload: 32, live: 6, freeSlots: 79, freeSlotsAfterGrowth: 43_599)]
    arena.chunks = chunks(of: index)
    if index == 1 {
      arena.lock = LockDetail(
        errno: 12, errnoName: "ENOMEM", failedCall: "mlock", bytesMissing: 16 << 10,
        at: 1_795_236_400_000, bytesInUseThen: 8 << 20, limitThen: 8 << 20)
    }
    return arena
  }
  snapshot.secrets = (0..<UInt64(min(count, 3)) * 3).map { (number: UInt64) -> SecretSnapshot in
    let isOld = number % 3 == 0
    return SecretSnapshot(
      arenaID: number / 3 + 1, serial: number, labelIndex: number % 3 * 2, byteCount: 16,
      allocatedAt: time - 22_320_000, opens: number % 3,
      lastOpenedAt: isOld ? nil : time - 29_000,
      openNow: number % 3 == 1 ? 1 : 0)
  }
  snapshot.events = (UInt64(1)...5).map { (number: UInt64) -> EventSnapshot in
    EventSnapshot(
      serial: number, kind: number == 3 ? "lock-failed" : "chunk-mapped",
      arenaID: number % 3 + 1, at: time - 60_000 + number * 1000,
      call: number == 3 ? "mlock" : nil, errno: number == 3 ? 12 : nil, bytes: 16384)
  }
  snapshot.eventCount = 12
  if count > 1 {
    snapshot.problems = [
      Problem(
        severity: .problem, kind: .notLocked, arenaID: 2,
        text: "session-tokens: 16 KiB of 64 KiB not locked; these pages can reach swap",
        fix: "prlimit --pid 4127 --memlock=16777216:16777216",
        keep: "LimitMEMLOCK=16M in tls-gateway.service")
    ]
  }
  return snapshot
}

/// A chunk of 64 pages, one that is one secret's, and one that could not be locked.
private func chunks(of arena: Int) -> [ChunkSnapshot] {
  func chunk(_ number: Int, pages: Int, _ all: [PagesSnapshot]) -> ChunkSnapshot {
    ChunkSnapshot(
      address: arena == 2 ? nil : 0x7f00_0000_0000 + UInt64(number) << 20,
      dataBytes: UInt64(pages) * 4096, guardBytes: 4096, lockState: "locked", kind: "slab",
      pages: arena == 0 ? nil : all)
  }
  func pages(
    _ first: Int, _ count: Int, _ live: UInt64, open: Bool = false, stuck: Bool = false
  ) -> PagesSnapshot {
    PagesSnapshot(
      first: first, count: count, use: .slots, payload: count == 1 ? 32 : 4096,
      slots: count == 1 ? 85 : 3, live: live, isOpen: open, isStuck: stuck)
  }
  func unused(_ first: Int, _ count: Int) -> PagesSnapshot {
    PagesSnapshot(first: first, count: count, use: .unused, live: 0, isOpen: false, isStuck: false)
  }
  let mixed = [
    pages(0, 1, 85), pages(1, 1, 0), pages(2, 4, 3), pages(6, 1, 2, open: true),
    pages(7, 1, 1, stuck: arena == 1), unused(8, 56),
  ]
  let whole = PagesSnapshot(
    first: 0, count: 40, use: .whole, live: 1, isOpen: false, isStuck: false)
  var all = [
    chunk(1, pages: 64, mixed), chunk(2, pages: 40, [whole]),
    chunk(3, pages: 4, [pages(0, 1, 9), unused(1, 3)]),
  ]
  all[1].kind = "isolated"
  if arena == 1 { (all[2].lockState, all[2].errno) = ("unlocked", 12) }
  return all
}

func model(_ snapshot: Snapshot?) -> Model {
  var model = Model(intervalMs: 1000)
  if let snapshot { model.update(snapshot) }
  // Tests count on the order that arenas are published in.
  while model.isSorted { press(&model, "s") }
  _ = model.handle(.resize, now: now)
  model.output = ["line one", "line two"]
  return model
}

let now: UInt64 = 1_795_236_404_300

func draw(_ model: Model, _ width: Int, _ height: Int, unicode: Bool = false) -> Grid {
  Renderer.render(model, width: width, height: height, style: Style(unicode: unicode), now: now)
    .grid
}

/// Types: a line's end is the enter key.
/// The verdict's row: below the header and, where there is room for them, the tabs.
func verdictRow(_ grid: Grid) -> Int { grid.height >= 10 ? 2 : 1 }

/// The row of a list's titles.
func titlesRow(_ grid: Grid) -> Int {
  (0..<grid.height).first { grid.line($0).contains("ARENA") } ?? 0
}

func press(_ model: inout Model, _ keys: String) {
  for key in keys { _ = model.handle(key == "\n" ? .enter : .character(key), now: now) }
}

let allKeys: [Key] =
  [
    .up, .down, .left, .right, .pageUp, .pageDown, .home, .end, .enter, .escape, .backspace, .tab,
    .backTab, .help, .redraw, .resize,
  ] + [.click(row: 0, column: 0), .click(row: 1, column: 30), .click(row: 12, column: 9)]
  + (1..<127).map { .character(Character(Unicode.Scalar(UInt8($0)))) } + [
    .character("é"), .character("鍵"),
  ]

@Suite struct ScreenTests {
  @Test(arguments: [nil, 0, 1, 3, 10_000] as [Int?])
  func everySizeOfEveryView(arenas: Int?) {
    var sizes: [(Int, Int)] = []
    let heights = [1, 2, 7, 8, 9, 10, 17, 18, 24, 30, 60]
    let widths = [1, 2, 20, 39, 40, 41, 59, 60, 79, 80, 100, 160, 200]
    for width in 1...200 { sizes += [9, 24].map { (width, $0) } }
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

  @Test func quittingARunAsks() {
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
    // Sorted by what grew, and by what shrank.
    later.arenas[2].secretCount = 2000
    model.update(later)
    while model.sort != .since { _ = model.handle(.character("s"), now: now) }
    #expect(model.arenas.map(\.id) == [1, 2, 3])
    _ = model.handle(.character("I"), now: now)
    #expect(model.arenas.map(\.id) == [3, 2, 1])
    #expect(draw(model, 100, 30).line(10).contains(" 2,000     -6 "))
  }

  /// The mark tells in every view what changed, and takes no view's title.
  @Test(arguments: [80, 100, 160]) func theMarkLeavesTitlesAlone(width: Int) {
    var model = model(sample(arenas: 3))
    press(&model, "m")
    for (key, title) in [
      ("1\n", "arenas > session-tokens > secrets "), ("G\n", " > secrets > oauth refresh "),
      ("3", "arenas > session-tokens > map "), ("\n", " > map > pages "), ("4", "events "),
      ("5", "findings "), ("6", "host "), ("7", "vaults "), ("9", "history "),
    ] {
      press(&model, key)
      let rules = (2...3).map { draw(model, width, 24).line($0) }
      #expect(rules.contains { $0.contains(title) && $0.contains("since ") }, "\(rules)")
    }
  }

  @Test func statesStandInTheHeader() {
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

  /// Main screens, cell by cell. `MEMWATCH_RECORD=1 swift test` writes them anew.
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
      next.memlock.locked = UInt64(4 << 20) + UInt64(step) << 16
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

  // MARK: - Lists

  private func titles(_ model: Model) -> [String] { model.listing!.rows.map { $0.cells[0].text } }

  @Test func secretsByLabelAndOneByOne() {
    var model = model(sample())
    press(&model, "j\n")
    #expect(model.view == .secrets)
    // The arena with the problem is the selected one; j went to the next.
    #expect(model.listing?.title == "arenas > scratch > secrets")
    #expect(titles(model) == ["Sessions.swift:118", "http session", "oauth refresh"])
    press(&model, "jj")
    #expect(model.selectedItem[.secrets] == "oauth refresh")
    // The selection stays on its row while the order changes under it.
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
    // The arena with the problem: 64 pages in two rows, one secret of 40 pages, four unlocked pages.
    #expect(
      titles(model) == [
        "GLlLLLLOO" + String(repeating: "l", count: 24),
        " " + String(repeating: "l", count: 32) + "G",
        "GLLLLLLLL 40 pages LLLLLLLLG", "GUuuuG",
      ])
    let rows = model.listing!.rows
    #expect(rows.map { $0.cells[1].text } == ["91", "0", "1", "9"])
    #expect(rows.map(\.mark) == ["!", " ", " ", "!"])
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
    // Another arena's chunks, whose addresses are not published; one without its pages.
    press(&model, "1j3")
    #expect(!model.isPageByPage && model.listing!.rows[0].cells[2].text == "not published")
    press(&model, "\n")
    #expect(model.isPageByPage && model.listing!.rows[0].cells[5].text == "not published")
    press(&model, "1g3")
    #expect(!model.isPageByPage && titles(model)[0] == "G" + String(repeating: "L", count: 32))
    #expect(detail("Here") == "pages 0-31 of 64; what lies in them was not recorded")
    press(&model, "\n")
    #expect(!model.isPageByPage && model.view == .map)
    // Letters of other states.
    var other = sample(at: now + 1000)
    other.arenas[1].sealState = "sealed"
    other.arenas[1].chunks[2].lockState = "off"
    model.update(other)
    press(&model, "1n3")
    #expect(titles(model)[0].hasPrefix("GSsSSSSOOs") && titles(model)[3] == "GNnnnG")
  }

  /// What a view shows, for files: filtered, sorted, and more than fits.
  @Test func whatIsSeenCanBeWritten() {
    var model = model(sample(arenas: 200))
    press(&model, "fscratch\n")
    #expect(model.seen.rows.map { $0[0] } == ["scratch"])
    #expect(model.seen.columns.count == ArenaColumn.allCases.count - 1)
    press(&model, "m")
    #expect(model.seen.columns.contains("SINCE"))
    press(&model, "f\u{15}\n>")
    for item in model.checklist!.items {
      press(&model, ["ARENA", "LOCKED"].contains(item.title) ? "j" : " j")
    }
    press(&model, "q")
    #expect(model.seen.columns == ["ARENA", "LOCKED"] && model.seen.rows.count == 200)
    #expect(model.seen.csv.hasPrefix("ARENA,LOCKED\r\ntls-keys,48 KiB\r\n"))
    press(&model, "n\n")
    #expect(model.seen.title == "arenas > session-tokens > secrets")
    #expect(model.seen.rows.map { $0[1] } == titles(model))
    press(&model, "3")
    #expect(model.seen.rows.map { $0[0] } == ["!", "", "", "!"])
    #expect(
      model.seen.text.contains("! ") && model.seen.text.hasPrefix("arenas > session-tokens > map\n")
    )
    guard case .object(let members) = model.seen.document, case .list(let rows) = members[1].1,
      case .object(let first) = rows[0]
    else {
      Issue.record("no rows")
      return
    }
    #expect(rows.count == 4 && first[1].0 == "PAGES" && first[2].1 == .text("91"))
    for view in View.allCases {
      model.view = view
      let seen = model.seen
      #expect(seen.rows.allSatisfy { $0.count == max(1, seen.columns.count) }, "\(view)")
      #expect(seen.text.hasPrefix(seen.title))
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
    // The first event is of arena 2, which the filter of the arenas hid.
    #expect(model.view == .arenas && model.selectedArena == 2 && model.arenas.count == 3)
    var later = sample(at: now + 1000)
    later.events[0].arenaID = 99
    model.update(later)
    press(&model, "4g\n")
    #expect(model.view == .events && model.message != nil)
  }

  @Test func whatGrewAndWasNeverOpenedMayLeak() {
    var model = model(sample())
    press(&model, "k\nm")
    #expect(model.listing!.rows.allSatisfy { $0.mark == " " && $0.cells[2].text == "0" })
    var grown = sample(at: now + 60_000)
    grown.arenas[0].labels[0].live = 1500
    grown.arenas[0].labels[1].live = 1
    model.update(grown)
    let rows = model.listing!.rows
    #expect(rows[0].cells[0].text == "oauth refresh  leak?" && rows[0].mark == "!")
    #expect(rows[0].cells[2].text == "+1,499")
    // What grew and is used is no leak; nor what shrank.
    #expect(rows.count { $0.mark == "!" } == 1)
    #expect(rows.first { $0.id == "http session" }?.cells[2].text == "-2")
  }

  /// What a replay reads of samples that were recorded, and the bytes that each took.
  func recorded(_ samples: [Snapshot]) throws -> (samples: [Snapshot], bytes: [Int]) {
    var (last, read, sizes): (Snapshot?, [Snapshot], [Int]) = (nil, [], [])
    for sample in samples.map(\.summarizingSecrets) {
      let line = try JSONEncoder().encode(RecordedSample(sample, after: last))
      last = sample
      sizes.append(line.count)
      let back = try JSONDecoder().decode(RecordedSample.self, from: line)
      read.append(try #require(back.snapshot(after: read.last)))
    }
    return (read, sizes)
  }

  /// Whatever changes from sample to sample, each is read as it was.
  @Test func aRecordHoldsEverySample() throws {
    var random = SeededGenerator()
    var samples = [sample()]
    for step in 1...400 {
      var next = samples[step - 1]
      next.sampledAt += 1000
      for _ in 0..<Int.random(in: 0...2, using: &random) {
        let arena = Int.random(in: 0..<max(1, next.arenas.count), using: &random)
        switch Int.random(in: 0..<14, using: &random) {
        case 0: next = sample(arenas: Int.random(in: 1...6, using: &random), at: next.sampledAt)
        case 1: next.arenas.shuffle(using: &random)
        case 2: next.arenas.removeAll { $0.id == 2 }
        case 3: next.events.removeFirst(next.events.isEmpty ? 0 : 1)
        case 4:
          next.events.append(EventSnapshot(serial: UInt64(step), kind: "x", bytes: UInt64(step)))
        case 5:
          next.calls.append(
            CallSnapshot(function: "f", purpose: "\(step)", count: 1, failures: 0))
        case 6: next.calls = []
        case 7: next.process.publisherID = "\(step)"
        case 8: next.problems = []
        default:
          guard !next.arenas.isEmpty else { continue }
          var changed = next.arenas[arena]
          switch Int.random(in: 0..<6, using: &random) {
          case 0: changed.labels.shuffle(using: &random)
          case 1: changed.labels = changed.labels.dropLast()
          case 2: changed.chunks.append(contentsOf: changed.chunks.prefix(1))
          case 3: changed.chunks = []
          case 4: changed.opens = UInt64(step)
          default: changed.secretCount = nil
          }
          next.arenas[arena] = changed
        }
      }
      samples.append(next)
    }
    let record = try recorded(samples)
    #expect(record.samples == samples.map(\.summarizingSecrets))
    // A sample that is like the one before costs little, however much there is.
    let many = sample(arenas: 200)
    var later = many
    later.sampledAt += 1000
    later.arenas[7].opens = 9
    let sizes = try recorded([many, later]).bytes
    #expect(sizes[1] < sizes[0] / 40, "\(sizes)")
    // A line that does not belong there is no sample.
    let line = RecordedSample(later.summarizingSecrets, after: many.summarizingSecrets)
    #expect(line.snapshot(after: nil) == nil)
    #expect(line.snapshot(after: sample(arenas: 3).summarizingSecrets) == nil)
  }

  /// A record may come from anybody: whatever its numbers are, and where it is cut, what can be read
  /// of it is shown.
  @Test func aRecordIsAStrangersFile() throws {
    var (good, last): ([[UInt8]], Snapshot?) = ([], nil)
    for step in 0..<3 {
      var next = sample(at: now + UInt64(step) * 1000).summarizingSecrets
      next.arenas[step].opens = UInt64(step) + 100
      good.append(Array(try JSONEncoder().encode(RecordedSample(next, after: last))))
      last = next
    }
    let strange = [
      "-1", "0", "1", "65536", "9223372036854775807", "9223372036854775808",
      "18446744073709551615", "1e300", "null", "[]", "{}", "\"x\"", "true",
    ].map { Array($0.utf8) }
    func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
    var random = SeededGenerator()
    var shown = 0
    for _ in 0..<600 {
      var lines = good
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        let line = Int.random(in: 0..<3, using: &random)
        let from = Int.random(in: 0..<lines[line].count, using: &random)
        if Int.random(in: 0..<10, using: &random) == 0 {
          let end = Int.random(in: from...lines[line].count, using: &random)
          lines[line].removeSubrange(from..<end)
          if lines[line].isEmpty { lines[line] = [0] }
        } else if let start = lines[line][from...].firstIndex(where: isDigit) {
          let end = lines[line][start...].firstIndex { !isDigit($0) } ?? lines[line].count
          lines[line].replaceSubrange(start..<end, with: strange.randomElement(using: &random)!)
        }
      }
      var samples: [Snapshot] = []
      for line in lines {
        guard let sample = try? JSONDecoder().decode(RecordedSample.self, from: Data(line)),
          let snapshot = sample.snapshot(after: samples.last)
        else { break }
        samples.append(snapshot)
      }
      guard !samples.isEmpty else { continue }
      shown += 1
      var model = Model(intervalMs: 1000)
      for index in [samples.count - 1, 0] {
        model.replay(samples, at: index)
        for view in View.allCases {
          model.view = view
          _ = draw(model, 100, 30)
        }
        model.view = .map
        press(&model, "\n")
        _ = draw(model, 100, 30)
        press(&model, "h1m")
      }
      _ = samples[0].text
    }
    #expect(shown > 60)
    // Texts that a terminal would act on, raw or escaped: such a line is no sample.
    #expect(good.allSatisfy { RecordedSample.isFit($0) })
    for text in ["größe 鍵 e\u{301}", "a \\\" b \\\\ c \\/"] {
      #expect(RecordedSample.isFit(Array("{\"name\":\"\(text)\"}".utf8)), "\(text)")
    }
    for text in [
      "\\u001b[31m", "\\u0041", "\\n", "\\r", "\\b", "\u{1b}", "\u{9b}2J", "\u{202e}", "\u{7f}",
      "\\\\\\u001b", "\\",
    ] {
      let isAtEnd = text == "\\"
      #expect(
        !RecordedSample.isFit(Array("{\"name\":\"\(text)\(isAtEnd ? "" : "\"}")".utf8)), "\(text)")
    }
    #expect(!RecordedSample.isFit([0x22, 0xff, 0x22]))
  }

  @Test func aReplayTellsOfNothingToType() {
    let (live, replay) = (sample(), sample().withoutCommands)
    #expect(live.problems.contains { $0.fix != nil } && live.text.contains("prlimit"))
    #expect(replay.problems.map(\.text) == live.problems.map(\.text))
    #expect(
      !replay.text.contains("prlimit") && !draw(model(replay), 120, 40).text.contains("prlimit"))
  }

  /// A record, which does not hold secrets one by one, tells the same of their labels.
  @Test func labelsOfARecord() throws {
    // Marked when the secrets were there, and before.
    for (mark, leaks) in [(sample(), 1), (sample(at: now / 2), 0)] {
      var grown = sample(at: now + 60_000)
      grown.arenas[0].labels[0].live = 1500
      var live = model(mark)
      press(&live, "k\nm")
      live.update(grown)
      let record = try recorded([mark, grown]).samples
      var replay = Model(intervalMs: 1000)
      replay.replay(record, at: 0)
      press(&replay, "j\nm")
      replay.replay(record, at: 1)
      let (expected, shown) = (live.listing!, replay.listing!)
      #expect(shown.rows.map { $0.cells.map(\.text) } == expected.rows.map { $0.cells.map(\.text) })
      #expect(shown.rows.map(\.mark) == expected.rows.map(\.mark) && shown.note == expected.note)
      #expect(expected.rows.count { $0.mark == "!" } == leaks)
      #expect(expected.rows[0].cells[5].text != "-" && record[1].secrets.isEmpty)
      press(&replay, "\n")
      #expect(replay.listing!.empty == "a record holds secrets by label, not one by one")
    }
  }

  @Test func whatASpreadsheetWouldCalculate() {
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

  @Test func recordingIsShownAndEnds() {
    var model = model(sample())
    press(&model, "R")
    #expect(model.prompt?.text.hasSuffix(".record") == true)
    #expect(model.handle(.enter, now: now).count == 1)
    model.recording = "x.record"
    #expect(draw(model, 100, 30).text.contains("REC, LIVE"))
    #expect(model.handle(.character("R"), now: now) == [.record(nil)])
  }

  /// One by one, 100,000 secrets cost what a screen of them costs.
  @Test func manyRowsAreSortedAndFound() {
    var snapshot = sample()
    let template = snapshot.secrets[0]
    snapshot.secrets = (0..<100_000).map { number in
      var secret = template
      secret.serial = UInt64(number)
      secret.byteCount = UInt64(number % 1000)
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

  /// A picture holds what the grid holds, whatever names say.
  @Test func aPictureOfTheScreen() throws {
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

  // MARK: - Alerts

  @Test func whatWasWrongStaysUntilItIsAcknowledged() {
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
    // It begins anew.
    model.update(sample(at: now + 3000))
    #expect(model.takeNewAlerts().count == 1)
  }

  /// Wherever a replay goes, it shows what a replay that came by all samples shows there.
  @Test func aReplayKnowsThePast() {
    let samples = (0..<120).map { step in
      var next = sample(arenas: 3, at: now + UInt64(step) * 1000)
      next.memlock.locked = UInt64(step % 7) << 16
      next.arenas[0].opens = UInt64(step * step)
      if !(30..<40).contains(step) { next.problems = [] }
      return next
    }
    var passing: [Model] = []
    var model = Model(intervalMs: 1000)
    for index in samples.indices {
      model.replay(samples, at: index)
      passing.append(model)
    }
    #expect(passing[119].history.moments.count == 119)
    #expect(passing[35].alerts.map(\.isOver) == [false])
    #expect(passing[119].alerts.map(\.isOver) == [true])
    for index in [119, 118, 35, 36, 0, 1, 60, 29, 60] {
      model.replay(samples, at: index)
      #expect(model.history == passing[index].history && model.alerts == passing[index].alerts)
      #expect(model.rates == passing[index].rates && model.replay?.index == index)
    }
    // What was acknowledged does not come again; a selection and a mark stay.
    press(&model, "am")
    press(&model, "jj")
    let selected = model.selectedArena
    for index in [100, 0, 90] {
      model.replay(samples, at: index)
      #expect(model.alerts.isEmpty && model.selectedArena == selected)
      #expect(model.mark?.sampledAt == samples[60].sampledAt)
    }
  }

  // MARK: - History

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

  @Test func theTrendTellsWhenItIsFull() {
    var model = Model(intervalMs: 1000)
    for step in 0..<30 {
      var next = sample(arenas: 1, at: now + UInt64(step) * 1000)
      next.memlock.locked = UInt64(step) << 16
      model.update(next)
    }
    // 64 KiB a second, and 99 of them to go.
    let wait = model.history.millisecondsUntil(128 << 16)!
    #expect((98_000...100_000).contains(wait))
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
