// `check`, `run --check`, `host`, `diff`, and the page of a process that has ended.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct CheckTests {
  private func check(
    _ peer: Peer, _ scratch: Scratch, _ requirements: String...
  ) throws -> (status: Int32, words: [String: String]) {
    let arguments = requirements.flatMap { ["--require", $0] }
    let ended = try Launch(
      [Programs.memwatch, "check", "\(peer.pid)", "--json"] + arguments, stats: scratch
    ).run()
    guard ended.status == 0 || ended.status == 6 else {
      throw Failed("\(ended.status): \(ended.error)")
    }
    var words: [String: String] = [:]
    for outcome in try json(ended.output)["outcomes"] as! [[String: Any]] {
      let isClaimed = outcome["claimedOnly"] as! Bool
      words[outcome["requirement"] as! String] =
        (outcome["outcome"] as! String) + (isClaimed ? ", claimed" : "")
    }
    return (ended.status, words)
  }

  @Test func everyRequirementHoldsOrIsBroken() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab required pages")
    try peer.send("alloc a 3 100")
    let usual = try check(peer, scratch)
    #expect(
      usual.words == [
        "locked": "ok", "nodump": "ok", "fork-safe": "ok", "no-problems": "ok", "no-findings": "ok",
      ])
    #expect(usual.status == 0)
    let all = try check(
      peer, scratch, "gated,closed-when-idle,guarded,not-swapped,no-debugger", "arena=alpha",
      "no-open-longer-than=1m")
    #expect(Set(all.words.values) == ["ok", "ok, claimed"] && all.status == 0)
    #expect(all.words["no-open-longer-than=1m"] == "ok, claimed")
    let broken = try check(
      peer, scratch, "frozen=alpha,sealed=alpha,arena=nobody,not-dumpable,emergency-wipe")
    #expect(Set(broken.words.values) == ["broken"] && broken.status == 6)
    try peer.send("wipe-on-signals")
    try peer.send("freeze a")
    let now = try check(peer, scratch, "frozen=alpha,emergency-wipe")
    #expect(now.words == ["frozen=alpha": "ok", "emergency-wipe": "ok, claimed"])
    // One arena that breaks the requirement.
    try peer.send("arena b bravo slab off none")
    try peer.send("alloc b 1 10")
    let other = try check(peer, scratch, "locked,gated,nodump,closed-when-idle")
    #expect(
      other.words == [
        "locked": "broken", "gated": "broken", "nodump": "ok", "closed-when-idle": "broken",
      ])
  }

  /// The page lists one of two arenas, so requirements for all arenas are unknown.
  @Test func unlistedArenasAreUnknown() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start one-arena")
    try peer.send("arena a alpha slab required none")
    try peer.send("arena b bravo slab required none")
    try peer.send("alloc a 1 100")
    let now = try check(
      peer, scratch, "locked,no-findings,no-problems,no-open-longer-than=1m,arena=alpha,arena=bravo"
    )
    #expect(
      now.words == [
        "locked": "unknown", "no-findings": "unknown", "no-problems": "unknown",
        "no-open-longer-than=1m": "unknown", "arena=alpha": "ok", "arena=bravo": "unknown",
      ])
    #expect(now.status == 6)
    for command in ["audit", "snapshot"] {
      let text = try memwatch(command, "\(peer.pid)", stats: scratch).output
      #expect(text.contains("1 more arena not listed"), "\(text.prefix(2000))")
    }
    let verdict = try memwatch("snapshot", "\(peer.pid)", stats: scratch).output
    #expect(verdict.contains("1 of 1 arena locked, 1 more not listed"), "\(verdict.prefix(300))")
  }

  /// A claim that the kernel contradicts breaks the requirement.
  @Test func aFindingBreaksARequirement() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab required none")
    try peer.send("alloc a 3 100")
    try peer.send("munlock a")
    let now = try check(peer, scratch, "locked,nodump,no-findings,no-problems")
    #expect(
      now.words == [
        "locked": "broken", "nodump": "ok", "no-findings": "broken", "no-problems": "broken",
      ])
    let text = try memwatch("check", "\(peer.pid)", stats: scratch)
    #expect(text.status == 6 && text.output.contains("BROKEN  locked"), "\(text.output)")
    #expect(text.output.contains("strace"))
  }

  /// The kernel confirms the sample process's claims at any moment. (An arena that changed during
  /// the audit counts as neither.)
  @Test func theSampleProcessAgreesWithTheKernel() throws {
    let scratch = try Scratch(onTmpfs: true)
    let demo = try SampleProcess(stats: scratch, seconds: 300)
    defer { demo.end() }
    try eventually("all agree", within: 120) {
      let shown = try memwatch("snapshot", "enclave-demo", "--wait", "60s", stats: scratch).output
      #expect(!shown.contains("DIFFERS") && !shown.contains("differs"), "\(shown.prefix(2000))")
      return shown.contains("tls-keys") && shown.contains(#/Kernel   agrees with 6 of 6 /#)
    }
  }

  @Test(.enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
  func headroomIsChecked() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(
      stats: scratch, prefix: withoutLockCapability(soft: 1 << 20, hard: 1 << 20))
    try peer.send("start")
    try peer.send("arena a alpha slab required none")
    let now = try check(peer, scratch, "headroom=64KiB,headroom=1MiB")
    #expect(now.words == ["headroom=64KiB": "ok", "headroom=1MiB": "ok"])
    try peer.send("alloc a 1 100")
    let later = try check(peer, scratch, "headroom=64KiB,headroom=1MiB")
    #expect(later.words == ["headroom=64KiB": "ok", "headroom=1MiB": "broken"])
  }

  @Test func policyFilesAreReadAndMistakesNamed() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    let policy = scratch.file("policy")
    try "# what we ship with\n\ngated  # always\n  arena=alpha\n".write(
      toFile: policy, atomically: true, encoding: .utf8)
    let ended = try memwatch("check", "\(peer.pid)", "--policy", policy, stats: scratch)
    #expect(ended.status == 0, "\(ended)")
    #expect(ended.output.contains("gated") && ended.output.contains("arena=alpha"))
    // A policy that contains no requirements is an error; the default list is not used instead.
    let nothing = scratch.file("nothing")
    try "# locked\n\n   # gated\n".write(toFile: nothing, atomically: true, encoding: .utf8)
    let empty = try memwatch("check", "\(peer.pid)", "--policy", nothing, stats: scratch)
    #expect(empty.status == 64 && empty.error.contains("contains no requirements"), "\(empty)")
    for (wrong, word) in [
      ("lockd", "lockd"), ("headroom", "headroom"), ("headroom=-1", "headroom=-1"),
      ("headroom=9999999999GiB", "headroom"), ("no-open-longer-than=1", "no-open"),
      ("sealed=", "sealed"), ("gated=yes", "gated"),
    ] {
      let refused = try memwatch("check", "\(peer.pid)", "--require", wrong, stats: scratch)
      #expect(refused.status == 64 && refused.error.contains(word), "\(wrong): \(refused)")
    }
    #expect(
      try memwatch("check", "\(peer.pid)", "--policy", "/nowhere", stats: scratch).status == 64)
    #expect(try memwatch("check", "nobody-of-this-name", stats: scratch).status == 2)
    peer.kill()
    #expect(try memwatch("check", "\(peer.pid)", stats: scratch).status == 5)
  }

  /// A command is checked until it ends. If nothing was broken, its own exit status is returned.
  @Test func runChecksACommand() throws {
    func run(_ requirements: String, _ command: String...) throws -> Ended {
      try Launch(
        [Programs.memwatch, "run", "--check", "--require", requirements, "--"] + command,
        stats: try Scratch(onTmpfs: true)
      ).run()
    }
    let good = try run("nodump,fork-safe", Programs.demo, "--seconds", "2")
    #expect(good.status == 0, "\(good)")
    let broken = try run("nodump,arena=nobody", Programs.demo, "--seconds", "2")
    #expect(broken.status == 6 && broken.error.contains("BROKEN  arena=nobody"), "\(broken)")
    // An arena appears only when the program has created it, and its seal later.
    let named = try run("arena=tls-keys,frozen=tls-keys", Programs.demo, "--seconds", "2")
    #expect(named.status == 0, "\(named)")
    let silent = try run("nodump", "true")
    #expect(silent.status == 6 && silent.error.contains("nothing was checked"), "\(silent)")
    let own = try run("nodump", "sh", "-c", "\(Programs.demo) --seconds 2; exit 7")
    #expect(own.status == 7, "\(own)")
    let mistake = try Launch([Programs.memwatch, "run", "--require", "locked", "--", "true"]).run()
    #expect(mistake.status == 64)
  }

  @Test func diffPrintsWhatChanged() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("arena b bravo slab preferred none")
    func write(_ name: String) throws -> String {
      let path = scratch.file(name)
      let ended = try memwatch(
        "snapshot", "\(peer.pid)", "--format", "json", "-o", path, stats: scratch)
      guard ended.status == 0 else { throw Failed(ended.error) }
      return path
    }
    let first = try write("first.json")
    try peer.send("destroy a")
    try peer.send("alloc b 7 10")
    let second = try write("second.json")
    let report = try memwatch("diff", first, second)
    #expect(report.status == 0, "\(report)")
    #expect(report.output.contains("arena alpha is gone"), "\(report.output)")
    #expect(report.output.contains(#/bravo +7 \+7 /#), "\(report.output)")
    // Times are shown as a clock does.
    #expect(!report.output.contains(#/[0-9]{10}/#), "\(report.output)")
    #expect(try memwatch("diff", first, second, "--exit-code").status == 6)
    #expect(try memwatch("diff", first, first, "--exit-code").status == 0)
    #expect(try memwatch("diff", first, second, "--exit-code", "--json").status == 6)
    #expect(try memwatch("diff", first, second, "--raw", "--json").status == 64)
    let ended = try memwatch("diff", first, second, "--raw")
    #expect(ended.status == 0, "\(ended)")
    #expect(ended.output.contains(#/arenas\[bravo\]\.secretCount +0 +-> +7/#))
    #expect(ended.output.contains(#/arenas\[alpha\]\.name +alpha +-> +-/#))
    #expect(!ended.output.contains("arenas[bravo].name"))
    #expect(try memwatch("diff", first, first).output.isEmpty)
    let list = try json(try memwatch("diff", first, second, "--json").output)["differences"]
    #expect((list as! [[String: Any]]).count > 5)
    try "{}".write(toFile: scratch.file("none.json"), atomically: true, encoding: .utf8)
    for wrong in [scratch.file("none.json"), "/nowhere", "/etc/passwd"] {
      let refused = try memwatch("diff", first, wrong)
      #expect(refused.status == 1 && !refused.error.isEmpty, "\(refused)")
    }
  }

  /// Shows open windows, memory that was not wiped, the last events, and how the process ended.
  @Test func theLastPageOfAnEndedProcessIsShown() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let page = try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 5 100")
    try peer.send("hold a write")
    try eventually("the window is on the page") {
      let now = try memwatch("snapshot", "--file", page, "--format", "json", stats: scratch)
      return ((try json(now.output)["arenas"] as? [[String: Any]])?[0]["openWindows"] as? Int) == 1
    }
    peer.kill()
    let brief = try memwatch("snapshot", "--file", page, stats: scratch)
    #expect(brief.status == 5 && brief.output.contains("Post-mortem"))
    let ended = try memwatch("snapshot", "--file", page, "--full", stats: scratch)
    #expect(ended.status == 5)
    for text in [
      "Post-mortem", "ended    it was still publishing", "unknown: 5 secrets (500 B)",
      "open     alpha (1 window)", "arena-created  alpha",
    ] { #expect(ended.output.contains(text), "\(text): \(ended.output.prefix(2500))") }
  }

  @Test func hostCommandPrintsSettings() throws {
    let ended = try memwatch("host")
    #expect(ended.status == 0 && ended.output.contains("swap") && ended.output.contains("SIGKILL"))
    let document = try json(try memwatch("host", "--json").output)
    let facts = document["facts"] as! [[String: Any]]
    #expect(facts.count >= 15)
    #expect(
      facts.allSatisfy { ["good", "bad", "unknown"].contains($0["judgement"] as! String) })
  }
}
