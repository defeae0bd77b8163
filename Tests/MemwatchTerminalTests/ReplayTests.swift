// Records of samples, and their replay.

import EnclaveStats
import EnclaveSystem
import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ReplayTests {
  /// Records samples and replays them. Returns the samples that were read, and the bytes of each.
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

  /// Help, the end, steps, a time and a pause: in each view, from 40 columns on.
  @Test(arguments: [(40, 10), (41, 10), (59, 15), (80, 24), (100, 30), (160, 50)])
  func theFooterNamesTheReplaysKeys(size: (Int, Int)) throws {
    var model = model(sample())
    model.replay([sample(), sample(at: now + 1000)], at: 0)
    for view in View.allCases where view != .help {
      model.view = view
      let footer = draw(model, size.0, size.1).line(size.1 - 1)
      for key in ["? help", "q ", size.0 < 100 ? " step" : " earlier/later", "t time", "p pause"] {
        #expect(footer.contains(key), "\(view): \(footer)")
      }
    }
  }

  /// Whatever changes between samples, each is read back unchanged.
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
          next.events.append(
            EventSnapshot(
              serial: UInt64(step), kind: .unknown(UInt64(step)), bytes: ByteCount(UInt64(step))))
        case 5:
          next.calls.append(
            CallSnapshot(
              call: .known(SystemCall.allCases[step % SystemCall.allCases.count]), count: 1,
              failures: 0))
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
    // A sample without changes is small, however much there is.
    let many = sample(arenas: 200)
    var later = many
    later.sampledAt += 1000
    later.arenas[7].opens = 9
    let sizes = try recorded([many, later]).bytes
    #expect(sizes[1] < sizes[0] / 40, "\(sizes)")
    // Foreign lines are not samples.
    let line = RecordedSample(later.summarizingSecrets, after: many.summarizingSecrets)
    #expect(line.snapshot(after: nil) == nil)
    #expect(line.snapshot(after: sample(arenas: 3).summarizingSecrets) == nil)
  }

  /// A record may be forged or truncated: with any numbers, the readable part is shown.
  @Test func forgedRecordsAreRejected() throws {
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
    // A line with texts that a terminal would act on, raw or escaped, is not a sample.
    #expect(good.allSatisfy { RecordedSample.isWellFormed($0) })
    for text in ["größe 鍵 e\u{301}", "a \\\" b \\\\ c \\/"] {
      #expect(RecordedSample.isWellFormed(Array("{\"name\":\"\(text)\"}".utf8)), "\(text)")
    }
    for text in [
      "\\u001b[31m", "\\u0041", "\\n", "\\r", "\\b", "\u{1b}", "\u{9b}2J", "\u{202e}", "\u{7f}",
      "\\\\\\u001b", "\\",
    ] {
      let isAtEnd = text == "\\"
      #expect(
        !RecordedSample.isWellFormed(Array("{\"name\":\"\(text)\(isAtEnd ? "" : "\"}")".utf8)),
        "\(text)")
    }
    #expect(!RecordedSample.isWellFormed([0x22, 0xff, 0x22]))
  }

  @Test func replaysOfferNoCommands() {
    let (live, replay) = (sample(), sample().withoutFixes)
    #expect(live.problems.contains { $0.fix != nil } && live.text.contains("prlimit"))
    #expect(replay.problems.map(\.text) == live.problems.map(\.text))
    #expect(
      !replay.text.contains("prlimit") && !draw(model(replay), 120, 40).text.contains("prlimit"))
  }

  /// A record does not list secrets, but shows the same labels.
  @Test func recordsKeepLabels() throws {
    // Marked when the secrets existed, and before.
    for (mark, leaks) in [(sample(), 1), (sample(at: Timestamp(realMs: now.realMs / 2)), 0)] {
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
      #expect(
        shown.rows.map(\.isMarked) == expected.rows.map(\.isMarked) && shown.note == expected.note)
      #expect(expected.rows.count { $0.isMarked } == leaks)
      #expect(expected.rows[0].cells[5].text != "-" && record[1].secrets.isEmpty)
      press(&replay, "\n")
      #expect(replay.listing!.empty == "a record lists secrets by label, not one by one")
    }
  }

  /// After a jump, a replay shows the same as one that read all samples in order.
  @Test func jumpingShowsTheSameAsReadingInOrder() {
    let samples = (0..<120).map { step in
      var next = sample(arenas: 3, at: now + UInt64(step) * 1000)
      next.memlock.locked = ByteCount(UInt64(step % 7) << 16)
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
    // Acknowledged alerts do not reappear, and the selection and the mark are kept.
    press(&model, "am")
    press(&model, "jj")
    let selected = model.selectedArena
    for index in [100, 0, 90] {
      model.replay(samples, at: index)
      #expect(model.alerts.isEmpty && model.selectedArena == selected)
      #expect(model.mark?.sampledAt == samples[60].sampledAt)
    }
  }
}
