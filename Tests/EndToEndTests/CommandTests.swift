// The command as a user runs it: exit codes, messages, files.

import Foundation
import Glibc
import TestSupport
import Testing

func publishing(
  _ scratch: Scratch, prefix: [String] = [], _ commands: String...
) throws -> (Peer, path: String) {
  let peer = try Peer(stats: scratch, prefix: prefix)
  let path = try peer.send("start")
  for command in commands { try peer.send(command) }
  return (peer, path)
}

@Suite(.serialized, .waitsForProcesses) struct CommandTests {
  @Test func noPublisherIs2AndSaysWhereItLooked() throws {
    let scratch = try Scratch(onTmpfs: true)
    // Root runs it as a user that no other test uses; an unprivileged user cannot.
    let copy = try Unprivileged()
    let result =
      Programs.isRoot
      ? try Launch([
        "setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all",
        "--inh-caps=-all", copy.place.file("memwatch"), "snapshot",
      ]).run() : try memwatch("snapshot", "no-such-name")
    #expect(result.status == 2)
    #expect(result.error.contains("searched /dev/shm/enclave-"))
    #expect(result.error.contains("ENCLAVE_STATS=1"))
    let gone = try memwatch("snapshot", "999999", stats: scratch)
    #expect(gone.status == 2 && gone.error.contains("process 999999 does not exist"))
    let silent = try memwatch("snapshot", "\(getpid())", stats: scratch)
    #expect(silent.status == 2 && silent.error.contains("publishes no stats page"))
    #expect(try memwatch("snapshot", "no-such-name", stats: scratch).status == 2)
    #expect(try memwatch("snapshot", "--file", "/nonexistent", stats: scratch).status == 2)
  }

