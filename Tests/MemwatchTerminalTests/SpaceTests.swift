// Large screens are used fully, and everything is reachable on small ones.

import EnclaveStats
import MemwatchSystem
import TestSupport
import Testing

@testable import MemwatchInspector
@testable import MemwatchTerminal

/// An hour in forty samples.
func watched(_ arenas: Int = 3) -> Model {
  var model = model(sample(arenas: arenas))
  for step in 1...40 {
    var next = sample(arenas: arenas, at: now + UInt64(step) * 1000)
    for index in next.arenas.indices { next.arenas[index].opens = UInt64(step * step * 7 + 5) }
    model.update(next)
  }
  model.update(Host(root: "/nonexistent"))
  return model
}

@Suite struct SpaceTests {
  @Test(arguments: [(300, 100), (160, 50), (200, 60), (100, 30), (80, 24)])
  func screensUseAtLeastTwoThirdsOfTheirRows(width: Int, height: Int) {
    var model = watched()
    for view in View.allCases where ![.output, .processes].contains(view) {
      model.view = view
      let grid = draw(model, width, height)
      let empty = (0..<height).count { grid.line($0).isEmpty }
      #expect(empty * 3 < height, "\(view) \(width)x\(height):\n\(grid.text)")
    }
  }

  /// Also before a process is attached, and before one publishes.
  @Test(arguments: [(160, 50), (200, 60), (100, 30), (80, 24)])
  func theListOfProcessesUsesTheScreen(width: Int, height: Int) {
    var model = Model(intervalMs: 1000)
    model.view = .processes
    model.update(Host(root: "/nonexistent"))
    var discovery = Discovery()
    for isThere in [false, true] {
      if isThere {
        discovery.publishers = [
          Publisher(
            source: .host, path: "/p", fileName: "p", pid: 101, publisherPid: 101, id: 1,
            name: SafeText("tls-gateway"), uid: 1000, createdAt: now - 3_600_000, state: .live)
        ]
      }
      model.update(discovery, isThere ? [1: ProcessSummary(sample())] : [:])
      let grid = draw(model, width, height)
      let empty = (0..<height).count { grid.line($0).isEmpty }
      #expect(empty * 3 < height, "\(width)x\(height):\n\(grid.text)")
      #expect(grid.text.contains("- host -") && grid.text.contains("6 all settings"))
      if isThere {
        let cells = grid.text.split { " \n".contains($0) }
        #expect(Set(["STATE", "PROBLEM", "partial", "1,006", "KiB"]).isSubset(of: cells))
      }
    }
  }

