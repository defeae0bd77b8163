// Names longer than the page's 64 bytes end with a mark wherever they are shown.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct CutTests {
  static let arena = "a-name-that-is-longer-than-the-page-has-room-for-ends-where-it-says-END-"
  static let process = "a-process-whose-name-is-longer-than-a-page-has-room-for-ends-größe-"
  static let cutArena = String(arena.prefix(64)) + "…"
  static let cutProcess = "a-process-whose-name-is-longer-than-a-page-has-room-for-ends-gr…"

  @Test func longNamesAreMarkedAsCut() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start long")
    try peer.send("arena a \(Self.arena) slab off none")
    try peer.send("alloc a 1 8")
    let names = [Self.cutArena, Self.cutProcess]
    for arguments in [
      ["snapshot", "\(peer.pid)"], ["snapshot", "\(peer.pid)", "--format", "json"],
      ["audit", "\(peer.pid)"], ["\(peer.pid)"],
    ] {
      let ended = try Launch([Programs.memwatch] + arguments, stats: scratch).run()
      for name in names {
        #expect(ended.output.contains(name), "\(arguments): \(ended.output.prefix(2000))")
        // Never without the mark, and never with half of a scalar.
        #expect(
          ended.output.matches(of: try Regex(String(name.prefix(60)))).count
            == ended.output.matches(of: try Regex(name)).count)
      }
      #expect(!ended.output.contains("\u{fffd}"))
    }
    let csv = try memwatch("snapshot", "\(peer.pid)", "--format", "csv", stats: scratch)
    #expect(csv.output.contains(Self.cutArena))
    let list = try memwatch("list", stats: scratch)
    #expect(list.output.contains(Self.cutProcess + " "))
    let listed = try memwatch("list", "--json", stats: scratch)
    #expect(listed.output.contains(Self.cutProcess))
    // The user may type the whole name or the truncated one.
    for name in [Self.process, Self.cutProcess] {
      #expect(try memwatch("snapshot", name, stats: scratch).status == 0, "\(name)")
    }
    #expect(try memwatch("snapshot", "another" + Self.process, stats: scratch).status == 2)
    let check = try memwatch(
      "check", "\(peer.pid)", "--require", "arena=\(Self.arena)", stats: scratch)
    #expect(check.status == 0, "\(check)")
  }

  /// Under ENCLAVE_STATS=1 the page has the command's name first.
  @Test func aLongNamePublishedLaterIsMarkedAsCut() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch, environment: ["ENCLAVE_STATS": "1"])
    try peer.send("arena a \(Self.arena) slab off none")
    try peer.send("start long")
    let list = try memwatch("list", stats: scratch)
    #expect(list.output.contains(Self.cutProcess + " "), "\(list)")
  }
}
