// `memwatch demo` and `memwatch run`: start a command, attach, show, end.

import ArgumentParser
import MemwatchInspector
import MemwatchTerminal

struct Demo: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Starts a sample process, shows it, and ends it on quit.")

  @OptionGroup var screen: ScreenFlags
  @Option(name: .long, help: "Seed of the sample process; the same seed gives the same run.")
  var seed: UInt64 = 1
  @Flag(name: [.customShort("1"), .long], help: "Print a text summary, even on a terminal.")
  var once = false

  func run() throws {
    let directory = Console.programDirectory
    // The demo has another name when it is built as a tool of memwatch. Installed, it is no command.
    let names = ["enclave-demo", "enclave-demo-tool", "../libexec/memwatch/enclave-demo"].map {
      directory + "/" + $0
    }
    guard let program = names.first(where: Console.isExecutable) else {
      throw Failure(
        Exit.failure,
        "enclave-demo not found in \(SafeText(directory)) or ../libexec/memwatch relative to it")
    }
    let session = try Session(
      [program, "--seed", "\(seed)"], publishing: false, underScreen: Screen.isPossible && !once,
      name: "demo")
    try session.show(
      screen, endsWithScreen: true, writesLines: !once && Screen.withoutCursor != nil)
  }
}

struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Starts a command that publishes, and shows it.",
    discussion: """
      The command runs with ENCLAVE_STATS=1. With a screen, its input is /dev/null, and its output \
      goes to a log file, which has a view of its own and is named at the end. Without a screen, \
      signals that other processes send to memwatch go to the command, and memwatch ends with it.

      With --adopt, a program that does not use Enclave shows what its libraries keep in secure \
      memory: libsodium's sodium_malloc, OpenSSL's secure heap (which holds private keys) and \
      libgcrypt's secure memory, each in an arena named after the library. libenclave-adopt.so is \
      preloaded (LD_PRELOAD). The loader preloads nothing into programs that are static, set-user-ID \
      or have file capabilities, so such programs are not started. Child processes inherit the \
      arenas, so --check without --require does not require fork-safe.
      """)

  @OptionGroup var screen: ScreenFlags
  @OptionGroup var requirements: Requirements
  @Flag(
    name: .long,
    help:
      "No screen: check until the command ends, and exit with 6 if a requirement was ever broken.")
  var check = false
  @Flag(
    name: .long,
    help: "Put the secure memory of its libraries into arenas, without changing the program.")
  var adopt = false
  @Argument(parsing: .postTerminator, help: "The command and its arguments, after --.")
  var command: [String] = []

  func validate() throws {
    if command.isEmpty { throw ValidationError("Give a command after --.") }
    if !check, requirements.policy != nil || !requirements.lists.isEmpty {
      throw ValidationError("--require and --policy need --check.")
    }
  }

  func run() throws {
    // Before the command exists, so that none of its signals is lost.
    if check || !Screen.isPossible { try Console.blockSignals() }
    if check {
      var watchdog = Watchdog(try requirements.resolved(adopting: adopt))
      let session = try Session(
        command, publishing: true, adopting: adopt, underScreen: false, name: "run")
      let end: Confined.End
      do {
        end = try Confined.run(Prerequisites(command: session.command)) { _ in
          throw ExitCode(
            watchdog.watch(session.command, everyMs: min(screen.interval.milliseconds, 250)))
        }
      } catch {
        session.command.end()
        throw error
      }
      session.command.waitForEnd()
      throw ExitCode(end.code)
    }
    let session = try Session(
      command, publishing: true, adopting: adopt, underScreen: Screen.isPossible, name: "run")
    try session.show(screen, endsWithScreen: false, writesLines: Screen.withoutCursor != nil)
  }
}

extension Snapshot {
  fileprivate var hasSecrets: Bool { arenas.contains { ($0.secretCount ?? 0) > 0 } }
  fileprivate var ifLive: Snapshot? { process.state == .live ? self : nil }
}

/// A started command, and the publisher found among it and its descendants.
struct Session {
  let command: Command

