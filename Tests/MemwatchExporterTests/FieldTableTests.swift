// The table of the page's fields against the outputs: each field that the table assigns to the
// snapshot's document, its schema or a metric changes that output.

import EnclaveSystem
import Foundation
import MemwatchSystem
import TestSupport
import Testing

@testable import EnclaveStats
@testable import MemwatchExporter
@testable import MemwatchInspector

/// A page with one record of each kind, and 1 in every other word.
private struct OneOfEach {
  var header = record(HeaderWord.self, [.name: 0x41])
  var process = record(ProcessWord.self)
  var call = record(CallWord.self)
  var arena = record(ArenaWord.self, [.name: 0x41])
  var label = record(LabelWord.self, [.text: 0x41])
  var chunk = record(ChunkWord.self, [.dataBytes: 4096])
  var secret = record(SecretWord.self)
  var event = record(EventWord.self)
  // The vault belongs to no listed arena, because its entries would count as encrypted there.
  var vault = record(VaultWord.self, [.arenaID: 9])
  var map = record(MapWord.self)

  private static func record<Word: RecordWord & CaseIterable & Hashable>(
    _ words: Word.Type, _ other: [Word: UInt64] = [:]
  ) -> StatsPageRecord<Word> {
    var all = [UInt64](repeating: 0, count: 128)
    for word in Word.allCases { all[word.rawValue] = other[word] ?? 1 }
    return StatsPageRecord(words: all)
  }

  var snapshot: Snapshot {
    var image = StatsPageImage(
      header: header, layout: StatsPageLayout(capacities: [1, 1, 1, 1, 1, 1, 1])!,
      process: process)
    let none = StatsPageRecord<CallWord>(words: .init(repeating: 0, count: 4))
    (image.calls, image.arenas, image.labels) = ([none, call], [arena], [label])
    (image.chunks, image.maps, image.secrets) = ([chunk], [map], [secret])
    (image.events, image.vaults) = ([event], [vault])
    var builder = SnapshotBuilder(sampledAt: 1_000_000)
    (builder.image, builder.isFresh) = (image, true)
    let publisher = Publisher(
      source: .named("/p"), path: "/p", fileName: "p", publisherPid: 1,
      id: header[.publisherID], name: SafeText("p"), uid: 0, createdAt: 0, state: .live)
    return builder.snapshot(publisher: publisher, restart: nil)
  }
}

/// A field, and a reading of a page in which only this field differs.
private struct Case {
  var name: String
  var field: StatsPageField
  /// Its path in the document.
  var path: String?
  var unchanged: Snapshot
  var changed: Snapshot

  static let base = OneOfEach()
  /// These are only shown under a page gate.
  static let underPageGate: [ArenaWord] = [.separatePages, .mergedPages]

  static func all<Word: RecordWord & CaseIterable>(
    _ record: WritableKeyPath<OneOfEach, StatsPageRecord<Word>>, at prefix: String
  ) -> [Case] {
    Word.allCases.map { word in
      var page = base
      if let word = word as? ArenaWord, underPageGate.contains(word) {
        page.arena.words[ArenaWord.gate.rawValue] = GateCode.pages.rawValue
      }
      let unchanged = page.snapshot
      page[keyPath: record].words[word.rawValue] += word.field.kind == .code ? 1 : 2
      return Case(
        name: "\(Word.record) \(word)", field: word.field,
        path: word.field.document.map { prefix + $0 }, unchanged: unchanged,
        changed: page.snapshot)
    }
  }

  static let all: [Case] =
    all(\.header, at: "") + all(\.process, at: "") + all(\.call, at: "calls[0].")
    + all(\.arena, at: "arenas[0].") + all(\.label, at: "arenas[0].labels[0].")
    + all(\.chunk, at: "arenas[0].chunks[0].") + all(\.secret, at: "")
    + all(\.event, at: "events[0].") + all(\.vault, at: "vaults[0].")
    + all(\.map, at: "arenas[0].chunks[0].")
}

