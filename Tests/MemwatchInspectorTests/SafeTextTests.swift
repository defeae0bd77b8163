// Sanitising untrusted text.

import MemwatchInspector
import Testing

@Suite struct SafeTextTests {
  @Test(arguments: [
    ("plain", "plain"), ("größe 鍵", "größe 鍵"), ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
    ("x\ny", "x\\u{a}y"), ("\u{9b}2J", "\\u{9b}2J"), ("\u{202e}abc", "\\u{202e}abc"),
    ("a\u{200b}b", "a\\u{200b}b"), ("\u{7f}", "\\u{7f}"), ("e\u{301}", "e\u{301}"),
    ("\u{2028}", "\\u{2028}"), ("\u{3164}", "\\u{3164}"),
  ])
  func replacesWhatIsNotPrintable(text: String, safe: String) {
    #expect(SafeText(text).string == safe)
  }

  /// Why a scalar must not reach a screen or a file unchanged; nil if it may.
  static func reason(_ scalar: Unicode.Scalar) -> String? {
    let properties = scalar.properties
    switch properties.generalCategory {
    case .control: return "a control"
    case .format: return "a format character"
    case .privateUse: return "private use"
    case .surrogate: return "a surrogate"
    case .unassigned: return "unassigned"
    case .lineSeparator, .paragraphSeparator: return "a separator of lines"
    case .spaceSeparator: return scalar == " " ? nil : "a space that is none"
    default: break
    }
    if properties.isDefaultIgnorableCodePoint { return "ignored by default" }
    if properties.isBidiControl { return "changes the direction" }
    return properties.isNoncharacterCodePoint ? "no character" : nil
  }

  /// Every Unicode scalar, between two letters: unsafe ones are written as their number, and all
  /// others are unchanged.
  @Test func invisibleScalarsAreReplaced() {
    var refused: [String: Int] = [:]
    var wrong: [String] = []
    for value in UInt32(0)...0x10FFFF {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let text = SafeText("a" + String(scalar) + "b").string
      let reason = Self.reason(scalar)
      if let reason { refused[reason, default: 0] += 1 }
      let hex = String(value, radix: 16)
      // Compare scalars, because strings with different scalars can be equal.
      let expected = reason == nil ? "a" + String(scalar) + "b" : "a\\u{\(hex)}b"
      if !text.unicodeScalars.elementsEqual(expected.unicodeScalars) {
        wrong.append("U+\(hex), \(reason ?? "printable")")
      }
    }
    #expect(wrong.isEmpty, "\(wrong.count): \(wrong.prefix(20))")
    // The classes are not empty. Unicode only adds scalars to them.
    #expect(refused["a control", default: 0] == 65)
    #expect(refused["a format character", default: 0] >= 163)
    #expect(refused["ignored by default", default: 0] >= 260)
    #expect(refused["private use", default: 0] == 137_468)
    #expect(refused["a separator of lines", default: 0] == 2)
  }

  /// Half of a surrogate pair, encoded as bytes, is not a scalar.
  @Test func surrogatesAsBytesAreReplaced() {
    for high in UInt8(0xa0)...0xbf {
      let text = SafeText([0x61, 0xed, high, 0x80, 0x62] as [UInt8]).string
      #expect(text == "a\u{fffd}\u{fffd}\u{fffd}b", "\(high)")
    }
  }

  @Test func brokenBytesBecomeReplacements() {
    #expect(SafeText([0xff, 0x41, 0xc0, 0xaf] as [UInt8]).string.contains("A"))
    #expect(SafeText([UInt8](repeating: 0x41, count: 256)).string.count == 256)
  }

  /// Truncated text has a mark, and is not cut within a scalar.
  @Test func truncatedTextIsMarked() {
    let long = SafeText([UInt8](repeating: 0x41, count: 70_000)).string
    #expect(long == String(repeating: "A", count: 256) + "…")
    for scalar in ["ü", "鍵", "🔑"] {
      for limit in 0...12 {
        let text = SafeText(Array(String(repeating: scalar, count: 5).utf8), limit: limit).string
        let whole = min(5, limit / scalar.utf8.count)
        #expect(text == String(repeating: scalar, count: whole) + (whole < 5 ? "…" : ""))
      }
    }
    // Invalid bytes before the cut stay replaced.
    #expect(SafeText([0x41, 0xff, 0x42] as [UInt8], limit: 2).string == "A\u{fffd}…")
  }

  @Test func aTruncatedNameMatchesTheFullName() {
    let whole = String(repeating: "name ", count: 20)
    let cut = SafeText(Array(whole.utf8), limit: 64)
    #expect(cut.isName(whole) && cut.isName(cut.string) && !cut.isName(String(whole.prefix(63))))
    #expect(!cut.isName("x" + whole) && !SafeText("a…").isName("abc"))
  }
}
