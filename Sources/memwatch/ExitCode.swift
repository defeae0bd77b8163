// The exit codes, in the order of the manual.

import ArgumentParser
import MemwatchInspector

enum Exit {
  static let failure: Int32 = 1
  static let noPublisher: Int32 = 2
  static let notPermitted: Int32 = 3
  static let corrupt: Int32 = 4
  static let exited: Int32 = 5
  static let checkFailed: Int32 = 6
  static let incompatible: Int32 = 7
  static let inconsistent: Int32 = 8
  static let several: Int32 = 9
  static let replaced: Int32 = 10
  static let exec: Int32 = 11
  static let usage: Int32 = 64

  /// Their meanings, for help and manual.
  static let meanings: [(code: Int32, meaning: String)] = [
    (0, "fine"),
    (failure, "memwatch failed: disk full, file exists, unusable directory or terminal"),
    (noPublisher, "no publisher"), (notPermitted, "not permitted"), (corrupt, "corrupt page"),
    (exited, "the process exited (its last page is still printed)"),
    (checkFailed, "a check failed"), (incompatible, "incompatible page version"),
    (inconsistent, "no consistent snapshot: stopped mid-update, detached or unlinked"),
    (several, "several publishers match"), (replaced, "replaced by another process"),
    (exec, "the process runs another program (exec), which does not publish"),
    (usage, "invalid option or argument"),
    (125, "run: memwatch could not start the command"),
    (126, "run: the command is not executable"), (127, "run: the command was not found"),
    (130, "ended by SIGINT, as reported by a shell"),
    (143, "ended by SIGTERM, as reported by a shell; the way to stop record and export"),
  ]

  static func code(for state: PublisherState) -> Int32 {
    switch state {
    case .live, .stopped: 0
    case .midUpdate, .detached, .unlinked: inconsistent
    case .exited: exited
    case .exec: exec
    case .replaced: replaced
    case .incompatible: incompatible
    case .notPermitted: notPermitted
    case .corrupt: corrupt
    }
  }
}

/// A message for standard error, and an exit code.
struct Failure: Error {
  var code: Int32
  var message: String

  init(_ code: Int32, _ message: String) {
    self.code = code
    self.message = message
  }

  init(_ failure: AttachFailure) {
    switch failure {
    case .none(_, let places) where places.contains(where: \.hasFailed):
      let outcomes = places.filter(\.hasFailed).map(\.outcome.string)
      self.init(
        Exit.failure, "cannot search for pages: " + outcomes.joined(separator: "; "))
    case .none(let target, let places):
      var lines: [String]
      switch target {
      case .pid(let pid):
        let absence = ProcessProbe(pid: pid, countingMaps: false).absence(of: pid)
        lines = [absence ?? "process \(pid) publishes no stats page"]
      case .file(let path): lines = ["no page at \(SafeText(path))"]
      case .name: lines = ["no process publishes a stats page as \(target.text)"]
      case .only: lines = ["no process publishes a stats page"]
      }
      lines += places.map { "  searched \($0.path): \($0.outcome)" }
      if case .name(let name) = target { lines += Suggestion.lines(for: name) }
      lines.append(
        "A program publishes after StatsPublisher.start() (in C: enclave_publish_start()), or with "
          + "ENCLAVE_STATS=1.")
      self.init(Exit.noPublisher, lines.joined(separator: "\n"))
    case .notPermitted(let target, let places):
      let denied = places.filter(\.isDenied).map { "  \($0.path): \($0.outcome)" }
      self.init(
        Exit.notPermitted,
        (["not permitted to read \(target.text)"] + denied
          + [
            Console.isRoot
              ? "This is root without the host's capabilities SYS_PTRACE and DAC_READ_SEARCH: "
                + "run memwatch as that user, or outside the container."
              : "Run memwatch as that user, or as root."
          ]).joined(separator: "\n"))
    case .several(let publishers):
      let rows = publishers.map {
        ["  " + ($0.pid.map { "\($0)" } ?? "?"), $0.name.string, SafeText($0.path).string]
      }
      self.init(
        Exit.several,
        (["several publishers match; choose one by pid:"] + table(rows)).joined(separator: "\n"))
    case .unreadable(let publisher):
      self.init(
        Exit.code(for: publisher.state),
        "the page \(SafeText(publisher.path)) is \(publisher.state.rawValue): "
          + (publisher.stateDetail ?? "it cannot be read"))
    }
  }
}

extension Failure {
  /// Writes the message to standard error.
  func report() {
    Output.error("memwatch: " + message)
  }
}
