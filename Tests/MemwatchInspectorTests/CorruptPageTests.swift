// Truncated, random and inconsistent pages, and pages of other versions: always an answer, never a
// crash.

import EnclaveStats
import EnclaveSystem
import Foundation
import MemwatchInspector
import MemwatchTerminal
import TestSupport
import Testing

@Suite(.serialized) final class CorruptPageTests {
  let scratch: Scratch
  let page: Data
  let peer: Peer

  init() throws {
    scratch = try Scratch(onTmpfs: true)
    peer = try Peer(stats: scratch)
    let path = try peer.send("start 100")
    for (index, name) in ["alpha", "bravo", "charlie"].enumerated() {
      try peer.send("arena \(index) \(name) slab preferred pages")
      try peer.send("alloc \(index) 50 40")
    }
    page = try Data(contentsOf: URL(fileURLWithPath: path))
  }

  func sample(_ bytes: Data) throws -> Result<Snapshot, AttachFailure> {
    let path = scratch.file("test.page")
    try? FileManager.default.removeItem(atPath: path)
    try bytes.write(to: URL(fileURLWithPath: path))
    do throws(AttachFailure) {
      return .success(try Inspector.attach(to: .file(path)).sample())
    } catch { return .failure(error) }
  }

  /// A reading of the page as it was written.
  private lazy var valid = Result {
    guard case .success(let snapshot) = try sample(page) else { throw Failed("unreadable") }
    return snapshot
  }

  /// The text and the screen, with the changes since a valid reading.
  func render(_ snapshot: Snapshot) throws {
    let honest = try valid.get()
    for turns in [[honest, snapshot, honest], [snapshot, honest, snapshot]] {
      var model = Model(intervalMs: 1000)
      for (index, var snapshot) in turns.enumerated() {
        snapshot.sampledAt = 1_795_236_404_000 + UInt64(index) * 100
        model.update(snapshot)
        _ = model.handle(.character("m"), now: 0)
      }
      for (width, height) in [(100, 30), (40, 10)] {
        let grid = Renderer.render(
          model, width: width, height: height, style: Style(unicode: true), now: 0
        ).grid
        #expect(!grid.text.contains("\u{1b}"))
      }
      for view in [View.secrets, .map, .history] {
        model.view = view
        let grid = Renderer.render(
          model, width: 80, height: 24, style: Style(unicode: false), now: 1_795_236_405_000
        ).grid
        #expect(!grid.text.contains("\u{1b}"))
      }
    }
    #expect(!snapshot.text.isEmpty && !snapshot.csv.contains("\u{1b}"))
    #expect(snapshot.changes(since: honest).allSatisfy { !$0.contains("\u{1b}") })
    #expect(snapshot.check(Requirement.usual).count == Requirement.usual.count)
  }

  func state(_ bytes: Data) throws -> PublisherState {
    switch try sample(bytes) {
    case .success(let snapshot): return snapshot.process.state
    case .failure(.unreadable(let publisher)): return publisher.state
    case .failure(let other): throw Failed("\(other)")
    }
  }

  func changed(_ word: Int, to value: UInt64) -> Data {
    var bytes = page
    withUnsafeBytes(of: value.littleEndian) { raw in
      bytes.replaceSubrange(word * 8..<(word * 8 + 8), with: raw)
    }
    return bytes
  }

  @Test func aCopiedPageCountsAsExited() throws {
    guard case .success(let snapshot) = try sample(page) else { throw Failed("unreadable") }
    #expect(snapshot.arenas.map(\.name.string) == ["alpha", "bravo", "charlie"])
    #expect([.exited, .detached, .replaced].contains(snapshot.process.state))
  }

