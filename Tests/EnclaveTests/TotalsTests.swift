// The counts of an arena's shards, added up.

import Testing

@testable import Enclave

@Suite struct TotalsTests {
  /// A count that is missing from the sum would be reported as too low.
  @Test func totalsIncludeEveryCount() {
    let count = MemoryLayout<ShardTotals>.size / MemoryLayout<UInt64>.size
    func totals(_ value: UInt64) -> ShardTotals {
      [UInt64](repeating: value, count: count).withUnsafeBytes {
        $0.loadUnaligned(as: ShardTotals.self)
      }
    }
    #expect(Mirror(reflecting: ShardTotals()).children.count == count, "each is one word")
    var sum = totals(1)
    sum.add(totals(2))
    for (name, value) in Mirror(reflecting: sum).children {
      let isPeak = name?.hasPrefix("peak") ?? false
      #expect("\(value)" == (isPeak ? "2" : "3"), "\(name ?? "")")
    }
  }
}
