// Labels that are marked as possible leaks.

import MemwatchInspector
import MemwatchTerminal
import Testing

@Suite struct LeakTests {
  /// All labels grew since the mark. One has a secret from before the mark that was never opened.
  @Test func growthThatIsUsedIsNoLeak() throws {
    var model = model(sample(arenas: 1))
    press(&model, "\nm")
    var grown = sample(arenas: 1, at: now + 60_000)
    for index in grown.arenas[0].labels.indices {
      grown.arenas[0].labels[index].live = (grown.arenas[0].labels[index].live ?? 0) + 100
    }
    model.update(grown)
    let listing = try #require(model.listing)
    #expect(listing.rows.count > 2 && listing.rows.allSatisfy { $0.cells[2].text == "+100" })
    let unused = grown.arenas[0].labels[0].label.string
    #expect(listing.rows.filter { $0.isMarked }.map(\.id) == [unused])
    // Once that is opened, the label is not marked, and neither is one with a secret from after the
    // mark.
    for change in [{ $0.opens = 1 }, { $0.allocatedAt = now + 30_000 }]
      as [(inout SecretSnapshot) -> Void]
    {
      var used = grown
      used.sampledAt += 1000
      for index in used.secrets.indices where used.secrets[index].opens == 0 {
        change(&used.secrets[index])
      }
      model.update(used)
      #expect(model.listing?.rows.allSatisfy { !$0.isMarked } == true)
    }
  }
}
