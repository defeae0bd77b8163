// Starts that fail leave nothing behind, and the spare directory is for a name that is taken.

import CTestSupport
import EnclaveStats
import EnclaveSystem
import Foundation
import Glibc
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

  /// Two copies of the library in one process publish side by side: the second neither removes the page
  /// of the first, nor frees the lock by which others see that its publisher lives.
  @Test func aPageOfTheSameProcessIsNotSwept() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let first = try Self.create(in: Self.candidates(scratch))
      let second = try Self.create(in: Self.candidates(scratch))
      for page in [first, second] {
        #expect(FileManager.default.fileExists(atPath: page.path))
        // A process does not see its own locks: a child looks.
        let child = ct_fork()
        if child == 0 {
          do {
            let file = try OpenFile(reading: page.path, followingLinks: false)
            _exit(try file.lockHolder() == .nobody ? 1 : 0)
          } catch { _exit(2) }
        }
        var status: Int32 = -1
        #expect(waitpid(child, &status, 0) == child && status == 0, "the lock of \(page.path)")
      }
    }
  }

  /// What an ended process left is removed, also where its process id is this one's again.
  @Test func aStalePageOfTheSameIdIsSwept() throws {
    let scratch = try Scratch(onTmpfs: true)
    let first = scratch.file("first")
    try FileManager.default.createDirectory(
      atPath: first, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    let stale = "\(first)/\(getpid())-00000000000000ff.page"
    try Data(count: 4096).write(to: URL(filePath: stale))
    let page = try Self.create(in: Self.candidates(scratch))
    defer {
      page.unlink()
      page.close()
    }
    #expect(!FileManager.default.fileExists(atPath: stale))
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
