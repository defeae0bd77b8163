// The checklist saves columns, and a confined process cannot save anything else.

import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct SavedSettingsTests {
  @Test func everySettingIsWrittenAndReadBack() throws {
    let all = ArenaColumn.allCases
    var random = SeededGenerator()
    for count in 1...all.count {
      for sort in [nil] + all.map({ Optional($0) }) {
        let settings = try #require(
          SavedSettings(columns: Array(all.shuffled(using: &random).prefix(count)), sort: sort))
        let (first, second) = settings.words
        #expect(SavedSettings(words: (first, second)) == settings)
        // The word is sent together with a kind of eight bits.
        #expect(second >> 56 == 0)
      }
    }
  }

  @Test(
    arguments: [
      (0, 0), (1 << 60, 0), (1, 1 << 60), (31, 0), (19, 0), (1 | 1 << 5, 0), (1 | 2 << 10, 0),
      (1, 31),
      (.max, .max), (0, 1),
    ] as [(UInt64, UInt64)])
  func invalidWordsAreRefused(words: (UInt64, UInt64)) {
    #expect(SavedSettings(words: words) == nil)
  }

  @Test func savingKeepsOtherLines() throws {
    let settings = try #require(SavedSettings(columns: [.secrets, .arena], sort: .inUse))
    #expect(settings.merged(into: "") == "columns = SECRETS, ARENA\nsort = IN USE\n")
    let old =
      "# mine\ncolumns=arena\n\ninterval = 2s\n  sort = lock # why\ncolumns = LOCK\n# columns = x"
    #expect(
      settings.merged(into: old)
        == "# mine\ncolumns = SECRETS, ARENA\n\ninterval = 2s\nsort = IN USE\n# columns = x\n")
    let unsorted = try #require(SavedSettings(columns: [.arena], sort: nil))
    #expect(unsorted.merged(into: "sort = LOCK\n") == "columns = ARENA\n")
    // Saved settings can be read again.
    let read = Configuration.parse(settings.merged(into: old)) { _ in 2000 }
    #expect(read.errors.isEmpty && read.configuration.columns == ["SECRETS", "ARENA"])
    #expect(read.configuration.sort == "IN USE")
  }

  @Test func savingWritesTheTickedColumns() {
    var model = model(sample(arenas: 3))
    press(&model, "s>")
    let first = model.checklist?.chosen.first
    let effects = model.handle(.character("s"), now: now)
    guard case .save(let settings)? = effects.first, effects.count == 1 else {
      Issue.record("\(effects)")
      return
    }
    #expect(settings.columns.first?.rawValue == first && settings.sort == model.sort)
    #expect(model.checklist != nil)
    for size in [(100, 30), (40, 10)] {
      #expect(draw(model, size.0, size.1).text.contains("s save"), "\(size)")
    }
    press(&model, "q2>")
    #expect(model.handle(.character("s"), now: now).isEmpty)
    #expect(model.message?.contains("only the columns of the arena list") == true)
  }
}
