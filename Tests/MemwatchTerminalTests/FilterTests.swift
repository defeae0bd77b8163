// Filters and searches ignore case, in every view, for the pattern and the text.

import MemwatchTerminal
import Testing

@testable import MemwatchInspector

@Suite struct FilterTests {
  /// Names in lower, upper and mixed case.
  private func mixed() -> Model {
    var snapshot = sample()
    snapshot.arenas[1].name = SafeText("Session-TOKENS")
    snapshot.arenas[1].labels[0].label = SafeText("OAuth Refresh Größe")
    snapshot.problems = []
    return model(snapshot)
  }

  @Test(arguments: ["SESSION", "session", "sEsSiOn-ToKeNs", "TOKENS", "tokens"])
  func arenasAreFoundInAnyCase(text: String) {
    var model = mixed()
    press(&model, "f\(text)\n")
    #expect(model.arenas.map(\.name.string) == ["Session-TOKENS"])
    press(&model, "f\u{15}\n/\(text)\n")
    #expect(model.arenas.count == 3 && model.selectedArena == 2)
  }

  @Test(arguments: ["OAUTH", "oauth", "REFRESH", "GRÖSSE", "größe", "GRÖßE"])
  func labelsAreFoundInAnyCase(text: String) throws {
    var model = mixed()
    press(&model, "j")
    try #require(model.selectedArena == 2)
    for isOneByOne in [false, true] {
      model.view = .secrets
      if model.isOneByOne != isOneByOne { press(&model, "/\(text)\n\n") }
      let all = try #require(model.listing).rows.count
      press(&model, "f\(text)\n")
      let rows = try #require(model.listing).rows
      #expect(!rows.isEmpty && (isOneByOne || rows.count < all), "one by one: \(isOneByOne)")
      #expect(rows.allSatisfy { $0.cells[0].text == "OAuth Refresh Größe" })
      press(&model, "f\u{15}\n")
    }
  }

  @Test(arguments: ["LOCK-FAILED", "lock-failed", "ENOMEM", "enomem", "MLOCK"])
  func eventsAreFoundInAnyCase(text: String) throws {
    var model = mixed()
    press(&model, "4f\(text)\n")
    #expect(try #require(model.listing).rows.map(\.id) == ["3"])
  }
}
