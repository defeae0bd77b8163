// A publisher that changes its user or calls exec.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct IdentityTests {
  private func state(_ text: String) throws -> String? {
    (try json(text)["process"] as? [String: Any])?["state"] as? String
  }

  @Test func afterExecTheStateSaysSo() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 3 40")
    peer.post("exec /bin/cat")
    try eventually("another program runs") {
      try procText("/proc/\(peer.pid)/comm") == "cat\n"
    }
    for target in [["\(peer.pid)"], ["test-publisher"], ["--file", path]] {
      let result = try Launch([Programs.memwatch, "snapshot"] + target, stats: scratch).run()
      #expect(result.status == 11, "\(target): \(result.error)")
      #expect(result.output.contains("EXEC") && !result.output.contains(" ok "))
      let document = try Launch(
        [Programs.memwatch, "snapshot"] + target + ["--format", "json"], stats: scratch
      ).run()
      #expect(try state(document.output) == "exec")
      #expect(try Schema.violations(in: json(document.output)) == [])
    }
    let list = try json(try memwatch("list", "--json", stats: scratch).output)
    let listed = (list["publishers"] as? [[String: Any]])?.filter { $0["page"] as? String == path }
    #expect(listed?.map { $0["state"] as? String } == ["exec"], "\(list)")
  }

  #if DEBUG
    /// The twin: the same program closed the descriptor, and cannot create another page.
    @Test func aClosedDescriptorIsNoExec() throws {
      let scratch = try Scratch(onTmpfs: true)
      let peer = try Peer(stats: scratch)
      try peer.send("start")
      try peer.send("fault createPage 1000000")
      try peer.send("close-page")
      let result = try memwatch("snapshot", "\(peer.pid)", stats: scratch)
      #expect(result.status == 8 && result.output.contains("DETACHED"), "\(result.output)")
      #expect(result.output.contains("the program closed the descriptor of its page"))
    }
  #endif

  /// A program that closed its page's descriptor publishes a new page, and removes the old one.
  @Test func afterAClosedDescriptorItPublishesAnew() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let old = try peer.send("start")
    try peer.send("close-page")
    try eventually("it publishes a new page") {
      let list = try json(try memwatch("list", "--json", stats: scratch).output)
      let pages = list["publishers"] as? [[String: Any]] ?? []
      return pages.contains { $0["page"] as? String != old && $0["state"] as? String == "live" }
    }
    #expect(!FileManager.default.fileExists(atPath: old))
    #expect(try memwatch("snapshot", "\(peer.pid)", stats: scratch).status == 0)
  }

  /// The program has no descriptor left when it closes the page's: the new page comes when it has.
  @Test func aPageThatCannotBeReplacedIsReplacedLater() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let old = try peer.send("start")
    func limitDescriptors(to count: Int) throws {
      let result = try Launch(["prlimit", "--pid", "\(peer.pid)", "--nofile=\(count):"]).run()
      try #require(result.status == 0, "\(result.error)")
    }
    try limitDescriptors(to: 3)
    try peer.send("close-page")
    try eventually("a page could not be created") {
      let snapshot = try json(
        try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch).output)
      let calls = snapshot["calls"] as? [[String: Any]] ?? []
      return calls.contains { $0["lastErrnoName"] as? String == "EMFILE" }
    }
    #expect(try memwatch("snapshot", "\(peer.pid)", stats: scratch).status == 8)
    try limitDescriptors(to: 256)
    try eventually("it publishes a new page") {
      try memwatch("snapshot", "\(peer.pid)", stats: scratch).status == 0
    }
    #expect(!FileManager.default.fileExists(atPath: old))
  }

  /// The next program publishes too.
  @Test func aProgramThatPublishesAfterExecIsFound() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let old = try peer.send("start")
    peer.post("exec \(Programs.publisher)")
    // Input that is sent too early would be read by the previous program.
    try eventually("another program runs") {
      try memwatch("snapshot", "\(peer.pid)", stats: scratch).status == 11
    }
    let new = try peer.send("start")
    #expect(new != old)
    #expect(!FileManager.default.fileExists(atPath: old), "what exec left is removed")
    #expect(try memwatch("snapshot", "\(peer.pid)", stats: scratch).status == 0)
    try peer.exit()
  }

  /// A server that starts as root and continues as a user is found by both.
  @Test(.enabled(if: Programs.isRoot, "needs root, to become another user"))
  func afterSetuidItsUserFindsIt() throws {
    let copy = try Unprivileged()
    let peer = try Peer(stats: nil, program: copy.place.file("test-publisher"))
    let old = try peer.send("start")
    defer { try? FileManager.default.removeItem(atPath: old) }
    #expect(old.hasPrefix("/dev/shm/enclave-0/"))
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 3 40")
    try peer.send("setuid 65534")
    for viewer in [DiscoveryTests.nobody, []] {
      let command = viewer + [copy.place.file("memwatch"), "snapshot", "\(peer.pid)"]
      try eventually("\(viewer) finds it") {
        let result = try Launch(command + ["--format", "json"]).run()
        guard result.status == 0, try state(result.output) == "live" else { return false }
        let process = try json(result.output)["process"] as! [String: Any]
        return (process["page"] as? String ?? "").hasPrefix("/dev/shm/enclave-65534/")
      }
      let result = try Launch(command).run()
      #expect(result.status == 0 && result.output.contains("alpha"), "\(result.error)")
    }
    let arena = try json(
      try memwatch("snapshot", "\(peer.pid)", "--format", "json").output)["arenas"]
    #expect((arena as? [[String: Any]])?.first?["secretCount"] as? Int == 3)
    // The page is still written.
    try peer.send("alloc a 2 40")
    let later = try json(
      try memwatch("snapshot", "\(peer.pid)", "--format", "json").output)["arenas"]
    #expect((later as? [[String: Any]])?.first?["secretCount"] as? Int == 5)
    // The old page is detached, unless another publisher of the old user has removed it.
    let status = try memwatch("snapshot", "--file", old).status
    #expect(status == 8 || !FileManager.default.fileExists(atPath: old), "\(status)")
    try peer.exit()
  }

  /// If the new user has no directory to publish in, memwatch names the page's owner.
  @Test(.enabled(if: Programs.isRoot, "needs root, to become another user"))
  func afterSetuidWithoutADirectory() throws {
    let copy = try Unprivileged()
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch, program: copy.place.file("test-publisher"))
    try peer.send("start")
    try peer.send("setuid 65534")
    let refused = try copy.memwatch("snapshot", "\(peer.pid)", stats: scratch)
    #expect(refused.status == 3, "\(refused.error)")
    #expect(refused.error.contains("\(scratch.path): cannot be opened"), "\(refused.error)")
    let root = try memwatch("snapshot", "\(peer.pid)", "--format", "json", stats: scratch)
    #expect(root.status == 0, "\(root.error)")
    #expect(try state(root.output) == "live")
    try peer.exit()
  }
}
