// Copying to the terminal's clipboard.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct ClipboardTests {
  /// `y` sends the complete fix for this process, to the clipboard only.
  @Test func theFixIsSentToTheTerminal() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 65536),
      "arena a session-tokens slab preferred pages", "alloc a 3000 40")
    let line = try Line([Programs.memwatch, "\(peer.pid)", "-i", "100ms"], stats: scratch)
    try line.wait(for: "PROBLEM")
    line.type("y")
    try line.wait(for: "\u{1b}]52;c;")
    try line.waitForMore("\u{7}")
    let encoded = line.text.split(separator: "\u{1b}]52;c;").last.map {
      String($0.prefix { $0 != "\u{7}" })
    }
    let fix = try #require(encoded.flatMap { Data(base64Encoded: $0) })
    #expect(String(decoding: fix, as: UTF8.self).contains("\(peer.pid)"))
    line.type("Q")
    try line.waitForEnd()
  }
}
