// The screen in a real terminal, driven by keys.

import Foundation
import Glibc
import TestSupport
import Testing

/// A publisher with three arenas, and a screen that watches it.
func watching(
  _ scratch: Scratch, width: Int = 100, height: Int = 30, environment: [String: String] = [:],
  options: [String] = [], directory: String? = nil
) throws -> (Peer, Tmux) {
  let (peer, _) = try publishing(
    scratch, prefix: withoutLockCapability(soft: 65536, hard: 65536),
    "arena a tls-keys isolated preferred pages", "alloc a 2 40",
    "arena b session-tokens slab preferred pages", "alloc b 100 40",
    "arena c alpha slab off none", "alloc c 10 500")
  let tmux = try Tmux(
    [Programs.memwatch, "\(peer.pid)", "--interval", "100ms"] + options, stats: scratch,
    width: width, height: height, environment: environment, directory: directory)
  tmux.companions = [peer]
  return (peer, tmux)
}

@Suite(.serialized, .waitsForProcesses) struct TerminalTests {
  @Test func showsWhatThereIsAndRestoresTheTerminal() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try watching(scratch)
    let screen = try tmux.wait(for: "session-tokens", "tls-keys", "? help")
    #expect(screen[0].contains("test-publisher") && screen[0].contains("pid \(peer.pid)"))
    #expect(screen[0].contains("LIVE"))
    #expect(
      screen.contains {
        $0.contains("tls-keys") && $0.contains("locked") && $0.contains("closed")
      })
    try tmux.keys("?")
    try tmux.wait(for: "open: an arena's labels")
    try tmux.keys("q", "q")
    try tmux.wait(for: "[STATUS 0]")
    let end = try tmux.wait(for: "[ECHO ON]")
    #expect(!end.contains { $0.contains("session-tokens") })
    #expect(peer.process.isRunning)
  }

  /// Every view, by its key.
  @Test func everyViewOpensByItsKey() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    try tmux.keys("g", "Enter")
    try tmux.wait(for: "arenas > tls-keys > secrets")
    try tmux.keys("Enter")
    try tmux.wait(for: "> tls-keys > secrets > ")
    for (key, text) in [
      ("3", "GLG"), ("4", "publishing-started"), ("5", "audited at"), ("6", "─── host ──"),
      ("7", "no vaults"),
      ("9", "Locked"), ("8", "test-publisher"), ("1", "Memlock"),
    ] {
      try tmux.keys(key)
      try tmux.wait(for: text)
    }
    try tmux.keys("A")
    try tmux.wait(for: "audited: claims and mappings were compared")
    try tmux.quit()
  }

  /// One line per change, and none for values that change all the time.
  @Test func changesArePrintedAsLines() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred none", "alloc a 1 40")
    let process = Launch(
      [Programs.memwatch, "watch", "--screen-reader", "-i", "50ms", "\(peer.pid)"], stats: scratch
    ).process()
    let output = scratch.file("output")
    _ = FileManager.default.createFile(atPath: output, contents: nil)
    process.standardOutput = FileHandle(forWritingAtPath: output)
    try process.run()
    defer { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }
    func said() -> String { (try? String(contentsOfFile: output, encoding: .utf8)) ?? "" }
    try eventually("it begins") { said().contains("arena alpha: ok, locked") }
    let start = said()
    try peer.send("touch a 100")
    try peer.send("arena b bravo slab preferred none")
    try eventually("the new arena") { said().contains("arena bravo is new") }
    try peer.send("munlock a")
    try eventually("the difference") { said().contains("differs: ") }
    try peer.send("destroy b")
    try eventually("the end of it") { said().contains("arena bravo is gone") }
    peer.kill()
    try eventually("the process is gone") { !process.isRunning }
    #expect(said().contains("is exited: it was still publishing"))
    #expect(start.split(separator: "\n").count == 3, "\(start)")
    #expect(!said().contains("opens"))
  }

  /// The user's program is started once per alert, with the alert's kind and arena.
  @Test func aProgramIsStartedAtAnAlert() throws {
    let scratch = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let script = files.file("on-alert")
    try
      "#!/bin/sh\necho \"$# $1 $2 $ENCLAVE_ALERT_KIND $ENCLAVE_ALERT_ARENA\" >> \(files.file("said"))\n"
      .write(toFile: script, atomically: true, encoding: .utf8)
    chmod(script, 0o700)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred none", "alloc a 1 40")
    let tmux = try Tmux(
      [Programs.memwatch, "\(peer.pid)", "--interval", "100ms", "--on-alert", script],
      stats: scratch)
    try tmux.wait(for: "alpha")
    try peer.send("munlock a")
    try tmux.keys("A")
    func said() -> String {
      (try? String(contentsOfFile: files.file("said"), encoding: .utf8)) ?? ""
    }
    // (Already before the audit, the totals differ.)
    try eventually("the program is started") {
      said().split(separator: "\n").contains("2 finding 1 finding 1")
    }
    try tmux.quit()
  }

  @Test(arguments: ["C", "C.UTF-8"]) func linesFollowTheLocale(locale: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch, environment: ["LC_ALL": locale])
    try tmux.wait(for: "session-tokens")
    let text = try tmux.text()
    #expect(text.contains("───") == (locale == "C.UTF-8"))
    #expect(text.contains("-----") == (locale == "C"))
  }

  @Test func colourIsNeverTheOnlyCue() throws {
    let scratch = try Scratch(onTmpfs: true)
    var plain = ""
    for environment in [[:], ["TERM": "screen"], ["NO_COLOR": "1"]] {
      let (peer, tmux) = try watching(scratch, environment: environment)
      try tmux.wait(for: "session-tokens")
      let escapes = try tmux.run(["capture-pane", "-p", "-e"]).output
      let hasColour = try /\e\[([0-9;]*;)?([34]8;5;|[34][0-7]m)/.firstMatch(in: escapes) != nil
      #expect(hasColour == (environment["NO_COLOR"] == nil), "\(environment)")
      // (Changes are shown from the second sample on.)
      let words = try tmux.screen().first { $0.contains("tls-keys") }!.split(separator: " ")
      let row = words.prefix(4).joined(separator: " ")
      if plain.isEmpty { plain = row } else { #expect(row == plain) }
      peer.kill()
    }
  }

  @Test func screenSurvivesResizes() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    for (width, height) in [(40, 10), (300, 100), (2, 2), (1, 1), (80, 24), (160, 50), (20, 5)] {
      try tmux.resize(width, height)
    }
    for step in 0..<30 { try tmux.resize(20 + step * 7 % 150, 3 + step * 5 % 50) }
    try tmux.resize(100, 30)
    try tmux.wait(for: "Memlock")
    let screen = try tmux.wait(for: "session-tokens")
    #expect(screen.count { $0.contains("ARENA") } == 1, "no leftovers")
    try tmux.resize(40, 10)
    let small = try tmux.wait(for: " of 64 KiB")
    #expect(small.contains { $0.hasPrefix("Memlock") })
    try tmux.wait(for: "ARENA")
    try tmux.keys("Q")
    try tmux.wait(for: "[STATUS 0")
  }

  @Test func keysWorkAtATerminal() throws {
    let scratch = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let (peer, tmux) = try watching(scratch, directory: files.path)
    try tmux.wait(for: "session-tokens")
    try tmux.keys("g", "j")
    try tmux.wait(for: "session-tokens ──")
    try tmux.type("/alp")
    try tmux.wait(for: "alpha ──")
    try tmux.keys("Enter")
    try tmux.wait(for: "[search ")
    try tmux.keys("Escape")
    // Followed immediately by a key, it would be that key with Alt.
    try eventually("the search is over") { try !tmux.text().contains("[search ") }
    try tmux.keys("m")
    try tmux.wait(for: "marked")
    try peer.send("alloc c 5 500")
    try tmux.wait(for: "secrets +5")
    try tmux.keys("p")
    try tmux.wait(for: "[paused")
    try peer.send("alloc c 5 500")
    try tmux.keys("p")
    try tmux.wait(for: "secrets +10")
    try tmux.keys("w")
    try tmux.wait(for: "write all to")
    try tmux.keys("C-u")
    try tmux.type("out.json")
    try tmux.keys("Enter")
    try tmux.wait(for: "wrote out.json")
    let file = try String(contentsOfFile: files.file("out.json"), encoding: .utf8)
    #expect(try json(file)["schema"] as? String == "memwatch/2")
    try tmux.keys("w", "C-u")
    try tmux.type("out.json")
    try tmux.keys("Enter")
    try tmux.wait(for: "does not overwrite")
    try tmux.keys("8")
    try tmux.wait(for: "processes that publish")
    try tmux.keys("C-c")
    try tmux.wait(for: "[STATUS 0]")
  }

  @Test func suspendsAndComesBack() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a tls-keys slab preferred pages")
    let tmux = try Tmux(
      ["env", "PS1=ready# ", "bash", "--norc", "-i"], stats: scratch)
    try tmux.wait(for: "#")
    try tmux.type("\(Programs.memwatch) \(peer.pid)")
    try tmux.keys("Enter")
    try tmux.wait(for: "tls-keys")
    try tmux.keys("C-z")
    try tmux.wait(for: "Stopped")
    try tmux.type("fg")
    try tmux.keys("Enter")
    try tmux.wait(for: "Memlock")
    try tmux.keys("q")
    try eventually("it is gone") { try !tmux.text().contains("Memlock") }
  }

  @Test(arguments: ["", "no-such-terminal"]) func unknownTerminalsAreErrors(term: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch)
    let command = term.isEmpty ? ["env", "-u", "TERM"] : ["env", "TERM=\(term)"]
    let tmux = try Tmux(command + [Programs.memwatch, "\(peer.pid)"], stats: scratch)
    try tmux.wait(for: "[STATUS 1]")
    #expect(try tmux.text().contains("TERM"))
  }

  /// After each random key or resize, the terminal shows exactly the grid. MEMWATCH_SEED sets the
  /// seed, MEMWATCH_KEYS the number of keys.
  @Test func theTerminalShowsTheGrid() throws {
    let environment = ProcessInfo.processInfo.environment
    var random = SeededGenerator()
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a tls-keys isolated preferred pages", "alloc a 5 40",
      "arena b 鍵 slab off none", "alloc b 300 40",
      "arena c größe slab off none", "alloc c 10 500")
    let file = scratch.file("grid")
    let tmux = try Tmux(
      [Programs.path("screen-driver"), "\(peer.pid)", file], stats: scratch, width: 100, height: 30)
    try tmux.wait(for: "tls-keys")
    let keys =
      "jkgGnNhsIm>pr,.+-/f?123456789oAatRw ".map { String($0) } + [
        "Enter", "Escape", "BSpace", "Tab", "Up", "Down", "PPage", "NPage", "Home", "End", "C-u",
        "C-l", "Left", "Right", "F1",
      ]
    let sizes = [(1, 1), (20, 5), (40, 10), (79, 23), (80, 24), (100, 30), (160, 50), (200, 60)]
    var isTiny = false
    for step in 0..<(environment["MEMWATCH_KEYS"].flatMap { Int($0) } ?? 250) {
      let what: String
      if random.next() % 12 == 0 {
        let (width, height) = sizes[Int(random.next() % UInt64(sizes.count))]
        what = "\(width)x\(height)"
        try tmux.resize(width, height)
        isTiny = width == 1
      } else {
        what = keys[Int(random.next() % UInt64(keys.count))]
        try tmux.keys(what)
      }
      // Curses cannot draw the lower right corner of a screen with one column.
      if isTiny { continue }
      var (shown, drawn) = ("", "")
      do {
        try eventually("they are alike") {
          drawn = (try? String(contentsOfFile: file, encoding: .utf8)) ?? ""
          shown = try tmux.screen().joined(separator: "\n")
          func trimmed(_ text: String) -> [String] {
            var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map {
              String($0).replacing(/\ +$/, with: "")
            }
            while lines.last == "" { lines.removeLast() }
            return lines
          }
          return trimmed(shown) == trimmed(drawn)
        }
      } catch {
        throw Failed("seed \(random.seed), step \(step), \(what):\n\(shown)\n--- drawn\n\(drawn)")
      }
    }
  }

  /// `R` starts and ends a record, and memwatch replay shows it.
  @Test func recordsFromTheScreen() throws {
    let scratch = try Scratch(onTmpfs: true)
    let files = try Scratch()
    let (_, tmux) = try watching(scratch, directory: files.path)
    try tmux.wait(for: "session-tokens")
    try tmux.keys("R", "C-u")
    try tmux.type("day.record")
    try tmux.keys("Enter")
    try tmux.wait(for: "[REC]")
    let path = files.file("day.record")
    try eventually("three samples") {
      try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").count > 3
    }
    try tmux.keys("R")
    try tmux.wait(for: "recorded to day.record")
    let text = try Launch([Programs.memwatch, "replay", "-1", path]).run().output
    #expect(text.contains("session-tokens"))
  }

  /// A click selects, the wheel moves; `--no-mouse` leaves both to the terminal.
  @Test func theMouseSelects() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (_, tmux) = try watching(scratch)
    let screen = try tmux.wait(for: "session-tokens", "alpha", "? help")
    let row = try #require(screen.firstIndex { $0.contains("alpha") })
    // A button and its place, each with 32 added, as this terminal sends them (xterm's ctlseqs).
    func event(_ button: UInt8) -> String {
      "\u{1b}[M"
        + [button + 32, 5 + 32, UInt8(row) + 33].map { String(Unicode.Scalar($0)) }.joined()
    }
    try tmux.type(event(0) + event(3))
    try tmux.wait(for: "─── alpha ")
    try tmux.type(event(64))
    try tmux.wait(for: "─── session-tokens ")
  }

  /// Without a name the list of processes is shown first, even for a single one. (Others may
  /// publish on this machine.)
  @Test func processesComeFirst() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux([Programs.memwatch, "-i", "100ms"], stats: scratch)
    try tmux.wait(for: "processes that publish")
    try tmux.keys("?")
    try tmux.wait(for: "next line")
    try tmux.keys("q")
    let (peer, _) = try publishing(scratch, "arena a alpha slab off none")
    tmux.companions = [peer]
    try tmux.wait(for: "\(peer.pid)")
    try tmux.keys("f")
    try tmux.wait(for: "show only:")
    try tmux.type("\(peer.pid)")
    try tmux.keys("Enter")
    // The selected process's arenas are shown below the list, one frame later.
    let one = try tmux.wait(for: "[filter \"\(peer.pid)\": 1 of", "alpha")
    #expect(one.contains { $0.contains("\(peer.pid)") && $0.contains("test-publisher") }, "\(one)")
    try tmux.keys("Enter")
    try tmux.wait(for: "Memlock")
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 0]")
  }

  @Test func severalMatchesAreAListToChooseFrom() throws {
    // Run as a separate user, so that the list only holds this test's processes.
    let scratch = try Scratch(onTmpfs: true)
    let (a, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    let (b, _) = try publishing(scratch, "arena a bravo slab preferred pages")
    let tmux = try Tmux([Programs.memwatch, "-i", "100ms"], stats: scratch)
    try tmux.wait(for: "processes that publish")
    try tmux.wait(for: "\(a.pid)")
    try tmux.wait(for: "\(b.pid)")
    try tmux.keys("Enter")
    try tmux.wait(for: "Memlock")
  }

  @Test func runShowsOutputAndAsksBeforeItQuits() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      [Programs.memwatch, "run", "-i", "100ms", "--", Programs.demo], stats: scratch)
    try tmux.wait(for: "session-tokens")
    try tmux.keys("o")
    try tmux.wait(for: "memlock limit lowered")
    try tmux.keys("Q")
    try tmux.wait(for: "leave process")
    try tmux.keys("n")
    try tmux.wait(for: "the command's output:")
    try tmux.wait(for: "[STATUS 143]")
  }

  /// Each command with a screen takes an option for the maximum time of a window.
  @Test(arguments: [["watch"], ["run"]]) func everyScreenTakesTheOpenLimit(command: [String]) throws
  {
    let scratch = try Scratch(onTmpfs: true)
    var target = ["--"]
    var peers: [Peer] = []
    if command == ["watch"] {
      let (peer, _) = try publishing(
        scratch, "arena a alpha slab off none", "alloc a 1 40", "hold a")
      target = ["\(peer.pid)"]
      peers = [peer]
    } else {
      let commands = ["start", "arena a alpha slab off none", "alloc a 1 40", "hold a"]
        .map { "echo \($0)" }.joined(separator: "; ")
      target += ["sh", "-c", "(\(commands); exec tail -f /dev/null) | \(Programs.publisher)"]
    }
    let tmux = try Tmux(
      [Programs.memwatch] + command + ["-i", "100ms", "--open-limit", "300ms"] + target,
      stats: scratch)
    tmux.companions = peers
    try tmux.wait(for: "without a new window")
    try tmux.keys("Q")
    if command == ["run"] { try tmux.keys("n") }
    try tmux.wait(for: "[STATUS")
  }

  @Test func runWithoutAPlaceForItsLogIs125() throws {
    let scratch = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      ["env", "TMPDIR=/nonexistent", Programs.memwatch, "run", "--", "true"], stats: scratch)
    try tmux.wait(for: "[STATUS 125]")
  }
}
