// The host view on simulated machines.

import Foundation
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct HostTests {
  private func host(_ files: [String: String]) throws -> [String: HostFact] {
    let scratch = try Scratch()
    for (path, text) in files {
      let file = URL(fileURLWithPath: scratch.path + path)
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try text.write(to: file, atomically: true, encoding: .utf8)
    }
    return Dictionary(uniqueKeysWithValues: Host(root: scratch.path).facts.map { ($0.name, $0) })
  }

  /// If nothing can be read, everything is unknown, and nothing is guessed.
  @Test func unreadableSettingsAreUnknown() throws {
    let facts = try host([:])
    #expect(facts.count >= 15)
    for fact in facts.values { #expect(fact.judgement == .unknown, "\(fact.name): \(fact.value)") }
  }

  /// On a small screen the first lines are the ones to act on.
  @Test func whatIsBadComesFirst() {
    func fact(_ kind: HostFact.Kind, _ judgement: HostFact.Judgement) -> HostFact {
      HostFact(kind: kind, judgement: judgement, value: "v", meaning: "m", fix: nil)
    }
    var host = Host()
    host.facts = [
      fact(.swap, .good), fact(.ptrace, .unknown), fact(.bpf, .bad), fact(.lockdown, .unknown),
    ]
    #expect(host.worstFirst.map(\.kind) == [.bpf, .ptrace, .lockdown, .swap])
    #expect(host.lines[0].hasPrefix("! bad") && host.lines[6].hasPrefix("  good"))
  }

  /// Mechanisms that memwatch's own unit forbids, with the setting to add. Other missing ones are
  /// due to the kernel.
  @Test func aFilterAroundMemwatchIsNamed() throws {
    let host = Host(root: try Scratch().path)
    func fix(_ missing: [String]) -> String? {
      host.with(sandbox: [], missing: missing).facts.first { $0.name == "memwatch's sandbox" }?.fix
    }
    #expect(
      fix(["Landlock: landlock_restrict_self: Operation not permitted (EPERM)"])?
        .contains("SystemCallFilter=") == true)
    #expect(
      fix(["Landlock: landlock_restrict_self: Function not implemented (ENOSYS)"])?
        .contains("SystemCallFilter=") == false)
    #expect(fix([]) == nil)
  }

  struct Case: CustomTestStringConvertible, Sendable {
    var fact: String
    var judgement: HostFact.Judgement
    var files: [String: String]
    var testDescription: String { "\(fact): \(judgement), \(files)" }
  }

  static let swaps = "Filename Type Size Used Priority\n"
  static let cases = [
    Case(fact: "swap", judgement: .good, files: ["/proc/swaps": swaps]),
    Case(
      fact: "swap", judgement: .bad, files: ["/proc/swaps": swaps + "/dev/sda2 partition 1 0 -2\n"]),
    Case(
      fact: "swap", judgement: .good,
      files: [
        "/proc/swaps": swaps + "/dev/dm-1 partition 1 0 -2\n/dev/zram0 partition 1 0 5\n",
        "/sys/class/block/dm-1/dm/uuid": "CRYPT-LUKS2-0123-swap\n",
      ]),
    Case(
      fact: "swap", judgement: .bad,
      files: [
        "/proc/swaps": swaps + "/dev/dm-1 partition 1 0 -2\n",
        "/sys/class/block/dm-1/dm/uuid": "LVM-abc\n",
      ]),
    Case(
      fact: "zswap", judgement: .bad,
      files: [
        "/proc/swaps": swaps + "/swapfile file 1 0 -2\n",
        "/sys/module/zswap/parameters/enabled": "Y\n",
      ]),
    Case(
      fact: "hibernation", judgement: .bad,
      files: ["/sys/power/state": "freeze mem disk\n", "/sys/power/disk": "[platform] shutdown\n"]),
    Case(
      fact: "hibernation", judgement: .good,
      files: ["/sys/power/state": "freeze mem disk\n", "/sys/power/disk": "[disabled]\n"]),
    Case(fact: "hibernation", judgement: .good, files: ["/sys/power/state": "freeze mem\n"]),
    Case(
      fact: "core dumps", judgement: .bad,
      files: [
        "/proc/sys/kernel/core_pattern": "|/usr/share/apport/apport %p\n",
        "/proc/self/limits": "Max core file size        0    0    bytes\n",
      ]),
    Case(
      fact: "core dumps", judgement: .good,
      files: [
        "/proc/sys/kernel/core_pattern": "core\n",
        "/proc/self/limits": "Max core file size        0    0    bytes\n",
      ]),
    Case(
      fact: "core dumps", judgement: .bad,
      files: [
        "/proc/sys/kernel/core_pattern": "core\n",
        "/proc/self/limits": "Max core file size        unlimited    unlimited    bytes\n",
      ]),
    Case(fact: "ptrace", judgement: .bad, files: ["/proc/sys/kernel/yama/ptrace_scope": "0\n"]),
    Case(fact: "ptrace", judgement: .good, files: ["/proc/sys/kernel/yama/ptrace_scope": "1\n"]),
    Case(
      fact: "init_on_free", judgement: .good, files: ["/proc/cmdline": "quiet init_on_free=1\n"]),
    Case(
      fact: "init_on_free", judgement: .bad,
      files: [
        "/proc/sys/kernel/osrelease": "6.1-test\n",
        "/boot/config-6.1-test": "CONFIG_X=y\n# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n",
      ]),
    Case(
      fact: "init_on_free", judgement: .bad,
      files: [
        "/proc/cmdline": "init_on_free=0\n", "/proc/sys/kernel/osrelease": "6.1-test\n",
        "/boot/config-6.1-test": "CONFIG_INIT_ON_FREE_DEFAULT_ON=y\n",
      ]),
    Case(
      fact: "kexec", judgement: .bad,
      files: ["/sys/kernel/kexec_loaded": "0\n", "/proc/sys/kernel/kexec_load_disabled": "0\n"]),
    Case(
      fact: "kexec", judgement: .good,
      files: ["/sys/kernel/kexec_loaded": "0\n", "/proc/sys/kernel/kexec_load_disabled": "1\n"]),
    Case(fact: "KSM", judgement: .bad, files: ["/sys/kernel/mm/ksm/run": "1\n"]),
    Case(
      fact: "transparent huge pages", judgement: .bad,
      files: ["/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n"]),
    Case(fact: "io_uring", judgement: .good, files: ["/proc/sys/kernel/io_uring_disabled": "2\n"]),
    Case(
      fact: "/proc/PID/mem", judgement: .bad,
      files: [
        "/proc/sys/kernel/osrelease": "6.1-test\n",
        "/boot/config-6.1-test": "CONFIG_PROC_MEM_ALWAYS_FORCE=y\n",
      ]),
    Case(
      fact: "/proc/PID/mem", judgement: .good,
      files: ["/proc/cmdline": "proc_mem.force_override=never\n"]),
    Case(
      fact: "lockdown", judgement: .good,
      files: ["/sys/kernel/security/lockdown": "none integrity [confidentiality]\n"]),
    Case(
      fact: "memlock limit here", judgement: .bad,
      files: ["/proc/self/limits": "Max locked memory         65536    65536    bytes\n"]),
    Case(
      fact: "memlock limit here", judgement: .good,
      files: ["/proc/self/limits": "Max locked memory         unlimited  unlimited  bytes\n"]),
  ]

  @Test(arguments: cases) func settingsAreJudged(_ example: Case) throws {
    let fact = try #require(try host(example.files)[example.fact])
    #expect(fact.judgement == example.judgement, "\(fact.value)")
    #expect((fact.fix == nil) == (fact.judgement == .good))
  }
}
