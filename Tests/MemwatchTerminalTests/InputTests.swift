// Input from terminals and users: pastes, escape sequences, times.

import MemwatchTerminal
import Testing

@Suite struct InputTests {
  /// The keys in input that arrives at once.
  private func keys(_ reads: String...) -> [Key] {
    var parser = InputParser()
    return reads.flatMap { read in
      read.unicodeScalars.compactMap { parser.take($0) } + [parser.flush()].compactMap { $0 }
    }
  }

  @Test func escapeSequencesAreSwallowed() {
    for sequence in [
      "\u{1b}[<0;12;7M", "\u{1b}[M !!", "\u{1b}[?1;2c", "\u{1b}[27;5;113~", "\u{1b}OQ", "\u{1b}q",
      "\u{1b}]0;Q\u{7}", "\u{1b}P1$rQ\u{1b}\\", "\u{1b}[I", "\u{1b}_Q\u{1b}\\", "\u{1b}[",
    ] {
      #expect(keys(sequence) == [], "\(sequence.debugDescription)")
      #expect(keys(sequence, "j") == [.character("j")], "\(sequence.debugDescription)")
    }
    #expect(keys("\u{1b}") == [.escape])
    #expect(keys("\u{1b}", "q") == [.escape, .character("q")])
    #expect(keys("\u{1b}\u{1b}") == [.escape, .escape])
  }

  @Test func aPasteIsOneKey() {
    let paste = "\u{1b}[200~wq\rQ\u{1b}[A\u{1b}[201~"
    #expect(keys(paste) == [.paste("wq\rQ\u{1b}[A")])
    #expect(keys(paste + "j") == [.paste("wq\rQ\u{1b}[A"), .character("j")])
    // Input in pieces.
    #expect(keys("\u{1b}[200~wq", "\rQ\u{1b}", "[201~") == [.paste("wq\rQ")])
    let long = keys("\u{1b}[200~" + String(repeating: "x", count: 100_000) + "\u{1b}[201~j")
    #expect(long.count == 2 && long[1] == .character("j"))
  }

  @Test func readsOfManyKeysArePastes() {
    func read(_ text: String, saysPaste: Bool = false) -> [Key] {
      InputParser.keys(
        text.map { Key.character($0) }, byteCount: text.utf8.count, saysPaste: saysPaste)
    }
    #expect(read("wq and Q").count == 1 && read("wq and ").count == 7)
    #expect(read("wq and Q", saysPaste: true).count == 8)
    #expect(read(String(repeating: "j", count: 500)).count == 500)
  }

  @Test func pastedTextIsText() {
    var model = model(sample())
    #expect(model.handle(.paste("wq\nQ"), now: now) == [])
    #expect(model.message?.contains("ignored") == true && model.view == .arenas)
    press(&model, "w\u{15}")
    #expect(model.handle(.paste("a\nb\u{15}\u{1b}c"), now: now) == [])
    #expect(model.prompt?.text == "abc")
    model = ScreenTests.running
    _ = model.handle(.character("Q"), now: now)
    #expect(model.handle(.paste("y"), now: now) == [] && model.prompt?.kind == .leave)
  }

  // MARK: - Times of a replay

  private static let day: UInt64 = 86_400_000

  /// Samples from 23:59:57.4 on, one per second, and again a day later.
  private static let times: [UInt64] = (0..<2).flatMap { turn in
    (0..<8).map { UInt64(turn) * day + 86_397_400 + $0 * 1000 }
  }

  @Test(
    arguments: [
      ("+2s", 3, 5, false), ("-2s", 3, 1, false), ("+1500ms", 3, 5, false),
      ("-1500ms", 3, 1, false),
      ("+1m", 3, 8, false), ("+48h", 3, 15, true), ("-5m", 3, 0, true),
      ("-99999999999999999h", 3, 0, true),
      ("23:59:59", 5, 2, false), ("23:59", 7, 8, false), ("0:00", 0, 3, false),
      ("00:00:01", 0, 4, false),
      ("0:00:01", 14, 12, false), ("9:00:00", 0, 8, false), ("25:00", 0, nil, true),
      ("", 0, nil, true),
      ("tomorrow", 0, nil, true), ("+5", 0, nil, true), ("1:2:3:4", 0, nil, true),
      ("+x", 0, nil, true),
    ] as [(String, Int, Int?, Bool)])
  func timesOfAReplay(text: String, from: Int, expected: Int?, saysSo: Bool) {
    let place = ReplayTime.index(of: text, in: Self.times, at: from) { Int($0 / 1000 % 86_400) }
    #expect(place.index == expected && (place.note != nil) == saysSo, "\(text): \(place)")
  }
}

extension ScreenTests {
  static var running: Model {
    var model = model(sample())
    model.runningChild = 99
    return model
  }
}
