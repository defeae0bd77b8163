// Unchanged programs whose libraries' secure memory lies in arenas.

import Foundation
import TestSupport
import Testing

/// A directory for adopted programs, with the installed library and memwatch, and the saboteur.
struct Adopting: Sendable {
  let installed: Installed
  let saboteur: String
  let memwatch: String

  static let shared = Result { try Adopting() }

  private init() throws {
    installed = try Installed.shared.get()
    saboteur = installed.prefix.file("saboteur.so")
    memwatch = installed.prefix.file("bin/memwatch")
    try FileManager.default.createDirectory(
      atPath: installed.prefix.file("bin"), withIntermediateDirectories: true)
    try copyProgram(Programs.memwatch, to: memwatch)
    let made = try Launch([
      "gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", saboteur,
      Programs.package.appending(path: "Tests/Clients/saboteur.c").path,
    ]).run()
    guard made.status == 0 else { throw Failed("saboteur: \(made.error)") }
  }

  var library: String { installed.libraries + "/libenclave-adopt.so.1" }

  func environment(_ others: [String: String] = [:]) -> [String: String] {
    ["LD_PRELOAD": library + ":" + saboteur, "ENCLAVE_STATS": "1"].merging(others) { $1 }
  }

  /// Compiles a program with the system's libraries, and nothing of this package.
  static let client = Result {
    let program = try Installed.shared.get().prefix.file("adopted")
    let asked = try Launch([
      "pkg-config", "--cflags", "--libs", "libsodium", "libcrypto", "libgcrypt",
    ]).run()
    guard asked.status == 0 else { throw Failed("pkg-config: \(asked.error)") }
    let sources = ["adopted.c", "adopted_forks.c", "adopted_daemons.c"].map {
      Programs.package.appending(path: "Tests/Clients/" + $0).path
    }
    let made = try Launch(
      ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program] + sources
        + asked.output.split(whereSeparator: \.isWhitespace).map(String.init) + ["-lpthread"]
    ).run()
    guard made.status == 0 else { throw Failed("gcc adopted: \(made.error)") }
    return program
  }
}

/// A program that runs until the test ends it.
final class Running {
  let process: Process
  let output = Pipe()
  let input = Pipe()
  var pid: Int32 { process.processIdentifier }

  init(_ launch: Launch) throws {
    process = launch.process()
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.runUnblocked()
  }

  func end(_ signal: Int32 = SIGTERM) {
    if process.isRunning { kill(pid, signal) }
    process.waitUntilExit()
  }

  deinit {
    if process.isRunning {
      kill(pid, SIGKILL)
      process.waitUntilExit()
    }
  }
}

/// memwatch's view of an adopted process.
struct Watched {
  var arenas: [String: [String: Any]] = [:]
  var findings: [[String: Any]] = []
  var scope = ""
  var status: Int32

  init(_ pid: Int32, _ stats: Scratch?) throws {
    let audit = try memwatch("audit", "\(pid)", "--json", stats: stats)
    let snapshot = try json(
      try memwatch("snapshot", "\(pid)", "--format", "json", stats: stats).output)
    for arena in snapshot["arenas"] as? [[String: Any]] ?? [] {
      arenas[arena["name"] as? String ?? ""] = arena
    }
    status = audit.status
    guard audit.status == 0 || audit.status == 6 else {
      throw Failed("audit of \(pid): \(audit.status) \(audit.error)")
    }
    let told = try json(audit.output)["audit"] as? [String: Any] ?? [:]
    findings = told["findings"] as? [[String: Any]] ?? []
    scope = told["scope"] as? String ?? ""
  }

  var kinds: [String] { findings.compactMap { $0["kind"] as? String } }

  func live(_ arena: String) -> Int { arenas[arena]?["secretCount"] as? Int ?? -1 }
  func isLocked(_ arena: String) -> Bool { arenas[arena]?["lockState"] as? String == "locked" }
}

