// Names for arenas and secrets.

/// A name that was written in the source: nothing that is only known at run time reaches the stats
/// page through it.
public struct Label: Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  let text: StaticString

  /// A literal. Text beyond 64 bytes of UTF-8 is cut on the stats page.
  public init(stringLiteral text: StaticString) { self.text = text }

  /// The literal.
  public var description: String { text.description }
}

extension StaticString {
  /// The literal's bytes, which live as long as the process.
  var bytes: UnsafeBufferPointer<UInt8> {
    guard hasPointerRepresentation else {
      // A single scalar, held by value: give it a place, once for each call that gets here.
      let utf8 = Array(String(unicodeScalar).utf8)
      let place = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: utf8.count)
      _ = unsafe place.initialize(from: utf8)
      return UnsafeBufferPointer(place)
    }
    return unsafe UnsafeBufferPointer(start: utf8Start, count: utf8CodeUnitCount)
  }
}
