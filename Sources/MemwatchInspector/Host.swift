// The host settings that affect secrets in memory, as far as an ordinary user can read them.

import EnclaveSystem
import MemwatchSystem

/// One setting of the host.
package struct HostFact: Equatable, Sendable {
  package enum Judgement: String, Sendable, CaseIterable { case good, bad, unknown }
  package var kind: Kind
  package var judgement: Judgement
  /// What it was read from.
  package var settings: [HostSetting] = []
  /// The observed value.
  package var value: String
  /// What the setting means for secrets.
  package var meaning: String
  /// The fix; nil if the judgement is good.
  package var fix: String?
}

/// The host's settings from /proc and /sys (proc(5), and the kernel's admin guide). Nothing is
/// guessed: what cannot be read is unknown.
package struct Host: Equatable, Sendable {
  package internal(set) var facts: [HostFact] = []
  /// The fact about swap, and whether swap is on; nil: unknown.
  package private(set) var swapFact: HostFact?
  package private(set) var hasSwap: Bool?
  private let files: HostFiles
  private let commandLine: String?
  private let release: String?
  private let configuration: String?
  /// What was read for the next fact.
  private var consulted: [HostSetting] = []

  package init() {
    self.init(HostFiles(fields: InspectedFile.host.fields(limit: 16 << 20) ?? []))
  }

  /// - Parameter root: the directory that holds /proc, /sys and /boot; for tests.
  package init(root: String) { self.init(HostFiles.read(root: root)) }

  private init(_ files: HostFiles) {
    self.files = files
    commandLine = files["/proc/cmdline"]
    release = files["/proc/sys/kernel/osrelease"]?.split(separator: "\n").first.map { String($0) }
    configuration = release.flatMap { files["/boot/config-\($0)"] }
    swap()
    hibernation()
    coreDumps()
    attaching()
    freedMemory()
    otherKernels()
    copies()
    kernelPaths()
    memlock()
  }

  /// Adds the confinement of memwatch itself.
  package func with(sandbox holds: [String], missing: [String]) -> Host {
    var host = self
    // The kernel always permits these calls, so EPERM means that a seccomp filter around memwatch
    // denies them.
    let filter =
      missing.contains { $0.contains("EPERM") }
      ? "; denied by a system call filter; add SystemCallFilter=seccomp landlock_create_ruleset "
        + "landlock_add_rule landlock_restrict_self capset to memwatch's unit"
      : ""
    host.add(
      .sandbox, missing.isEmpty, holds.isEmpty ? "none" : holds.joined(separator: ", "),
      "the process that reads and draws cannot open, trace or start anything",
      missing.isEmpty ? nil : "missing: " + missing.joined(separator: "; ") + filter)
    return host
  }

  package var badFacts: [HostFact] { facts.filter { $0.judgement == .bad } }

  // MARK: - Reading

  private mutating func read(_ path: String) -> String? {
    var text = files[path]
    while text?.last?.isNewline ?? false { text?.removeLast() }
    consult(path, text)
    return text
  }

  /// Notes what the next fact was read from, on one line.
  private mutating func consult(_ path: String, _ text: String?) {
    let lines = text?.split(whereSeparator: \.isNewline).map { line in
      line.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    }
    let value = lines.map { SafeText(Array($0.joined(separator: "; ").utf8)).string }
    consulted.append(HostSetting(source: path, value: value))
  }

  private func exists(_ path: String) -> Bool { files.exists(path) }

  /// The selected word of a list such as `always [madvise] never`.
  private func chosen(_ text: String) -> String? {
    guard let start = text.firstIndex(of: "["), let end = text.firstIndex(of: "]"), start < end
    else { return nil }
    return String(text[text.index(after: start)..<end])
  }

  private mutating func option(_ name: String) -> String? {
    let option = commandLine?.split(whereSeparator: \.isWhitespace)
      .last { $0.hasPrefix(name + "=") }
    consult("/proc/cmdline", option.map { String($0) })
    return option.map { String($0.dropFirst(name.count + 1)) }
  }

  /// The value of a kernel build option; `n` if it is not set, nil if the configuration cannot be
  /// read.
  private mutating func configured(_ name: String) -> String? {
    let line = configuration?.split(separator: "\n").first {
      $0.hasPrefix(name + "=") || $0 == "# \(name) is not set"
    }
    consult("/boot/config-\(release ?? "")", line.map { String($0) })
    guard let line else { return nil }
    return line.hasPrefix("#") ? "n" : String(line.dropFirst(name.count + 1))
  }

  private mutating func add(
    _ kind: HostFact.Kind, _ isGood: Bool?, _ value: String, _ meaning: String,
    _ fix: String? = nil
  ) {
    facts.append(
      HostFact(
        kind: kind, judgement: isGood.map { $0 ? .good : .bad } ?? .unknown, settings: consulted,
        value: SafeText(value).string, meaning: meaning, fix: isGood == true ? nil : fix))
    consulted = []
  }

  // MARK: - Settings

  private mutating func swap() {
    let meaning = "unlocked memory can be written to swap, and stays there"
    guard let swaps = read("/proc/swaps") else {
      add(.swap, nil, "/proc/swaps cannot be read", meaning, "check: swapon --show")
      swapFact = facts.last
      return
    }
    let devices = swaps.split(separator: "\n").dropFirst().compactMap {
      $0.split(whereSeparator: \.isWhitespace).first.map { String($0) }
    }
    let isSwapping = !devices.isEmpty
    hasSwap = isSwapping
    if !isSwapping {
      add(.swap, true, "none", meaning)
    } else {
      let isSafe = devices.allSatisfy { device in
        let name = device.split(separator: "/").last.map { String($0) } ?? ""
        if name.hasPrefix("zram") { return true }
        return read("/sys/class/block/\(name)/dm/uuid")?.hasPrefix("CRYPT-") ?? false
      }
      add(
        .swap, isSafe,
        devices.joined(separator: ", ") + (isSafe ? " (encrypted, or compressed in memory)" : ""),
        meaning, "sudo swapoff -a, or encrypt the swap device (dm-crypt)")
    }
    swapFact = facts.last
    let zswap = read("/sys/module/zswap/parameters/enabled")
    add(
      .zswap, zswap.map { $0 == "N" || !isSwapping } ?? (exists("/sys/module") ? true : nil),
      zswap ?? (exists("/sys/module") ? "not built" : "/sys cannot be read"),
      "compressed copies of swapped pages stay in memory",
      "echo N | sudo tee /sys/module/zswap/parameters/enabled")
  }

  private mutating func hibernation() {
    let meaning = "hibernation writes all memory to disk, locked or not"
    guard let states = read("/sys/power/state") else {
      let isMissing = exists("/sys/kernel") && !exists("/sys/power/state")
      return add(
        .hibernation, isMissing ? true : nil,
        isMissing ? "not supported by the kernel" : "/sys/power/state cannot be read", meaning,
        "check: cat /sys/power/state")
    }
    let disk = read("/sys/power/disk").flatMap { chosen($0) }
    let can = states.split(separator: " ").contains("disk") && disk != "disabled"
    add(
      .hibernation, !can, can ? "possible" : "off", meaning,
      "sudo systemctl mask hibernate.target hybrid-sleep.target, or boot with nohibernate")
  }

  private mutating func coreDumps() {
    let pattern = read("/proc/sys/kernel/core_pattern")
    let limit = limitOfThisProcess("Max core file size")
    let isPiped = pattern?.hasPrefix("|") ?? false
    add(
      .coreDumps, pattern.map { _ in !isPiped && limit == 0 },
      (pattern ?? "core_pattern cannot be read")
        + (limit.map { $0 == 0 ? ", limit 0" : ", limit \($0 == .max ? "unlimited" : bytes($0))" }
          ?? ""),
      isPiped
        ? "a dump goes to a helper, whatever the limit; it has stacks and copies, but no arenas"
        : "a dump has stacks and copies, but no arenas",
      "ulimit -c 0; a pipe: "
        + "sudo sysctl kernel.core_pattern=core")
    let suid = read("/proc/sys/fs/suid_dumpable")
    add(
      .setuidDumps, suid.map { $0 != "1" }, suid ?? "cannot be read",
      "1 lets users dump programs that run as another user", "sudo sysctl fs.suid_dumpable=0")
  }

  private mutating func attaching() {
    let scope = read("/proc/sys/kernel/yama/ptrace_scope")
    let isKnown = exists("/proc/sys/kernel")
    add(
      .ptrace, scope.map { $0 != "0" } ?? (isKnown ? false : nil),
      scope.map { "ptrace_scope \($0)" }
        ?? (isKnown ? "no Yama: like ptrace_scope 0" : "cannot be read"),
      "0 lets any program of the same user read all secrets of a dumpable process",
      scope == nil
        ? "boot a kernel with Yama; in the program: prctl(PR_SET_DUMPABLE, 0)"
        : "sudo sysctl kernel.yama.ptrace_scope=1")
    let force =
      option("proc_mem.force_override")
      ?? ["ALWAYS_FORCE", "FORCE_PTRACE", "NO_FORCE"].first {
        configured("CONFIG_PROC_MEM_" + $0) == "y"
      }
    add(
      .processMemory, force.map { !["always", "ALWAYS_FORCE"].contains($0) },
      force ?? "not found in the kernel command line or /boot",
      "`always` allows writes to read-only and closed pages; reads are always allowed",
      "boot with proc_mem.force_override=never")
    let lockdown = read("/sys/kernel/security/lockdown").flatMap { chosen($0) }
    add(
      .lockdown, lockdown.map { $0 == "confidentiality" }, lockdown ?? "cannot be read",
      "without it, root can read kernel memory (/proc/kcore, kprobes, bpf)",
      "boot with lockdown=confidentiality")
    let perf = read("/proc/sys/kernel/perf_event_paranoid").flatMap { Int($0) }
    add(
      .perfEvents, perf.map { $0 >= 2 },
      perf.map { "perf_event_paranoid \($0)" } ?? "cannot be read",
      "below 2, users can sample registers and stacks of the kernel",
      "sudo sysctl kernel.perf_event_paranoid=2")
    let bpf = read("/proc/sys/kernel/unprivileged_bpf_disabled")
    add(
      .bpf, bpf.map { $0 != "0" }, bpf ?? "cannot be read",
      "0 lets any user load programs into the kernel",
      "sudo sysctl kernel.unprivileged_bpf_disabled=1")
  }

  private mutating func freedMemory() {
    for (kind, meaning) in [
      (
        HostFact.Kind.initOnFree,
        "without it, freed pages keep their contents until they are reused"
      ),
      (.initOnAlloc, "without it, the kernel hands out memory with its old contents"),
    ] {
      let name = kind == .initOnFree ? "init_on_free" : "init_on_alloc"
      let given = option(name).map { ["1", "on", "y"].contains($0) }
      let built = configured("CONFIG_\(name.uppercased())_DEFAULT_ON").map { $0 == "y" }
      let isOn = given ?? built
      add(
        kind, isOn,
        isOn.map { $0 ? "on" : "off" }
          ?? "not found in the kernel command line or /boot",
        meaning,
        isOn == nil
          ? "check: zgrep \(name.uppercased()) /proc/config.gz, or sudo dmesg | grep 'mem auto-init'"
          : "boot with \(name)=1")
    }
  }

  private mutating func otherKernels() {
    let disabled = read("/proc/sys/kernel/kexec_load_disabled")
    let isBuilt = exists("/sys/kernel/kexec_loaded") || disabled != nil
    let crash = read("/sys/kernel/kexec_crash_loaded")
    add(
      .kexec, !exists("/sys/kernel") ? nil : !isBuilt || disabled == "1" && crash != "1",
      !exists("/sys/kernel")
        ? "/sys cannot be read"
        : !isBuilt
          ? "not built"
          : (disabled == "1" ? "disabled" : "possible") + (crash == "1" ? ", kdump is loaded" : ""),
      "the next kernel can read this one's memory; kdump writes all of it",
      "sudo sysctl kernel.kexec_load_disabled=1; no kdump on hosts with keys")
  }

  private mutating func copies() {
    let ksm = read("/sys/kernel/mm/ksm/run")
    add(
      .ksm, ksm.map { $0 != "1" } ?? (exists("/sys/kernel/mm") ? true : nil),
      ksm.map { $0 == "1" ? "running" : "off" }
        ?? (exists("/sys/kernel/mm") ? "not built" : "cannot be read"),
      "merging equal pages reveals their contents through timing",
      "echo 2 | sudo tee /sys/kernel/mm/ksm/run")
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled").flatMap { chosen($0) }
    add(
      .hugePages,
      huge.map { $0 != "always" } ?? (exists("/sys/kernel/mm") ? true : nil),
      huge ?? (exists("/sys/kernel/mm") ? "not built" : "cannot be read"),
      "collapsing copies pages without wiping the old ones",
      "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")
  }

  private mutating func kernelPaths() {
    let uring = read("/proc/sys/kernel/io_uring_disabled")
    add(
      .ioUring, uring.map { $0 != "0" } ?? (configured("CONFIG_IO_URING") == "n" ? true : nil),
      uring.map { "io_uring_disabled \($0)" } ?? "cannot be read",
      "buffers registered while a window is open stay readable after it closes",
      "sudo sysctl kernel.io_uring_disabled=2")
    let faults = read("/proc/sys/vm/unprivileged_userfaultfd")
    add(
      .userfaultfd,
      faults.map { $0 == "0" } ?? (configured("CONFIG_USERFAULTFD") == "n" ? true : nil),
      faults.map { "unprivileged_userfaultfd \($0)" } ?? "cannot be read",
      "1 lets any program stall threads at page faults",
      "sudo sysctl vm.unprivileged_userfaultfd=0")
  }

  private mutating func memlock() {
    let limit = limitOfThisProcess("Max locked memory")
    add(
      .memlockLimit, limit.map { $0 >= 8 << 20 },
      limit.map { $0 == .max ? "unlimited" : bytes($0) } ?? "cannot be read",
      "what a process started here may lock (kernel default since 5.16: 8 MiB)",
      "ulimit -l 8192, LimitMEMLOCK= in a unit, --ulimit memlock= for a container")
  }

  /// A soft limit of this process, as a hint for processes of the same shell.
  private mutating func limitOfThisProcess(_ name: String) -> UInt64? {
    let path = "/proc/self/limits"
    let line = files[path]?.split(separator: "\n").first { $0.hasPrefix(name) }
    consult(path, line.map { String($0) })
    let field = line?.dropFirst(name.count).split(separator: " ").first
    return field == "unlimited" ? .max : field.flatMap { UInt64($0) }
  }

  // MARK: - Risks that no setting removes

  /// Places where secrets remain whatever a library does, and what helps.
  package static let notErased: [(what: String, helps: String)] = [
    ("registers and stack of the program's own code", "short windows; copies that stay in arenas"),
    ("what a program copies out of a window", "pass spans, not arrays"),
    ("_exit, exec, SIGKILL, power loss: no code runs", "init_on_free=1"),
    (
      "hibernation, snapshots and migration of virtual machines",
      "avoid them; vaults for idle secrets"
    ),
    (
      "debuggers, process_vm_readv, /proc/PID/mem, ptrace",
      "not dumpable; ptrace_scope; memfd_secret"
    ),
    ("io_uring buffers that were registered in a window", "never register secrets"),
    ("pipes, sockets, terminals: the kernel's buffers", "init_on_free=1"),
    ("pages freed by other code", "init_on_free=1"),
    ("threads that run during a wipe on a signal", "short windows"),
    ("code that executes WRPKRU", "load only trusted code"),
    ("userfaultfd", "vm.unprivileged_userfaultfd=0"),
  ]
}

extension HostFact.Judgement {
  /// The heading of a fact's line.
  package var heading: String {
    let mark =
      switch self {
      case .good: " "
      case .bad: "!"
      case .unknown: "?"
      }
    return "\(mark) \(rawValue)"
  }
}

extension Host {
  package var worstFirst: [HostFact] {
    [.bad, .unknown, .good].flatMap { judgement in facts.filter { $0.judgement == judgement } }
  }

  package var lines: [String] {
    var lines: [String] = []
    for fact in worstFirst {
      lines.append("\(fact.judgement.heading)  \(fact.name): \(fact.value)")
      // What is good needs no reason.
      if fact.judgement != .good { lines.append("    \(fact.meaning)") }
      if let fix = fact.fix { lines.append("    fix: \(fix)") }
    }
    lines += ["", "Not erased, whatever the settings (and what helps)"]
    lines += table(Self.notErased.map { ["  " + $0.what, $0.helps] })
    return lines
  }

  package var text: String {
    let counts = [HostFact.Judgement.good, .bad, .unknown].map { judgement in
      "\(facts.count { $0.judgement == judgement }) \(judgement.rawValue)"
    }
    return ([counts.joined(separator: ", ")] + lines).joined(separator: "\n") + "\n"
  }
}