  @Test func aTruncatedPageIsCorrupt() throws {
    var cuts = [0, 1, 7, 8, 1023, 1024, 1535, 4095, 4096, page.count - 1]
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 100, 256, 16, 2048])!
    #expect(layout.byteCount == page.count)
    for table in StatsPageTable.allCases {
      for index in stride(
        from: 0, to: layout.capacity(table), by: max(1, layout.capacity(table) / 9))
      {
        cuts.append(layout.offset(table, index))
        cuts.append(layout.offset(table, index) + 13)
      }
    }
    for cut in cuts { #expect(try state(page.prefix(cut)) == .corrupt, "cut at \(cut)") }
  }

  @Test func aPageOfALaterMajorVersionIsIncompatible() throws {
    #expect(try state(changed(HeaderWord.version.rawValue, to: 2 << 32)) == .incompatible)
    #expect(try state(changed(HeaderWord.version.rawValue, to: 1 << 32 | 9)) != .incompatible)
  }

  @Test func anInconsistentHeaderIsCorrupt() throws {
    for word in [
      HeaderWord.magic, .byteCount, .arenaCapacity, .secretCapacity, .arenaBytes, .callBytes,
    ] {
      for value: UInt64 in [0, 1, .max, 1 << 63, page.count.magnitude.asUInt64 + 1] {
        #expect(try state(changed(word.rawValue, to: value)) == .corrupt, "\(word) = \(value)")
      }
    }
  }

  /// All arenas have the same id, and all records refer to it: the output is not larger than the
  /// number of records.
  @Test func outputIsBoundedByTheNumberOfRecords() throws {
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 100, 256, 16, 2048])!
    var bytes = page
    for table in [StatsPageTable.arenas, .labels, .chunks, .maps] {
      for index in 0..<layout.capacity(table) {
        let at = layout.offset(table, index)
        for (word, value) in [UInt64(2), 1].enumerated() {
          withUnsafeBytes(of: value.littleEndian) { raw in
            bytes.replaceSubrange((at + word * 8)..<(at + word * 8 + 8), with: raw)
          }
        }
      }
    }
    guard case .success(let snapshot) = try sample(bytes) else { throw Failed("unreadable") }
    #expect(snapshot.arenas.count == 256 && Set(snapshot.arenas.map(\.id)) == [1])
    #expect(snapshot.arenas.map(\.chunks.count).reduce(0, +) == 2048)
    #expect(snapshot.arenas.map(\.labels.count).reduce(0, +) == 1024)
  }

  /// Sets the words of the page to odd values, one at a time, and renders everything.
  @Test func unexpectedWordsAreShownAndDoNotCrash() throws {
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 100, 256, 16, 2048])!
    var words = Array(0..<192)
    for table in [StatsPageTable.arenas, .labels, .chunks, .secrets, .events, .maps] {
      let first = layout.offset(table, 0) / 8
      words += Array(first..<(first + table.recordBytes / 8))
    }
    for word in words {
      for value: UInt64 in [.max - 1, 1 << 63, 0x7fff_ffff_ffff_ffff, 2] {
        if case .success(let snapshot) = try sample(changed(word, to: value)) {
          try render(snapshot)
        }
      }
    }
  }

  @Test func randomBytesDoNotCrash() throws {
    var generator = SeededGenerator()
    for _ in 0..<60 {
      var bytes = page
      for _ in 0..<200 {
        let at = Int.random(in: 8..<bytes.count, using: &generator)
        bytes[at] = UInt8.random(in: 0...255, using: &generator)
      }
      if case .success(let snapshot) = try sample(bytes) { try render(snapshot) }
      let noise = Data((0..<5000).map { _ in UInt8.random(in: 0...255, using: &generator) })
      #expect(try state(noise) == .corrupt)
    }
  }

  @Test func unknownEnumerationsAreShownAsTheyAre() throws {
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 100, 256, 16, 2048])!
    // Records are allocated in order: the first arena has the first record.
    let record = layout.offset(.arenas, 0) / 8
    guard
      case .success(let snapshot) = try sample(
        changed(record + ArenaWord.lockState.rawValue, to: 77))
    else { throw Failed("unreadable") }
    #expect(snapshot.arenas.contains { $0.lockState.text == "?77" })
    guard
      case .success(let other) = try sample(
        changed(record + ArenaWord.secretCount.rawValue, to: .max))
    else { throw Failed("unreadable") }
    #expect(other.arenas.contains { $0.secretCount == nil }, "unknown, not 0")
    #expect(other.text.contains("secretCount: n/a"))
  }

  @Test func namesCannotCarryEscapes() throws {
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 100, 256, 16, 2048])!
    let word = layout.offset(.arenas, 0) / 8 + ArenaWord.name.rawValue
    // ESC ] 0 ; x BEL
    guard case .success(let snapshot) = try sample(changed(word, to: 0x07_78_3b_30_5d_1b)) else {
      throw Failed("unreadable")
    }
    #expect(!snapshot.text.contains("\u{1b}") && !snapshot.text.contains("\u{7}"))
    #expect(snapshot.text.contains("\\u{1b}]0;x"))
  }
}

extension UInt { var asUInt64: UInt64 { UInt64(self) } }
