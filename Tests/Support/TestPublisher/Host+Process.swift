// Commands about the whole process: publishing, signals, system calls of other code, exit.

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

extension Host {
  /// Runs a command about the process. Returns nil for other commands.
  mutating func processCommand() throws -> String? {
    switch words.first ?? "" {
    case "start":
      var options = StatsPublisher.Options()
      // Pages outside a test's own directory are found by all viewers of the machine, and so by tests that
      // look for the other name.
      let isPrivate = unsafe getenv("ENCLAVE_STATS_DIR") != nil
      options.name = isPrivate ? "test-publisher" : "test-elsewhere"
      // A number larger than any process id.
      if words.contains("numbered") { options.name = "2000000000" }
      // 69 bytes; the 64th is the first of two.
      if words.contains("long") {
        options.name = "a-process-whose-name-is-longer-than-a-page-has-room-for-ends-größe-"
      }
      options.tickMilliseconds = 20
      // With the defaults: the command's name, and the default tick.
      if words.contains("plain") { options = StatsPublisher.Options() }
      if words.contains("always") { options.addresses = .always }
      if words.contains("never") { options.addresses = .never }
      if words.contains("one-arena") { options.listedArenas = 1 }
      if let count = words.last.flatMap({ Int($0) }) { options.listedSecrets = count }
      let started = try StatsPublisher.start(options)
      let path = started.path ?? ""
      publisher = consume started
      return path
    case "stop":
      publisher = nil
      return ""
    case "exit-on-bus":
      ct_exit_on_bus(99)
      return ""
    case "raise-bus":
      raise(SIGBUS)
      return ""
    case "wipe-on-signals":
      try EmergencyWipe.install()
      return ""
    case "crash":
      // In a window, with copies of the secret in registers and on the stack.
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let how = try word(2).utf8.first!
      try secret.withBytes { bytes in
        unsafe bytes.withUnsafeBytes { unsafe ct_crash_with($0.baseAddress!, CChar(how)) }
      }
      return ""
    case "stop-at-exit":
      // Exit handlers run in reverse order: this one is registered before the first arena, so it
      // runs after the library's.
      _ = atexit { raise(SIGSTOP) }
      return ""
    case "munlock":
      guard let secret = secrets[try word(1)]?.last else { throw Failure(text: "no secret") }
      let page = try secret.withBytes { bytes in
        unsafe bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress!) & ~4095 }
      }
      guard unsafe Glibc.munlock(UnsafeRawPointer(bitPattern: page)!, 4096) == 0 else {
        throw Failure(text: "munlock")
      }
      return ""
    case "call":
      // A system call as from other code of this process: NAME ADDRESS LENGTH [ARGUMENT].
      let address = unsafe UnsafeMutableRawPointer(bitPattern: UInt(try number(2)))!
      let length = try number(3)
      let argument = words.count > 4 ? Int32(try number(4)) : 0
      let answer =
        switch words[1] {
        case "munlock": unsafe Glibc.munlock(address, length)
        case "mlock": unsafe Glibc.mlock(address, length)
        case "madvise": unsafe Glibc.madvise(address, length, argument)
        case "mlockall": Glibc.mlockall(argument)
        case "mprotect": unsafe Glibc.mprotect(address, length, argument)
        case "munmap": unsafe Glibc.munmap(address, length)
        case "pkey_mprotect":
          Int32(truncatingIfNeeded: unsafe syscall4(329, address, length, 3, Int(argument)))
        default: throw Failure(text: "unknown call")
        }
      guard answer == 0 else { throw Failure(text: "\(words[1]): \(errno)") }
      return ""
    case "refuse":
      guard ct_refuse_call(Int32(try number(1))) == 0 else { throw Failure(text: "seccomp") }
      return ""
    case "fork":
      typealias Call = @convention(c) () -> Int32
      let child = unsafe unsafeBitCast(dlsym(nil, "fork")!, to: Call.self)()
      if child == 0 { while true { pause() } }
      return "\(child)"
    case "exec":
      let arguments: [UnsafeMutablePointer<CChar>?] =
        unsafe words.dropFirst().map { unsafe strdup($0) } + [nil]
      _ = unsafe execv(try word(1), arguments)
      throw Failure(text: "exec: \(errno)")
    case "close-page":
      // Not the descriptors with which Foundation notices the end of its child.
      guard let path = publisher?.path else { throw Failure(text: "no page") }
      var page = stat()
      var other = stat()
      guard unsafe stat(path, &page) == 0 else { throw Failure(text: "stat: \(errno)") }
      for number in 3..<Int32(1024) {
        if unsafe fstat(number, &other) == 0, other.st_ino == page.st_ino { close(number) }
      }
      return ""
    case "setuid":
      let id = uid_t(try number(1))
      guard setgid(id) == 0, setuid(id) == 0 else { throw Failure(text: "setuid: \(errno)") }
      return ""
    case "nodump", "merge":
      guard let set = unsafe dlsym(nil, "prctl") else { throw Failure(text: "prctl") }
      typealias Call = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
      let (option, value): (Int32, UInt) = words[0] == "merge" ? (67, 1) : (4, 0)
      guard unsafe unsafeBitCast(set, to: Call.self)(option, value, 0, 0, 0) == 0 else {
        throw Failure(text: "prctl")
      }
      return ""
    case "limit":
      var limit = rlimit(rlim_cur: rlim_t(try number(1)), rlim_max: rlim_t(try number(2)))
      guard unsafe setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0 else {
        throw Failure(text: "setrlimit")
      }
      return ""
    #if DEBUG
      case "fault":
        guard let call = SystemCall.allCases.first(where: { "\($0)" == words[1] }) else {
          throw Failure(text: "no such call")
        }
        FaultPlan.fail(call, errno: 12, times: try number(2))
        return ""
    #endif
    case "exit":
      exit(0)
    case "exit-at-once":
      _exit(0)
    default: return nil
    }
  }
}
