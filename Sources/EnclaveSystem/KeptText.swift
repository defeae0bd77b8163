// Copies of names that live until the process ends; see CEnclaveTexts.h.

import CEnclaveSystem
import Glibc

/// An interned copy of a text: equal texts have equal addresses. It lives as long as the process,
/// even after the memory it was copied from is freed.
@safe
package struct KeptText: BitwiseCopyable {
  package let start: UnsafePointer<UInt8>
  package let count: Int

  private init(_ text: UnsafePointer<ces_text>) {
    count = unsafe Int(text.pointee.length)
    unsafe start = UnsafeRawPointer(text.pointee.bytes).assumingMemoryBound(to: UInt8.self)
  }

  /// Interns a C string. Reads at most CES_TEXT_LIMIT + 1 bytes.
  @unsafe
  package init(_ text: UnsafePointer<CChar>) { unsafe self.init(ces_text_of(text)) }

  package init(_ text: UnsafeBufferPointer<UInt8>) {
    self = unsafe text.withMemoryRebound(to: CChar.self) { characters in
      unsafe characters.baseAddress.map { unsafe KeptText(ces_text_keep($0, characters.count)) }
        ?? KeptText(ces_text_keep("", 0))
    }
  }

  /// The length of a C string, at most CES_TEXT_LIMIT + 1.
  package static func count(ofCString text: UnsafePointer<CChar>) -> Int {
    unsafe strnlen(text, CES_TEXT_LIMIT + 1)
  }

  /// How many bytes of a text are kept. Longer texts are cut between Unicode scalars.
  package static func keptCount(_ text: UnsafeBufferPointer<UInt8>) -> Int {
    unsafe text.withMemoryRebound(to: CChar.self) { characters in
      unsafe characters.baseAddress.map { unsafe ces_text_length($0, characters.count) } ?? 0
    }
  }
}
