// Writing to standard streams, and writing files atomically.

import FoundationEssentials
import MemwatchInspector
import MemwatchTerminal

enum Output {
  static func error(_ message: String) {
    _ = Console.write(message + "\n", to: 2)
  }

  static func standard(_ text: String) throws(Failure) {
    if let failure = Console.write(text, to: 1) { throw Failure(Exit.failure, failure) }
  }

  static func file(_ path: String, _ text: String) throws(Failure) {
    if let failure = Console.writeNewFile(text, to: path) { throw Failure(Exit.failure, failure) }
  }
}

/// The directory of a file to create.
func directory(of path: String?) -> String {
  guard let path, let slash = path.lastIndex(of: "/") else { return "." }
  return slash == path.startIndex ? "/" : String(path[..<slash])
}

enum Format: String, CaseIterable {
  /// The format for a file name's extension; text for any other.
  init(path: String) {
    let name = path.lowercased()
    self = Self.allCases.first { name.hasSuffix(".\($0.rawValue)") } ?? .text
  }

  case text, json, csv, svg

  func render(_ snapshot: Snapshot) throws(Failure) -> String {
    switch self {
    case .text: snapshot.text
    case .json: try Self.json(snapshot.document)
    case .csv: snapshot.csv
    case .svg: Screen.picture(of: [snapshot], width: 100, height: 30)
    }
  }

  func render(_ view: ViewExport) throws(Failure) -> String {
    switch self {
    case .json: try Self.json(view.document)
    case .csv: view.csv
    case .text, .svg: view.text
    }
  }

  static func json(_ value: Value) throws(Failure) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    do {
      return String(decoding: try encoder.encode(Encoded(value)), as: UTF8.self) + "\n"
    } catch { throw Failure(Exit.failure, "JSON: \(error)") }
  }
}

private struct Encoded: Encodable {
  let value: Value
  init(_ value: Value) { self.value = value }

  private struct Key: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  func encode(to encoder: any Encoder) throws {
    switch value {
    case .object(let members):
      var container = encoder.container(keyedBy: Key.self)
      for (name, member) in members {
        try container.encode(Encoded(member), forKey: Key(stringValue: name))
      }
    case .list(let items):
      var container = encoder.unkeyedContainer()
      for item in items { try container.encode(Encoded(item)) }
    case .null:
      var container = encoder.singleValueContainer()
      try container.encodeNil()
    case .bool(let flag):
      var container = encoder.singleValueContainer()
      try container.encode(flag)
    case .number(let number):
      var container = encoder.singleValueContainer()
      try container.encode(number)
    case .unrecognized:
      var container = encoder.singleValueContainer()
      try container.encode("unrecognized")
    case .text(let text):
      var container = encoder.singleValueContainer()
      try container.encode(text)
    }
  }
}
