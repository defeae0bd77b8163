// `memwatch host` and `memwatch diff`.

import ArgumentParser
import FoundationEssentials
import MemwatchInspector

struct HostCommand: ConfinedCommand {
  static let configuration = CommandConfiguration(
    commandName: "host",
    abstract: "Shows host settings that affect secrets in memory: good, bad or unknown.")

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  var needs: Prerequisites { Prerequisites() }

  func runConfined(_ viewer: Viewer) throws {
    let host = viewer.host
    try Output.standard(json ? try Format.json(host.document) : host.text)
  }
}

struct Diff: ConfinedCommand {
  static let configuration = CommandConfiguration(
    abstract: "Shows what changed between two JSON snapshots.",
    discussion: """
      States, problems and events come first, then what grew or shrank, each with its change.

      \(Examples.text(of: "diff"))
      """)

  @Argument(help: "The earlier snapshot.")
  var before: String
  @Argument(help: "The later snapshot.")
  var after: String
  @Flag(name: .long, help: "Print JSON.")
  var json = false
  @Flag(name: .long, help: "Print every field that differs, one per line, as in the files.")
  var raw = false
  @Flag(
    name: .customLong("exit-code"),
    help: "Exit with 6 if a state changed, or something grew or shrank. (Times are ignored.)")
  var usesExitCode = false

  var needs: Prerequisites { Prerequisites(named: [before, after]) }

  func validate() throws {
    if json, raw { throw ValidationError("Give --json or --raw, not both.") }
  }

  func runConfined(_ viewer: Viewer) throws {
    let (old, new) = (try read(before), try read(after))
    let report = ChangeReport(from: old, to: new)
    if json {
      let list = Value.list(new.differences(from: old).map(\.document))
      try Output.standard(try Format.json(Value.document(.diff, [("differences", list)])))
    } else if raw {
      let rows = new.differences(from: old).map {
        [$0.path, $0.before?.plain ?? "-", "->", $0.after?.plain ?? "-"]
      }
      try Output.standard(table(rows).joined(separator: "\n") + (rows.isEmpty ? "" : "\n"))
    } else {
      try Output.standard(report.text)
    }
    if usesExitCode, report.hasChanges { throw ExitCode(Exit.checkFailed) }
  }

  private func read(_ path: String) throws(Failure) -> Value {
    guard let bytes = Console.bytes(of: path) else {
      throw Failure(Exit.failure, "cannot read \(SafeText(path))")
    }
    guard let value = try? JSONDecoder().decode(Decoded.self, from: Data(bytes)).value,
      let snapshot = value.asSnapshot
    else {
      throw Failure(
        Exit.failure,
        "\(SafeText(path)) is not a snapshot: create one with memwatch snapshot --format json")
    }
    return snapshot
  }
}

/// Any JSON, with sanitised strings: the snapshot comes from a file.
private struct Decoded: Decodable {
  let value: Value

  private struct Key: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  init(from decoder: any Decoder) throws {
    if let container = try? decoder.container(keyedBy: Key.self) {
      value = .object(
        try container.allKeys.map { ($0.stringValue, $0) }.sorted { $0.0 < $1.0 }.map {
          (SafeText($0).string, try container.decode(Decoded.self, forKey: $1).value)
        })
    } else if var container = try? decoder.unkeyedContainer() {
      var items: [Value] = []
      while !container.isAtEnd { items.append(try container.decode(Decoded.self).value) }
      value = .list(items)
    } else {
      let container = try decoder.singleValueContainer()
      if container.decodeNil() {
        value = .null
      } else if let flag = try? container.decode(Bool.self) {
        value = .bool(flag)
      } else if let number = try? container.decode(UInt64.self) {
        value = .number(number)
      } else {
        value = .text(SafeText(try container.decode(String.self)).string)
      }
    }
  }
}
