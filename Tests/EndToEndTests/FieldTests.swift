// Every field that a publisher writes, compared with the commands that it was given. Removing any
// line of the publishing code makes a test fail.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(
  .serialized, .waitsForProcesses,
  .enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
struct FieldTests {
  func snapshot(_ path: String, _ scratch: Scratch) throws -> [String: Any] {
    try json(try memwatch("snapshot", "--file", path, "--format", "json", stats: scratch).output)
  }

  /// The fields of the page, read by the independent reader in Python.
  func page(_ path: String) throws -> [String: Any] {
    let reader = Programs.package.appending(path: "Tests/Support/Readers/read_page.py").path
    let format = Programs.package
      .appending(path: "Sources/EnclaveStats/EnclaveStats.docc/PageFormat.md").path
    let result = try Launch(["python3", reader, format, path]).run()
    guard result.status == 0 else { throw Failed(result.error) }
    return try json(result.output)
  }

  func expect(
    _ found: [String: Any], _ expected: [String: Any], _ what: String,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    for (key, value) in expected {
      let shown = found[key].map { "\($0)" } ?? "missing"
      #expect(shown == "\(value)", "\(what).\(key)", sourceLocation: sourceLocation)
    }
  }

  /// Waits for the totals of the first arena's page map, which is written at ticks.
  func expectPages(_ wanted: [String: Int], _ path: String, _ scratch: Scratch) throws {
    try eventually("pages: \(wanted)") {
      let arena = (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
      let chunks = arena["chunks"] as! [[String: Any]]
      return wanted.allSatisfy { what, count in
        chunks.reduce(0) { $0 + (($1["pages"] as? [String: Any])?[what] as? Int ?? -1000) } == count
      }
    }
  }

  let null = NSNull()

  @Test func everyFieldOfAnArena() throws {
    let scratch = try Scratch(onTmpfs: true)
    let begun = UInt64(Date().timeIntervalSince1970 * 1000)
    let (peer, path) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 131072),
      "arena a alpha slab preferred pages 262144", "arena b bravo isolated required pages")
    try peer.send("alloc b 2 100")
    try peer.send("free b 1")
    try peer.send("alloc a 1100 40")
    try peer.send("free a 100")
    try peer.send("touch a 5")
    for _ in 0..<30 where (try? peer.send("alloc b 1 100")) == nil { break }
    let now = UInt64(Date().timeIntervalSince1970 * 1000)
    let found = try snapshot(path, scratch)
    let arenas = found["arenas"] as! [[String: Any]]
    // 1100 secrets of 40 bytes, 64 per page, need 18 pages. The lock limit, with 4 KiB for the
    // other arena, allows 15; the secrets that are live at the end fill 16.
    let a = arenas[0]
    expect(
      a,
      [
        "id": 1, "name": "alpha", "state": "problem", "layout": "slab", "gate": "pages",
        "keySharedWith": null,
        "backing": "anonymous", "lockPolicy": "preferred", "protectionState": "closed",
        "openWindows": 0, "sealState": "open", "forkProtection": "zeros",
        "dumpProtection": "excluded", "secretCount": 1000, "bytesInUse": 40000,
        "allocations": 1100, "frees": 100, "opens": 5, "opensForWriting": 0,
        "failedAllocations": 0, "failedOpens": 0, "peakSecretCount": 1100,
        "peakBytesInUse": 44000, "capacityBytes": 262144, "stuckOpenPages": 0, "corruptions": 0,
        "longestOpenMs": 0, "openSince": null, "encryptedCount": null, "unlistedSecrets": 0,
      ], "alpha")
    let mapped = a["bytesMapped"] as! Int
    let locked = a["bytesLocked"] as! Int
    let chunks = a["chunks"] as! [[String: Any]]
    #expect(a["lockState"] as? String == "locked" || a["lockState"] as? String == "partial")
    #expect(a["peakBytesLocked"] as? Int == locked)
    #expect(a["chunkCount"] as? Int == chunks.count)
    // Each page is a separate mapping.
    #expect(
      a["mapsUsed"] as? Int == mapped / 4096 + chunks.count * 2
        && a["guardPages"] as? Int == chunks.count * 2)
    #expect(a["separatePages"] as? Int == mapped / 4096 && a["mergedPages"] as? Int == 0)
    #expect(chunks.reduce(0) { $0 + ($1["dataBytes"] as! Int) } == mapped)
    #expect(
      chunks.filter { $0["lockState"] as! String == "locked" }
        .reduce(0) { $0 + ($1["dataBytes"] as! Int) } == locked)
    #expect(
      chunks.allSatisfy { $0["guardBytes"] as? Int == 4096 && $0["layout"] as? String == "slab" })
    // The last allocated secrets are freed: the remaining 1000 fill 15 pages, and half of one.
    try expectPages(
      ["secretCount": 1000, "holdingPages": 16, "openPages": 0, "stuckPages": 0], path, scratch)
    #expect(a["nextChunkBytes"] as? Int == min(max(mapped, 16384), 262144))
    let created = (a["createdAt"] as! NSNumber).uint64Value
    #expect(created >= begun - 1000 && created <= now + 1000)
    let sizes = a["sizes"] as! [[String: Any]]
    #expect(sizes.count == 1)
    expect(sizes[0], ["payloadBytes": 48, "live": 1000], "size")
    let labels = a["labels"] as! [[String: Any]]
    #expect(
      labels.map { $0["label"] as! String } == ["first", "second", "third", "fourth", "fifth"])
    expect(
      labels[4],
      [
        "live": 200, "bytes": 8000, "allocations": 220, "frees": 20, "opens": 5, "openNow": 0,
        "origin": "label", "minimumBytes": 40, "maximumBytes": 40,
      ], "label")
    let opened = (labels[4]["lastOpenedAt"] as! NSNumber).uint64Value
    #expect(opened >= begun - 1000 && opened <= now + 1000)
    expect(labels[0], ["opens": 0, "lastOpenedAt": null], "label never opened")

    let b = arenas[1]
    expect(
      b,
      [
        "id": 2, "name": "bravo", "layout": "isolated", "lockPolicy": "required",
        "lockState": "locked", "capacityBytes": null, "nextChunkBytes": 4096,
        "failedAllocations": 1,
      ], "bravo")
    #expect((b["failedLocks"] as! Int) == 1)
    #expect((b["chunks"] as! [[String: Any]]).allSatisfy { $0["layout"] as? String == "isolated" })
    if a["lockState"] as? String == "partial" {
      let lock = a["lock"] as! [String: Any]
      expect(
        lock,
        [
          "errno": 12, "errnoName": "ENOMEM", "failedCall": "lock-chunk", "failedFunction": "mlock",
          "bytesMissing": mapped - locked, "limitThenBytes": 65536,
        ], "lock")
      #expect((lock["bytesInUseThen"] as! Int) > 0 && (lock["bytesInUseThen"] as! Int) <= 65536)
      let at = (lock["at"] as! NSNumber).uint64Value
      #expect(at >= begun - 1000 && at <= now + 1000)
      #expect(a["failedLocks"] as? Int == 1)
      #expect(
        chunks.contains { $0["lockState"] as? String == "unlocked" && $0["errno"] as? Int == 12 })
    } else {
      Issue.record("the scenario is meant to run into the limit")
    }

    // A window for reading, while it is open.
    try peer.send("hold a")
    let open = (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
    expect(open, ["openWindows": 1, "protectionState": "read", "opens": 6], "open")
    #expect((open["labels"] as! [[String: Any]])[4]["openNow"] as? Int == 1)
    try peer.send("release")
  }

  @Test(arguments: ["aes", "xchacha"]) func everyFieldOfAVault(cipher: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(scratch, "arena a alpha slab preferred none", "alloc a 1 40")
    #expect((try snapshot(path, scratch)["vaults"] as! [Any]).isEmpty)
    do { try peer.send("vault v \(cipher)") } catch {
      #expect(cipher == "aes")
      try Test.cancel("this processor has no instructions for AES")
    }
    let begun = UInt64(Date().timeIntervalSince1970 * 1000)
    try peer.send("encrypt v a 7")
    try peer.send("drop v 2")
    try peer.send("decrypt v a")
    try peer.send("rotate v")
    try peer.send("rotate v")
    try peer.send("tamper v")
    for _ in 0..<3 { #expect(throws: (any Error).self) { try peer.send("decrypt v a") } }
    // A damaged entry stays under the old key.
    #expect(throws: (any Error).self) { try peer.send("rotate v") }
    let found = try snapshot(path, scratch)
    #expect(found["vaultsUnlisted"] as? Int == 0)
    let vaults = found["vaults"] as! [[String: Any]]
    #expect(vaults.count == 1)
    expect(
      vaults[0],
      [
        "arenaId": 2, "name": "vault",
        "cipher": cipher == "aes" ? "aes-256-gcm" : "xchacha20-poly1305", "epoch": 4, "entries": 5,
        "bytes": 200, "entriesOfOldEpoch": 1, "encryptions": 7, "decryptions": 1, "failures": 4,
        "rotations": 3,
      ], "vault")
    let rotated = (vaults[0]["lastRotatedAt"] as! NSNumber).uint64Value
    #expect(rotated >= begun - 1000 && rotated < begun + 20_000)
    let arenas = found["arenas"] as! [[String: Any]]
    expect(arenas[1], ["name": "vault", "encryptedCount": 5, "layout": "isolated"], "its arena")
    let kinds = (found["events"] as! [[String: Any]]).map { $0["kind"] as! String }
    #expect(kinds.count { $0 == "vault-rotated" } == 3)
    let text = try memwatch("snapshot", "--file", path, "--full", stats: scratch).output
    #expect(text.contains(cipher == "aes" ? "vault  AES-256-GCM" : "vault  XChaCha20-Poly1305"))
  }

  @Test func everyFieldOfTheProcess() throws {
    let scratch = try Scratch(onTmpfs: true)
    let begun = UInt64(Date().timeIntervalSince1970 * 1000)
    let (peer, path) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 131072),
      "arena a alpha slab preferred none", "alloc a 3 40", "arena b bravo slab off none",
      "destroy b")
    let found = try snapshot(path, scratch)
    expect(
      found,
      [
        "schema": "memwatch/2", "complete": 1, "arenasUnlisted": 0, "arenasDestroyed": 1,
        "retiredMappings": 0,
        "retiredBytes": 0,
        "labelsUnlisted": 0, "chunksUnlisted": 0, "secretsListed": 3, "secretsUnlisted": 0,
      ], "snapshot")
    // 48 KiB can still be locked: twelve pages with 64 slots each.
    let sizes = (found["arenas"] as! [[String: Any]])[0]["sizes"] as! [[String: Any]]
    expect(
      sizes[0], ["payloadBytes": 48, "live": 3, "freeSlots": 61, "freeSlotsAfterGrowth": 61 + 768],
      "room")
    let process = found["process"] as! [String: Any]
    expect(
      process,
      [
        "pid": peer.pid, "publisherPid": peer.pid, "name": "test-publisher", "uid": geteuid(),
        "state": "live", "dumpable": 1, "addresses": "published", "debuggerPid": 0,
        "emergencyWipe": 0, "page": path,
      ], "process")
    let started = (process["startedAt"] as! NSNumber).uint64Value
    #expect(started >= begun - 1000 && started < begun + 20_000)
    let beat = (process["heartbeatAt"] as! NSNumber).uint64Value
    try eventually("the heart beats") {
      let next = try snapshot(path, scratch)["process"] as! [String: Any]
      return (next["heartbeatAt"] as! NSNumber).uint64Value > beat
    }
    // Fields of the page that the viewer normally reads from /proc instead.
    let words = try page(path)
    let header = words["header"] as! [String: Any]
    expect(
      header,
      [
        "pid": peer.pid, "uid": geteuid(), "tickMs": 20, "pageBytes": 4096, "nameLength": 14,
        "name": "test-publisher", "arenaCapacity": 256, "labelCapacity": 1024,
        "chunkCapacity": 2048, "secretCapacity": 4096, "eventCapacity": 256, "vaultCapacity": 16,
        "mapCapacity": 2048, "callBytes": 32, "sizeClasses": 16,
      ], "header")
    let stat = try Launch(["cat", "/proc/\(peer.pid)/stat"]).run().output
    let fields = stat[stat.lastIndex(of: ")")!...].split(separator: " ")
    #expect("\(header["startTime"]!)" == String(fields[20]))
    #expect((header["bootID"] as! NSNumber).uint64Value != UInt64.max)
    #expect((header["bootID"] as! NSNumber).uint64Value != 0)
    let id = (header["publisherID"] as! NSNumber).uint64Value
    let digits = String(id, radix: 16)
    #expect(
      path.hasSuffix("-" + String(repeating: "0", count: 16 - digits.count) + digits + ".page"))
    let made = (header["createdBootMs"] as! NSNumber).uint64Value
    let beaten = ((words["process"] as! [String: Any])["heartbeatBootMs"] as! NSNumber).uint64Value
    #expect(made > 0 && made <= beaten && beaten - made < 60_000)
    try eventually("the publisher's own reading of VmLck") {
      (try page(path)["process"] as! [String: Any])["lockedBytes"] as? Int == 16384
    }
    expect(
      words["process"] as! [String: Any],
      [
        "state": 1, "memlockSoft": 65536, "memlockHard": 131072, "arenas": 1, "addresses": 1,
        "dumpable": 1, "emergencyWipe": 2, "endedBySignal": 0,
      ], "process words")
    let arena = ((words["tables"] as! [String: Any])["arena"] as! [[String: Any]])[0]
    expect(arena, ["state": 1, "keyNumber": UInt64.max, "nameLength": 5], "arena words")
    let secrets = (words["tables"] as! [String: Any])["secret"] as! [[String: Any]]
    #expect(secrets.count == 3)
    let third = secrets.first { $0["serial"] as? Int == 3 }!
    expect(
      third,
      ["owner": 1 + 2 << 32, "size": 40, "opens": 0, "lastOpenedAtMs": UInt64.max, "openNow": 0],
      "secret")
    #expect((third["allocatedAtMs"] as! Int) > 0)
    try peer.send("touch a 4")
    try peer.send("hold a")
    let tables = try page(path)["tables"] as! [String: Any]
    let held = (tables["secret"] as! [[String: Any]]).first { $0["serial"] as? Int == 3 }!
    expect(held, ["opens": 5, "openNow": 1], "held secret")
    #expect((held["lastOpenedAtMs"] as! NSNumber).uint64Value != UInt64.max)
    let label = (tables["label"] as! [[String: Any]]).first { $0["index"] as? Int == 2 }!
    expect(label, ["line": UInt64.max, "textLength": 5, "text": "third", "origin": 1], "label")
    #expect((label["createdAtMs"] as! Int) > 0)
    try peer.send("release")

    let events = found["events"] as! [[String: Any]]
    #expect(
      events.map { $0["kind"] as! String } == [
        "publishing-started", "arena-created", "chunk-mapped", "arena-created",
        "arena-destroyed",
      ])
    #expect(
      events.map { $0["serial"] as! Int } == [1, 2, 3, 4, 5] && found["eventCount"] as? Int == 5)
    expect(events[2], ["arenaId": 1, "bytes": 16384, "call": null, "errno": null], "event")
    let at = (events[2]["at"] as! NSNumber).uint64Value
    #expect(at >= begun - 1000 && at < begun + 20_000)
    let calls = found["calls"] as! [[String: Any]]
    let lock = calls.first { $0["function"] as! String == "mlock" }!
    expect(lock, ["count": 1, "failures": 0, "lastErrno": null], "mlock")
    _ = try? peer.send("alloc a 3000 40")
    try eventually("the failed lock is counted and told") {
      let later = try snapshot(path, scratch)
      let lock = (later["calls"] as! [[String: Any]]).first {
        $0["function"] as! String == "mlock"
      }!
      let told = (later["events"] as! [[String: Any]]).first {
        $0["kind"] as! String == "lock-failed"
      }
      return (lock["failures"] as! Int) > 0 && lock["lastErrno"] as? Int == 12
        && told?["function"] as? String == "mlock" && told?["errno"] as? Int == 12
    }
    try peer.send("nodump")
    try eventually("not dumpable any more") {
      let process = try page(path)["process"] as! [String: Any]
      return process["dumpable"] as? Int == 2 && process["addresses"] as? Int == 3
    }
  }

  /// Idle memory is shown separately, and is no problem even if it is not locked.
  @Test func idleMemoryIsNoProblem() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 65536),
      "arena a alpha slab preferred none", "alloc a 1 100", "alloc a 2 28000")
    func alpha() throws -> [String: Any] {
      (try snapshot(path, scratch)["arenas"] as! [[String: Any]])[0]
    }
    try eventually("16 and 28 KiB are locked, and as much is not") {
      let arena = try alpha()
      return arena["lockState"] as? String == "partial" && arena["state"] as? String == "problem"
        && arena["idleBytes"] as? Int == 0
    }
    try peer.send("free a 1")
    try eventually("what is not locked is idle") {
      let arena = try alpha()
      return arena["lockState"] as? String == "locked" && arena["idleBytes"] as? Int == 28672
    }
    let arena = try alpha()
    expect(
      arena, ["bytesMapped": 73728, "bytesLocked": 45056, "bytesInUse": 28100], "alpha")
    #expect(arena["state"] as? String != "problem" && arena["state"] as? String != "differs")
    #expect((arena["lock"] as! [String: Any])["bytesMissing"] as? Int == 0)
    // The next secret uses it, and makes it a problem again.
    try peer.send("alloc a 1 28000")
    try eventually("it is used again") { try alpha()["lockState"] as? String == "partial" }
  }
}
