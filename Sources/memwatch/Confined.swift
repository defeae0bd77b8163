// Each command reads in a confined process. The first process keeps its privileges and opens what
// the confined one asks for.

import ArgumentParser
import MemwatchInspector
import MemwatchSandbox
import MemwatchTerminal

/// What must be opened before the sandbox closes.
struct Prerequisites {
  /// Paths from the command line.
  var named: [String] = []
  /// The only directory where files can be created.
  var exports = "."
  /// The only file that can be replaced.
  var replaced: ReplaceableFile?
  /// Settings of the screen, if there is to be one.
  var screen: ScreenSettings?
  /// The command that was started.
  var command: Command?
  /// Whether the command ends with this process, whatever the reason.
  var endsCommand = false
}

/// What the confined process works with.
struct Viewer {
  private let client: BrokerClient
  let confinement: Confinement
  private let prepared: Result<Screen.Prepared, ScreenFailure>?
  private let hasAlertProgram: Bool

  fileprivate init(
    _ client: BrokerClient, _ confinement: Confinement,
    _ prepared: Result<Screen.Prepared, ScreenFailure>?, hasAlertProgram: Bool
  ) {
    self.hasAlertProgram = hasAlertProgram
    self.client = client
    self.confinement = confinement
    self.prepared = prepared
  }

  /// The host's settings, and the confinement of this process.
  var host: Host { Host().with(sandbox: confinement.mechanisms, missing: confinement.missing) }

  /// A warning if the sandbox is incomplete.
  fileprivate var incomplete: String? {
    confinement.isComplete
      ? nil : "the sandbox is incomplete: " + confinement.missing.joined(separator: "; ")
  }

  /// See `BrokerClient.takeMissedFiles`.
  func takeMissedFiles() -> Int { client.takeMissedFiles() }

  /// Replaces the file that this command may replace.
  func replace(_ path: String, with text: String) throws(Failure) {
    if let message = client.replaceFile(path, with: text) {
      throw Failure(Exit.failure, message)
    }
  }

  /// Asks the broker to save settings: it gets columns by number, and no text.
  private func save(_ settings: SavedSettings) -> String? {
    let (first, second) = settings.words
    switch client.ask(OtherRequest.saveSettings.rawValue | second << 8, first) {
    case 0: return nil
    case let answer?: return "cannot save the config file: \(errnoName(Int32(clamping: answer)))"
    case nil: return "cannot save the config file"
    }
  }

  /// Runs the screen, and turns its end into an exit code.
  ///
  /// - Returns: false if the awaited publisher did not appear.
  @discardableResult
  func show(_ start: Screen.Start, auditing: Bool, child: Screen.Child? = nil) throws -> Bool {
    guard let prepared else { throw Failure(Exit.failure, "no screen was prepared") }
    let ready: Screen.Prepared
    do { ready = try prepared.get() } catch { throw Failure(Exit.failure, error.message) }
    let end = Screen.run(
      start, on: ready, audits: auditing, child: child, write: write,
      recorder: record, save: save, host: { host },
      notice: incomplete,
      alert: { kind, arena in
        let number = ProblemKind.allCases.firstIndex(of: kind)!
        _ = client.ask(OtherRequest.alert.rawValue | UInt64(number) << 8, arena ?? .max)
      },
      alertFailure: {
        switch hasAlertProgram ? client.ask(OtherRequest.alertFailure.rawValue) : 0 {
        case 127: "program not found"
        case 126: "the program is not executable"
        case 125: "the program could not be started"
        default: nil
        }
      })
    if end.leaveRunning { _ = client.ask(OtherRequest.leave.rawValue) }
    if child == nil, let state = end.lastState, Exit.code(for: state) != 0 {
      Output.error("memwatch: the publisher was \(state.rawValue) when the screen ended")
      throw ExitCode(Exit.code(for: state))
    }
    return !end.publisherDidNotAppear
  }
}

/// Starts a recording for the screen.
private func record(_ path: String) -> Result<(Snapshot) -> String?, ScreenFailure> {
  do throws(Failure) {
    let recording = try Recording(path)
    return .success { snapshot in
      do throws(Failure) { try recording.add(snapshot) } catch { return error.message }
      return nil
    }
  } catch { return .failure(ScreenFailure(message: error.message)) }
}

/// Requests to the broker that are not for files.
private enum OtherRequest: UInt64 {
  case status, hasDescendants, leave, alert, alertFailure, saveSettings
}

protocol ConfinedCommand: ParsableCommand {
  var needs: Prerequisites { get }
  /// Runs in the confined process; an error becomes its exit code.
  func runConfined(_ viewer: Viewer) throws
}

extension ConfinedCommand {
  func run() throws { throw ExitCode(try Confined.run(needs, runConfined).code) }
}

enum Confined {
  struct End {
    var code: Int32
    /// The command is to keep running.
    var leavesRunning = false
  }

