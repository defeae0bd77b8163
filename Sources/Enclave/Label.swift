// Names for arenas and secrets.

/// A name that was written in the source: nothing that is only known at run time reaches the stats
/// page through it.
@safe
public struct Label: @unchecked Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  /// Lives as long as the process.
  let start: UnsafePointer<UInt8>
  private let count: Int?

  /// A literal. Text beyond 64 bytes of UTF-8 is cut on the stats page.
  public init(stringLiteral text: StaticString) {
    guard text.hasPointerRepresentation else {
      // A single scalar, held by value: give it a place, once for each call that gets here.
      let utf8 = Array(String(text.unicodeScalar).utf8)
      let place = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: utf8.count)
      _ = unsafe place.initialize(from: utf8)
      unsafe start = UnsafePointer(place.baseAddress.unsafelyUnwrapped)
      count = utf8.count
      return
    }
    unsafe start = text.utf8Start
    count = text.utf8CodeUnitCount
  }

  /// A literal of C: text that ends with NUL and lives as long as the process.
  @unsafe
  package init(literal text: UnsafePointer<CChar>) {
    unsafe start = unsafe UnsafeRawPointer(text).assumingMemoryBound(to: UInt8.self)
    count = nil
  }

  /// What tells the literal's length from others at the same place, without counting it.
  var countKey: UInt32 { count.map { UInt32(truncatingIfNeeded: $0) } ?? .max }

  /// The text. O(length).
  var bytes: UnsafeBufferPointer<UInt8> {
    unsafe Self.bytes(at: start, countKey: countKey)
  }

  static func bytes(at start: UnsafePointer<UInt8>, countKey: UInt32) -> UnsafeBufferPointer<UInt8>
  {
    var count = Int(countKey)
    if countKey == .max {
      count = 0
      while unsafe start[count] != 0 { count += 1 }
    }
    return unsafe UnsafeBufferPointer(start: start, count: count)
  }

  /// The literal.
  public var description: String { unsafe String(decoding: bytes, as: UTF8.self) }
}