/// Expects named, locked, non-empty arenas without findings. Then unlocks them behind the library's
/// back, which must be found. (A count of 0 secrets is accepted, because keys are short-lived.)
func expectAdopted(_ pid: Int32, _ arena: String, _ stats: Scratch?) throws {
  var last: Watched?
  try eventually("\(pid) has secrets in \(arena)") {
    last = try? Watched(pid, stats)
    // (A page that is being replaced cannot be audited.)
    return (last?.live(arena) ?? 0) > 0 && last?.scope != "none"
  }
  let seen = try #require(last)
  #expect(seen.isLocked(arena), "\(String(describing: seen.arenas[arena]))")
  // (There may be a note that the process locks other memory, such as libgcrypt's pool.)
  let isTrue = seen.findings.allSatisfy { $0["severity"] as? String == "note" }
  #expect(isTrue && seen.status == 0, "\(seen.findings)")
  #expect(seen.scope == "arenas" || seen.scope == "totals")
}

/// The control: after the sabotage the claims are the same, but the locks are gone.
func expectSabotageIsFound(_ pid: Int32, _ stats: Scratch) throws {
  kill(pid, firstRealTimeSignal + 5)
  try eventually("the lost locks of \(pid) are found") {
    let seen = try Watched(pid, stats)
    return seen.status == 6 && !seen.findings.isEmpty
  }
}

/// SIGRTMIN, a function in glibc that Swift does not import.
private let firstRealTimeSignal: Int32 = 34

/// Whether programs are installed. The tests' packages do not include them.
func areThere(_ programs: String...) -> Bool {
  programs.allSatisfy { program in
    ["/usr/bin/", "/usr/sbin/", "/usr/local/bin/"].contains {
      FileManager.default.isExecutableFile(atPath: $0 + program)
    }
  }
}

@Suite(.waitsForProcesses) struct AdoptionTests {
  let adopting: Adopting
  init() throws { adopting = try Adopting.shared.get() }

  // MARK: - Behaviour of the functions

