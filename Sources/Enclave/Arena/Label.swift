// Names of arenas and secrets.

import EnclaveSystem

/// A name written as a literal in the source code, so that no text known only at run time reaches
/// the stats page through it.
@safe
public struct Label: @unchecked Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  /// Points to a literal, or to an interned copy. A literal disappears when its library is unloaded
  /// (dlclose(3)), so code that stores a label stores a copy of the text.
  let start: UnsafePointer<UInt8>
  let count: Int

  /// Creates a label from a literal. The stats page cuts it after 64 bytes of UTF-8.
  public init(stringLiteral text: StaticString) {
    if text.hasPointerRepresentation {
      unsafe start = text.utf8Start
      count = text.utf8CodeUnitCount
    } else {
      // A single scalar is stored by value and has no pointer.
      let utf8 = Array(String(text.unicodeScalar).utf8)
      let kept = unsafe utf8.withUnsafeBufferPointer { unsafe KeptText($0) }
      unsafe start = kept.start
      count = kept.count
    }
  }

  /// Interns a name from C, because the caller may free or change it. Reads and keeps at most 255
  /// bytes.
  @unsafe
  package init(copying text: UnsafePointer<CChar>) {
    let kept = unsafe KeptText(text)
    unsafe start = kept.start
    count = kept.count
  }

  /// Refers to a name from C that is copied before the call returns (`OwnedName`). Reads at most
  /// 256 bytes.
  @unsafe
  package init(unowned text: UnsafePointer<CChar>) {
    unsafe start = UnsafeRawPointer(text).assumingMemoryBound(to: UInt8.self)
    count = unsafe KeptText.count(ofCString: text)
  }

  /// The UTF-8 text.
  var bytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: start, count: count)
  }

  /// The text.
  public var description: String { unsafe String(decoding: bytes, as: UTF8.self) }
}

/// A copy of a name that is freed with its owner: for arenas, whose number is unlimited.
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
