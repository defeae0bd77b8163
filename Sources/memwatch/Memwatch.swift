// The command.

import ArgumentParser
import MemwatchInspector
import MemwatchTerminal

@main
struct Memwatch: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "memwatch",
    abstract: "Shows the locked memory of a running process: arenas, locks, gates, headroom.",
    discussion: """
      TARGET is a process id or the name that a program publishes. Without it, the screen starts with \
      a list of publishers; other commands use the only publisher there is.

      Exit codes: \(Exit.meanings.map { "\($0.code) \($0.meaning)" }.joined(separator: "; ")).

      memwatch never shows the contents of secrets, and never opens another process's memory.

      \(Examples.text())
      """,
    version: packageVersion,
    subcommands: [
      Watch.self, List.self, SnapshotCommand.self, AuditCommand.self, Check.self, HostCommand.self,
      Diff.self, Record.self, Replay.self, ExportCommand.self, Demo.self, Run.self, Manual.self,
    ],
    defaultSubcommand: Watch.self)

  static func main() {
    Screen.prepareStreams()
    Console.prepareText()
    Console.surviveFileLimit()
    finish {
      try Suggestion.checkHelp(Array(CommandLine.arguments.dropFirst()))
      var command = try parseAsRoot()
      try command.run()
    }
  }
}

struct TargetOptions: ParsableArguments {
  @Argument(help: "A process id, or the name that a program publishes.")
  var target: String?

  @Option(name: .long, help: ArgumentHelp("Attach to the page at this path.", valueName: "path"))
  var file: String?

  @Option(
    name: [.long, .customShort("W")],
    help: ArgumentHelp("Wait up to this long for the publisher: 10s, 500ms, 2m.", valueName: "time")
  )
  var wait: Time?

  var resolved: Target {
    if let file { return .file(file) }
    guard let target else { return .only }
    // `007` and `+7` are names, not pids.
    if let pid = Int32(target), pid > 0, "\(pid)" == target { return .pid(pid) }
    return .name(target)
  }

  var named: [String] { file.map { [$0] } ?? [] }

  func validate() throws {
    if target != nil, file != nil {
      throw ValidationError("Give a TARGET or --file, not both.")
    }
  }

  /// For people.
  var text: String {
    SafeText(file ?? target ?? "a publisher").string
  }

  /// Attaches; waits for the publisher as long as `--wait` allows.
  func attach(waiting: Bool = true) throws(Failure) -> Inspector {
    let deadline = Console.milliseconds + UInt64(waiting ? wait?.milliseconds ?? 0 : 0)
    while true {
      do { return try Inspector.attach(to: resolved) } catch {
        switch error {
        case .none, .notPermitted:
          guard Console.milliseconds < deadline else { throw Failure(error) }
          Exiting.pause(milliseconds: 50)
        case .several, .unreadable: throw Failure(error)
        }
      }
    }
  }
}

/// A duration on the command line: `1s`, `500ms`, `2m`. A number without a unit is an error.
struct Time: ExpressibleByArgument {
  var milliseconds: Int

  init(milliseconds: Int) { self.milliseconds = milliseconds }

  private static let factors = ["ms": 1.0, "s": 1000, "m": 60_000, "h": 3_600_000]

  /// As it is typed: `1s`, `500ms`.
  var defaultValueDescription: String {
    milliseconds % 1000 == 0 ? "\(milliseconds / 1000)s" : "\(milliseconds)ms"
  }

  // (The compiler's code for a loop over pairs of unit and factor was not the same in each build.)
  init?(argument: String) {
    let unit = String(argument.reversed().prefix(while: \.isLetter).reversed())
    guard let factor = Self.factors[unit], let number = Double(argument.dropLast(unit.count)),
      number >= 0, number < 1e6
    else { return nil }
    milliseconds = Int(number * factor)
  }
}

struct AuditFlag: ParsableArguments {
  @Flag(
    name: .customLong("no-audit"),
    help: "Do not compare the page with the mappings of the process (reading them stalls it).")
  var isOff = false

  func mode(_ mode: Inspector.Auditing) -> Inspector.Auditing { isOff ? .never : mode }
}

struct ScreenFlags: ParsableArguments {
  @Option(
    name: [.customLong("interval"), .customShort("i")],
    help: ArgumentHelp("Sampling interval: 1s, 500ms (default: 1s).", valueName: "time"))
  var givenInterval: Time?

  @Flag(name: .long, help: "Draw with ASCII characters only.")
  var ascii = false