  /// The libraries' own tests of these functions, as an unchanged program, with the libraries'
  /// functions and with ours.
  @Test(
    arguments: [
      "sodium", "threads", "openssl", "gcrypt", "forks", "storm", "handlers", "used", "early",
      "nested", "many-freed", "ended", "signalled", "unused",
    ],
    [true, false])
  func interposedFunctionsBehaveAsDocumented(name: String, adopted: Bool) throws {
    let result = try Launch(
      [Adopting.client.get(), name], environment: adopted ? adopting.environment() : [:]
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
  }

  /// A stray access faults, as with libsodium itself. Damage that is found later ends the process
  /// with SIGABRT.
  @Test(arguments: [
    ("overflow", [SIGSEGV]), ("overread", [SIGSEGV]), ("noaccess", [SIGSEGV]),
    ("readonly", [SIGSEGV]), ("underflow", [SIGABRT]), ("twice", [SIGABRT]),
  ])
  func invalidAccessEndsTheProcess(name: String, signals: [Int32]) throws {
    let result = try Launch(
      [Adopting.client.get(), name], environment: adopting.environment()
    ).run()
    #expect(signals.map { 128 + $0 }.contains(result.status), "\(result)")
    #expect(result.output == "ok\n")
  }

  /// libgcrypt's pool of 16 KiB overflows into unlocked memory, but an arena grows.
  @Test func aFullPoolGrows() throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      [Adopting.client.get(), "exhausted"], stats: stats, environment: adopting.environment()
    ).run()
    #expect(result.status == 0 && !result.error.contains("insecure"), "\(result)")
    let plain = try Launch([Adopting.client.get(), "exhausted"]).run()
    #expect(plain.status != 0 || plain.error.contains("insecure"), "\(plain)")
  }

  /// In FIPS mode libgcrypt uses its own memory, which is reported. Also if the program itself
  /// requests the mode, which only works before the library is used.
  @Test(arguments: ["fips", "forced"]) func fipsModeIsReported(name: String) throws {
    let result = try Launch(
      [Adopting.client.get(), name],
      environment: adopting.environment(
        name == "fips" ? ["LIBGCRYPT_FORCE_FIPS_MODE": "1"] : [:])
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
    #expect(result.error.contains("libgcrypt is not adopted: FIPS mode"), "\(result.error)")
  }

  /// A library that was in use before it could be adopted is not adopted, and that is reported.
  @Test func aLibraryInUseIsNotAdopted() throws {
    let result = try Launch(
      [Adopting.client.get(), "used"], environment: adopting.environment()
    ).run()
    #expect(result.error.contains("libgcrypt is not adopted: it was in use"), "\(result.error)")
  }

  /// A libcrypto whose own calls cannot be interposed is not adopted, and that is reported, also if
  /// the program loads it later.
  @Test(arguments: [true, false], [true, false]) func aLibraryThatBindsItsOwnCallsIsNotAdopted(
    isBound: Bool, isLate: Bool
  ) throws {
    let scratch = try Scratch()
    let stats = try Scratch(onTmpfs: true)
    let source = Programs.package.appending(path: "Tests/Clients/symbolic.c").path
    for arguments in [
      ["-shared", "-fPIC", "-DLIBRARY", "-Wl,-soname,libcrypto.so.3", "-o"]
        + [scratch.file("libcrypto.so.3"), source]
        + (isBound ? ["-Wl,-Bsymbolic-functions"] : []),
      ["-o", scratch.file("program"), source]
        + (isLate ? ["-DLATE"] : ["-L" + scratch.path, "-l:libcrypto.so.3"]),
    ] {
      let made = try Launch(["gcc", "-Wall", "-Werror"] + arguments).run()
      try #require(made.status == 0, "\(made.error)")
    }
    let errors = scratch.file("errors")
    let running = try Running(
      Launch(
        ["sh", "-c", "exec \(scratch.file("program")) 2>\(errors)"], stats: stats,
        environment: adopting.environment(["LD_LIBRARY_PATH": scratch.path])))
    let said = String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    #expect(said == "ok\n")
    // (Counts are published with the next tick.)
    try eventually("its arena shows what it has") {
      let seen = try Watched(running.pid, stats)
      return isBound
        ? seen.live("openssl (not adopted: -Bsymbolic)") == 0 && seen.live("openssl") == -1
        : seen.live("openssl") == (isLate ? 1 : 2)
    }
    try running.input.fileHandleForWriting.close()
    running.process.waitUntilExit()
    #expect(running.process.terminationStatus == 0)
    let told = try String(contentsOfFile: errors, encoding: .utf8)
    #expect(told.contains("openssl is not adopted: libcrypto calls its own") == isBound, "\(told)")
  }

  /// Libraries may use their memory until the last destructor has run.
  @Test func destructorsCanUseTheirKeys() throws {
    let scratch = try Scratch()
    let source = Programs.package.appending(path: "Tests/Clients/ending.c").path
    let flags = try Launch(["pkg-config", "--cflags", "--libs", "libsodium"]).run().output
      .split(whereSeparator: \.isWhitespace).map(String.init)
    for arguments in [
      ["-shared", "-fPIC", "-DLIBRARY", "-o", scratch.file("libending.so"), source] + flags,
      ["-o", scratch.file("program"), source, "-L" + scratch.path, "-lending"] + flags,
    ] {
      let made = try Launch(["gcc", "-Wall", "-Werror"] + arguments).run()
      try #require(made.status == 0, "\(made.error)")
    }
    let result = try Launch(
      [scratch.file("program")],
      environment: adopting.environment(["LD_LIBRARY_PATH": scratch.path])
    ).run()
    #expect(result.status == 0 && result.output == "the key is there\n", "\(result)")
  }

  /// A daemon that closes all descriptors is published anew, and none of its own files is closed.
  @Test func aDaemonThatClosesAllDescriptorsIsPublished() throws {
    let stats = try Scratch(onTmpfs: true)
    // (A shell reports the status, because the program closes the descriptor that Foundation waits
    // for.)
    let running = try Running(
      Launch(
        ["sh", "-c", "\"$0\" closes; exit $?", Adopting.client.get()], stats: stats,
        environment: adopting.environment()))
    let said = String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    let pid = try #require(Int32(said.dropLast()), "\(said)")
    try expectAdopted(pid, "libsodium", stats)
    try running.input.fileHandleForWriting.close()
    running.process.waitUntilExit()
    #expect(running.process.terminationStatus == 0)
  }

  /// No thread of the library stays outside of a filter of system calls, whichever thread has it.
  @Test(arguments: ["sandboxed", "sandboxed-thread"]) func aLaterFilterAppliesToEveryThread(
    name: String
  ) throws {
    try expectFiltered(name)
  }

  /// Also of a further filter, where all threads have one.
  @Test(.enabled(if: countsFilters, "needs a kernel that counts filters (Linux 5.9)"))
  func aFurtherFilterAppliesToEveryThread() throws { try expectFiltered("sandboxed-again") }

  /// Also where there is no /proc any more, as in sshd's child that talks to the network.
  @Test(.enabled(if: mayChangeRoot, "needs chroot(2): root or a user namespace"))
  func filtersApplyToEveryThreadWithoutProc() throws {
    try expectFiltered("sandboxed-root", prefix: Self.asRoot)
    try expectFiltered(
      "sandboxed-at-once", prefix: Self.asRoot + ["setpriv", "--bounding-set", "-ipc_lock"])
  }

  private func expectFiltered(_ name: String, prefix: [String] = []) throws {
    let stats = try Scratch(onTmpfs: true)
    let result = try Launch(
      prefix + [Adopting.client.get(), name], stats: stats, environment: adopting.environment()
    ).run(within: 200)
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
  }

  static let countsFilters =
    (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8))?
    .contains("Seccomp_filters") == true
  static let asRoot = Programs.isRoot ? [] : ["unshare", "--user", "--map-root-user"]
  static let mayChangeRoot =
    (try? Launch(asRoot + ["chroot", "/", "true"]).run().status) == 0

  /// A child locks its inherited memory and publishes it, and so does its own child.
  @Test func aChildPublishesItsInheritedArena() throws {
    let stats = try Scratch(onTmpfs: true)
    let running = try Running(
      Launch(
        [Adopting.client.get(), "held"], stats: stats, environment: adopting.environment()))
    let said = String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    let child = try #require(Int32(said.trimmingCharacters(in: .whitespacesAndNewlines)))
    for pid in [running.pid, child] {
      for arena in ["libsodium", "openssl", "libgcrypt"] { try expectAdopted(pid, arena, stats) }
      try eventually("\(pid) shows what it has") {
        let seen = try Watched(pid, stats)
        return seen.live("libsodium") == 4 && seen.live("openssl") == 1
          && seen.arenas["libsodium"]?["openWindows"] as? Int == 2
          && seen.arenas["openssl"]?["forkProtection"] as? String == "inherited"
      }
    }
    try expectSabotageIsFound(child, stats)
    #expect(try Watched(running.pid, stats).status == 0)
    try running.input.fileHandleForWriting.close()
    running.process.waitUntilExit()
  }

  /// A child with a smaller limit shows what is not locked, and locks it once the limit is raised.
  @Test(.enabled(if: Programs.mayLimitToOneMiB, "needs a hard RLIMIT_MEMLOCK of 1 MiB"))
  func aChildThatCannotLockReportsIt() throws {
    let stats = try Scratch(onTmpfs: true)
    let running = try Running(
      Launch(
        withoutLockCapability(soft: 1 << 20, hard: 1 << 20) + [Adopting.client.get(), "poorer"],
        stats: stats, environment: adopting.environment()))
    let said = String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    let child = try #require(Int32(said.trimmingCharacters(in: .whitespacesAndNewlines)))
    try eventually("the child shows a lock that it lost") {
      let seen = try? Watched(child, stats)
      return ["openssl", "libsodium"].allSatisfy {
        seen?.arenas[$0]?["lockState"] as? String == "unlocked"
      }
    }
    #expect(try Watched(running.pid, stats).isLocked("openssl"))
    let raised = try Launch([
      "prlimit", "--pid", "\(child)", "--memlock=1048576:1048576",
    ]).run()
    #expect(raised.status == 0, "\(raised.error)")
    // Including memory that is open, such as libsodium's.
    try eventually("the child has locked what it inherited") {
      let seen = try Watched(child, stats)
      return seen.isLocked("openssl") && seen.isLocked("libsodium") && seen.status == 0
    }
    try running.input.fileHandleForWriting.close()
    running.process.waitUntilExit()
  }
}
