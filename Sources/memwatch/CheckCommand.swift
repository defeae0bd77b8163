// `memwatch check`: requirements of a test suite or a deployment, answered by an exit code.

import ArgumentParser
import MemwatchInspector

struct Requirements: ParsableArguments {
  @Option(
    name: .customLong("require"),
    help: ArgumentHelp(
      "Requirements, separated by commas: \(Requirement.forms.joined(separator: ", ")). "
        + "Default: \(Requirement.usual.map(\.text).joined(separator: ", ")).",
      valueName: "list"))
  var lists: [String] = []

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Read requirements from a file, one per line; # starts a comment.", valueName: "file"))
  var policy: String?

  /// - Parameter adopting: children of an adopted program have its secrets on purpose.
  func resolved(adopting: Bool = false) throws(Failure) -> [Requirement] {
    var texts = lists.flatMap { $0.split(separator: ",").map { String($0) } }
    if let policy {
      guard let lines = Console.lines(of: policy) else {
        throw Failure(Exit.usage, "cannot read the policy file \(SafeText(policy))")
      }
      for line in lines {
        let text = line.prefix { $0 != "#" }.trimmed
        if !text.isEmpty { texts.append(text) }
      }
      if texts.isEmpty {
        throw Failure(Exit.usage, "the policy file \(SafeText(policy)) contains no requirements")
      }
    }
    if texts.isEmpty {
      return adopting ? Requirement.usual.filter { $0.kind != .forkSafe } : Requirement.usual
    }
    var all: [Requirement] = []
    for text in texts {
      do throws(Requirement.Mistake) { all.append(try Requirement(text.trimmed)) } catch {
        throw Failure(Exit.usage, error.explanation(of: text.trimmed))
      }
    }
    return all
  }
}

extension StringProtocol {
  /// Without leading and trailing spaces.
  fileprivate var trimmed: String {
    var rest = self[...]
    while rest.first?.isWhitespace ?? false { rest.removeFirst() }
    while rest.last?.isWhitespace ?? false { rest.removeLast() }
    return String(rest)
  }
}

struct Check: ConfinedCommand {
  static let configuration = CommandConfiguration(
    abstract: "Checks requirements; exits with 6 if one is broken or cannot be checked.",
    discussion: """
      A requirement that the page claims but the kernel cannot confirm is marked `(claimed)`.
      """)

  @OptionGroup var target: TargetOptions
  @OptionGroup var requirements: Requirements
  @Flag(name: .long, help: "Print JSON.")
  var json = false

  var needs: Prerequisites {
    Prerequisites(named: target.named + (requirements.policy.map { [$0] } ?? []))
  }

  func runConfined(_ viewer: Viewer) throws {
    let wanted = try requirements.resolved()
    let snapshot = try target.attach().sample(auditing: .now)
    let state = Exit.code(for: snapshot.process.state)
    if state != 0 {
      throw Failure(
        state, "the publisher is \(snapshot.process.state.rawValue): nothing can be checked")
    }
    let outcomes = snapshot.check(wanted)
    if json {
      try Output.standard(
        try Format.json(
          Value.document(
            .check,
            [
              ("pid", Value(snapshot.process.pid)),
              ("outcomes", .list(outcomes.map(\.document))),
              ("audit", snapshot.audit?.document ?? .null),
            ])))
    } else {
      try Output.standard(
        (table(outcomes.map(\.line)) + snapshot.findingLines).joined(separator: "\n") + "\n")
    }
    if outcomes.contains(where: { $0.word != .ok }) { throw ExitCode(Exit.checkFailed) }
  }
}

/// `memwatch run --check`: checks a command until it ends.
struct Watchdog {
  let requirements: [Requirement]
  /// The requirements that failed, as first seen.
  private(set) var broken: [CheckOutcome] = []
  /// The requirements that were unknown or not yet met at the last check.
  private var open: [CheckOutcome] = []
  private var held: Set<String> = []

  init(_ requirements: [Requirement]) { self.requirements = requirements }

  mutating func examine(_ snapshot: Snapshot) {
    guard snapshot.process.state == .live else { return }
    let outcomes = snapshot.check(requirements)
    held.formUnion(outcomes.filter { $0.word == .ok }.map(\.requirement.text))
    // An arena may take a while to meet a requirement; once it has, it must keep meeting it.
    open = outcomes.filter { outcome in
      outcome.word == .unknown
        || outcome.word == .broken && !outcome.requirement.name.isEmpty
          && !held.contains(outcome.requirement.text)
    }
    for outcome in outcomes
    where outcome.word == .broken && !outcome.isAbsent && !open.contains(outcome) {
      if !broken.contains(where: { $0.requirement == outcome.requirement }) {
        broken.append(outcome)
      }
    }
  }

  /// Watches until the command ends. Returns the exit code.
  mutating func watch(_ command: Command, everyMs interval: Int) -> Int32 {
    guard let inspector = command.waitForPublisher(milliseconds: 10_000) else {
      let what =
        command.poll() == nil
        ? "no publisher within 10 s" : "the command ended before memwatch saw it publish"
      command.waitForEnd()
      Output.error("memwatch: \(what): nothing was checked")
      return Exit.checkFailed
    }
    var isFirst = true
    while command.poll() == nil {
      examine(inspector.sample(auditing: isFirst ? .now : .automatic))
      isFirst = false
      Exiting.pause(milliseconds: UInt32(interval))
    }
    broken += open
    for line in table(broken.map(\.line)) { Output.error("memwatch: " + line) }
    return broken.isEmpty ? command.poll() ?? 0 : Exit.checkFailed
  }
}
