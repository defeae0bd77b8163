// The screen when its publisher is stopped, ends or is replaced.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct WatchedEndTests {
  /// Programs that a test starts have no signal blocked, whichever thread starts them.
  @Test func startedProgramsHaveNoBlockedSignals() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let line = try Line([Programs.publisher], stats: scratch)
    for pid in [peer.pid, line.process.processIdentifier] {
      #expect(try procText("/proc/\(pid)/status").contains("SigBlk:\t0000000000000000"))
      kill(pid, SIGTERM)
    }
    try eventually("both end") { !peer.process.isRunning && !line.process.isRunning }
  }

  @Test func showsThePublishersEndAndExitsWith5() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    peer.kill()
    // The last page stays.
    try tmux.wait(for: "EXITED, last seen ", "session-tokens", without: ["ok"])
    // The age grows while it is shown.
    try tmux.wait(for: "last seen 2 s ago")
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 5]")
  }

  /// A process that a signal stopped is shown as last seen until it continues.
  @Test func aStoppedProcessIsShownAsLastSeen() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    peer.signal(SIGSTOP)
    try tmux.wait(for: "STOPPED, last seen ", without: ["ok"])
    let text = try memwatch("snapshot", "\(peer.pid)", stats: scratch)
    #expect(text.output.contains("STOPPED") && text.output.contains("last seen "))
    #expect(text.status == 0)
    let list = try memwatch("list", stats: scratch).output
    #expect(list.contains(#/ stopped .* ago/#), "\(list)")
    let attached = try memwatch("snapshot", "test-publisher", stats: scratch)
    #expect(attached.status == 0, "by its name too")
    try tmux.keys("8")
    try tmux.wait(for: "stopped, last seen")
    peer.signal(SIGCONT)
    try tmux.keys("1")
    try tmux.wait(for: "LIVE")
  }

  @Test func replacedIsShownAndExitsWith10() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, tmux) = try watching(scratch)
    try tmux.wait(for: "session-tokens")
    try peer.send("stop")
    try tmux.wait(for: "DETACHED")
    try peer.send("start")
    try tmux.wait(for: "REPLACED")
    try tmux.keys("q")
    try tmux.wait(for: "[STATUS 10]")
  }

  @Test func followsANameToItsSuccessor() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (first, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    let tmux = try Tmux(
      [Programs.memwatch, "test-publisher", "-i", "100ms"], stats: scratch)
    try tmux.wait(for: "alpha")
    first.kill()
    try tmux.wait(for: "EXITED")
    let (second, _) = try publishing(scratch, "arena a bravo slab preferred pages")
    try tmux.wait(for: "bravo")
    try tmux.wait(for: "restarted", "\(first.pid) -> \(second.pid)")
  }
}
