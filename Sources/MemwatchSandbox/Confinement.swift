// Confines this process: capabilities, new privileges, files (Landlock) and system calls (seccomp).

internal import CMemwatchSeccomp
internal import EnclaveSystem
internal import MemwatchSystem

/// The confinement that is in force, and what this kernel could not provide.
///
/// Sources: capabilities(7), prctl(2), landlock(7), seccomp(2), seccomp_rule_add(3).
package struct Confinement: Equatable, Sendable {
  /// The mechanisms in force: `seccomp`, `Landlock 7`, …
  package private(set) var mechanisms: [String] = []
  /// The missing mechanisms, each with the reason.
  package private(set) var missing: [String] = []
  /// Whether every mechanism is in force.
  package var isComplete: Bool { missing.isEmpty }

  /// Permanently gives up everything not needed for reading open descriptors, drawing on an open
  /// terminal and talking over an open socket. Open descriptors keep working.
  ///
  /// Missing kernel features are reported in `missing`; the others are applied. Call it while this
  /// process has one thread. With more threads it applies nothing and reports that.
  package static func enter(_ mechanisms: Set<Mechanism> = Set(Mechanism.allCases)) -> Confinement {
    var confinement = Confinement()
    guard Privileges.threads == 1 else {
      confinement.missing = [
        "everything: the process has \(Privileges.threads.map { "\($0)" } ?? "?") threads"
      ]
      return confinement
    }
    for mechanism in Mechanism.allCases {
      guard mechanisms.contains(mechanism) else {
        confinement.missing.append("\(mechanism.name): switched off")
        continue
      }
      do throws(FileFailure) {
        confinement.mechanisms.append(mechanism.name + (try mechanism.apply()))
      } catch { confinement.missing.append("\(mechanism.name): \(error)") }
    }
    return confinement
  }

  package enum Mechanism: String, CaseIterable, Sendable {
    case capabilities, privileges, landlock, seccomp

    var name: String {
      switch self {
      case .capabilities: "no capabilities"
      case .privileges: "no new privileges"
      case .landlock: "Landlock"
      case .seccomp: "seccomp"
      }
    }

    /// Applies the mechanism. Returns a detail for `mechanisms`, or "".
    func apply() throws(FileFailure) -> String {
      switch self {
      case .capabilities: try Privileges.keepCapabilities(0)
      case .privileges: try Privileges.refuseNewPrivileges()
      case .landlock: return " \(try Privileges.restrictFiles())"
      case .seccomp: try SeccompFilter.load()
      }
      return ""
    }
  }
}

/// The allow-list of system calls. Other calls fail with EPERM; calls of another architecture end
/// the process.
private enum SeccompFilter {
  /// Allowed with any arguments. `newfstatat` takes a path and reveals whether it exists; Landlock
  /// does not prevent that either.
  static let always = [
    // Open descriptors.
    "read", "readv", "pread64", "preadv", "write", "writev", "lseek", "close", "fstat",
    "newfstatat", "fsync", "recvmsg", "sendmsg", "getdents64",
    // Waiting and clocks.
    "poll", "ppoll", "select", "pselect6", "nanosleep", "clock_nanosleep", "clock_gettime",
    "gettimeofday", "restart_syscall", "futex", "sched_yield", "pause",
    // Own memory; executable mappings are restricted below.
    "brk", "munmap", "mremap", "madvise",
    // This process.
    "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getpgrp", "getpgid",
    "getrusage", "times", "uname", "sysinfo", "sched_getaffinity", "getrandom", "getrlimit",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait",
    "rt_sigsuspend", "sigaltstack", "set_robust_list", "rseq", "exit", "exit_group",
  ]

  /// Terminal ioctls that curses uses (ioctl_tty(2)), and FIONREAD. Not TIOCSTI and TIOCLINUX,
  /// which inject input.
  static let terminal = [
    0x5401, 0x5402, 0x5403, 0x5404,  // TCGETS, TCSETS, TCSETSW, TCSETSF
    0x5409, 0x540b,  // TCSBRK, TCFLSH
    0x5413, 0x540f, 0x541b,  // TIOCGWINSZ, TIOCGPGRP, FIONREAD
  ]

  /// Commands of fcntl(2): reading and setting flags, and finding the holder of a record lock.
  static let control = [1, 2, 3, 4, 5, 36]  // F_GETFD, SETFD, GETFL, SETFL, GETLK, OFD_GETLK

  static let executable: UInt64 = 4  // PROT_EXEC

  static func load() throws(FileFailure) {
    guard let filter = unsafe seccomp_init(mws_refuse) else {
      throw FileFailure(function: "seccomp_init", path: "", errno: 12)
    }
    defer { unsafe seccomp_release(filter) }
    var failure: Int32 = 0
    func allow(_ name: String, _ conditions: [scmp_arg_cmp] = []) {
      let number = unsafe seccomp_syscall_resolve_name(name)
      guard failure == 0, number != mws_unknown_call else { return }
      failure = unsafe conditions.withUnsafeBufferPointer {
        unsafe seccomp_rule_add_array(
          filter, mws_allow, number, UInt32($0.count), $0.baseAddress)
      }
    }
    func argument(_ index: UInt32, is value: UInt64) -> scmp_arg_cmp {
      // The kernel uses the low 32 bits of these arguments.
      scmp_arg_cmp(arg: index, op: SCMP_CMP_MASKED_EQ, datum_a: 0xffff_ffff, datum_b: value)
    }
    func argument(_ index: UInt32, lacks bit: UInt64) -> scmp_arg_cmp {
      scmp_arg_cmp(arg: index, op: SCMP_CMP_MASKED_EQ, datum_a: bit, datum_b: 0)
    }
    failure = unsafe seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, mws_kill)
    // Applies to all threads, though there is only one.
    _ = unsafe seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1)
    // A binary tree is faster; old versions of libseccomp lack it.
    _ = unsafe seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2)
    for name in always { allow(name) }
    for request in terminal { allow("ioctl", [argument(1, is: UInt64(request))]) }
    for command in control { allow("fcntl", [argument(1, is: UInt64(command))]) }
    allow("mmap", [argument(2, lacks: executable)])
    allow("mprotect", [argument(2, lacks: executable)])
    // Reading its own limits.
    allow(
      "prlimit64",
      [argument(0, is: 0), scmp_arg_cmp(arg: 2, op: SCMP_CMP_EQ, datum_a: 0, datum_b: 0)])
    // Signals to itself: raise(3) and suspending.
    let own = UInt64(clamping: ProcessFacts.pid)
    allow("tgkill", [argument(0, is: own)])
    allow("kill", [argument(0, is: own)])
    if failure == 0 { failure = unsafe seccomp_load(filter) }
    guard failure >= 0 else {
      throw FileFailure(function: "seccomp_load", path: "", errno: -failure)
    }
  }
}
