// What a fact about the host is of.

extension HostFact {
  package enum Kind: String, Sendable, CaseIterable {
    case swap
    case zswap
    case hibernation
    case coreDumps = "core-dumps"
    case setuidDumps = "setuid-dumps"
    case ptrace
    case processMemory = "proc-mem"
    case lockdown
    case perfEvents = "perf-events"
    case bpf = "unprivileged-bpf"
    case initOnFree = "init-on-free"
    case initOnAlloc = "init-on-alloc"
    case kexec
    case ksm
    case hugePages = "transparent-huge-pages"
    case ioUring = "io-uring"
    case userfaultfd
    case memlockLimit = "memlock-limit"
    case sandbox
  }

  package var name: String {
    switch kind {
    case .swap: "swap"
    case .zswap: "zswap"
    case .hibernation: "hibernation"
    case .coreDumps: "core dumps"
    case .setuidDumps: "dumps of setuid programs"
    case .ptrace: "ptrace"
    case .processMemory: "/proc/PID/mem"
    case .lockdown: "lockdown"
    case .perfEvents: "perf events"
    case .bpf: "unprivileged bpf"
    case .initOnFree: "init_on_free"
    case .initOnAlloc: "init_on_alloc"
    case .kexec: "kexec"
    case .ksm: "KSM"
    case .hugePages: "transparent huge pages"
    case .ioUring: "io_uring"
    case .userfaultfd: "userfaultfd"
    case .memlockLimit: "memlock limit here"
    case .sandbox: "memwatch's sandbox"
    }
  }
}

/// What a fact was read from.
package struct HostSetting: Equatable, Sendable {
  /// A file.
  package var source: String
  /// Its contents, or the one line or option of it; nil: not there, or not readable.
  package var value: String?
}

extension Host {
  package var document: Value {
    Value.document(
      .host,
      [
        ("facts", .list(facts.map(\.document))),
        (
          "notErased",
          .list(
            Self.notErased.map {
              .object([("message", .text($0.what)), ("advice", .text($0.helps))])
            })
        ),
      ])
  }
}

extension HostFact {
  fileprivate var document: Value {
    .object([
      ("kind", .text(kind.rawValue)), ("name", .text(name)),
      ("judgement", .text(judgement.rawValue)),
      (
        "settings",
        .list(
          settings.map {
            .object([
              ("source", .text($0.source)), ("value", $0.value.map { .text($0) } ?? .null),
            ])
          })
      ),
      ("message", .text(value)), ("meaningMessage", .text(meaning)), ("advice", Value(fix)),
    ])
  }
}
