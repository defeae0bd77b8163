// The escape sequence that copies text to the terminal's clipboard (xterm's ctlseqs: OSC 52). Pure.

/// `ESC ] 52 ; c ; BASE64 BEL`. The terminal never answers.
package enum Clipboard {
  /// Several terminals accept no more.
  private static let most = 4096

  package static func sequence(_ text: String) -> [UInt8] {
    // Control characters are dropped: pasting the text must not run it.
    let line = text.unicodeScalars.filter { $0.value >= 32 && $0.value != 127 }
    let bytes = Array(String(String.UnicodeScalarView(line)).utf8.prefix(most))
    return Array("\u{1b}]52;c;".utf8) + base64(bytes) + [7]
  }

  /// RFC 4648, section 4.
  private static func base64(_ bytes: [UInt8]) -> [UInt8] {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var result: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let three = (0..<3).map { start + $0 < bytes.count ? UInt32(bytes[start + $0]) : 0 }
      let word = three[0] << 16 | three[1] << 8 | three[2]
      for place in 0..<4 {
        result.append(
          start + place > bytes.count
            ? UInt8(ascii: "=") : digits[Int(word >> (18 - 6 * UInt32(place)) & 63)])
      }
    }
    return result
  }
}