  /// The error suggests the likely command, and lists the existing ones.
  @Test func mistypedCommandsAreSuggested() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch)
    defer { peer.kill() }
    for (typed, meant) in [("snaphot", "snapshot"), ("aduit", "audit"), ("snap", "snapshot")] {
      let named = try memwatch(typed, stats: scratch)
      #expect(named.status == 2 && named.error.contains("no process publishes"))
      #expect(named.error.contains("Did you mean: memwatch \(meant)?"), "\(named.error)")
      #expect(named.error.contains("Publishing now: "))
      #expect(named.error.contains("test-publisher"))
      let help = try memwatch("help", typed)
      #expect(help.status == 64 && help.output.isEmpty)
      #expect(help.error.contains("unknown command \(typed)."))
      #expect(help.error.contains("Did you mean: memwatch help \(meant)?"), "\(help.error)")
    }
    let other = try memwatch("some-server", stats: scratch)
    #expect(other.status == 2 && !other.error.contains("Did you mean"))
    for command in ["snapshot", "export"] {
      let help = try memwatch("help", command)
      #expect(help.status == 0 && help.output.contains("USAGE: memwatch \(command)"))
    }
    #expect(try memwatch("help").status == 0)
  }

  @Test func defaultsAreShownAsTheyAreTyped() throws {
    func help(_ command: String) throws -> String {
      try memwatch(command, "--help").output.split(whereSeparator: \.isWhitespace)
        .joined(separator: " ")
    }
    #expect(try help("record").contains("1s, 500ms. (default: 1s)"))
    #expect(try help("export").contains("(default: 15s)"))
  }

  @Test(arguments: ["0", "5", "-1s", "ten", "1 s"]) func aTimeNeedsAUnit(text: String) throws {
    let ended = try memwatch("--interval=\(text)", "some-server")
    #expect(ended.status == 64, "\(ended.error)")
    #expect(ended.error.contains("A time is a number with a unit: 500ms, 10s, 2m, 1h."))
  }

  /// A zombie, which not even root may inspect.
  @Test func aZombieIsReportedAsEnded() throws {
    let scratch = try Scratch(onTmpfs: true)
    let file = scratch.file("pid")
    let parent = Launch(["sh", "-c", "true & echo $! > \(file); exec sleep 60"]).process()
    try parent.run()
    defer { parent.terminate() }
    var pid: Int32?
    try eventually("its child is a zombie") {
      pid = (try? String(contentsOfFile: file, encoding: .utf8)).flatMap { Int32($0.dropLast()) }
      return try pid.map { try procText("/proc/\($0)/stat").contains(") Z") } ?? false
    }
    let found = try memwatch("snapshot", "\(pid!)", stats: scratch)
    #expect(found.status == 2 && found.error.contains("process \(pid!) has ended"), "\(found)")
  }

  @Test func notPermittedIs3() throws {
    guard Programs.isRoot else {
      // An unprivileged user can only try processes of others that run anyway.
      let result = try memwatch("snapshot", "--file", "/proc/1/maps")
      #expect(result.status == 3)
      return
    }
    let peer = try Peer(stats: nil)
    try peer.send("start")
    let copy = try Unprivileged()
    let result = try copy.memwatch("snapshot", "\(peer.pid)", stats: nil)
    #expect(result.status == 3, "\(result.error)")
    #expect(result.error.contains("not permitted"))
    try peer.exit()
  }

  @Test func corruptIs4AndIncompatibleIs7() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(scratch)
    for (what, bytes, status) in [
      ("empty", Data(), Int32(4)), ("noise", Data(repeating: 7, count: 9000), 4),
    ] {
      let file = scratch.file(what)
      try bytes.write(to: URL(fileURLWithPath: file))
      let result = try memwatch("snapshot", "--file", file, stats: scratch)
      #expect(result.status == status && result.error.contains("corrupt"))
    }
    var future = try Data(contentsOf: URL(fileURLWithPath: path))
    future[12] = 9
    try future.write(to: URL(fileURLWithPath: scratch.file("future")))
    let result = try memwatch("snapshot", "--file", scratch.file("future"), stats: scratch)
    #expect(result.status == 7 && result.error.contains("version"))
    for odd in ["/dev/null", "/dev/shm", "/dev/zero"] {
      #expect(try memwatch("snapshot", "--file", odd, stats: scratch).status == 4)
    }
    let fifo = scratch.file("fifo")
    mkfifo(fifo, 0o600)
    #expect(try memwatch("snapshot", "--file", fifo, stats: scratch).status == 4)
    _ = peer
  }

  @Test func exitedIs5AndPrintsTheLastPage() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred pages", "alloc a 3 40")
    peer.kill()
    let result = try memwatch("snapshot", "\(peer.pid)", stats: scratch)
    #expect(result.status == 5)
    #expect(result.output.contains("EXITED") && result.output.contains("alpha"))
    #expect(result.output.contains("last seen ") && !result.output.contains(" ok "))
    let document = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    let found = try json(document.output)
    #expect(try #require(found["ageMs"] as? Int) > 0)
    #expect((found["arenas"] as! [[String: Any]])[0]["state"] as? String == "gone")
    #expect(try Schema.violations(in: found) == [])
    let csv = try memwatch("snapshot", "\(peer.pid)", "--format", "csv", stats: scratch).output
    #expect(csv.contains("gone") && !csv.contains(",ok,"))
  }

  @Test func detachedAndUnlinkedAre8() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(scratch)
    let aside = scratch.file("aside.page")
    link(path, aside)
    try peer.send("stop")
    let result = try memwatch("snapshot", "--file", aside, stats: scratch)
    #expect(result.status == 8 && result.output.contains("DETACHED"))

    // An unlinked page is only reachable through a process that has it open.
    let (other, gone) = try publishing(scratch)
    try FileManager.default.removeItem(atPath: gone)
    let descriptors = "/proc/\(other.pid)/fd"
    let open = try FileManager.default.contentsOfDirectory(atPath: descriptors).first {
      let target = try? FileManager.default.destinationOfSymbolicLink(
        atPath: descriptors + "/" + $0)
      return target?.hasPrefix(scratch.path) == true && target?.hasSuffix("(deleted)") == true
    }
    let unlinked = try memwatch(
      "snapshot", "--file", descriptors + "/" + (try #require(open)), stats: scratch)
    #expect(unlinked.status == 8 && unlinked.output.contains("UNLINKED"), "\(unlinked.error)")
  }

  @Test func severalIs9AndNamesThem() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (a, _) = try publishing(scratch)
    let (b, _) = try publishing(scratch)
    let result = try memwatch("snapshot", "test-publisher", stats: scratch)
    #expect(result.status == 9)
    #expect(result.error.contains("\(a.pid)") && result.error.contains("\(b.pid)"))
  }

  @Test func usageIs64() throws {
    for arguments in [["--no-such-option"], ["--interval", "1"], ["snapshot", "--format", "xml"]] {
      let result = try Launch([Programs.memwatch] + arguments).run()
      #expect(result.status == 64, "\(arguments)")
    }
    #expect(try memwatch("run").status == 64)
    #expect(try memwatch("--help").status == 0)
  }

  @Test func waitOptionWaitsForAPublisher() throws {
    let scratch = try Scratch(onTmpfs: true)
    let start = Date()
    #expect(try memwatch("snapshot", "late", "--wait", "300ms", stats: scratch).status == 2)
    #expect(Date().timeIntervalSince(start) >= 0.3)
    let waiting = Launch(
      [Programs.memwatch, "snapshot", "test-publisher", "--wait", "20s"], stats: scratch
    ).process()
    let output = Pipe()
    waiting.standardOutput = output
    try waiting.run()
    let (peer, _) = try publishing(scratch)
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    waiting.waitUntilExit()
    #expect(waiting.terminationStatus == 0 && text.contains("pid \(peer.pid)"))
  }

  @Test func listTellsAllInTextAndJSON() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (a, _) = try publishing(scratch)
    let (b, _) = try publishing(scratch)
    b.kill()
    let text = try memwatch("list", stats: scratch).output
    #expect(text.contains("\(a.pid)") && text.contains("live") && text.contains("exited"))
    #expect(
      text.contains(#/ live +now /#) && text.contains(#/ exited +[0-9]+ m?s ago /#), "\(text)")
    let list = try json(try memwatch("list", "--json", stats: scratch).output)
    let publishers = list["publishers"] as! [[String: Any]]
    let mine = publishers.filter { ($0["page"] as! String).hasPrefix(scratch.path) }
    #expect(Set(mine.map { $0["state"] as! String }) == ["live", "exited"])
    // What could not be searched is told below the table, with the reason.
    let unread = try Launch(
      [Programs.memwatch, "list"], stats: scratch,
      environment: ["XDG_RUNTIME_DIR": "/" + String(repeating: "x", count: 300)]
    ).run().output
    #expect(unread.contains(" live "), "\(unread)")
    #expect(unread.contains(/may be missing:\n.*xxx\/enclave: .*ENAMETOOLONG/), "\(unread)")
  }

  @Test func withoutATerminalItPrintsOneSnapshot() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred pages")
    let result = try memwatch("\(peer.pid)", stats: scratch)
    #expect(result.status == 0)
    #expect(result.output.contains("alpha") && !result.output.contains("\u{1b}"))
  }

  @Test func closedStandardStreamsDoNoHarm() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch)
    let result = try Launch(
      ["sh", "-c", "\(Programs.memwatch) snapshot \(peer.pid) <&- >&- 2>&-; echo $?"],
      stats: scratch
    ).run()
    #expect(result.output == "0\n" || result.output == "1\n")
    #expect(peer.process.isRunning)
  }

  @Test func demoRunsAndEndsItsProcess() throws {
    let scratch = try Scratch(onTmpfs: true)
    let result = try memwatch("demo", stats: scratch)
    #expect(result.status == 0, "\(result.error)")
    #expect(result.output.contains("session-tokens"))
    let pid = try #require(result.output.firstMatch(of: #/enclave-demo  pid (\d+)  /#)).1
    #expect(kill(try #require(Int32(pid)), 0) != 0)
  }

  @Test func runAttachesToADescendant() throws {
    let scratch = try Scratch(onTmpfs: true)
    let result = try memwatch(
      "run", "--", "sh", "-c", "sleep 0; \(Programs.demo) --seconds 1; exit 7", stats: scratch)
    #expect(result.output.contains("enclave-demo"))
    #expect(result.status == 7, "the command's status")
  }

  /// Without a terminal. WaitingTests do the same with one.
  @Test func aCommandThatNeverPublishesGivesItsStatus() throws {
    let scratch = try Scratch(onTmpfs: true)
    for (command, status) in [(["true"], 0), (["sh", "-c", "exit 3"], 3)] {
      let result = try Launch([Programs.memwatch, "run", "--"] + command, stats: scratch).run()
      #expect(result.status == status)
      #expect(result.error.contains("ended before memwatch saw it publish"), "\(result.error)")
    }
    #expect(try memwatch("run", "--", "/nonexistent", stats: scratch).status == 127)
    #expect(try memwatch("run", "--", "/etc/passwd", stats: scratch).status == 126)
  }

  /// As an unprivileged user with RLIMIT_MEMLOCK of 64 KiB.
  @Test func withoutPrivilegesAnd64KiB() throws {
    let scratch = try Scratch(onTmpfs: true, mode: 0o755)
    if Programs.isRoot { chown(scratch.path, 65534, 65534) }
    let copy = try Unprivileged()
    let peer = try Peer(
      stats: scratch, prefix: unprivileged(), program: copy.place.file("test-publisher"))
    try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 2000 40")
    try peer.send("arena r bravo slab required pages")
    #expect(throws: Failed.self) { try peer.send("alloc r 1 40") }
    let result = try copy.memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    #expect(result.status == 0, "\(result.error)")
    let found = try json(result.output)
    let alpha = (found["arenas"] as! [[String: Any]])[0]
    #expect(alpha["lockState"] as? String == "partial")
    #expect((alpha["lock"] as! [String: Any])["errnoName"] as? String == "ENOMEM")
    #expect((found["memlock"] as! [String: Any])["softLimitBytes"] as? Int == 65536)
    let problems = found["problems"] as! [[String: Any]]
    #expect(
      problems.contains { ($0["advice"] as? String)?.contains("prlimit --pid \(peer.pid)") == true }
    )
    let demo = try copy.memwatch("demo", stats: scratch)
    #expect(demo.status == 0 && demo.output.contains("session-tokens"), "\(demo.error)")
  }

  @Test func memwatchLinksNeitherEnclaveNorSodium() throws {
    let symbols = try Launch(["nm", Programs.memwatch]).run().output
    // `$s7Enclave…` is a Swift symbol of module Enclave. The control: symbols of MemwatchInspector
    // exist.
    #expect(symbols.contains("$s17MemwatchInspector"))
    #expect(!symbols.contains("$s7Enclave"))
    let needed = try Launch(["readelf", "-d", Programs.memwatch]).run().output
    #expect(needed.contains("NEEDED") && !needed.contains("sodium"))
  }
}

/// memwatch and test-publisher in a directory that every user can read, run as nobody if the test
/// runs as root.
final class Unprivileged {
  let place: Scratch
  init() throws {
    place = try Scratch(mode: 0o755)
    try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: place.path)
    for name in ["memwatch", "test-publisher", "enclave-demo"] {
      try copyProgram(Programs.path(name), to: place.file(name))
    }
  }

  func memwatch(_ arguments: String..., stats: Scratch?) throws -> Ended {
    try Launch(unprivileged() + [place.file("memwatch")] + arguments, stats: stats).run()
  }
}
