// The page's format: the documentation agrees with the code, and an independent reader understands
// pages.

import EnclaveStats
import Foundation
import TestSupport
import Testing

let formatDocument = Programs.package
  .appending(path: "Sources/EnclaveStats/EnclaveStats.docc/PageFormat.md")

@Suite struct FormatTests {
  @Test func theDocumentationHasEveryWord() throws {
    let text = try String(contentsOf: formatDocument, encoding: .utf8)
    let start = try #require(text.range(of: "|---|---|---|---|\n")).upperBound
    let end = try #require(text[start...].range(of: "\n\n")).lowerBound
    let rows = StatsPageFormat.offsetRows.joined(separator: "\n")
    if ProcessInfo.processInfo.environment["MEMWATCH_RECORD"] == "1" {
      let new = text.replacingCharacters(in: start..<end, with: rows)
      try new.write(to: formatDocument, atomically: true, encoding: .utf8)
    } else {
      #expect(text[start..<end] == rows, "MEMWATCH_RECORD=1 writes the table anew")
    }
    func check<Code: RawRepresentable<UInt64> & CaseIterable>(_ codes: Code.Type) {
      for code in codes.allCases { #expect(text.contains("\(code.rawValue) \(code)")) }
    }
    check(LockStateCode.self)
    check(EventCode.self)
    check(ProtectionCode.self)
  }

  @Test func invalidLayoutsAreRefused() {
    let bytes = StatsPageTable.allCases.map(\.recordBytes)
    #expect(StatsPageLayout(capacities: [1, 1, 1, 1, 1, 1, 1]) != nil)
    #expect(StatsPageLayout(capacities: [-1, 1, 1, 1, 1, 1, 1]) == nil)
    #expect(StatsPageLayout(capacities: [1 << 40, 1, 1, 1, 1, 1, 1]) == nil)
    #expect(StatsPageLayout(capacities: [1 << 22, 1 << 22, 1, 1, 1, 1, 1]) == nil)
    #expect(StatsPageLayout(capacities: [1, 1]) == nil)
    #expect(
      StatsPageLayout(capacities: Array(repeating: 1, count: 7), recordBytes: bytes.map { $0 - 8 })
        == nil)
    #expect(
      StatsPageLayout(capacities: Array(repeating: 1, count: 7), recordBytes: bytes.map { $0 + 8 })
        != nil)
    #expect(
      StatsPageLayout(capacities: Array(repeating: 1, count: 7), recordBytes: bytes.map { $0 + 4 })
        == nil)
  }

  @Test func fileNamesAreParsed() {
    #expect(StatsPageName("12-0123456789abcdef.page")?.pid == 12)
    for name in [
      "12-0123456789abcdef.pagf", "-1-0123456789abcdef.page", "12-012.page", ".page", "x",
    ] {
      #expect(StatsPageName(name) == nil)
    }
  }
}

@Suite struct ForeignReaderTests {
  struct Page {
    var json: [String: Any]
    var process: [String: Any] { json["process"] as! [String: Any] }
    func table(_ name: String) -> [[String: Any]] {
      (json["tables"] as! [String: Any])[name] as! [[String: Any]]
    }
  }

  func read(_ path: String) throws -> Page {
    let reader = Programs.package.appending(path: "Tests/Support/Readers/read_page.py").path
    let result = try Launch(["python3", reader, formatDocument.path, path]).run()
    guard result.status == 0,
      let json = try JSONSerialization.jsonObject(with: result.bytes) as? [String: Any]
    else { throw Failed(result.error) }
    return Page(json: json)
  }

