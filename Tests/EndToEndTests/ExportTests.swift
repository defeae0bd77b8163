// `memwatch export` with a real publisher.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct ExportTests {
  private func mode(_ path: String) -> Int? {
    (try? FileManager.default.attributesOfItem(atPath: path))?[.posixPermissions] as? Int
  }

  @Test func exportWritesToStandardOutput() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred none", "alloc a 3 100")
    let ended = try memwatch("export", stats: scratch)
    #expect(ended.status == 0, "\(ended.error)")
    #expect(ended.output.contains("# TYPE memwatch_arena_secrets gauge\n"))
    #expect(ended.output.contains(/memwatch_arena_secrets\{.*arena="alpha"\} 3\n/))
    #expect(ended.output.contains(/memwatch_audit_complete\{.*\} 1\n/))
    #expect(!ended.output.contains("_total"))
    // The host's checks, with the verdicts of `memwatch host`.
    let host = try json(try memwatch("host", "--json").output)["facts"] as! [[String: Any]]
    #expect(host.count > 15)
    for fact in host {
      let labels = "check=\"\(fact["name"]!)\",judgement=\"\(fact["judgement"]!)\""
      #expect(ended.output.contains("memwatch_host_check{\(labels)} 1\n"), "\(labels)")
    }
    #expect(!ended.output.contains("\"\(peer.pid)\""))
  }

  @Test func exportOnceKeepsItsFile() throws {
    let scratch = try Scratch(onTmpfs: true)
    let directory = try Scratch()
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred none")
    defer { peer.kill() }
    let path = directory.file("memwatch.prom")
    for _ in 0..<2 {
      let ended = try memwatch("export", "--textfile", directory.path, "--once", stats: scratch)
      #expect(ended.status == 0 && ended.output.isEmpty, "\(ended.error)")
      let files = try FileManager.default.contentsOfDirectory(atPath: directory.path)
      #expect(files == ["memwatch.prom"] && mode(path) == 0o644)
      #expect(try String(contentsOfFile: path, encoding: .utf8).contains("arena=\"alpha\""))
    }
  }

  @Test(arguments: [SIGTERM, SIGINT])
  func theServiceRemovesItsFile(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let directory = try Scratch()
    let (peer, _) = try publishing(scratch, "arena a alpha slab preferred none")
    let path = directory.file("memwatch.prom")
    let service = Launch(
      [Programs.memwatch, "export", "--textfile", directory.path, "-i", "50ms"], stats: scratch
    ).process()
    try service.run()
    func text() -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
    try eventually("the file is there") { text().contains(/_allocations_total\{.*\} 0\n/) }
    #expect(mode(path) == 0o644)
    try peer.send("alloc a 3 100")
    try eventually("it is replaced") { text().contains(/_allocations_total\{.*\} 3\n/) }
    try eventually("it is audited") { text().contains(/_audit_complete\{.*\} 1\n/) }
    kill(service.processIdentifier, signal)
    try eventually("the service ends") { !service.isRunning }
    #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
  }

  /// With too few descriptors even for that, each publisher that is not shown is counted and told.
  @Test func missingDescriptorsAreReported() throws {
    let scratch = try Scratch(onTmpfs: true)
    // (Publishers of other tests may be shown, too.)
    let peers = try (0..<6).map { _ in try publishing(scratch, "arena a arena-4711 slab off none").0
    }
    defer { for peer in peers { peer.kill() } }
    var reports = 0
    for limit in 6..<32 {
      let ended = try Launch(
        ["prlimit", "--nofile=\(limit):\(limit)", Programs.memwatch, "export"], stats: scratch
      ).run()
      guard ended.status == 0 else {
        #expect(!ended.error.isEmpty, "limit \(limit)")
        continue
      }
      func number(_ pattern: Regex<(Substring, Substring)>) -> Int {
        ended.output.firstMatch(of: pattern).flatMap { Int($0.1) } ?? 0
      }
      let missed = number(/\nmemwatch_unreadable\{reason="no-descriptors"\} (\d+)\n/)
      let shown = number(/\nmemwatch_arena_lock_state\{.*arena="arena-4711",state="off"\} (\d+)\n/)
      let hasLimits = ended.output.contains("\nmemwatch_memlock_soft_limit_bytes{")
      #expect(shown == 6 && hasLimits || missed > 0, "limit \(limit): \(shown) shown")
      let said = ended.error.lowercased()
      #expect(said.contains("too many open files") == (missed > 0), "\(said)")
      reports += missed > 0 ? 1 : 0
    }
    #expect(reports > 0)
  }

  /// With more publishers than descriptors, files are closed in between, and no publisher is
  /// missed.
  @Test func fewDescriptorsAreEnoughForManyPublishers() throws {
    let scratch = try Scratch(onTmpfs: true)
    let directory = try Scratch()
    let peers = try (0..<24).map { _ in try publishing(scratch, "arena a alpha slab off none").0 }
    defer { for peer in peers { peer.kill() } }
    let service = Launch(
      [
        "prlimit", "--nofile=64:64", Programs.memwatch, "export", "--textfile", directory.path,
        "-i", "50ms",
      ], stats: scratch
    ).process()
    try service.runUnblocked()
    defer {
      kill(service.processIdentifier, SIGTERM)
      service.waitUntilExit()
    }
    var collections: Set<Substring> = []
    try eventually("several collections") {
      let path = directory.file("memwatch.prom")
      guard let text = try? String(contentsOfFile: path, encoding: .utf8),
        let time = text.firstMatch(of: /\nmemwatch_collection_timestamp_seconds (.*)\n/)
      else { return false }
      if collections.insert(time.1).inserted {
        #expect(text.contains(/memwatch_publishers\{process="test-publisher".*"live"\} 24\n/))
        #expect(text.contains(/memwatch_maps\{process="test-publisher"/))
      }
      return collections.count >= 4
    }
  }

  /// The error names the directory and the kernel's answer, before anything is collected.
  @Test(arguments: [true, false])
  func aDirectoryThatCannotBeOpenedIsAnError(once: Bool) throws {
    let scratch = try Scratch()
    let file = scratch.file("file")
    try Data().write(to: URL(fileURLWithPath: file))
    let absent = scratch.file("absent")
    for (path, answer) in [(absent, "ENOENT"), (file, "ENOTDIR")] {
      let ended = try Launch(
        [Programs.memwatch, "export", "--textfile", path] + (once ? ["--once"] : [])
      ).run()
      #expect(ended.status == 1 && ended.output.isEmpty)
      #expect(ended.error.contains("\(path): "), "\(ended.error)")
      #expect(ended.error.contains("(\(answer))"), "\(ended.error)")
    }
  }

  /// A directory that cannot be read or written is reported with EACCES.
  @Test(arguments: [0o311, 0o555])
  func aDirectoryOfOthersIsAnError(mode: Int) throws {
    let scratch = try Scratch(mode: 0o755)
    let directory = scratch.file("closed")
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: false, attributes: [.posixPermissions: mode])
    let copy = try Unprivileged()
    let ended = try copy.memwatch("export", "--textfile", directory, "--once", stats: nil)
    #expect(ended.status == 1 && ended.output.isEmpty)
    #expect(ended.error.contains(directory) && ended.error.contains("EACCES"), "\(ended.error)")
  }
}
