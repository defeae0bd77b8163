// Sizes in a snapshot.

/// A number of bytes. Arithmetic saturates: sizes come from other processes.
package struct ByteCount: Hashable, Comparable, Sendable, ExpressibleByIntegerLiteral {
  package var count: UInt64

  package init(_ count: UInt64) { self.count = count }
  package init(integerLiteral count: UInt64) { self.count = count }

  package static func < (a: ByteCount, b: ByteCount) -> Bool { a.count < b.count }

  package static func + (a: ByteCount, b: ByteCount) -> ByteCount {
    let (sum, overflow) = a.count.addingReportingOverflow(b.count)
    return ByteCount(overflow ? .max : sum)
  }

  package static func - (a: ByteCount, b: ByteCount) -> ByteCount {
    ByteCount(a.count > b.count ? a.count - b.count : 0)
  }

  package static func << (size: ByteCount, bits: Int) -> ByteCount {
    ByteCount(size.count << UInt64(bits))
  }
}

/// Human-readable: `48 KiB`, `2.2 MiB`; whole values are exact.
extension ByteCount: TextConvertible {
  package var text: String { bytes(count) }
}

extension ByteCount: NumberCoded {
  var number: UInt64 { count }
}

extension Double {
  package init(_ size: ByteCount) { self.init(size.count) }
}

/// A saturating sum.
package func saturatingSum(_ sizes: [ByteCount]) -> ByteCount { sizes.reduce(0, +) }

package func bytes(_ size: ByteCount) -> String { size.text }
