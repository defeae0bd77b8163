// Times in a snapshot.

/// A point in time, in milliseconds since 1970. Arithmetic is in milliseconds and saturates: times
/// come from other processes.
package struct Timestamp: Hashable, Comparable, Sendable, ExpressibleByIntegerLiteral {
  package var realMs: UInt64

  package static let max = Timestamp(realMs: .max)

  package init(realMs: UInt64) { self.realMs = realMs }
  package init(integerLiteral realMs: UInt64) { self.realMs = realMs }

  /// Milliseconds from `earlier` to this time; 0 if it is not earlier.
  package func since(_ earlier: Timestamp) -> UInt64 {
    realMs > earlier.realMs ? realMs - earlier.realMs : 0
  }

  package static func < (a: Timestamp, b: Timestamp) -> Bool { a.realMs < b.realMs }

  package static func + (time: Timestamp, ms: UInt64) -> Timestamp {
    let (sum, overflow) = time.realMs.addingReportingOverflow(ms)
    return overflow ? .max : Timestamp(realMs: sum)
  }

  package static func - (time: Timestamp, ms: UInt64) -> Timestamp {
    Timestamp(realMs: time.realMs > ms ? time.realMs - ms : 0)
  }

  package static func += (time: inout Timestamp, ms: UInt64) { time = time + ms }
}

extension Timestamp: NumberCoded {
  var number: UInt64 { realMs }
  init(_ number: UInt64) { self.init(realMs: number) }
}
