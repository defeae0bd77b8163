// The seeds of random tests.

import Foundation
import TestSupport
import Testing

@Suite struct SeedTests {
  @Test func theEnvironmentSetsTheSeed() async {
    await #expect(processExitsWith: .success) {
      setenv("MEMWATCH_SEED", "17", 1)
      var (first, second) = (SeededGenerator(), SeededGenerator())
      try #require(first.seed == 17)
      for _ in 0..<100 { #expect(first.next() == second.next()) }
      // Streams depend on the seed, not on the generator's position.
      var (one, same, other) = (first.stream(1), SeededGenerator().stream(1), first.stream(2))
      for _ in 0..<100 {
        let number = one.next()
        #expect(number == same.next())
        #expect(number != other.next())
      }
    }
  }

  @Test func theSeedIsPrinted() async throws {
    let result = await #expect(
      processExitsWith: .success, observing: [\.standardErrorContent]
    ) {
      setenv("MEMWATCH_SEED", "18446744073709551615", 1)
      _ = SeededGenerator(for: "aTest")
    }
    let output = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
    #expect(output.contains("aTest: MEMWATCH_SEED=18446744073709551615"), "\(output)")
  }
}
