// Starts that fail leave nothing behind, and the spare directory is for a name that is taken.

import EnclaveStats
import EnclaveSystem
import Foundation
import TestSupport
import Testing

@Suite struct StatsDirectoryTests {
  private static func create(in candidates: [DirectoryCandidate]) throws -> StatsPageFile {
    try StatsPageFile.create(
      in: candidates, capacities: StatsPageCapacities(), processName: Array("test".utf8),
      geometry: [],
      tickMs: 1000, firstHeartbeat: { _ in })
  }

  private static func candidates(_ scratch: Scratch) -> [DirectoryCandidate] {
    [
      DirectoryCandidate(path: scratch.file("first"), origin: "this test"),
      DirectoryCandidate(path: scratch.file("spare"), origin: "this test", isSpare: true),
    ]
  }

  @Test(
    arguments: [SystemCall.createPage, .allocatePage, .mapPage, .lockPage, .linkPage].map {
      $0.rawValue
    })
  func aFailedStartLeavesNoDirectory(number: UInt32) async {
    await #expect(processExitsWith: .success) { [number] in
      let call = try #require(SystemCall(rawValue: number))
      let scratch = try Scratch(onTmpfs: true)
      FaultPlan.fail(call, errno: ENOSPC, times: .max)
      #expect(throws: StatsPageFailure.self) { try Self.create(in: Self.candidates(scratch)) }
      #expect(FaultPlan.failed == [call])
      try #expect(FileManager.default.contentsOfDirectory(atPath: scratch.path) == [])
    }
  }

  @Test func aDirectoryThatWasThereStays() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let first = scratch.file("first")
      try FileManager.default.createDirectory(
        atPath: first, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
      FaultPlan.fail(.createPage, errno: ENOSPC, times: .max)
      #expect(throws: StatsPageFailure.self) { try Self.create(in: Self.candidates(scratch)) }
      try #expect(FileManager.default.contentsOfDirectory(atPath: scratch.path) == ["first"])
    }
  }

  @Test func theSpareIsForAnUnfitDirectory() throws {
    let scratch = try Scratch(onTmpfs: true)
    let first = scratch.file("first")
    try FileManager.default.createDirectory(atPath: first, withIntermediateDirectories: false)
    try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: first)
    let page = try Self.create(in: Self.candidates(scratch))
    defer {
      page.unlink()
      page.close()
    }
    #expect(page.directoryPath == scratch.file("spare"))
  }
}