  init(
    _ arguments: [String], publishing: Bool, adopting: Bool = false, underScreen: Bool,
    name: String
  ) throws(Failure) {
    do throws(CommandFailure) {
      let environment =
        adopting
        ? try Adoption.environment(for: arguments, programDirectory: Console.programDirectory) : [:]
      command = try Command.start(
        arguments, publishing: publishing, detached: underScreen, name: name,
        environment: environment)
    } catch { throw Failure(error.code, error.message) }
  }

  /// Shows the screen in a confined process; ends the command in this one.
  func show(_ flags: ScreenFlags, endsWithScreen: Bool, writesLines: Bool) throws {
    let needs = Prerequisites(
      named: command.logPath.map { [$0] } ?? [], screen: command.isDetached ? flags.settings : nil,
      command: command, endsCommand: endsWithScreen)
    let end: Confined.End
    do {
      end = try Confined.run(needs) { viewer in
        try runConfined(viewer, endsWithScreen: endsWithScreen, lines: writesLines ? flags : nil)
      }
    } catch {
      command.end()
      throw error
    }
    if endsWithScreen || end.code != 0 {
      if command.poll() == nil { command.end() }
      if endsWithScreen, end.code == 0 { command.removeLog() }
      throw ExitCode(end.code)
    }
    guard command.isDetached else {
      command.waitForEnd()
      throw ExitCode(command.status ?? 0)
    }
    if let log = command.logPath {
      Output.error("memwatch: the command's output: \(SafeText(log))")
    }
    if command.poll() == nil {
      if end.leavesRunning {
        Output.error("memwatch: process \(command.pid) keeps running")
        return
      }
      command.end()
    }
    throw ExitCode(command.status ?? 0)
  }

  /// - Parameter lines: writes changes as lines, for terminals without a screen.
  private func runConfined(_ viewer: Viewer, endsWithScreen: Bool, lines: ScreenFlags?) throws {
    let child = Screen.Child(
      pid: command.pid, output: { command.tail(5000) }, status: { command.poll() })
    // The demo publishes at once; any other command at any time, or never.
    let hasScreen = command.isDetached && lines == nil
    var found = command.waitForPublisher(
      milliseconds: endsWithScreen ? 10_000 : hasScreen ? 300 : 10_000)
    if found == nil, !endsWithScreen, command.mayPublish {
      if hasScreen {
        let wait = Screen.Wait(
          what: "process \(command.pid) to publish", find: command.publisher,
          canStillAppear: { command.mayPublish })
        if try !viewer.show(.waiting(wait), auditing: true, child: child) { reportNoPublisher() }
        return
      }
      Output.error("memwatch: no publisher within 10 s; the command keeps running")
      while found == nil, command.mayPublish {
        found = command.waitForPublisher(milliseconds: 1000)
      }
    }
    guard let inspector = found else {
      guard endsWithScreen else { return reportNoPublisher() }
      throw Failure(Exit.noPublisher, noPublisherMessage)
    }
    if let lines {
      ChangeLines.begin()
      let end = try ChangeLines.follow(inspector, lines)
      if endsWithScreen { throw ExitCode(Exit.code(for: end)) }
      return
    }
    guard command.isDetached else {
      // A program that has just begun to publish shows more once it has allocated something.
      // If it ends meanwhile, what it last showed counts.
      var snapshot = inspector.sample(auditing: .now)
      var tries = 0
      while !snapshot.hasSecrets, tries < 40, command.poll() == nil {
        Exiting.pause(milliseconds: 50)
        snapshot = inspector.sample(auditing: .never).ifLive ?? snapshot
        tries += 1
      }
      if tries > 0 { snapshot = inspector.sample(auditing: .now).ifLive ?? snapshot }
      try Output.standard(snapshot.summary)
      if endsWithScreen { throw ExitCode(Exit.code(for: snapshot.process.state)) }
      return
    }
    try viewer.show(.attached(inspector), auditing: true, child: endsWithScreen ? nil : child)
  }
  private func reportNoPublisher() { Output.error("memwatch: " + noPublisherMessage) }

  /// The message that the command did not publish, with the end of its output.
  private var noPublisherMessage: String {
    let tail = command.tail(10).map { "  " + $0 }
    let log = command.logPath.map { "; its output: \(SafeText($0))" } ?? ""
    let what =
      command.mayPublish
      ? "no publisher within 10 s" : "the command ended before memwatch saw it publish"
    return ([what + log] + tail).joined(separator: "\n")
  }
}
