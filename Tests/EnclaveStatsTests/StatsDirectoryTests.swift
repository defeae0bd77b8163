// Failed starts leave no files, and the fallback directory is only used if the name is taken.

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

  /// Two copies of the library in one process publish independently: the second neither removes the
  /// page of the first nor releases the lock that shows its publisher to be alive.
  @Test func pageOfTheSameProcessIsNotRemoved() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let first = try Self.create(in: Self.candidates(scratch))
      let second = try Self.create(in: Self.candidates(scratch))
      for page in [first, second] {
        #expect(FileManager.default.fileExists(atPath: page.path))
        // A child checks, because a process does not see its own locks.
        let report = try ChildReport()
        let child = report.fork()
        if child == 0 {
          report.expectNoError("looking at the lock") {
            let file = try OpenFile(reading: page.path, followingLinks: false)
            report.expect(try file.lockHolder() != .nobody, "somebody holds the lock")
          }
          report.end()
        }
        let failures = report.failures(of: child)
        #expect(failures == [], "\(page.path): \(failures)")
      }
    }
  }

  /// The page of an ended process is removed, even if this process has the same pid.
  @Test func stalePageWithTheSameIdIsRemoved() throws {
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

  @Test func anExistingDirectoryIsKept() async {
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

  /// The error names a directory that cannot be opened: a file, a path through a file, a missing
  /// path, a link.
  @Test(arguments: ["file", "file/stats", "absent/stats", "link"])
  func aDirectoryThatCannotBeOpenedIsNamed(name: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    try Data().write(to: URL(filePath: scratch.file("file")))
    try FileManager.default.createSymbolicLink(
      atPath: scratch.file("link"), withDestinationPath: scratch.file("link"))
    let path = scratch.file(name)
    do {
      let page = try Self.create(in: [DirectoryCandidate(path: path, origin: "this test")])
      page.close()
      Issue.record("a page was made")
    } catch StatsPageFailure.unsuitable(let directory, let reason) {
      #expect(directory == path && reason.contains("openat"), "\(reason)")
    }
  }

  /// A directory that the group can write is rejected like one that all can write.
  @Test(arguments: [0o777, 0o770, 0o707, 0o720, 0o702])
  func anUnsuitableDirectoryIsReplacedByTheNext(mode: Int) throws {
    let scratch = try Scratch(onTmpfs: true)
    let first = scratch.file("first")
    try FileManager.default.createDirectory(atPath: first, withIntermediateDirectories: false)
    try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: first)
    let page = try Self.create(in: Self.candidates(scratch))
    defer {
      page.unlink()
      page.close()
    }
    #expect(page.directoryPath == scratch.file("spare"))
  }
}