  /// Runs a body in a confined process and returns its exit code.
  static func run(
    _ needs: Prerequisites, _ body: (Viewer) throws -> Void
  ) throws(Failure) -> End {
    let runner = needs.screen?.onAlert.map { AlertRunner(program: $0) }
    defer { runner?.end() }
    let keeper = needs.screen == nil ? nil : Screen.TerminalRestorer()
    var leaves = false
    let end: Broker.End
    var broker = Broker(named: needs.named, exportsTo: needs.exports, replacing: needs.replaced)
    if needs.replaced != nil, let failure = broker.exportsFailure {
      throw Failure(Exit.failure, SafeText("\(failure)").string)
    }
    do throws(SandboxFailure) {
      end = try broker.run(
        prepare: {
          needs.screen.map { settings in
            Result { () throws(ScreenFailure) in try Screen.prepare(settings) }
          }
        },
        body: { (prepared, client, confinement) in
          finish {
            if let command = needs.command { watch(command, client) }
            let viewer = Viewer(
              client, confinement, prepared, hasAlertProgram: needs.screen?.onAlert != nil)
            if let text = viewer.incomplete, prepared == nil { Output.error("memwatch: " + text) }
            try body(viewer)
          }
        },
        other: { kind, detail in
          switch OtherRequest(rawValue: kind & 0xff) {
          case .status: return needs.command?.poll().map { Int64($0) } ?? -1
          case .hasDescendants: return needs.command?.hasDescendants ?? false ? 1 : 0
          case .leave: leaves = true
          case .alert:
            runner?.add(kind: Int(kind >> 8), arenaID: detail == .max ? nil : detail)
          case .alertFailure: return Int64(runner?.failure ?? 0)
          case .saveSettings:
            guard needs.screen != nil, let settings = SavedSettings(words: (detail, kind >> 8))
            else { return 22 }  // EINVAL
            return Int64(ConfigurationFile.save(settings))
          case nil: return -1
          }
          return 0
        },
        grace: needs.screen == nil ? nil : 1000,
        tick: runner.map { runner in { runner.poll() } },
        // Without a screen, memwatch is only a wrapper of the command.
        takingSignals: needs.command.flatMap { command in
          command.isDetached || needs.endsCommand ? nil : { command.take($0) }
        })
    } catch { throw Failure(Exit.failure, "sandbox: \(error.message)") }
    switch end {
    case .exited(let code): return End(code: code, leavesRunning: leaves)
    case .overdue(let signal):
      keeper?.restore()
      return End(code: 128 + signal)
    case .killed(let signal):
      keeper?.restore()
      // Signals from a user, a timer or the system end this process, too; any other signal is a
      // crash.
      if Self.requests.contains(signal) {
        // The terminal sent SIGINT and SIGQUIT to the command as well.
        if needs.endsCommand || signal == 15 || signal == 1 { needs.command?.end() }
        end.repeatSignal()
      }
      if signal == 24 {  // SIGXCPU
        needs.command?.end()
        throw Failure(
          Exit.failure, "RLIMIT_CPU (ulimit -t) or RLIMIT_RTTIME (ulimit -R) is exhausted")
      }
      let ended = "the process that reads and draws ended by signal \(signal)"
      if signal == 9 {
        throw Failure(
          Exit.failure,
          "\(ended): it was killed, memory ran out (see dmesg), or the hard RLIMIT_CPU was reached"
        )
      }
      if let limits = Console.memoryLimits {
        throw Failure(
          Exit.failure, "\(ended); \(limits), which may be too low: raise it, or report this")
      }
      throw Failure(Exit.failure, "\(ended); please report it")
    }
  }

  /// SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGVTALRM,
  /// SIGPROF, SIGIO and SIGPWR.
  private static let requests: Set<Int32> = [1, 2, 3, 10, 12, 13, 14, 15, 16, 26, 27, 29, 30]

  /// The confined process cannot wait for the command; the broker does.
  private static func watch(_ command: Command, _ client: BrokerClient) {
    command.setStatusSource(
      status: {
        let status = client.ask(OtherRequest.status.rawValue) ?? 127
        return status < 0 ? nil : Int32(clamping: status)
      },
      hasDescendants: { client.ask(OtherRequest.hasDescendants.rawValue) == 1 })
  }
}

/// Runs a body that may fail, and exits with its code.
func finish(_ body: () throws -> Void) -> Never {
  do {
    try body()
    Exiting.now(0)
  } catch let failure as Failure {
    failure.report()
    Exiting.now(failure.code)
  } catch let code as ExitCode {
    Exiting.now(code.rawValue)
  } catch {
    if let reason = Suggestion.reason(for: Memwatch.message(for: error)) {
      Output.error("memwatch: " + reason)
    }
    Memwatch.exit(withError: error)
  }
}
