// `memwatch record` and `memwatch replay`: samples in a file, one per line.

import ArgumentParser
import FoundationEssentials
import MemwatchInspector
import MemwatchTerminal

/// The schema named in a record's first line.
private let recordSchema = "memwatch-record/1"

struct Record: ConfinedCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes a sample at each interval to a new file, for replay.",
    discussion: """
      Records until the process ends, the time is over, or memwatch is interrupted. In each case the \
      file can be replayed. Secrets are recorded by label, not one by one. The file is for replay \
      only: its lines are not documents of the JSON schema.

      \(Examples.text(of: "record"))
      """)

  @OptionGroup var target: TargetOptions
  @Option(
    name: .shortAndLong,
    help: ArgumentHelp("The file to create (mode 0600, never overwritten).", valueName: "file"))
  var output: String
  @Option(
    name: [.long, .customShort("i")],
    help: ArgumentHelp("Sampling interval: 1s, 500ms.", valueName: "time"))
  var interval = Time(milliseconds: 1000)
  @Option(
    name: .customLong("for"), help: ArgumentHelp("Stop after this duration.", valueName: "time"))
  var duration: Time?
  @OptionGroup var audit: AuditFlag

  func validate() throws {
    guard (50...3_600_000).contains(interval.milliseconds) else {
      throw ValidationError("--interval must be between 50ms and 1h.")
    }
  }

  var needs: Prerequisites { Prerequisites(named: target.named, exports: directory(of: output)) }

  func runConfined(_ viewer: Viewer) throws {
    let inspector = try target.attach()
    let recording = try Recording(output)
    let end = duration.map { Console.milliseconds + UInt64($0.milliseconds) }
    while true {
      let snapshot = inspector.sample(auditing: audit.mode(.automatic), .all)
      try recording.add(snapshot)
      let code = Exit.code(for: snapshot.process.state)
      if snapshot.process.state == .exited { return }
      if code != 0, snapshot.process.state != .midUpdate { throw ExitCode(code) }
      if let end, Console.milliseconds >= end { return }
      Exiting.pause(milliseconds: UInt32(interval.milliseconds))
    }
  }
}

/// Writes a record: a line that names the schema, then one line per sample.
final class Recording {
  private let file: Console.GrowingFile
  private var last: Snapshot?

  init(_ path: String) throws(Failure) {
    do throws(ConsoleFailure) { file = try Console.GrowingFile(path) } catch {
      throw Failure(Exit.failure, error.message)
    }
    try write(Data("{\"schema\":\"\(recordSchema)\"}\n".utf8))
  }

  /// Records secrets by label, not individually; of the rest, only changes.
  func add(_ snapshot: Snapshot) throws(Failure) {
    let new = snapshot.summarizingSecrets
    let sample = RecordedSample(new, after: last)
    last = new
    guard var line = try? JSONEncoder().encode(sample) else {
      throw Failure(Exit.failure, "a sample could not be encoded")
    }
    line.append(UInt8(ascii: "\n"))
    try write(line)
  }

  private func write(_ line: Data) throws(Failure) {
    if let failure = file.append(Array(line)) { throw Failure(Exit.failure, failure) }
  }
}

struct Replay: ConfinedCommand {
  static let configuration = CommandConfiguration(
    abstract: "Replays a record on the screen: p pauses, . and , step, t jumps to a time.")

  @Argument(help: "A file written by memwatch record.")
  var file: String
  @OptionGroup var screen: ScreenFlags
  @Flag(
    name: [.customShort("1"), .long], help: "Print the last sample as text, even on a terminal.")
  var once = false
  @Flag(name: .long, help: "Print the last sample as text, with every problem, arena and field.")
  var full = false

  private var isScreen: Bool { !once && !full && Screen.isPossible }
  var needs: Prerequisites {
    Prerequisites(named: [file], screen: isScreen ? screen.settings : nil)
  }

  func runConfined(_ viewer: Viewer) throws {
    let snapshots = try read()
    if !once, !full, Screen.withoutCursor != nil {
      ChangeLines.begin()
      return try ChangeLines.write(snapshots)
    }
    guard isScreen else {
      let last = snapshots[snapshots.count - 1]
      return try Output.standard(full ? last.text : last.summary)
    }
    try viewer.show(.replay(snapshots), auditing: false)
  }

  private func read() throws(Failure) -> [Snapshot] {
    guard let bytes = Console.bytes(of: file, limit: 1 << 30) else {
      throw Failure(
        Exit.failure, "cannot read \(SafeText(file)), or it is larger than 1 GiB")
    }
    var lines = bytes.split(separator: UInt8(ascii: "\n"))[...]
    guard let first = lines.popFirst(),
      String(decoding: first, as: UTF8.self).contains("\"\(recordSchema)\"")
    else {
      throw Failure(Exit.failure, "\(SafeText(file)) is not a \(recordSchema) file")
    }
    let decoder = JSONDecoder()
    var snapshots: [Snapshot] = []
    for line in lines {
      // The last line may be cut off.
      guard RecordedSample.isWellFormed(Array(line)),
        let sample = try? decoder.decode(RecordedSample.self, from: Data(line)),
        let snapshot = sample.snapshot(after: snapshots.last)
      else { break }
      snapshots.append(snapshot.withoutFixes)
    }
    if snapshots.count < lines.count {
      Output.error(
        "memwatch: line \(snapshots.count + 2) of the record is invalid or truncated: "
          + "\(counted(snapshots.count, "sample")) can be shown")
    }
    guard !snapshots.isEmpty else {
      throw Failure(Exit.failure, "\(SafeText(file)) contains no samples")
    }
    return snapshots
  }
}