  @Flag(name: .customLong("no-color"), help: "Disable colours (like NO_COLOR in the environment).")
  var noColor = false

  @Flag(name: .long, help: "Ring the bell at each alert.")
  var bell = false

  @Flag(
    name: .customLong("mouse"), inversion: .prefixedNo,
    help: "Select, sort and scroll with the mouse; the terminal's own selection then needs Shift.")
  var givenMouse: Bool?

  @Option(
    name: .customLong("open-limit"),
    help: ArgumentHelp(
      "Warn about windows that stay open longer than this (default: 60s).", valueName: "time"))
  var givenOpenLimit: Time?

  @Option(
    name: .customLong("on-alert"),
    help: ArgumentHelp(
      "Run a program at each alert, one at a time and without a shell, with the kind and the "
        + "arena's id as arguments.", valueName: "program"))
  var onAlert: String?

  /// The command line overrides the configuration file.
  var interval: Time {
    givenInterval ?? Time(milliseconds: ConfigurationFile.settings.intervalMs ?? 1000)
  }
  var openLimit: Time {
    givenOpenLimit
      ?? Time(milliseconds: Int(clamping: ConfigurationFile.settings.openLimitMs ?? 60_000))
  }

  func validate() throws {
    // (Also reads the file while it can still be opened.)
    guard (50...3_600_000).contains(interval.milliseconds) else {
      throw ValidationError("--interval must be between 50ms and 1h.")
    }
  }

  var settings: ScreenSettings {
    let file = ConfigurationFile.settings
    var settings = ScreenSettings(
      intervalMs: interval.milliseconds, forceASCII: ascii,
      useColor: !noColor && file.useColor ?? true)
    (settings.rings, settings.onAlert) = (bell, onAlert)
    settings.usesMouse = givenMouse ?? file.usesMouse ?? true
    settings.openLimitMs = UInt64(openLimit.milliseconds)
    settings.configuration = file
    settings.notice = ConfigurationFile.notice
    return settings
  }
}

struct Watch: ConfinedCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Shows the screen (the default), or a text summary if the output is not a terminal.")

  @OptionGroup var target: TargetOptions
  @OptionGroup var screen: ScreenFlags
  @Flag(name: [.customShort("1"), .long], help: "Print a text summary, even on a terminal.")
  var once = false
  @Flag(
    name: .customLong("screen-reader"),
    help:
      "Print a line for each change instead of the screen, until the process ends. (The default on a terminal that cannot place its cursor, such as TERM=dumb.)"
  )
  var writesLines = false
  @OptionGroup var audit: AuditFlag

  private var isScreen: Bool { !writesLines && !once && Screen.isPossible }

  var needs: Prerequisites {
    Prerequisites(named: target.named, screen: isScreen ? screen.settings : nil)
  }

  func runConfined(_ viewer: Viewer) throws {
    if writesLines || !once && Screen.withoutCursor != nil {
      if !writesLines { ChangeLines.begin() }
      let end = try ChangeLines.follow(
        target.attach(), screen, auditing: audit.mode(.automatic))
      throw ExitCode(Exit.code(for: end))
    }
    guard isScreen else {
      let snapshot = try target.attach().sample(auditing: audit.mode(.now))
      try Output.standard(snapshot.summary)
      throw ExitCode(Exit.code(for: snapshot.process.state))
    }
    // Without a name, the list of processes comes first: there may be several, and one may be new.
    if target.target == nil, target.file == nil, target.wait == nil {
      try viewer.show(.picking, auditing: !audit.isOff)
      return
    }
    let start: Screen.Start
    do throws(Failure) {
      start = .attached(try target.attach(waiting: false))
    } catch {
      if error.code == Exit.noPublisher || error.code == Exit.notPermitted,
        let wait = target.wait
      {
        return try show(waitingFor: wait, since: error, on: viewer)
      }
      throw error
    }
    try viewer.show(start, auditing: !audit.isOff)
  }

  /// Shows the screen while waiting for the publisher.
  private func show(waitingFor time: Time, since first: Failure, on viewer: Viewer) throws {
    var failure = first
    var isOver = false
    let deadline = Console.milliseconds + UInt64(time.milliseconds)
    let wait = Screen.Wait(
      what: target.text,
      find: {
        do throws(Failure) { return try target.attach(waiting: false) } catch {
          failure = error
          isOver = error.code != Exit.noPublisher && error.code != Exit.notPermitted
          return nil
        }
      }, canStillAppear: { !isOver && Console.milliseconds < deadline })
    if try !viewer.show(.waiting(wait), auditing: !audit.isOff) { throw failure }
  }
}

