// Every JSON document of a command follows the schema, and documents of memwatch/1 can be read.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct DocumentTests {
  private func document(
    _ arguments: [String], _ scratch: Scratch, _ kind: String, status: Int32 = 0,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> [String: Any] {
    let ended = try Launch([Programs.memwatch] + arguments, stats: scratch).run()
    #expect(ended.status == status, "\(ended.error)", sourceLocation: sourceLocation)
    let found = try json(ended.output)
    #expect(found["schema"] as? String == "memwatch/2", sourceLocation: sourceLocation)
    #expect(found["document"] as? String == kind, sourceLocation: sourceLocation)
    #expect(try Schema.violations(in: found) == [], sourceLocation: sourceLocation)
    return found
  }

  @Test func everyDocumentFitsTheSchema() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 131072),
      "arena a alpha slab preferred pages", "alloc a 3000 40", "vault v xchacha", "encrypt v a 3",
      "arena b bravo isolated off none", "alloc b 2 100")
    let pid = "\(peer.pid)"
    let list = try document(["list", "--json"], scratch, "list")
    let listed = list["publishers"] as! [[String: Any]]
    #expect(listed.contains { $0["pid"] as? Int == Int(peer.pid) })
    #expect(!(list["places"] as! [Any]).isEmpty)
    let first = try document(["snapshot", pid, "--format", "json"], scratch, "snapshot")
    #expect((first["problems"] as! [[String: Any]]).contains { $0["advice"] is String })
    _ = try document(["snapshot", pid, "--format", "json", "--no-audit"], scratch, "snapshot")
    let audit = try document(["audit", pid, "--json"], scratch, "audit")
    #expect((audit["audit"] as! [String: Any])["scope"] as? String == "arenas")
    let requirements =
      "locked,nodump,gated,no-problems,no-debugger,headroom=1MiB,arena=alpha,no-open-longer-than=1m"
    let check = try document(
      ["check", pid, "--json", "--require", requirements], scratch, "check", status: 6)
    let outcomes = check["outcomes"] as! [[String: Any]]
    #expect(
      outcomes.count == 8 && Set(outcomes.map { $0["outcome"] as! String }) == ["ok", "broken"])
    #expect(outcomes[5]["requiredBytes"] as? Int == 1 << 20)
    #expect(outcomes[6]["name"] as? String == "alpha")
    #expect(outcomes[7]["requiredMs"] as? Int == 60_000)
    let host = try document(["host", "--json"], scratch, "host")
    let facts = host["facts"] as! [[String: Any]]
    let swap = try #require(facts.first { $0["kind"] as? String == "swap" })
    let settings = swap["settings"] as! [[String: Any]]
    #expect(settings.contains { $0["source"] as? String == "/proc/swaps" && $0["value"] is String })

    // Two snapshots and their difference.
    let (before, after) = (scratch.file("before.json"), scratch.file("after.json"))
    func write(_ path: String) throws {
      let ended = try memwatch("snapshot", pid, "--format", "json", "-o", path, stats: scratch)
      #expect(ended.status == 0, "\(ended.error)")
    }
    try write(before)
    try peer.send("alloc b 1 100")
    try peer.send("destroy a")
    try write(after)
    let diff = try document(["diff", before, after, "--json"], scratch, "diff")
    #expect(!(diff["differences"] as! [Any]).isEmpty)

    // A process that has ended, and a process that never published.
    peer.kill()
    let last = try document(
      ["snapshot", "--file", path, "--format", "json"], scratch, "snapshot", status: 5)
    let process = last["process"] as! [String: Any]
    #expect(process["state"] as? String == "exited" && process["endedInOrder"] as? Bool == false)
    let sleeper = Launch(["sleep", "600"]).process()
    try sleeper.run()
    defer { kill(sleeper.processIdentifier, SIGKILL) }
    _ = try document(["audit", "\(sleeper.processIdentifier)", "--json"], scratch, "survey")
  }

  // MARK: - memwatch/1

  private static let folder = Programs.package.appending(path: "Tests/EndToEndTests/Version1")

  @Test func diffReadsVersion1() throws {
    let (before, after) = (
      Self.folder.appending(path: "before.json").path,
      Self.folder.appending(path: "after.json").path
    )
    let ended = try memwatch("diff", before, after, "--json")
    #expect(ended.status == 0, "\(ended.error)")
    let found = try json(ended.output)
    #expect(try Schema.violations(in: found) == [])
    let paths = (found["differences"] as! [[String: Any]]).map { $0["path"] as! String }
    #expect(paths.contains { $0.hasPrefix("arenas[session-tokens].") }, "\(paths)")
    #expect(paths.contains("arenas[session-tokens].opens"), "\(paths)")
    let same = try memwatch("diff", after, after, "--json")
    #expect((try json(same.output)["differences"] as! [Any]).isEmpty)
  }

  @Test func replayReadsVersion1() throws {
    let scratch = try Scratch()
    let path = scratch.file("record")
    let packed = Self.folder.appending(path: "record.gz").path
    let unpacked = try Launch(["sh", "-c", "gzip -dc \"$0\" >\"$1\"", packed, path]).run()
    try #require(unpacked.status == 0, "\(unpacked.error)")
    let shown = try memwatch("replay", "-1", path)
    #expect(shown.status == 0 && shown.error.isEmpty, "\(shown.error)")
    for text in ["enclave-demo  pid 32259", "session-tokens  PROBLEM", "PROBLEM 1/2"] {
      #expect(shown.output.contains(text), "\(text): \(shown.output.prefix(2000))")
    }
  }
}