  @Test func pythonReadsALivePage() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start never")
    try peer.send("arena a tls-keys isolated preferred pages 65536")
    try peer.send("arena b bravo slab off none")
    try peer.send("alloc a 3 40")
    try peer.send("alloc b 1000 32")
    try peer.send("free b 7")
    try peer.send("touch a 5")
    let start = ContinuousClock.now
    try peer.send("hold a")
    let page = try read(path)
    #expect(page.json["holder"] as? Int == Int(peer.pid))
    let arenas = page.table("arena")
    #expect(arenas.map { $0["name"] as? String } == ["tls-keys", "bravo"])
    let a = arenas[0]
    #expect(a["secretCount"] as? Int == 3)
    #expect(a["bytesInUse"] as? Int == 120)
    #expect(a["openWindows"] as? Int == 1)
    #expect(a["protectionState"] as? Int == 2)
    #expect(a["opens"] as? Int == 6)
    #expect(a["capacityBytes"] as? Int == 65536)
    #expect(arenas[1]["secretCount"] as? Int == 993)
    #expect(arenas[1]["frees"] as? Int == 7)
    #expect(arenas[1]["lockState"] as? Int == 4)
    #expect(page.table("secret").count == 996)
    let live = page.table("label").filter { $0["arenaID"] as? Int == 2 }
      .reduce(0) { $0 + ($1["live"] as! Int) }
    #expect(live == 993)
    // Unknown is 2^64-1, never 0.
    #expect(page.table("chunk").allSatisfy { $0["address"] as? UInt64 == .max })
    #expect(a["keyNumber"] as? UInt64 == .max)
    #expect(a["encryptedCount"] as? UInt64 == .max)
    var longest = 0
    try eventually("the window is held for some ticks") {
      longest = try read(path).table("arena")[0]["longestOpenMs"] as? Int ?? 0
      return longest >= 100
    }
    #expect(.milliseconds(longest) <= ContinuousClock.now - start + .seconds(1))
  }

  @Test func addressesArePublishedOnlyWhileDumpable() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 3 40")
    let before = try read(path)
    #expect(before.table("chunk").allSatisfy { $0["address"] as? UInt64 != .max })
    #expect(before.process["addresses"] as? Int == 1)
    try peer.send("nodump")
    try eventually("addresses are gone") {
      try read(path).table("chunk").allSatisfy { $0["address"] as? UInt64 == .max }
    }
    #expect(try read(path).process["addresses"] as? Int == 3)
  }

  @Test func unlistedRecordsAreCounted() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start 10")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 25 40")
    var page = try read(path)
    #expect(page.table("secret").count == 10)
    #expect(page.table("arena")[0]["unlistedSecrets"] as? Int == 15)
    try peer.send("free a 25")
    page = try read(path)
    #expect(page.table("secret").isEmpty)
    #expect(page.table("arena")[0]["unlistedSecrets"] as? Int == 0)
  }

  @Test func aRestartedPublisherPublishesExistingSecrets() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 20 40")
    try peer.send("free a 3")
    let first = try read(try peer.send("start"))
    #expect(first.table("secret").count == 17)
    #expect(Set(first.table("secret").map { $0["serial"] as! Int }).count == 17)
    #expect(first.table("arena")[0]["secretCount"] as? Int == 17)
    try peer.send("stop")
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).isEmpty)
    try peer.send("free a 7")
    let second = try read(try peer.send("start"))
    #expect(second.table("secret").count == 10)
  }
}

@Suite struct PublisherTests {
  func pages(_ scratch: Scratch) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: scratch.path)
  }

  @Test(.withoutThreadSanitizer("it runs a thread of its own"))
  func withoutPublishingThereIsNoFileAndNoThread() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 100 40")
    func threads() throws -> Int {
      try FileManager.default.contentsOfDirectory(atPath: "/proc/\(peer.pid)/task").count
    }
    #expect(try pages(scratch).isEmpty)
    #expect(try threads() == 1)
    try peer.send("start")
    #expect(try pages(scratch).count == 1)
    #expect(try threads() == 2)
  }

  @Test func theEnvironmentStartsPublishing() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch, environment: ["ENCLAVE_STATS": "1"])
    try peer.send("arena a alpha slab preferred pages")
    #expect(try pages(scratch).count == 1)
    let mode =
      try FileManager.default.attributesOfItem(
        atPath: scratch.file(try pages(scratch)[0]))[.posixPermissions] as? Int
    #expect(mode == 0o400)
    try peer.exit()
    #expect(try pages(scratch).isEmpty, "a good end takes the page away")
  }

  @Test func aDeadPublishersPageStaysUntilTheNextStart() throws {
    let scratch = try Scratch(onTmpfs: true)
    let first = try Peer(stats: scratch)
    let live = try Peer(stats: scratch)
    try first.send("start")
    try live.send("start")
    first.kill()
    #expect(try pages(scratch).count == 2)
    let next = try Peer(stats: scratch)
    try next.send("start")
    let left = try pages(scratch)
    #expect(left.count == 2)
    #expect(!left.contains { $0.hasPrefix("\(first.pid)-") }, "and the living one's is left alone")
  }

  /// Four threads allocate and free at full speed while the page is truncated to 0 bytes.
  @Test func truncatingThePageDoesNotHarmThePublisher() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("churn a 4")
    try eventually("there is work") { try peer.send("stats a") != "0 0 0" }
    try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
    let cut = try Launch(["truncate", "-s", "0", path]).run()
    #expect(cut.status == 0)
    for _ in 0..<50 { try peer.send("stats a") }
    #expect(peer.process.isRunning)
    let seen = try memwatch("snapshot", "--file", path, stats: scratch)
    #expect(seen.status == 4)
    #expect(seen.error.contains("corrupt"))
    try peer.exit()
    #expect(peer.process.terminationStatus == 0)
  }

  @Test func unsuitableDirectoriesAreRefusedWithAReason() throws {
    let onDisk = try Scratch()
    let disk = try Peer(stats: onDisk)
    if try Launch(["stat", "-f", "-c", "%T", onDisk.path]).run().output != "tmpfs\n" {
      #expect(throws: Failed.self) { try disk.send("start") }
      #expect(try pages(onDisk).isEmpty)
    }
    let open = try Scratch(onTmpfs: true, mode: 0o777)
    try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: open.path)
    let peer = try Peer(stats: open)
    do {
      try peer.send("start")
      Issue.record("a directory that all may write was taken")
    } catch let error as Failed { #expect(error.description.contains("others may write")) }
  }
}
