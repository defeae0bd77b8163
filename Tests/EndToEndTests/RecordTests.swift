// Records and their replay.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct RecordTests {
  private func record(_ scratch: Scratch) throws -> (path: String, peer: Peer) {
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 3 100")
    let path = scratch.file("record")
    let ended = try memwatch(
      "record", "\(peer.pid)", "-o", path, "--interval", "100ms", "--for", "1s", stats: scratch)
    guard ended.status == 0 else { throw Failed("\(ended.status): \(ended.error)") }
    return (path, peer)
  }

  @Test func replayShowsTheRecordedSamples() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (path, peer) = try record(scratch)
    let text = try String(contentsOfFile: path, encoding: .utf8)
    let lines = text.split(separator: "\n")
    #expect(lines.count > 5)
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    let again = try memwatch("record", "\(peer.pid)", "-o", path, stats: scratch)
    #expect(again.status == 1 && again.error.contains("does not overwrite"))
    let shown = try memwatch("replay", path, "--full")
    #expect(shown.status == 0 && shown.output.contains("pid \(peer.pid)"))
    #expect(shown.output.contains("arenas[0].secretCount: 3"))
    // If the end is truncated, complete samples are shown.
    let cut = scratch.file("cut")
    try String(text.dropLast(200)).write(toFile: cut, atomically: true, encoding: .utf8)
    let rest = try memwatch("replay", cut)
    #expect(rest.status == 0 && rest.error.contains("\(lines.count - 2) samples can be shown"))
    // A forged record: a text with terminal control characters ends the replay.
    let evil = scratch.file("evil")
    for escape in ["\\u001b[31m", "\u{9b}31m", "\u{1b}[31m"] {
      let last = lines[1].replacing("\"lockState\":\"", with: "\"lockState\":\"\(escape)")
      #expect(last != lines[1])
      try (lines[..<3] + [last[...]]).joined(separator: "\n").write(
        toFile: evil, atomically: true, encoding: .utf8)
      let some = try memwatch("replay", "-1", evil)
      #expect(some.status == 0 && some.error.contains("line 4 of the record is invalid"))
      #expect(
        !(some.output + some.error).unicodeScalars.contains { [0x1b, 0x9b].contains($0.value) })
    }
    for wrong in ["/etc/passwd", "/nowhere", scratch.path] {
      #expect(try memwatch("replay", wrong).status == 1)
    }
  }

  /// The map shows the contents of pages at the time of each sample.
  @Test func replayShowsTheMapOfEachSample() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred none", "alloc a 100 32")
    let path = scratch.file("record")
    let recording = Launch(
      [Programs.memwatch, "record", "\(peer.pid)", "-o", path, "-i", "100ms"], stats: scratch
    ).process()
    try recording.run()
    func lines(_ isWanted: (Substring) -> Bool) -> Int {
      ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "").split(separator: "\n")
        .count(where: isWanted)
    }
    // Two pages of size class 32 with 85 and 15 of 85 slots: written once, then omitted as
    // unchanged.
    let closed = "[0,1,1,85,0,32,85],[1,1,1,15,0,32,85]"
    let open = "[0,1,1,85,0,32,85],[1,1,1,15,1,32,85]"
    try eventually("the map is recorded") {
      lines { $0.contains(closed) } == 1 && lines { !$0.contains("\"pages\"") } > 3
    }
    try peer.send("hold a")
    try eventually("so is the window") { lines { $0.contains(open) } == 1 }
    recording.interrupt()
    try eventually("the record ends") { !recording.isRunning }
    #expect(
      try memwatch("replay", "--full", path).output.contains(
        "arenas[0].chunks[0].pages.secretCount: 100"))
    let tmux = try Tmux(
      [Programs.memwatch, "replay", path, "-i", "100ms"], stats: nil, width: 100, height: 30)
    try tmux.wait(for: "alpha")
    try tmux.keys("3")
    try tmux.wait(for: "GLOll")
    try tmux.keys("p", "t")
    try tmux.type("-9h")
    try tmux.keys("Enter")
    try tmux.wait(for: "GLLll")
    try tmux.keys("Enter")
    try tmux.wait(for: "page 1: 85 slots of 32 B")
    try tmux.quit()
  }

  /// Every state of a sample is replayed unchanged.
  @Test func replayShowsTheEndOfAProcess() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 3 100")
    try peer.send("munlock a")
    let path = scratch.file("record")
    let recording = Launch(
      [Programs.memwatch, "record", "\(peer.pid)", "-o", path, "-i", "100ms"], stats: scratch
    ).process()
    try recording.run()
    try eventually("samples are there") {
      ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "").split(separator: "\n").count > 3
    }
    // Fixes are only shown for a live process: a record may be old or forged.
    let live = try memwatch("snapshot", "\(peer.pid)", stats: scratch).output
    #expect(live.contains("fix now:") && live.contains("strace"))
    var before = ""
    try eventually("the finding is recorded") {
      before = try memwatch("replay", path, "--full").output
      return before.contains("not-locked")
    }
    #expect(!before.contains("fix now:") && !before.contains("strace"))
    peer.kill()
    try eventually("the record ends") { !recording.isRunning }
    let shown = try memwatch("replay", path)
    #expect(shown.output.contains("Post-mortem"), "\(shown.output.prefix(400))")
  }

  @Test func replayScreenStepsThroughSamples() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (path, _) = try record(scratch)
    let tmux = try Tmux(
      [Programs.memwatch, "replay", path, "-i", "100ms"], stats: nil, width: 100, height: 30)
    try tmux.wait(for: "alpha")
    try tmux.keys("p", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",")
    try tmux.wait(for: "[replay 1/")
    try tmux.keys(".")
    try tmux.wait(for: "[replay 2/")
    try tmux.keys("t", "2", "3", ":", "5", "9", ":", "5", "9", "Enter")
    try tmux.wait(for: "the record does not reach 23:59:59")
    try tmux.keys("t")
    try tmux.type("-9h")
    try tmux.keys("Enter")
    try tmux.wait(for: "[replay 1/")
    try tmux.keys("9")
    try tmux.wait(for: "history")
    try tmux.quit()
  }
}
