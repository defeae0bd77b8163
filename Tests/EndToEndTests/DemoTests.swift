// The sample process has the same name whatever its file is called and however publishing started.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct DemoTests {
  /// How the file of the sample process is made.
  enum Copy: String, CaseIterable, Sendable {
    case built, copied, linked, longName, tool

    func make(in scratch: Scratch) throws -> String {
      let files = FileManager.default
      func copied(_ name: String) throws -> String {
        try copyProgram(Programs.demo, to: scratch.file(name))
        return scratch.file(name)
      }
      switch self {
      case .built: return Programs.demo
      case .copied: return try copied("gateway")
      case .linked:
        try files.createSymbolicLink(
          atPath: scratch.file("link"), withDestinationPath: Programs.demo)
        return scratch.file("link")
      // A name that the kernel truncates (TASK_COMM_LEN, 16 bytes).
      case .longName: return try copied("a-gateway-with-a-long-name")
      case .tool: return try copied("enclave-demo-tool")
      }
    }
  }

  /// Its keys are closed and sealed under a key or cipher gate, and the kernel confirms it.
  @Test(.enabled(if: SabotageTests.canSeal, "this kernel has no mseal"))
  func theDemosKeysAreSealedOnEveryProcessor() throws {
    let scratch = try Scratch(onTmpfs: true)
    let demo = try SampleProcess(stats: scratch, seconds: 60)
    defer { demo.end() }
    var last: Ended?
    try eventually("sealed: \(String(describing: last))") {
      last = try memwatch(
        "check", "\(demo.pid)", "--require", "sealed=tls-keys", "--wait", "10s",
        stats: scratch)
      return last?.status == 0
    }
    // The demo opens a key now and then, perhaps at the moment of a snapshot.
    try eventually("the keys are sealed and closed") {
      let shown = try memwatch("snapshot", "\(demo.pid)", stats: scratch).output
      let keys = shown.split(separator: "\n").first { $0.contains("tls-keys") } ?? ""
      return keys.contains("sealed")
        && keys.contains(SabotageTests.hasKeys ? "closed" : "encrypted")
    }
  }

  /// The screen shows the label that leaks and the secret that is held open.
  @Test func theDemoLeaksAndHoldsASecretOpen() throws {
    let scratch = try Scratch(onTmpfs: true)
    let demo = try SampleProcess(stats: scratch, seconds: 60)
    defer { demo.end() }
    let tmux = try Tmux(
      [
        Programs.memwatch, "\(demo.pid)", "-W", "10s", "-i", "100ms", "--open-limit",
        "1s",
      ], stats: scratch)
    try tmux.wait(for: "Memlock")
    // A leak is of secrets from before the mark.
    try tmux.keys("2")
    try tmux.wait(for: "one-time code")
    try tmux.keys("m")
    try tmux.wait(for: "webhook signing  held")
    try tmux.wait(for: "one-time code  leak?")
    try tmux.quit()
  }

  @Test(arguments: Copy.allCases, [nil, "1"])
  func theDemoIsFoundByItsName(copy: Copy, publishing: String?) throws {
    let (scratch, files) = (try Scratch(onTmpfs: true), try Scratch())
    let demo = Launch(
      [try copy.make(in: files), "--seconds", "60"], stats: scratch,
      environment: publishing.map { ["ENCLAVE_STATS": $0] } ?? [:]
    ).process()
    demo.standardOutput = FileHandle.nullDevice
    try demo.run()
    defer {
      kill(demo.processIdentifier, SIGKILL)
      demo.waitUntilExit()
    }
    let audit = try memwatch("audit", "enclave-demo", "--wait", "60s", stats: scratch)
    #expect(audit.status == 0, "\(audit)")
    // The name is also found early, because it is published before the first arena.
    let ended = try memwatch("snapshot", "enclave-demo", "--format", "json", stats: scratch)
    let snapshot = try json(ended.output)
    let process = try #require(snapshot["process"] as? [String: Any])
    #expect(process["name"] as? String == "enclave-demo")
    #expect(process["pid"] as? Int == Int(demo.processIdentifier))
    let started = try #require(process["startedAt"] as? Int)
    let created = try #require(snapshot["arenas"] as? [[String: Any]])
      .compactMap { $0["createdAt"] as? Int }
    #expect(!created.isEmpty && created.allSatisfy { $0 >= started }, "\(started): \(created)")
  }

  /// If the page cannot be created, the sample process reports it and ends.
  @Test func theDemoReportsWhyItCannotPublish() throws {
    let place = try Scratch()
    let file = place.file("file")
    try "".write(toFile: file, atomically: true, encoding: .utf8)
    let ended = try Launch(
      [Programs.demo, "--seconds", "1"], environment: ["ENCLAVE_STATS_DIR": file]
    ).run()
    #expect(ended.status == 1 && ended.error.hasPrefix("enclave-demo: "), "\(ended)")
    #expect(ended.error.contains("ENOTDIR") && ended.output.isEmpty, "\(ended)")
  }
}
