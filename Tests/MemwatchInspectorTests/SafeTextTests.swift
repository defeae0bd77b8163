// Text of strangers.

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

  @Test func everyScalarIsHarmless() {
    for value in UInt32(0)...0x10FFFF {
      guard let scalar = Unicode.Scalar(value) else { continue }
      for out in SafeText(String(scalar)).string.unicodeScalars {
        #expect(out.value >= 32 && !(127..<160).contains(out.value))
        if out.value < 32 { return }
      }
    }
  }

  @Test func brokenBytesBecomeReplacements() {
    #expect(SafeText([0xff, 0x41, 0xc0, 0xaf] as [UInt8]).string.contains("A"))
    #expect(SafeText([UInt8](repeating: 0x41, count: 70_000)).string.count == 256)
  }
}
