// Reads the host's settings that matter to secrets in memory: a fixed list of files.

internal import EnclaveSystem

/// The contents of these files, and which of some paths exist.
package struct HostFiles: Equatable, Sendable {
  private var contents: [String: String] = [:]
  private var present: Set<String> = []

  private static let files = [
    "/proc/cmdline", "/proc/sys/kernel/osrelease", "/proc/swaps", "/proc/self/limits",
    "/proc/sys/kernel/core_pattern", "/proc/sys/fs/suid_dumpable",
    "/proc/sys/kernel/yama/ptrace_scope", "/proc/sys/kernel/perf_event_paranoid",
    "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/kernel/kexec_load_disabled",
    "/proc/sys/kernel/io_uring_disabled", "/proc/sys/vm/unprivileged_userfaultfd",
    "/proc/sys/vm/max_map_count", "/sys/module/zswap/parameters/enabled", "/sys/power/state",
    "/sys/power/disk", "/sys/kernel/security/lockdown", "/sys/kernel/kexec_crash_loaded",
    "/sys/kernel/kexec_loaded", "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
  ]
  /// Paths whose existence is checked.
  private static let others = [
    "/proc/sys/kernel", "/sys/module", "/sys/kernel", "/sys/kernel/mm",
  ]

  /// Decodes `fields`: pairs of a path and the contents, or of "" and a path that exists.
  package init(fields: [String]) {
    for index in stride(from: 0, to: fields.count - 1, by: 2) {
      if fields[index].isEmpty {
        present.insert(fields[index + 1])
      } else {
        contents[fields[index]] = fields[index + 1]
      }
    }
  }

  var fields: [String] {
    contents.flatMap { [$0.key, $0.value] } + present.flatMap { ["", $0] }
  }

  /// - Parameter root: the directory that holds /proc, /sys and /boot; for tests.
  package static func read(root: String = "") -> HostFiles {
    var host = HostFiles(fields: [])
    func add(_ path: String, limit: Int = 65536) {
      host.contents[path] = ProcessFacts.readText(root + path, limit: limit)
    }
    for path in files { add(path) }
    for path in files + others where (try? Files.status(root + path)) != nil {
      host.present.insert(path)
    }
    // Names from the kernel become part of a path: allow one component only.
    func component(_ text: Substring?) -> String? {
      guard let name = text?.split(separator: "/").last, !name.hasPrefix(".") else { return nil }
      return String(name)
    }
    if let release = component(host["/proc/sys/kernel/osrelease"]?.split(separator: "\n").first) {
      add("/boot/config-\(release)", limit: 4 << 20)
    }
    for line in (host["/proc/swaps"] ?? "").split(separator: "\n").dropFirst().prefix(64) {
      guard let name = component(line.split(whereSeparator: \.isWhitespace).first) else { continue }
      add("/sys/class/block/\(name)/dm/uuid")
    }
    return host
  }

  /// The contents of a file; nil if it cannot be read.
  package subscript(path: String) -> String? { contents[path] }
  /// Whether a path of the list exists.
  package func exists(_ path: String) -> Bool { present.contains(path) }
}
