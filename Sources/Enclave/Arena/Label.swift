// Names for arenas and secrets.

import EnclaveSystem

/// A name that was written in the source: nothing that is only known at run time reaches the stats
/// page through it.
@safe
public struct Label: @unchecked Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  /// A literal's, or a copy that lives as long as the process. A literal goes with its library
  /// (dlclose(3)): whoever keeps a label keeps a copy of its text.
  let start: UnsafePointer<UInt8>
  let count: Int

  /// A literal. Text beyond 64 bytes of UTF-8 is cut on the stats page.
  public init(stringLiteral text: StaticString) {
    if text.hasPointerRepresentation {
      unsafe start = text.utf8Start
      count = text.utf8CodeUnitCount
    } else {
      // A single scalar, held by value.
      let utf8 = Array(String(text.unicodeScalar).utf8)
      let kept = unsafe utf8.withUnsafeBufferPointer { unsafe KeptText($0) }
      unsafe start = kept.start
      count = kept.count
    }
  }

  /// A name of C's: copied here, since the caller may free or change it. At most 255 bytes are read
  /// and kept.
  @unsafe
  package init(copying text: UnsafePointer<CChar>) {
    let kept = unsafe KeptText(text)
    unsafe start = kept.start
    count = kept.count
  }

  /// A name of C's that is copied before the call returns (`OwnedName`). At most 256 bytes are read.
  @unsafe
  package init(unowned text: UnsafePointer<CChar>) {
    unsafe start = UnsafeRawPointer(text).assumingMemoryBound(to: UInt8.self)
    count = unsafe KeptText.count(ofCString: text)
  }

  /// The text.
  var bytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: start, count: count)
  }

  /// The literal.
  public var description: String { unsafe String(decoding: bytes, as: UTF8.self) }
}

/// A copy of a name, freed with its owner: for arenas, which come and go in any number.
@safe
struct OwnedName: BitwiseCopyable {
  let bytes: UnsafeBufferPointer<UInt8>

  init(copying name: Label) {
    let count = unsafe KeptText.keptCount(name.bytes)
    let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: count)
    _ = unsafe copy.initialize(from: name.bytes.prefix(count))
    unsafe bytes = UnsafeBufferPointer(copy)
  }

  func deallocate() { unsafe bytes.deallocate() }
}

extension OwnedName: CustomStringConvertible {
  var description: String { unsafe String(decoding: bytes, as: UTF8.self) }
}
