// Process-wide functions from C: wiping, exiting and publishing while threads work.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct ProcessTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  private static let hasValgrind = (try? Launch(["valgrind", "--version"]).run().status) == 0

  // MARK: - While arenas are created and destroyed

  @Test func wipingEverythingUsesNoReleasedArena() throws {
    let program = try installed.compile("process")
    let result = try Launch([program, "wipe-while-arenas-go", "500"]).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
  }

  @Test func exitingUsesNoReleasedArena() throws {
    let program = try installed.compile("process")
    for _ in 0..<200 {
      let result = try Launch([program, "exit-while-arenas-go"]).run()
      #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
    }
  }

  @Test(.enabled(if: hasValgrind, "valgrind is not installed"))
  func valgrindSeesNoReleasedArenaUsed() throws {
    let program = try installed.compile("process")
    for arguments in [["wipe-while-arenas-go", "30"], ["exit-while-arenas-go"]] {
      let result = try Launch(
        ["valgrind", "-q", "--error-exitcode=99", "--fair-sched=yes", program] + arguments
      ).run()
      #expect(result.status == 0, "\(arguments): \(result.error)")
    }
  }

  @Test func aChildForkedAtAnyPointEnds() throws {
    let result = try Launch(
      [installed.compile("process"), "fork-while-arenas-work", "500"],
      stats: Scratch(onTmpfs: true)
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
  }

  /// The Swift runtime initializes types and globals at their first use, under its own locks.
  @Test(arguments: ["lock", "global"], [Installed.Linkage.shared, .fixed])
  func aChildForkedDuringAFirstUseEnds(of what: String, linkage: Installed.Linkage) throws {
    let program = try installed.compile("firstuse", linkage: linkage)
    let result = try Launch([program, what]).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
  }

  // MARK: - Publishing

  private func names(_ directory: Scratch) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory.path)
  }

  @Test func startingTakesOverThePublisherOfTheEnvironment() throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      [installed.compile("process"), "start-after-the-environment"], stats: stats,
      environment: ["ENCLAVE_STATS": "1"]
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
    #expect(try names(stats) == [])
  }

  /// Whenever the program starts publishing while another thread creates the first arena.
  @Test func startingTakesOverThePublisherThatIsBeingStarted() throws {
    let stats = try Scratch(onTmpfs: true)
    let program = try installed.compile("process")
    for delay in 0..<200 {
      let result = try Launch(
        [program, "start-beside-the-environment", "\(delay)"], stats: stats,
        environment: ["ENCLAVE_STATS": "1"]
      ).run()
      #expect(result.status == 0 && result.output == "ok\n", "\(delay): \(result.error)")
    }
    #expect(try names(stats) == [])
  }

  @Test func stoppingClosesNoDescriptorOfTheProgram() throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      [installed.compile("process"), "stop-after-closing-descriptors"], stats: stats
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
    #expect(try names(stats) == [])
  }

  @Test func removedPagesLeakNoMemory() throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch([installed.compile("process"), "publish-often", "500"], stats: stats)
      .run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
    #expect(try names(stats) == [])
  }

  @Test func aFileSizeLimitDoesNotEndTheProcess() throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      ["prlimit", "--fsize=65536", installed.compile("process"), "use-an-arena"], stats: stats,
      environment: ["ENCLAVE_STATS": "1"]
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result.error)")
    #expect(try names(stats) == [])
  }

  /// If publishing exceeds a limit, the error names it, nothing is leaked, and the program
  /// continues.
  @Test(arguments: [
    ("nofile", 3, "RLIMIT_NOFILE"), ("nofile", 4, "RLIMIT_NOFILE"), ("as", 100_000, "RLIMIT_AS"),
    ("as", 1_150_000, "RLIMIT_AS"), ("as", 1_600_000, "RLIMIT_AS"),
    ("data", 200_000, "RLIMIT_DATA"), ("nproc", 1, "RLIMIT_NPROC"),
    ("fsize", 65536, "RLIMIT_FSIZE"),
  ])
  func theExceededLimitIsNamed(limit: String, value: Int, name: String) throws {
    let (result, stats) = try publishing(under: limit, value)
    #expect(result.status == 0, "\(result.error)")
    #expect(result.output.contains(name), "\(result.output)")
    #expect(try names(stats) == [])
  }

  /// Limits that do not affect publishing.
  @Test(arguments: [("memlock", 0), ("rttime", 1_000_000), ("nofile", 8), ("as", 8 << 20)])
  func otherLimitsDoNotMatter(limit: String, value: Int) throws {
    let (result, _) = try publishing(under: limit, value)
    #expect(result.status == 0 && result.output == "publishes\n", "\(result.output)\(result.error)")
  }

  /// Runs a program that publishes under a limit. Also returns the directory of its page.
  private func publishing(under limit: String, _ value: Int) throws -> (Ended, Scratch) {
    try readable()
    let stats = try open()
    let result = try Launch(
      unprivileged() + [installed.compile("limits"), limit, "\(value)"],
      environment: ["ENCLAVE_STATS_DIR": stats.file("pages")]
    ).run()
    return (result, stats)
  }

  /// Runs as another user, who is not root.
  private func readable() throws {
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: installed.prefix.path)
  }

  private func open() throws -> Scratch {
    let scratch = try Scratch(onTmpfs: true)
    try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: scratch.path)
    return scratch
  }

  @Test(arguments: ["libenclave.so.1", "libenclave-malloc.so.1"])
  func theLibrariesStayLoaded(library: String) throws {
    let dynamic = try Launch(["readelf", "-d", installed.libraries + "/" + library]).run().output
    #expect(dynamic.contains("NODELETE"))
  }
}
