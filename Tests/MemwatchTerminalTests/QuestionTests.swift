// The screen answers a user's questions within a given number of keys.

import Foundation
import MemwatchSystem
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct QuestionTests {
  /// Seven minutes of a process that leaks, holds a secret open and cannot lock its memory.
  private func watched() -> Model {
    setenv("TZ", "UTC", 1)
    tzset()
    var model = Model(intervalMs: 1000)
    for step in 0..<42 {
      var next = sample(arenas: 3, at: 1_795_236_404_000 + UInt64(step) * 10_000)
      next.arenas[2].secretCount = UInt64(2000 + step * 10)
      next.arenas[2].labels[0].live = UInt64(700 + step * 10)
      for index in next.secrets.indices where next.secrets[index].openNow > 0 {
        next.secrets[index].lastOpenedAt = next.sampledAt - 29_000
      }
      if let open = next.secrets.firstIndex(where: { $0.arenaID == 1 && $0.openNow > 0 }) {
        next.secrets[open].lastOpenedAt = next.sampledAt - 300_000
      }
      if step < 20 { next.problems = [] }
      model.update(next)
    }
    model.update(Host(root: "/nonexistent"))
    return model
  }

  private func screen(_ model: Model, _ size: (Int, Int)) -> Grid { draw(model, size.0, size.1) }

  @Test(arguments: [(100, 30), (80, 24)]) func theFirstScreenShowsProblemCauseAndFix(
    size: (Int, Int)
  ) {
    let grid = screen(watched(), size)
    let text = grid.text
    // Which arena is unsafe, why, and which command fixes it.
    #expect(grid.line(2).hasPrefix("PROBLEM 1/1  session-tokens: 16 KiB of 64 KiB not locked"))
    #expect(text.contains("Why     mlock failed with ENOMEM at 04:46:40"))
    #expect(text.contains("Now     prlimit --pid 4127 --memlock=16777216:16777216"))
    // The worst is first in the list.
    let titles = titlesRow(grid)
    #expect(grid.line(titles + 1).hasPrefix("! session-tokens"))
    // Whether it is live, whether the kernel agrees, whether swap is on, and how much can still be
    // locked.
    #expect(grid.line(0).contains("LIVE"))
    #expect(text.contains("Kernel  VmLck 6 MiB covers"))
    #expect(text.contains("6 MiB of 8 MiB   2 MiB free"))
    #expect(grid.line(0).contains("swap n/a"))
    // What grew in five minutes.
    #expect(grid.line(titles).contains("5 MIN") && text.contains("+300"))
  }

  @Test(arguments: [(100, 30), (80, 24)]) func whichLabelLeaks(size: (Int, Int)) {
    var model = watched()
    press(&model, "2")
    let grid = screen(model, size)
    let first = grid.line(5)
    #expect(first.hasPrefix("! ") && first.contains("oauth refresh  leak?"), "\(grid.text)")
    #expect(first.contains("scratch"))
    #expect(grid.text.contains("leak?   300 more in 5 min"))
  }

  @Test(arguments: [(100, 30), (80, 24)]) func whichSecretIsHeldOpen(size: (Int, Int)) {
    var model = watched()
    press(&model, "2")
    let grid = screen(model, size)
    let row = (5...8).first { grid.line($0).contains("  held") }
    #expect(row.map { grid.line($0).contains("http session  held") } == true, "\(grid.text)")
    #expect(
      row.map { grid.line($0).contains("5 min") && grid.line($0).contains("tls-keys") } == true)
  }

  /// Seven keys.
  @Test(arguments: [(100, 30), (80, 24)]) func whatChangedAtATime(size: (Int, Int)) {
    var model = watched()
    press(&model, "t04:49\n")
    let grid = screen(model, size)
    #expect(grid.text.contains("[time 04:49:04"))
    #expect(!grid.line(2).hasPrefix("PROBLEM"), "it was not there yet")
    press(&model, "t+2m\n")
    #expect(screen(model, size).line(2).hasPrefix("PROBLEM"))
  }

  /// One key: the worst process first, each with its locked bytes and limit.
  @Test(arguments: [(100, 30), (80, 24)]) func whoElseUsesTheLockBudget(size: (Int, Int)) {
    var discovery = Discovery()
    var summaries: [UInt64: ProcessSummary] = [:]
    for (id, name) in [(UInt64(1), "quiet"), (2, "tls-gateway"), (3, "gone")] {
      discovery.publishers.append(
        Publisher(
          source: .host, path: "/p\(id)", fileName: "p\(id)", pid: Int32(100 + id),
          publisherPid: 100 + id, id: id, name: SafeText(name), uid: 1000,
          createdAt: now - 3_600_000, state: id == 3 ? .exited : .live))
    }
    var quiet = sample(arenas: 1)
    quiet.memlock.locked = 64 << 10
    quiet.memlock.soft = 1 << 20
    summaries = [1: ProcessSummary(quiet), 2: ProcessSummary(sample(arenas: 3))]
    var model = watched()
    press(&model, "8")
    model.update(discovery, summaries)
    let grid = screen(model, size)
    #expect(grid.line(5).contains("102") && grid.line(5).contains("tls-gateway"), "\(grid.text)")
    #expect(grid.line(5).contains("PROBLEM  session") && grid.line(5).hasSuffix("6 MiB of 8 MiB"))
    #expect(grid.line(6).contains("quiet") && grid.line(6).hasSuffix("64 KiB of 1 MiB"))
    #expect(grid.line(7).contains("exited, last seen n/a"))
    if size.0 == 100 { #expect(grid.line(5).contains("60 min")) }
    #expect(grid.rows[5].contains { $0.role == .selectedBad || $0.role == .bad })
  }

  /// Without a publisher the first screen shows the searched directories, and what a program has to
  /// do.
  @Test(arguments: [(100, 30), (80, 24)]) func nobodyPublishes(size: (Int, Int)) {
    var model = Model(intervalMs: 1000)
    model.view = .processes
    var discovery = Discovery()
    discovery.places = [
      Location(path: "/dev/shm/enclave-0", .searched, outcome: "contains no page", pageCount: 0)
    ]
    model.update(discovery)
    let text = screen(model, size).text
    #expect(text.contains("no process publishes a stats page"), "\(text)")
    #expect(text.contains("searched /dev/shm/enclave-0: contains no page"))
    #expect(text.contains("StatsPublisher.start()") && text.contains("ENCLAVE_STATS=1"))
    press(&model, "fzzz\n")
    #expect(screen(model, size).text.contains("no process matches"))
  }

  @Test func theFixFitsASmallScreen() {
    var model = watched()
    press(&model, "d")
    let text = screen(model, (40, 10)).text.split { " \n".contains($0) }.joined(separator: " ")
    #expect(text.contains("prlimit --pid 4127 --memlock=16777216:16777216"))
  }

  // MARK: - Labels

  @Test func aLabelOfAllArenasIsEnteredAndLeft() {
    var model = model(sample(arenas: 3))
    press(&model, "2/oauth\n")
    #expect(model.listing?.rows.count == 9)
    let row = model.listing!.rows[model.selectedRow(of: model.listing!.rows)]
    _ = model.handle(.enter, now: now)
    #expect(model.isOneByOne && model.selectedArena.map { row.id.hasPrefix("\($0)/") } == true)
    #expect(model.listing?.rows.map { $0.cells[0].text } == ["oauth refresh"])
    press(&model, "h")
    #expect(!model.isOneByOne && model.showsAllLabels && model.selectedItem[.secrets] == row.id)
    press(&model, "1\n")
    #expect(!model.showsAllLabels && model.listing?.title.hasPrefix("arenas > ") == true)
  }

  // MARK: - Clipboard

  @Test func theFixIsSentToTheClipboard() {
    var model = model(sample(arenas: 3))
    let fix = "prlimit --pid 4127 --memlock=16777216:16777216"
    #expect(model.handle(.character("y"), now: now) == [.copy(fix)])
    #expect(model.message?.contains("sent to the terminal's clipboard") == true)
    #expect(draw(model, 100, 30).text.contains("--memlock=16777216:16777216"))
    var good = sample(arenas: 3)
    good.problems = []
    model.update(good)
    #expect(
      model.handle(.character("y"), now: now).isEmpty && model.message?.contains("no fix") == true)
  }

  @Test(arguments: ["", "a", "ab", "abc", "prlimit --pid 1 --memlock=1:2", "größe"])
  func clipboardSequenceIsWellFormed(text: String) {
    let expected = "\u{1b}]52;c;" + Data(text.utf8).base64EncodedString() + "\u{7}"
    #expect(String(decoding: Clipboard.sequence(text), as: UTF8.self) == expected)
  }

  /// No text can end the sequence or start another.
  @Test func textCannotEndTheClipboardSequence() {
    let hostile = Clipboard.sequence(
      "a\u{7}\u{1b}]0;x\u{7}\n" + String(repeating: "b", count: 9999))
    #expect(hostile.count { $0 == 7 } == 1 && hostile.count { $0 == 27 } == 1)
    #expect(hostile.count < 6000)
  }

  // MARK: - States

  @Test func aStateGivesItsReason() {
    var snapshot = sample(arenas: 3)
    snapshot.problems.append(
      Problem(severity: .warning, kind: .nextChunkWillFail, arenaID: 3, text: "it will not fit"))
    var model = Model(intervalMs: 1000)
    model.update(snapshot)
    #expect(model.arenas.map(\.id) == [2, 3, 1], "the worst first")
    #expect(model.stateText(of: model.arenas[1]) == "no room")
    #expect(
      draw(model, 80, 24).text.contains("no room") && !draw(model, 80, 24).text.contains("warning"))
  }
}
