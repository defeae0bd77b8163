// Sanitised text from another process.

import EnclaveStats

/// Text without control characters, bidirectional controls, zero-width characters or invalid UTF-8.
/// There is only one way to make one.
package struct SafeText: Equatable, Hashable, Sendable, CustomStringConvertible, Codable {
  package let string: String
  package var description: String { string }

  /// Unprintable scalars become `\u{…}`; invalid UTF-8 becomes U+FFFD. Reads at most `limit` bytes;
  /// longer text, or text that was cut already, ends with `…`.
  package init(_ bytes: some Collection<UInt8>, limit: Int = 256, isCut: Bool = false) {
    var bytes = Array(bytes.prefix(limit + 1))
    let isCut = isCut || bytes.count > limit
    if isCut {
      bytes = Array(bytes.prefix(limit))
      Self.dropHalfScalar(&bytes)
    }
    self.init(String(decoding: bytes, as: UTF8.self) + (isCut ? "…" : ""))
  }

  /// Drops a partial UTF-8 sequence at the end.
  private static func dropHalfScalar(_ bytes: inout [UInt8]) {
    guard let lead = bytes.suffix(4).lastIndex(where: { $0 & 0xc0 != 0x80 }) else { return }
    let needed = (~bytes[lead]).leadingZeroBitCount
    if (2...4).contains(needed), bytes.count - lead < needed { bytes.removeSubrange(lead...) }
  }

  /// Whether this is the given name; for a truncated name, whether it starts the given one.
  package func isName(_ wanted: String) -> Bool {
    let wanted = SafeText(wanted).string
    if string == wanted { return true }
    // A truncated name has at least 61 bytes; a shorter one may really end with an ellipsis.
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

  /// Files are not trusted either.
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
      // Hangul and Mongolian fillers and the like: invisible letters.
      return !scalar.properties.isDefaultIgnorableCodePoint
    }
  }
}

extension StatsPageRecord {
  /// A text field of the page, which holds 64 bytes; longer text ends with `…`.
  func safeText(at word: Word, length: UInt64) -> SafeText {
    let isCut = length > UInt64(StatsPageFormat.textBytes) && length != StatsPageFormat.unknown
    return SafeText(text(at: word, length: length), isCut: isCut)
  }
}
