// Reproducible random numbers for tests.

import Foundation

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
///
/// The seed goes to standard error, with the test's name; `MEMWATCH_SEED` in the environment sets
/// it.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
  public let seed: UInt64
  private var state: UInt64

  public init(for test: String = #function) {
    let wanted = ProcessInfo.processInfo.environment["MEMWATCH_SEED"].flatMap { UInt64($0) }
    self.init(seed: wanted ?? .random(in: 1 ... .max))
    // Not with print, whose buffer is lost if the process crashes.
    FileHandle.standardError.write(Data("\(test): MEMWATCH_SEED=\(seed)\n".utf8))
  }

  public init(seed: UInt64) { (self.seed, state) = (seed, seed) }

  /// A generator that is derived from this one's seed, for threads, whose order is not
  /// reproducible.
  public func stream(_ number: Int) -> SeededGenerator {
    var mixed = SeededGenerator(seed: seed ^ UInt64(truncatingIfNeeded: number))
    return SeededGenerator(seed: mixed.next())
  }

  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var word = (state ^ (state >> 30)) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
    return word ^ (word >> 31)
  }
}
