// Hostile names of other processes in every output format of memwatch.

import Foundation
import FoundationXML
import MemwatchInspector
import TestSupport
import Testing

@testable import MemwatchTerminal

@Suite struct HostileTextTests {
  /// Each is a text that a terminal, shell, spreadsheet, browser or parser would act on.
  static let names: [[UInt8]] = [
    Array("\u{1b}]0;title\u{7}".utf8), Array("\u{1b}[2J\u{1b}[31m".utf8), [0x9b, 0x32, 0x4a],
    Array("\u{9b}2J\u{90}".utf8), Array("a\r\nb\tc\0d".utf8), Array("\u{202e}gpj.exe\u{2066}".utf8),
    Array("zero\u{200b}\u{200d}\u{feff}width".utf8), [0xc0, 0xaf, 0xe0, 0x80, 0xaf],
    [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xff, 0xfe, 0x41],
    Array(repeating: 0x41, count: 65_536), Array(repeating: 0xcc, count: 65_535),
    Array("=cmd|' /C calc'!A0".utf8), Array("<script>alert(1)</script>&quot;".utf8),
    Array("\"},{\"x\":\"".utf8), Array("$(touch /tmp/x); `id` && rm -rf ~".utf8),
    Array("鍵größe e\u{301}\u{301}\u{301}".utf8), Array("\u{2028}\u{2029}\u{85}".utf8), [],
  ]

  private func hostile(_ bytes: [UInt8]) -> Snapshot {
    var snapshot = sample(arenas: 3)
    let text = SafeText(bytes)
    snapshot.process.name = text
    for index in snapshot.arenas.indices {
      snapshot.arenas[index].name = text
      for label in snapshot.arenas[index].labels.indices {
        snapshot.arenas[index].labels[label].label = text
      }
    }
    return snapshot
  }

  private func isHarmless(_ text: String, but breaks: String = "\n") -> Bool {
    text.unicodeScalars.allSatisfy { scalar in
      breaks.unicodeScalars.contains(scalar)
        || scalar.value >= 0x20 && !(0x7f...0x9f).contains(scalar.value)
          && ![.format, .lineSeparator, .paragraphSeparator, .control].contains(
            scalar.properties.generalCategory)
    }
  }

  @Test(arguments: names) func noOutputFormCarriesHostileText(bytes: [UInt8]) throws {
    let snapshot = hostile(bytes)
    #expect(snapshot.process.name.string.utf8.count <= 256 * 9)
    #expect(isHarmless(snapshot.text) && isHarmless(snapshot.auditText))
    #expect(snapshot.changes(since: nil).allSatisfy { isHarmless($0, but: "") })
    #expect(isHarmless(snapshot.csv, but: "\r\n"))
    // The same number of rows and cells as without it: nothing leaves its cell.
    let plain = hostile(Array("x".utf8)).csv.split(separator: "\r\n").count
    #expect(snapshot.csv.split(separator: "\r\n").count == plain)
    for view in View.allCases {
      var model = Model(intervalMs: 1000)
      model.update(snapshot)
      model.view = view
      for unicode in [true, false] {
        let (grid, _) = Renderer.render(
          model, width: 100, height: 30, style: Style(unicode: unicode), now: 0)
        #expect(grid.rows.allSatisfy { $0.count == 100 } && isHarmless(grid.text))
      }
    }
    let picture = Screen.picture(of: [snapshot], width: 100, height: 30)
    #expect(isHarmless(picture) && XMLParser(data: Data(picture.utf8)).parse())
  }
}
