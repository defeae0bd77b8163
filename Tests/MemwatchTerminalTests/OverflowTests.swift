// Items that do not fit, and items that the page does not list, are counted on a separate row in
// every list.

import EnclaveStats
import EnclaveSystem
import Foundation
import MemwatchTerminal
import Testing

@testable import MemwatchInspector

@Suite struct OverflowTests {
  static let sizes = [(40, 8), (40, 10), (59, 17), (60, 18), (80, 24), (100, 30), (200, 40)]

  /// Forty items for each list.
  private func long(unlisted: UInt64 = 0) -> Snapshot {
    var snapshot = sample(arenas: 40)
    snapshot.problems = []
    snapshot.arenasUnlisted = unlisted
    snapshot.labelsUnlisted = unlisted
    let label = snapshot.arenas[0].labels[0]
    snapshot.arenas[0].labels = (0..<40).map { number in
      var label = label
      label.label = SafeText("label-\(number)")
      label.index = UInt64(number)
      return label
    }
    let chunk = snapshot.arenas[0].chunks[2]
    snapshot.arenas[0].chunks = (0..<40).map { number in
      var chunk = chunk
      chunk.address = 0x7f00_0000_0000 + UInt64(number) << 20
      return chunk
    }
    snapshot.arenas[0].chunkCount = 40 + unlisted
    snapshot.arenas[0].unlistedSecrets = unlisted
    snapshot.events = (UInt64(1)...40).map {
      EventSnapshot(serial: $0, kind: .known(.chunkMapped), arenaID: 1, at: now, bytes: 4096)
    }
    snapshot.eventCount = 40 + unlisted
    return snapshot
  }

  /// The rows that show an item, recognised by their text after the mark.
  private func items(_ rows: [String], _ view: View) -> Int {
    let names =
      switch view {
      case .arenas: ["arena-", "tls-keys ", "session-tokens ", "scratch "]
      case .secrets: ["label-"]
      default: ["chunk-mapped "]
      }
    return rows.count { row in names.contains { row.dropFirst(2).hasPrefix($0) } }
  }

  @Test(arguments: sizes, [View.arenas, .secrets, .events])
  func hiddenRowsAreCountedInOneRow(size: (Int, Int), view: View) throws {
    for keys in ["", "jjj", " ", "G"] {
      var model = model(long())
      model.view = view
      press(&model, "g" + keys)
      let (grid, layout) = Renderer.render(
        model, width: size.0, height: size.1, style: Style(unicode: false), now: now)
      let rows = grid.text.split(separator: "\n", omittingEmptySubsequences: false)
        .map { String($0) }
      let shown = items(rows, view)
      #expect(shown == layout.pageRows || shown == 1, "\(rows)")
      let told = rows.filter { $0.contains(#/(\+\d+ more|\d+ above)/#) }
      try #require(told.count == 1, "\(size) \(keys): \(rows)")
      // That row has nothing else: neither an item nor a header.
      #expect(told[0].contains(#/^ *(\+\d+ more|\d+ above) *$/#), "\(told)")
      if let more = told[0].firstMatch(of: #/\+(\d+) more/#) {
        #expect(Int(more.1)! + shown + layout.firstItem == 40)
      } else {
        #expect(shown + layout.firstItem == 40)
      }
      let header = view == .arenas ? "ARENA" : view == .secrets ? "LABEL" : "EVENT"
      #expect(rows.contains { $0.hasPrefix("  " + header) })
    }
  }

  @Test(arguments: sizes, [View.arenas, .secrets, .map, .events])
  func unlistedRecordsAreReported(size: (Int, Int), view: View) {
    for unlisted in [UInt64(0), 987] {
      var model = model(long(unlisted: unlisted))
      model.view = view
      let text = draw(model, size.0, size.1).text
      let hasLine = text.contains("987 earlier") || text.contains(#/987 \w+ not listed/#)
      #expect(hasLine == (unlisted > 0), "\(text)")
      // Files of the view have it too, in each format.
      let seen = model.viewExport
      #expect((seen.unlisted != nil) == (unlisted > 0))
      for text in [seen.text, seen.csv] { #expect(text.contains("987") == (unlisted > 0)) }
      guard case .object(let members) = seen.document else {
        Issue.record("no object")
        continue
      }
      #expect(members.contains { $0.0 == "unlistedMessage" && $0.1 != .null } == (unlisted > 0))
    }
  }

  @Test func theSecretsViewCountsUnlistedSecrets() {
    var model = model(long(unlisted: 987))
    press(&model, "g\n\n")
    #expect(model.isOneByOne && draw(model, 80, 24).text.contains("987 secrets not listed"))
  }

  @Test func reportsCountUnlistedRecords() {
    var snapshot = long(unlisted: 987)
    snapshot.vaultsUnlisted = 987
    snapshot.chunksUnlisted = 987
    for index in snapshot.arenas.indices {
      snapshot.arenas[index].unlistedSecrets = index == 0 ? 987 : 0
    }
    for noun in ["arena", "label", "chunk", "vault", "secret"] {
      #expect(snapshot.text.contains("987 more \(noun)s not listed"), "\(noun)")
    }
    #expect(snapshot.vaultLines == ["987 more are not listed"])
    #expect(snapshot.csv.hasSuffix("\r\n") && snapshot.csv.contains("987 more arenas not listed,"))
    let widths = Set(
      snapshot.csv.split(separator: "\r\n").map {
        $0.split(separator: ",", omittingEmptySubsequences: false).count
      })
    #expect(widths.count == 1)
    snapshot.arenas = []
    #expect(snapshot.csv == "name\r\n987 more arenas not listed\r\n")
  }

  /// A terminal without UTF-8 also marks truncated names.
  @Test func cutNamesAreMarkedOnTheScreen() {
    var snapshot = sample()
    snapshot.arenas[0].name = SafeText(Array(String(repeating: "x", count: 30).utf8), limit: 20)
    let model = model(snapshot)
    #expect(draw(model, 200, 30, unicode: true).text.contains("xxxx…"))
    #expect(draw(model, 200, 30).text.contains("xxxx~"))
  }
}