  @Test func vaultsStandBelowEachOtherWhereATableDoesNotFit() {
    var snapshot = sample()
    snapshot.vaults = (1...2).map { number in
      VaultSnapshot(
        arenaID: number, name: SafeText("vault-\(number)"), cipher: .known(.aes256gcm), epoch: 2,
        entries: 1, bytes: 24, entriesOfOldEpoch: 0, encryptions: 0, decryptions: 129, failures: 0,
        rotations: 1, failedRotations: 0, lastRotatedAt: nil, streams: 3, streamChunks: 0,
        streamBytes: 0)
    }
    var model = model(snapshot)
    press(&model, "7")
    let wide = draw(model, 160, 50).text
    #expect(wide.contains(/VAULT .*STREAM BYTES.*FAILURES\nvault-1 +AES-256-GCM +2 .* 129 +0\n/))
    for (width, height) in [(80, 24), (40, 16)] {
      let grid = draw(model, width, height)
      #expect(
        grid.text.contains("vault-1  AES-256-GCM  epoch 2\n  encrypted 1, 24 B\n"), "\(grid.text)")
      #expect(grid.text.contains("\n  decryptions 129, failures 0\nvault-2  "))
    }
  }

  @Test func moreColumnsComeOnAWideScreen() {
    let model = watched()
    func titles(_ width: Int) -> Set<Substring> {
      let grid = draw(model, width, 50)
      return Set(grid.line(titlesRow(grid)).split(separator: " "))
    }
    #expect(titles(160).isSuperset(of: titles(100)))
    #expect(titles(160).isSuperset(of: ["PEAK", "CHUNKS", "MAPS", "FAILED", "LONGEST"]))
    #expect(!titles(139).contains("PEAK"))
  }

  /// Lists show more columns if there is room, and use the whole width.
  @Test(arguments: [160, 200]) func listsUseAWideScreen(width: Int) {
    var model = watched()
    func titles(_ keys: String, _ width: Int) -> (Set<Substring>, Grid) {
      press(&model, keys)
      let grid = draw(model, width, 50)
      return (Set(grid.line(verdictRow(grid) + 2).split(separator: " ")), grid)
    }
    for (keys, more) in [
      ("4", ["AGO", "WHAT"]), ("2", ["OPENED", "ALLOCATED", "FREED"]),
      ("3", ["SLOTS", "CONTENTS"]),
    ] as [(String, [Substring])] {
      let (narrow, _) = titles(keys, 139)
      let (wide, grid) = titles(keys, width)
      #expect(wide.isSuperset(of: narrow) && wide.isSuperset(of: more), "\(keys): \(wide)")
      #expect(narrow.isDisjoint(with: more), "\(keys): \(narrow)")
      let used = (0..<50).map { grid.line($0).count }.max() ?? 0
      #expect(used > width * 3 / 4, "\(keys):\n\(grid.text)")
    }
    press(&model, "4")
    #expect(draw(model, width, 50).text.contains("mlock of 16 KiB: ENOMEM"))
  }

  /// At any size, one key shows the complete command of the fix.
  @Test(arguments: [(40, 10), (60, 15), (80, 24), (200, 60)])
  func oneKeyShowsTheFix(width: Int, height: Int) {
    var model = model(sample(arenas: 3))
    press(&model, "d")
    let grid = draw(model, width, height)
    let text = grid.text.split { " \n".contains($0) }.joined(separator: " ")
    #expect(text.contains("prlimit --pid 4127 --memlock=16777216:16777216"), "\(grid.text)")
    #expect(grid.line(verdictRow(grid) + 2).hasPrefix("Why     mlock failed with ENOMEM"))
    #expect(!grid.text.contains("4127 LIVE~") && grid.line(verdictRow(grid)).hasPrefix("PROBLEM"))
    // The rest follows below.
    press(&model, "G")
    for key in ["d", "q", "h"] {
      model.view = .arenas
      press(&model, "d\(key)")
      #expect(model.view == .arenas, "\(key)")
    }
  }

  /// One key opens it, and another returns to the previous view.
  @Test func detailsAreOfTheArenaOfTheProblem() {
    var model = model(sample(arenas: 3))
    press(&model, "g4d")
    #expect(model.view == .detail && draw(model, 80, 24).text.contains("--- tls-keys "))
    press(&model, "]")
    #expect(draw(model, 80, 24).text.contains("--- session-tokens "))
    _ = model.handle(.escape, now: now)
    #expect(model.view == .events)
  }

  // MARK: - Tabs

  @Test(arguments: [40, 60, 80, 100, 160]) func tabsAreInEveryView(width: Int) {
    var model = watched()
    model.output = nil
    for (key, view) in [
      ("1", View.arenas), ("2", .secrets), ("3", .map), ("4", .events), ("5", .findings),
      ("6", .host), ("7", .vaults), ("8", .processes), ("9", .history),
    ] {
      press(&model, key)
      let grid = draw(model, width, 24)
      #expect(grid.line(1).contains(" \(key) "), "\(grid.line(1))")
      let here = grid.rows[1].filter { $0.role == .selected }.compactMap(\.character)
      #expect(String(here).contains(key), "\(view): \(grid.line(1))")
      for number in 1...9 { #expect(grid.line(1).contains(" \(number)"), "\(number) at \(width)") }
    }
  }

  /// A number is not parted from its unit where the line can end between two items.
  @Test(arguments: 30...80) func linesEndBetweenItems(width: Int) {
    let items = ["opened 2,271/s", "allocated 2,271/s", "freed 2,251/s", "longest open 0 ms"]
    let lines = items.joined(separator: "   ").wrapped(width)
    #expect(lines.allSatisfy { $0.columns <= width })
    for item in items { #expect(lines.contains { $0.contains(item) }, "\(lines)") }
    // Nor in a sentence.
    let sentence = "the next chunk (16 KiB) will not fit in the 8 KiB that can still be locked"
    for line in sentence.wrapped(width).dropLast() { #expect(line.last?.isNumber == false) }
  }

  @Test func tabsCountWhatIsNewOrBad() {
    var model = watched()
    #expect(draw(model, 120, 30).line(1).contains("4 Events  "))
    var next = sample(arenas: 3, at: now + 60_000)
    next.eventCount = 15
    model.update(next)
    #expect(draw(model, 120, 30, unicode: true).line(1).contains("4 Events·3"))
    press(&model, "4")
    #expect(draw(model, 120, 30).line(1).contains("4 Events  "))
    #expect(!draw(model, 120, 30).line(1).contains("Audit!"))
    next.audit = Audit(at: now, durationMs: 1, scope: .arenas)
    next.audit?.findings = [
      Finding(
        severity: .differs, kind: .totals, claim: "a", kernel: "b", cause: "c", fix: "d")
    ]
    model.update(next)
    #expect(draw(model, 120, 30).line(1).contains("5 Audit!1"))
  }
}