/// Writes a file for the screen. Returns an error message, or nil.
func write(_ export: Export, to path: String) -> String? {
  do throws(Failure) {
    let format = Format(path: path)
    switch export {
    case .everything(let snapshot): try Output.file(path, try format.render(snapshot))
    case .view(let view): try Output.file(path, try format.render(view))
    }
    return nil
  } catch { return error.message }
}

struct List: ConfinedCommand {
  static let configuration = CommandConfiguration(abstract: "Lists publishers.")

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  var needs: Prerequisites { Prerequisites() }

  func runConfined(_ viewer: Viewer) throws {
    let discovery = Discovery.run()
    let now = Console.now
    if json {
      try Output.standard(try Format.json(discovery.document(at: now)))
      if discovery.publishers.isEmpty { throw ExitCode(Exit.noPublisher) }
      return
    }
    guard !discovery.publishers.isEmpty else {
      throw Failure(.none(.only, discovery.places))
    }
    let rows = discovery.publishers.map {
      [
        $0.pid.map { "\($0)" } ?? "n/a", $0.name.string, Users.name($0.uid).string,
        $0.state.rawValue, $0.lastSeen(at: now), SafeText($0.path).string,
      ]
    }
    var lines = table([["PID", "NAME", "USER", "STATE", "LAST SEEN", "PAGE"]] + rows)
    let unread = discovery.places.filter { $0.result == .denied || $0.hasFailed }
    if !unread.isEmpty {
      lines += ["", "Not searched or opened; publishers may be missing:"]
      lines += unread.map { "  \($0.path): \($0.outcome)" }
    }
    try Output.standard(lines.joined(separator: "\n") + "\n")
  }
}

extension Format: ExpressibleByArgument {}

/// The views of one process.
enum ProcessView: String, CaseIterable, ExpressibleByArgument {
  case arenas, labels, map, events, audit, host, vaults, history
  var view: View { View(rawValue: rawValue)! }
}

struct SnapshotCommand: ConfinedCommand {
  static let configuration = CommandConfiguration(
    commandName: "snapshot",
    abstract: "Writes one snapshot: a summary, all fields, one view, JSON, CSV or a picture.",
    discussion: Examples.text(of: "snapshot"))

  @OptionGroup var target: TargetOptions
  @Option(
    name: .customLong("format"),
    help:
      "text, json, csv (one row per arena, or of the view) or svg (a picture of the screen); default: by the extension of the file, otherwise text."
  )
  var givenFormat: Format?
  @Flag(
    name: .long, help: "With text: every problem, arena, finding and field instead of a summary.")
  var full = false
  @Option(
    name: .long,
    help: "One view of the screen, in any format; without it, svg draws the arenas.")
  var view: ProcessView?
  @Flag(name: .customLong("no-labels"), help: "Replace labels with numbers.")
  var hidesLabels = false
  @Option(
    name: .shortAndLong,
    help: ArgumentHelp(
      "Write to a new file (mode 0600, never overwritten) instead of standard output.",
      valueName: "file"))
  var output: String?
  @OptionGroup var audit: AuditFlag

  var needs: Prerequisites { Prerequisites(named: target.named, exports: directory(of: output)) }

  func validate() throws {
    if full, view != nil { throw ValidationError("--full and --view exclude each other.") }
  }

  private var format: Format { givenFormat ?? output.map { Format(path: $0) } ?? .text }

  func runConfined(_ viewer: Viewer) throws {
    let inspector = try target.attach()
    var snapshots = [inspector.sample(auditing: audit.mode(.now))]
    if format == .svg || view != nil {
      // Rates need two samples; the history needs more.
      for _ in 0..<(view == .history ? 8 : 1) {
        Exiting.pause(milliseconds: view == .history ? 250 : 500)
        snapshots.append(inspector.sample(auditing: audit.mode(.automatic)))
      }
    }
    if hidesLabels { snapshots = snapshots.map(\.withoutLabels) }
    let snapshot = snapshots[snapshots.count - 1]
    let text: String
    if format == .svg {
      text = Screen.picture(
        of: snapshots, view: view?.view ?? .arenas, host: viewer.host, width: 100, height: 30)
    } else if let view {
      text = try format.render(
        Screen.export(of: snapshots, view: view.view, host: viewer.host))
    } else {
      text = format == .text && !full ? snapshot.summary : try format.render(snapshot)
    }
    if let output { try Output.file(output, text) } else { try Output.standard(text) }
    throw ExitCode(Exit.code(for: snapshot.process.state))
  }
}
