// Text from another process, made fit for a screen or a file.

import EnclaveStats

/// Text that holds no control characters, nothing that changes the direction of writing, nothing
/// without width, and no broken UTF-8. It can be made in one way only.
package struct SafeText: Equatable, Hashable, Sendable, CustomStringConvertible, Codable {
  package let string: String
  package var description: String { string }

  /// What is not printable becomes `\u{…}` with its scalar's number; bytes that are no UTF-8 become
  /// U+FFFD. At most `limit` bytes are looked at; text that is longer, or was cut before, ends with `…`.
  package init(_ bytes: some Collection<UInt8>, limit: Int = 256, isCut: Bool = false) {
    var bytes = Array(bytes.prefix(limit + 1))
    let isCut = isCut || bytes.count > limit
    if isCut {
      bytes = Array(bytes.prefix(limit))
      Self.dropHalfScalar(&bytes)
    }
    self.init(String(decoding: bytes, as: UTF8.self) + (isCut ? "…" : ""))
  }

  /// What a cut left of a scalar of several bytes, at the end.
  private static func dropHalfScalar(_ bytes: inout [UInt8]) {
    guard let lead = bytes.suffix(4).lastIndex(where: { $0 & 0xc0 != 0x80 }) else { return }
    let needed = (~bytes[lead]).leadingZeroBitCount
    if (2...4).contains(needed), bytes.count - lead < needed { bytes.removeSubrange(lead...) }
  }

  /// Whether this is the name that somebody wrote; of a name that was cut, its beginning has to be.
  package func isName(_ wanted: String) -> Bool {
    let wanted = SafeText(wanted).string
    if string == wanted { return true }
    // A cut leaves 61 bytes or more; a shorter name may well end with three dots.
    guard string.hasSuffix("…"), string.utf8.count > 61, wanted.utf8.count > 61 else {
      return false
    }
    return wanted.hasPrefix(string.dropLast())
  }

  package init(_ text: String) {
    var safe = ""
    for scalar in text.unicodeScalars {
      if Self.isPrintable(scalar) {
        safe.unicodeScalars.append(scalar)
      } else {
        safe += "\\u{" + String(scalar.value, radix: 16) + "}"
      }
    }
    string = safe
  }

  /// A file is not trusted either.
  package init(from decoder: any Decoder) throws {
    self.init(try decoder.singleValueContainer().decode(String.self))
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(string)
  }

  private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.isASCII { return scalar.value >= 0x20 && scalar.value < 0x7f }
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator,
      .paragraphSeparator:
      return false
    case .spaceSeparator:
      return scalar == " "
    default:
      // Hangul and Mongolian fillers, and the like: letters that draw nothing.
      return !scalar.properties.isDefaultIgnorableCodePoint
    }
  }
}

extension StatsPageRecord {
  /// A text of the page, which has 64 bytes for it; where it was longer it ends with `…`.
  func safeText(at word: Word, length: UInt64) -> SafeText {
    let isCut = length > UInt64(StatsPageFormat.textBytes) && length != StatsPageFormat.unknown
    return SafeText(text(at: word, length: length), isCut: isCut)
  }
}
