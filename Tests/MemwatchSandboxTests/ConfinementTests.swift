// Tries everything that a confined process must not do, one by one, with and without the
// confinement.

import Foundation
import TestSupport
import Testing

@Suite struct ConfinementTests {
  /// The users that try: this user and, if this is root, also nobody.
  enum User: String, CaseIterable, Sendable {
    case own, nobody

    static var all: [User] { Programs.isRoot ? [.own, .nobody] : [.own] }

    var prefix: [String] {
      self == .own
        ? [] : ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    }
  }

  /// Actions against another process of the same user.
  static func probe(_ user: User, _ options: [String]) throws -> [String: Int32] {
    let victim = Launch(user.prefix + ["sleep", "60"]).process()
    // Its descriptor 0 is a file that anybody may open.
    victim.standardInput = FileHandle.nullDevice
    try victim.run()
    defer {
      kill(victim.processIdentifier, SIGKILL)
      try? eventually("it is gone") { !victim.isRunning }
    }
    let pid = victim.processIdentifier
    if user == .nobody {
      try eventually("it is nobody's") {
        try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8).contains("Uid:\t65534")
          && String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8) == "sleep\n"
      }
    }
    let result = try Launch(user.prefix + [Programs.path("sandbox-probe"), "\(pid)"] + options)
      .run()
    var outcomes: [String: Int32] = [:]
    for line in result.output.split(separator: "\n") {
      guard let colon = line.lastIndex(of: ":"),
        let number = Int32(line[line.index(colon, offsetBy: 2)...])
      else { continue }
      outcomes[String(line[..<colon])] = number
    }
    return outcomes
  }

  /// The control: actions that always succeed for an unconfined process.
  static let ordinary: Set<String> = [
    "open mem", "open environ", "open smaps", "open fd", "open a file", "openat2", "make a file",
    "ptrace", "process_vm_readv", "exec", "fork", "thread", "socket inet", "socket unix",
    "map code", "make code", "signal", "type", "chdir", "rename",
  ]

  @Test(arguments: User.all) func sandboxRefusesEveryForbiddenCall(user: User) throws {
    let free = try Self.probe(user, ["none"])
    for name in Self.ordinary { #expect(free[name] == 0, "\(name) works without the sandbox") }
    let confined = try Self.probe(user, [])
    #expect(Set(confined.keys) == Set(free.keys) && confined.count >= 25)
    for (name, outcome) in confined {
      #expect([EPERM, EACCES].contains(outcome), "\(name): \(outcome)")
    }
  }

  /// seccomp alone, as on a kernel without Landlock…
  @Test(arguments: User.all) func seccompAloneRefusesForbiddenCalls(user: User) throws {
    let confined = try Self.probe(user, ["privileges", "seccomp"])
    #expect(confined.count >= 25)
    for (name, outcome) in confined { #expect(outcome == EPERM, "\(name): \(outcome)") }
  }

  static let hasLandlock =
    (try? Launch([Programs.path("sandbox-probe"), "1", "privileges", "landlock"]).run().output
      .contains("Landlock")) == true

  /// …and Landlock alone still denies other processes and files.
  @Test(.enabled(if: hasLandlock, "this kernel has no Landlock"), arguments: User.all)
  func landlockAloneRefusesFilesAndProcesses(user: User) throws {
    let confined = try Self.probe(user, ["capabilities", "privileges", "landlock"])
    for name in [
      "open mem", "open environ", "open smaps", "open fd", "open a file", "openat2", "make a file",
      "ptrace", "process_vm_readv",
    ] {
      #expect([EPERM, EACCES].contains(confined[name] ?? 0), "\(name): \(confined[name] ?? 0)")
    }
    #expect(confined["socket unix"] == 0, "what Landlock does not stop")
  }

  @Test func callsOfAnotherArchitectureEndTheProcess() throws {
    let result = try Launch([Programs.path("sandbox-probe"), "1", "other-architecture"]).run()
    #expect(result.output.contains("killed: \(SIGSYS)"))
  }
}
