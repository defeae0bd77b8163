// Copies of names, kept until the process ends: see CEnclaveTexts.h.

import CEnclaveSystem
import Glibc

/// A copy of a text, one for each content: equal texts have equal places. It lives as long as the
/// process, whatever becomes of the memory that it was copied from.
@safe
package struct KeptText: BitwiseCopyable {
  package let start: UnsafePointer<UInt8>
  package let count: Int

  private init(_ text: UnsafePointer<ces_text>) {
    count = unsafe Int(text.pointee.length)
    unsafe start = UnsafeRawPointer(text.pointee.bytes).assumingMemoryBound(to: UInt8.self)
  }

  /// Of a C string: as much as is kept of it is read at most.
  @unsafe
  package init(_ text: UnsafePointer<CChar>) { unsafe self.init(ces_text_of(text)) }

  package init(_ text: UnsafeBufferPointer<UInt8>) {
    self = unsafe text.withMemoryRebound(to: CChar.self) { characters in
      unsafe characters.baseAddress.map { unsafe KeptText(ces_text_keep($0, characters.count)) }
        ?? KeptText(ces_text_keep("", 0))
    }
  }

  /// The length of a C string; one more than is kept of any text at most.
  package static func count(ofCString text: UnsafePointer<CChar>) -> Int {
    unsafe strnlen(text, CES_TEXT_LIMIT + 1)
  }

  /// How much of a text is kept, in bytes: longer ones are cut between scalars.
  package static func keptCount(_ text: UnsafeBufferPointer<UInt8>) -> Int {
    unsafe text.withMemoryRebound(to: CChar.self) { characters in
      unsafe characters.baseAddress.map { unsafe ces_text_length($0, characters.count) } ?? 0
    }
  }
}
