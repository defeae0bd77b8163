// Names and labels whose text is freed or changed before memwatch reads them.

import Foundation
import TestSupport
import Testing

@Suite struct LabelTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  /// The arena's name, and the live secrets by label, once the client is ready.
  private func shown(_ arguments: [String]) throws -> (arena: String, labels: [String: Int]) {
    let stats = try Scratch(onTmpfs: true)
    let (process, input, output, errors) = try Launch(
      [try installed.compile("labels")] + arguments, stats: stats
    ).start()
    defer {
      if process.isRunning { kill(process.processIdentifier, SIGKILL) }
      process.waitUntilExit()
    }
    let line = output.fileHandleForReading.readData(ofLength: 6)
    try #require(
      line == Data("ready\n".utf8),
      "\(String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self))")
    let snapshot = try memwatch(
      "snapshot", "\(process.processIdentifier)", "--format", "json", stats: stats)
    try #require(snapshot.status == 0, "\(snapshot.error)")
    #expect(!snapshot.output.contains("ZZZ"))
    let arena = try #require((json(snapshot.output)["arenas"] as? [[String: Any]])?.first)
    let labels = try #require(arena["labels"] as? [[String: Any]])
    input.fileHandleForWriting.write(Data("go\n".utf8))
    process.waitUntilExit()
    #expect(process.terminationStatus == 0 && process.terminationReason == .exit)
    return (
      try #require(arena["name"] as? String),
      Dictionary(
        labels.map { ($0["label"] as? String ?? "?", $0["live"] as? Int ?? -1) },
        uniquingKeysWith: +)
    )
  }

  @Test func namesAreCopiedBeforeTheyAreFreed() throws {
    let (arena, labels) = try shown(["freed"])
    #expect(arena == "an arena of a freed name")
    #expect(labels == ["a label that is freed": 1])
  }

  @Test func aReusedBufferIsANewLabel() throws {
    #expect(
      try shown(["reused"]).labels == ["number 0": 3, "number 1": 3, "number 2": 3, "number 3": 3])
  }

  @Test func namesAreNotReadPastTheirLimit() throws {
    let (arena, labels) = try shown(["endless"])
    #expect(arena.hasPrefix(String(repeating: "e", count: 60)))
    #expect(labels.count == 1 && labels.values.first == 2)
    #expect(labels.keys.first?.hasPrefix(String(repeating: "e", count: 60)) == true)
  }

  @Test func labelsOutliveTheLibraryThatDefinedThem() throws {
    let library = try installed.compile("plugin", flags: ["-shared", "-fPIC"])
    let labels = try shown(["unloaded", library]).labels
    #expect(labels["a label of a plugin"] == 1)
    #expect(labels["plugin.c:6"] == 1)
    #expect(labels.count == 2)
  }

  /// A program with a new label for each secret takes bounded memory. Further labels are counted
  /// together under a label that says so.
  @Test func labelsBeyondTheLimitAreCountedTogether() throws {
    #expect(try shown(["many"]).labels == ["number 3": 1, "other labels": 2])
  }
}
