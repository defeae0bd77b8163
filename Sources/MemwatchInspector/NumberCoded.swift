// Types that are one number, in records too.

/// A type that is encoded as one plain number.
protocol NumberCoded: Codable {
  var number: UInt64 { get }
  init(_ number: UInt64)
}

extension NumberCoded {
  package init(from decoder: any Decoder) throws {
    self.init(try decoder.singleValueContainer().decode(UInt64.self))
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(number)
  }
}
