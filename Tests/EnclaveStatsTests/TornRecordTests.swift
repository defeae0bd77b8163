// Writers and a reader of one page at full speed: the reader accepts no torn record.

import EnclaveStats
import EnclaveSystem
import Foundation
import Synchronization
import TestSupport
import Testing

@Suite(.serialized) struct TornRecordTests {
  private static let arenas = 64

  private static func page(_ scratch: Scratch) throws -> StatsPageFile {
    var capacities = StatsPageCapacities()
    (capacities.arenas, capacities.labels, capacities.chunks) = (arenas, 1, 1)
    (capacities.secrets, capacities.events) = (1, 1)
    return try StatsPageFile.create(
      in: [DirectoryCandidate(path: scratch.path, origin: "this test")], capacities: capacities,
      processName: Array("test".utf8), geometry: [], tickMs: 1000, firstHeartbeat: { _ in })
  }

  /// Three threads repeatedly fill their records with one number. The reader looks for records with
  /// two numbers.
  ///
  /// - Parameter isMarked: whether writers set the sequence to an odd value first, as they must.
  /// - Returns: the number of accepted records, and how many of them were torn.
  private func run(isMarked: Bool, until enough: (Int, Int) -> Bool) throws -> (Int, Int) {
    let scratch = try Scratch(onTmpfs: true)
    let file = try Self.page(scratch)
    let words = StatsPageTable.arenas.recordBytes / 8
    let isOver = Atomic(false)
    let group = DispatchGroup()
    for thread in 0..<3 {
      Thread.detachNewThread {
        group.enter()
        let table = file.writer.table(ArenaWord.self)
        var value: UInt64 = 1
        while !isOver.load(ordering: .relaxed) {
          for index in stride(from: thread, to: Self.arenas, by: 3) {
            let record = table[index]
            record.begin()
            if !isMarked { record.begin() }
            for word in 1..<words {
              if isMarked {
                record.set(word, value)
              } else {
                // Store like `set`, but without its assertion.
                unsafe storeRelaxed(value, at: table.base + index * words * 8 + word * 8)
              }
            }
            if !isMarked { record.end() }
            record.end()
          }
          value += 1
        }
        group.leave()
      }
    }
    defer {
      isOver.store(true, ordering: .relaxed)
      group.wait()
      file.unlink()
    }
    // Read the file by name with pread, like another process.
    var reader = try StatsPageReader(OpenFile(reading: file.path, followingLinks: false))
    var (accepted, torn) = (0, 0)
    let deadline = Date().addingTimeInterval(1200)
    while !enough(accepted, torn), Date() < deadline {
      for record in try reader.read([]).arenas {
        accepted += 1
        // Words are written in order, so a torn record differs between its ends or in the middle.
        let first = record.words[1]
        if record.words[words - 1] != first || record.words[words / 2] != first
          || record.words[words / 4] != first || record.words[words / 4 * 3] != first
        {
          torn += 1
        }
      }
    }
    return (accepted, torn)
  }

  /// The number of records to accept; MEMWATCH_READS sets it.
  @Test func noAcceptedRecordIsTorn() throws {
    let wanted =
      ProcessInfo.processInfo.environment["MEMWATCH_READS"].flatMap { Int($0) } ?? 100_000
    let (accepted, torn) = try run(isMarked: true) { accepted, _ in accepted >= wanted }
    #expect(accepted >= wanted && torn == 0)
  }

  /// The control: without the odd sequence, torn records are found quickly.
  @Test func tornReadsAreFoundWithoutTheSequence() throws {
    let (accepted, torn) = try run(isMarked: false) { accepted, torn in
      torn > 0 || accepted > 5_000_000
    }
    #expect(torn > 0, "none in \(accepted)")
  }

  #if DEBUG
    /// A debug build traps if a word is written while the sequence is not odd.
    @Test(arguments: ["before", "within", "after"])
    func writingAWordUnderAnEvenSequenceTraps(place: String) async {
      await #expect(processExitsWith: place == "within" ? .success : .failure) {
        [place = place as String] in
        guard let scratch = try? Scratch(onTmpfs: true),
          let file = try? TornRecordTests.page(scratch)
        else { exit(EXIT_SUCCESS) }
        let record = file.writer.table(ArenaWord.self)[0]
        if place == "before" { record.set(.id, 1) }
        record.begin()
        record.set(.id, 1)
        record.end()
        if place == "after" { record.set(.id, 1) }
        file.unlink()
      }
    }

    /// A secret's record when it is listed and when it is removed.
    @Test func secretRecordsAreWrittenUnderAnOddSequence() async {
      await #expect(processExitsWith: .success) {
        let scratch = try Scratch(onTmpfs: true)
        let file = try TornRecordTests.page(scratch)
        let record = file.writer.table(SecretWord.self)[0]
        record.list(owner: 1, serial: 2, size: 3, now: 4)
        record.unlist()
        file.unlink()
      }
    }
  #endif
}
