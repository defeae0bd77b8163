// Fields that change: publishing that starts late, failures, full tables, and removed records.

import Foundation
import Glibc
import TestSupport
import Testing

extension FieldTests {
  /// Publishing that starts after secrets, windows and failures exist shows all of them.
  @Test func publishingThatStartsLateShowsExistingState() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 10 40")
    try peer.send("touch a 3")
    try peer.send("fault openWindow 1")
    #expect(throws: Failed.self) { try peer.send("touch a 1") }
    try peer.send("fault closeWindow 2")
    try peer.send("touch a 1")
    try peer.send("hold a")
    let path = try peer.send("start")
    let arena = (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
    expect(
      arena,
      [
        "openWindows": 1, "opens": 5, "opensForWriting": 0, "failedOpens": 1,
        "protectionState": "r-w", "stuckOpenPages": 1, "secretCount": 10, "bytesInUse": 400,
        "state": "problem",
      ], "alpha")
    // The window is in the page that could not be closed.
    try expectPages(
      ["stuckPages": 1, "openPages": 0, "holdingPages": 1, "secretCount": 10], path, scratch)
    var held: [String: Any] = [:]
    try eventually("the publisher sees how long it is held") {
      held = (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
      return held["longestOpenMs"] as! Int >= 40
    }
    // The window that is open now is the longest one.
    let since = try #require(held["openSince"] as? Int)
    let (created, now) = (held["createdAt"] as! Int, Int(Date().timeIntervalSince1970 * 1000))
    #expect(since >= created && since + (held["longestOpenMs"] as! Int) <= now + 1000)
    try peer.send("release")
    let after = (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
    expect(
      after,
      ["openWindows": 0, "openSince": null, "protectionState": "closed", "stuckOpenPages": 0],
      "closed")
    try expectPages(["stuckPages": 0, "openPages": 0], path, scratch)
    // Closing a window that was opened before publishing started is not counted.
    let tables = try page(path)["tables"] as! [String: Any]
    let secrets = tables["secret"] as! [[String: Any]]
    #expect(secrets.count == 10)
    #expect(secrets.allSatisfy { $0["openNow"] as? Int == 0 && $0["opens"] as? Int == 0 })
  }

  @Test func failuresAreShownWithTheirEvents() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(
      scratch, "arena a alpha slab preferred pages", "alloc a 10 40", "fault openWindow 1")
    #expect(throws: Failed.self) { try peer.send("touch a 1") }
    try peer.send("fault closeWindow 2")
    try peer.send("touch a 1")
    var found = try snapshot(path, scratch)
    var arena = (found["arenas"] as! [[String: Any]])[0]
    expect(arena, ["failedOpens": 1, "stuckOpenPages": 1, "protectionState": "r-w"], "alpha")
    var kinds = (found["events"] as! [[String: Any]]).map { $0["kind"] as! String }
    #expect(kinds.suffix(2) == ["open-failed", "close-failed"])
    // An overflow ends the process, and its last page has the reason.
    try peer.send("arena c charlie slab off none")
    try peer.send("alloc c 1 40")
    _ = try? peer.send("overflow c")
    peer.process.waitUntilExit()
    #expect(peer.process.terminationStatus != 0)
    found = try snapshot(path, scratch)
    arena = (found["arenas"] as! [[String: Any]])[1]
    expect(arena, ["corruptions": 1, "secretCount": 0, "state": "problem"], "charlie")
    kinds = (found["events"] as! [[String: Any]]).map { $0["kind"] as! String }
    #expect(kinds.last == "corruption")
    #expect((found["process"] as! [String: Any])["state"] as? String == "exited")
  }

  /// 210 arenas with five labels each and 2,100 chunks are more than the page lists.
  @Test func unlistedRecordsAreCounted() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start one-arena")
    for index in 0..<210 {
      try peer.send("arena s\(index) alpha slab off none")
      try peer.send("alloc s\(index) 5 8")
    }
    try peer.send("arena c bravo isolated off none")
    try peer.send("alloc c 2100 8")
    try eventually("all is counted") {
      let found = try snapshot(path, scratch)
      return found["arenasUnlisted"] as? Int == 210 && found["labelsUnlisted"] as? Int == 31
        && found["chunksUnlisted"] as? Int == 210 + 2100 - 2048
    }
    for index in 0..<210 { try peer.send("destroy s\(index)") }
    try peer.send("destroy c")
    try eventually("and forgotten") {
      let found = try snapshot(path, scratch)
      return found["arenasUnlisted"] as? Int == 0 && found["labelsUnlisted"] as? Int == 0
        && found["chunksUnlisted"] as? Int == 0 && (found["arenas"] as! [Any]).isEmpty
    }
  }

  /// The user in the header. Not root's 0, which an unset word would have too.
  @Test func theHeaderNamesItsUser() throws {
    let scratch = try Scratch(onTmpfs: true, mode: 0o755)
    if Programs.isRoot { chown(scratch.path, 65534, 65534) }
    let copy = try Unprivileged()
    let peer = try Peer(
      stats: scratch, prefix: unprivileged(), program: copy.place.file("test-publisher"))
    let header = try page(try peer.send("start"))["header"] as! [String: Any]
    #expect(header["uid"] as? Int == (Programs.isRoot ? 65534 : Int(geteuid())))
  }

  /// Records of destroyed objects are removed from the page.
  @Test func recordsOfDestroyedObjectsAreRemoved() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(
      scratch, "arena a alpha slab preferred pages", "alloc a 50 40",
      "arena b bravo isolated preferred pages", "alloc b 1 3000000")
    func counts() throws -> [Int] {
      let tables = try page(path)["tables"] as! [String: Any]
      return ["arena", "label", "chunk", "secret"].map { (tables[$0] as! [Any]).count }
    }
    #expect(try counts() == [2, 6, 2, 51])
    try peer.send("free b 1")
    #expect(try counts() == [2, 6, 1, 50], "more than may be kept goes at once")
    try peer.send("destroy a")
    #expect(try counts() == [1, 1, 0, 0])
  }
}