@Suite struct FieldTableTests {
  private func values(_ snapshot: Snapshot, at path: String) -> [String: String] {
    let leaves = snapshot.document.leaves.filter {
      $0.path == path || $0.path.hasPrefix(path + "[") || $0.path.hasPrefix(path + ".")
    }
    return Dictionary(uniqueKeysWithValues: leaves.map { ($0.path, $0.value.plain) })
  }

  @Test func eachFieldIsInTheDocument() {
    for field in Case.all {
      guard let path = field.path else { continue }
      let before = values(field.unchanged, at: path)
      #expect(!before.isEmpty, "\(field.name): the document has no \(path)")
      #expect(before != values(field.changed, at: path), "\(field.name) does not change \(path)")
    }
  }

  /// Members of a document that do not come from a field.
  @Test func theDocumentHasNoOtherMembers() {
    let derived = [
      "schema", "document", "unrecognizedCodes", "sampledAt", "ageMs", "complete", "restart",
      "audit", "memlock", "maps", "problems",
      "secretsListed", "secretsUnlisted", "process.pid", "process.publisherPid", "process.user",
      "process.uid", "process.state", "process.message", "process.endedInOrder",
      "process.debuggerPid", "process.wipe", "process.page", "calls[0].call", "calls[0].function",
      "calls[0].message", "calls[0].lastErrnoName", "arenas[0].state", "arenas[0].verdict",
      "arenas[0].keySharedWith", "arenas[0].lock.errnoName", "arenas[0].lock.failedFunction",
      "arenas[0].chunks[0].errnoName", "events[0].function", "events[0].errnoName",
      "vaults[0].name",
    ]
    let declared = Case.all.compactMap(\.path) + derived
    for (path, _) in Case.base.snapshot.document.leaves {
      #expect(
        declared.contains { path == $0 || path.hasPrefix($0 + "[") || path.hasPrefix($0 + ".") },
        "no field is declared for \(path)")
    }
  }

  @Test func eachFieldIsInTheSchema() throws {
    let schema = try Schema.snapshot()
    for field in Case.all {
      guard let path = field.path else { continue }
      var part: [String: Any]? = schema
      for name in path.replacing("[0]", with: ".*").split(separator: ".") {
        part =
          name == "*"
          ? part?["items"] as? [String: Any]
          : (part?["properties"] as? [String: Any])?[String(name)] as? [String: Any]
      }
      #expect(part != nil, "\(field.name): the schema has no \(path)")
    }
  }

  @Test func eachMetricIsOfItsField() throws {
    func collection(_ snapshot: Snapshot, at time: Timestamp) -> ExportCollection {
      var collection = ExportCollection(at: time)
      collection.publishers = [
        ExportedPublisher(id: 1, name: SafeText("p"), unit: nil, state: .live, snapshot: snapshot)
      ]
      return collection
    }
    let base = Case.base.snapshot
    var exporter = Exporter(version: "1", hasCounters: true)
    _ = exporter.text(of: collection(base, at: 1_000_000))
    var unchanged = exporter
    let before = unchanged.text(of: collection(base, at: 1_001_000)).split(separator: "\n")
    for field in Case.all {
      guard let name = field.field.metric else { continue }
      let metric = try #require(
        Metric.all.first { $0.name == "memwatch_" + name }, "\(field.name): no metric \(name)")
      #expect((metric.kind == .counter) == (field.field.kind == .counter), "\(name)")
      #expect(metric.aggregation.rawValue == field.field.merging?.rawValue, "\(name)")
      let unit: String? =
        switch field.field.unit {
        case .none: nil
        case .bytes: "bytes"
        case .milliseconds: "seconds"
        }
      #expect(metric.unit == unit, "\(name)")
      var changed = exporter
      let after = changed.text(of: collection(field.changed, at: 1_001_000)).split(separator: "\n")
      #expect(
        before.filter { $0.hasPrefix(metric.name) } != after.filter { $0.hasPrefix(metric.name) },
        "\(field.name) does not change \(metric.name)")
    }
    let made = Set(Case.all.compactMap(\.field.metric).map { "memwatch_" + $0 })
    for metric in Metric.all where metric.labels.contains("arena") {
      #expect(made.contains(metric.name), "no field is declared for \(metric.name)")
    }
  }
}
