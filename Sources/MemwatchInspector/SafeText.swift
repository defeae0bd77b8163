// Text from another process, made fit for a screen or a file.

/// Text that holds no control characters, nothing that changes the direction of writing, nothing
/// without width, and no broken UTF-8. It can be made in one way only.
package struct SafeText: Equatable, Hashable, Sendable, CustomStringConvertible, Codable {
  package let string: String
  package var description: String { string }

  /// What is not printable becomes `\u{…}` with its scalar's number; bytes that are no UTF-8 become
  /// U+FFFD. At most `limit` bytes are looked at.
  package init(_ bytes: some Collection<UInt8>, limit: Int = 256) {
    self.init(String(decoding: Array(bytes.prefix(limit)), as: UTF8.self))
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
