// Pages that releases recorded, and pages of libraries newer than this viewer: the viewer reads the
// fields that it knows.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct RecordedPageTests {
  /// One page per release, with its own memwatch's reading: Tests/Support/record-page.
  static let folder = Programs.package.appending(path: "Tests/EndToEndTests/Pages")
  static let versions: [String] =
    ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [])
    .filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }.sorted()

  private func page(_ version: String) throws -> Data {
    let scratch = try Scratch()
    let packed = Self.folder.appending(path: version + ".page.gz").path
    let path = scratch.file("page")
    let result = try Launch(["sh", "-c", "gzip -dc \"$0\" >\"$1\"", packed, path]).run()
    guard result.status == 0 else { throw Failed("gzip: \(result.error)") }
    return try Data(contentsOf: URL(fileURLWithPath: path))
  }

  /// This memwatch's reading of a page.
  private func read(_ page: Data) throws -> Ended {
    let scratch = try Scratch()
    let path = scratch.file("page")
    try page.write(to: URL(fileURLWithPath: path))
    return try memwatch("snapshot", "--file", path, "--no-audit", "--format", "json")
  }

  /// Expects that everything that was read then is read now. New fields may be there too.
  private func expect(
    _ version: String, in ended: Ended, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    // 5: the process has ended, and this is its last page.
    #expect(ended.status == 5, "\(ended.error)", sourceLocation: sourceLocation)
    let seen = try json(ended.output)
    #expect((seen["arenas"] as? [Any])?.count ?? 0 > 4 && seen["events"] != nil)
    let scratch = try Scratch()
    let path = scratch.file("seen.json")
    try ended.output.write(toFile: path, atomically: true, encoding: .utf8)
    let recorded = Self.folder.appending(path: version + ".json").path
    let diff = try memwatch("diff", recorded, path, "--json")
    #expect(diff.status == 0, "\(diff.error)", sourceLocation: sourceLocation)
    // Remove values that depend on the time and the machine.
    let passing: Set = [
      "ageMs", "sampledAt", "process.page", "process.user", "process.state", "process.uid",
      "process.message", "maps.mapsLimit",
      // Earlier readings left out scratch memory.
      "memlock.peakLockedByArenasBytes",
    ]
    for difference in try json(diff.output)["differences"] as? [[String: Any]] ?? [] {
      let at = difference["path"] as? String ?? ""
      guard difference["kind"] as? String != "added", !passing.contains(at),
        !at.hasPrefix("problems")
      else { continue }
      Issue.record("\(difference)", sourceLocation: sourceLocation)
    }
  }

  @Test func thisVersionIsRecorded() throws {
    let asked = try memwatch("--version").output.trimmingCharacters(in: .whitespacesAndNewlines)
    #expect(Self.versions.contains(asked), "run Tests/Support/record-page")
  }

  @Test(arguments: versions) func aRecordedPageIsReadAsItWas(version: String) throws {
    try expect(version, in: read(page(version)))
  }

  /// A later minor version has more words in each record, in the process record and in the header,
  /// and a table that this viewer does not know.
  @Test(arguments: versions) func fieldsOfLaterLibrariesAreIgnored(version: String) throws {
    try expect(version, in: read(later(page(version))))
  }

  /// A page of this minor version with more bytes than it may have is corrupt.
  @Test func aPageLargerThanItsVersionIsCorrupt() throws {
    var page = try later(page(#require(Self.versions.first)))
    page.replaceSubrange(8..<16, with: bytes(1 << 32))
    #expect(try read(page).status == 4)
  }

  @Test func anotherMajorVersionIsIncompatible() throws {
    var page = try page(#require(Self.versions.first))
    page.replaceSubrange(8..<16, with: bytes(2 << 32))
    let ended = try read(page)
    #expect(ended.status == 7)
  }

  private func bytes(_ word: UInt64) -> Data {
    withUnsafeBytes(of: word.littleEndian) { Data($0) }
  }

  /// Rewrites the page as a later library would, following PageFormat.md.
  private func later(_ page: Data) -> Data {
    func word(_ byte: Int) -> Int {
      Int(
        page[byte..<byte + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
    }
    let filler = Data(repeating: 0xa5, count: 8)
    let added = 64
    let tables = 7
    let capacities = (0..<tables).map { word(128 + 8 * $0) }
    let sizes = (0..<tables).map { word(192 + 8 * $0) }
    // Stamped: arenas, labels, chunks, secrets, maps.
    let stamps = [0, 1, 2, 3, 6].reduce(0) { $0 + (capacities[$1] + 63) / 64 * 8 }
    func rounded(_ byte: Int) -> Int { (byte + 4095) & ~4095 }

    var result = Data(page[0..<rounded(4096 + stamps)])
    var offset = result.count
    for table in 0..<tables {
      result.replaceSubrange(
        192 + 8 * table..<200 + 8 * table, with: bytes(UInt64(sizes[table] + added)))
      for _ in 0..<capacities[table] {
        result += page[offset..<offset + sizes[table]]
        for _ in 0..<added / 8 { result += filler }
        offset += sizes[table]
      }
    }
    result += Data(count: rounded(result.count) - result.count)
    // The unknown table.
    result += Data(repeating: 0xa5, count: 8192)
    result.replaceSubrange(8..<16, with: bytes(1 << 32 | 1))
    result.replaceSubrange(16..<24, with: bytes(UInt64(result.count)))
    // Unused words: at the end of the header, and after the process record's last word.
    for byte in stride(from: 960, to: 1024, by: 8) {
      result.replaceSubrange(byte..<byte + 8, with: filler)
    }
    for byte in stride(from: 1024 + 400, to: 1024 + 512, by: 8) {
      result.replaceSubrange(byte..<byte + 8, with: filler)
    }
    return result
  }
}
