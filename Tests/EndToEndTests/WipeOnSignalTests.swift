// Wipes by signals, inspected from outside: nothing is left in memory or in a crash report.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct WipeOnSignalTests {
  /// Programs that crash: this build's, and others given by the environment (optimised, statically
  /// linked).
  static let programs =
    [Programs.publisher]
    + (ProcessInfo.processInfo.environment["CRASHING_PROGRAMS"] ?? "").split(separator: ":")
    .map(String.init)

  /// The runtime's crash reporter, which a statically linked program cannot find itself.
  static let reporter: String = {
    let swift = (try? Launch(["which", "swift"]).run().output) ?? ""
    let program = URL(fileURLWithPath: swift.trimmingCharacters(in: .whitespacesAndNewlines))
      .resolvingSymlinksInPath()
    let path = program.deletingLastPathComponent().deletingLastPathComponent()
      .appending(path: "libexec/swift/linux/swift-backtrace").path
    return FileManager.default.isExecutableFile(atPath: path) ? ",swift-backtrace=\(path)" : ""
  }()

  /// The occurrences of eight bytes of the pattern in a text: as numbers, or as bytes in either
  /// order with or without spaces.
  func traces(_ seed: UInt64, in text: String) -> Int {
    let dense = text.filter { $0 != " " && $0 != "·" }
    return Pattern.found(seed, in: Data(text.utf8)) + Pattern.found(seed, in: Data(dense.utf8))
  }

  /// The runtime's crash report has the stack trace, but no byte of the secret that was in
  /// registers, in the frame and in the arena. Without the call it has them (the control).
  @Test(arguments: ["fault", "trap", "abort", "stack"], [true, false])
  func aCrashReportHoldsNoSecret(how: String, isInstalled: Bool) throws {
    for program in Self.programs {
      let seed = SeededGenerator().seed
      let scratch = try Scratch(onTmpfs: true)
      let ended = try Launch(
        [program, "\(seed)"], stats: scratch,
        environment: ["SWIFT_BACKTRACE": "enable=yes,color=no,timeout=150s\(Self.reporter)"]
      ).run(
        input: """
          \(isInstalled ? "wipe-on-signals" : "nothing")
          arena a alpha slab preferred none
          alloc a 1 64 fill
          crash a \(how)

          """)
      let signals: [String: Int32] = [
        "fault": SIGSEGV, "trap": SIGILL, "abort": SIGABRT, "stack": SIGSEGV,
      ]
      #expect(ended.status == 128 + signals[how]!, "\(ended.error.prefix(500))")
      #expect(ended.error.contains("Registers:"), "\(ended.error.prefix(500))")
      // (The C library's abort has no frame pointers to follow.)
      let way = ["stack": "use_up", "abort": " in "][how] ?? "Secret.withBytes"
      #expect(ended.error.contains(way), "\(ended.error.prefix(3000))")
      let found = traces(seed, in: ended.error)
      if isInstalled {
        #expect(found == 0, "\(ended.error)")
      } else if how == "fault" {
        #expect(found > 4)
      }
    }
  }

  /// The last page of a process that a signal ended shows that it was wiped.
  /// (The runner may start it with other signals blocked.)
  @Test(arguments: [SIGBUS, SIGSEGV]) func theLastPageShowsTheWipe(signal: Int32) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let page = try peer.send("start")
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 3 32")
    func process() throws -> [String: Any] {
      let ended = try memwatch("snapshot", "--file", page, "--format", "json", stats: scratch)
      return try json(ended.output)["process"] as? [String: Any] ?? [:]
    }
    #expect(try process()["emergencyWipe"] as? Bool == false)
    try peer.send("wipe-on-signals")
    #expect(try process()["emergencyWipe"] as? Bool == true)
    #expect(try process()["wipe"] is NSNull)
    peer.signal(signal)
    try eventually("the page tells") { try process()["wipe"] is String }
    let after = try process()
    #expect(after["wipe"] as? String == "done")
    #expect(after["endedBySignal"] as? Int32 == signal)
    let text = try memwatch("snapshot", "--file", page, stats: scratch).output
    #expect(text.contains("everything was wiped by signal \(signal)"))
  }

  struct Victim {
    var pid: Int32
    var input: Int32
    var output: Int32

    init(_ program: String, _ directory: String) throws {
      var (from, to): ([Int32], [Int32]) = ([0, 0], [0, 0])
      guard pipe(&from) == 0, pipe(&to) == 0 else { throw Failed("pipe") }
      for file in [from[1], to[0]] { _ = fcntl(file, F_SETFD, FD_CLOEXEC) }
      var actions = posix_spawn_file_actions_t()
      posix_spawn_file_actions_init(&actions)
      defer { posix_spawn_file_actions_destroy(&actions) }
      posix_spawn_file_actions_adddup2(&actions, from[0], 0)
      posix_spawn_file_actions_adddup2(&actions, to[1], 1)
      posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
      var arguments = [strdup(program), nil]
      var variables = [
        strdup("ENCLAVE_STATS_DIR=\(directory)"), strdup("SWIFT_BACKTRACE=enable=no"), nil,
      ]
      defer { for text in arguments + variables { free(text) } }
      // It inherits nothing else of the test's process, such as open files, or ignored or blocked
      // signals.
      _ = ct_close_from(&actions, 3)
      var attributes = posix_spawnattr_t()
      posix_spawnattr_init(&attributes)
      defer { posix_spawnattr_destroy(&attributes) }
      var (none, all) = (sigset_t(), sigset_t())
      sigemptyset(&none)
      sigfillset(&all)
      posix_spawnattr_setsigmask(&attributes, &none)
      posix_spawnattr_setsigdefault(&attributes, &all)
      posix_spawnattr_setflags(
        &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
      pid = 0
      let answer = posix_spawn(&pid, program, &actions, &attributes, &arguments, &variables)
      close(from[0])
      close(to[1])
      (input, output) = (from[1], to[0])
      guard answer == 0 else { throw Failed("posix_spawn \(answer)") }
    }

    func send(_ command: String) throws {
      let text = command + "\n"
      guard write(input, text, text.utf8.count) == text.utf8.count else { throw Failed("write") }
      var answer = ""
      var byte: UInt8 = 0
      while read(output, &byte, 1) == 1, byte != 10 { answer.unicodeScalars.append(.init(byte)) }
      guard answer.hasPrefix("ok") else { throw Failed("\(command): \(answer)") }
    }

    func end() {
      close(input)
      close(output)
    }

    /// Ends it if it is alive. (A child that nobody waits for stops the runner's exit tests.)
    func kill() {
      end()
      _ = Glibc.kill(pid, SIGKILL)
      _ = waitpid(pid, nil, 0)
    }
  }

  /// The number of instants per gate; WIPE_INSTANTS=1000 makes a thousand.
  static let instants =
    ProcessInfo.processInfo.environment["WIPE_INSTANTS"].flatMap(Int.init) ?? 40

  /// Signals arrive at random instants while four threads allocate, free, grow, encrypt, decrypt
  /// and rotate. The victim stops at its exit, and no eight bytes of its secret are in its memory.
  @Test(arguments: ["none", "pages", "cipher"]) func noSecretOutlivesASignal(gate: String) throws {
    var random = SeededGenerator()
    for instant in 0..<Self.instants {
      let scratch = try Scratch(onTmpfs: true)
      let pattern = Masked()
      let victim = try Victim(Programs.publisher, scratch.path)
      defer { victim.end() }
      try victim.send("wipe-on-signals")
      try victim.send("start")
      try victim.send("arena a alpha slab preferred \(gate)")
      try pattern.send(through: scratch) { try victim.send("receive a 64 \($0)") }
      // Under a cipher gate not even now, because no window is open.
      if instant == 0 {
        let found = try pattern.memory(of: victim.pid).count
        #expect(found == (gate == "cipher" ? 0 : 1))
      }
      try victim.send("storm a \(gate)")
      guard ct_stop_at_exit(victim.pid) == 0 else { throw Failed("ptrace: \(errno)") }
      // Not waiting for an event: this only picks a random instant.
      usleep(.random(in: 0...5000, using: &random))
      let signal = [SIGTERM, SIGINT, SIGHUP, SIGSEGV, SIGABRT][instant % 5]
      kill(victim.pid, signal)
      guard ct_wait_for_exit(victim.pid) == 0 else { throw Failed("no exit: \(errno)") }
      let left = try pattern.memory(of: victim.pid)
      let maps = left.isEmpty ? "" : try procText("/proc/\(victim.pid)/maps")
      let status = ct_let_go(victim.pid)
      #expect(status & 0x7f == signal)
      for place in left {
        let line = maps.split(separator: "\n").first {
          let range = $0.split(separator: " ")[0].split(separator: "-")
          return place >= UInt(range[0], radix: 16)! && place < UInt(range[1], radix: 16)!
        }
        Issue.record("\(instant): \(String(place, radix: 16)) in \(line ?? "")")
      }
    }
  }
}
