// A tree of names and values, from which JSON, text and differences are made.

/// A value in a document.
package indirect enum Value: Equatable, Sendable {
  case null
  case bool(Bool)
  case number(UInt64)
  case text(String)
  /// A code that this version does not know; in JSON the word `unrecognized`.
  case unrecognized(UInt64)
  case list([Value])
  case object([(String, Value)])

  package static func == (a: Value, b: Value) -> Bool {
    switch (a, b) {
    case (.null, .null): true
    case (.bool(let x), .bool(let y)): x == y
    case (.number(let x), .number(let y)): x == y
    case (.text(let x), .text(let y)): x == y
    case (.unrecognized(let x), .unrecognized(let y)): x == y
    case (.list(let x), .list(let y)): x == y
    case (.object(let x), .object(let y)):
      x.count == y.count && zip(x, y).allSatisfy { $0.0 == $1.0 && $0.1 == $1.1 }
    default: false
    }
  }

  package init(_ number: (some BinaryInteger)?) {
    self = number.map { .number(UInt64(clamping: $0)) } ?? .null
  }
  init(_ text: String?) { self = text.map { .text($0) } ?? .null }
  package init(_ time: Timestamp?) { self = time.map { .number($0.realMs) } ?? .null }
  init(_ size: ByteCount?) { self = size.map { .number($0.count) } ?? .null }
  init<Code>(_ code: Reported<Code>?) {
    self =
      switch code {
      case .known(let code): .text(code.wordInDocuments)
      case .unknown(let number): .unrecognized(number)
      case nil: .null
      }
  }
  init(_ gate: ReportedGate?) {
    self =
      switch gate {
      case .key: .text("key")
      case .pages: .text("pages")
      case .cipher: .text("cipher")
      case .ungated: .text("none")
      case .unknown(let number): .unrecognized(number)
      case nil: .null
      }
  }
  init(_ text: SafeText) { self = .text(text.string) }
  init(_ flag: Bool?) { self = flag.map { .bool($0) } ?? .null }

  /// The leaves and their paths (`arenas[0].name`), in order.
  package var leaves: [(path: String, value: Value)] { leaves { _ in nil } }

  /// The leaves, with list items named by a closure instead of an index.
  func leaves(naming name: (Value) -> String?) -> [(path: String, value: Value)] {
    var all: [(String, Value)] = []
    func walk(_ value: Value, _ path: String) {
      switch value {
      case .object(let members):
        for (name, member) in members { walk(member, path.isEmpty ? name : path + "." + name) }
      case .list(let items):
        if items.isEmpty { all.append((path, value)) }
        var taken: Set<String> = []
        for (index, item) in items.enumerated() {
          var own = name(item) ?? "\(index)"
          if !taken.insert(own).inserted { own += "#\(index)" }
          walk(item, "\(path)[\(own)]")
        }
      default: all.append((path, value))
      }
    }
    walk(self, "")
    return all
  }
}

/// What a JSON document of memwatch holds.
package enum DocumentKind: String, CaseIterable, Sendable {
  case snapshot, audit, survey, check, list, host, diff, view
}

extension Value {
  package static let schema = "memwatch/2"

  /// A document of its own, which says what it holds.
  package static func document(_ kind: DocumentKind, _ members: [(String, Value)]) -> Value {
    .object([("schema", .text(schema)), ("document", .text(kind.rawValue))] + members)
  }

  /// The same, with the path and number of each code that this version does not know.
  var listingUnrecognizedCodes: Value {
    guard case .object(let members) = self else { return self }
    let codes = leaves.compactMap { path, value -> Value? in
      guard case .unrecognized(let code) = value else { return nil }
      return .object([("path", .text(path)), ("code", .number(code))])
    }
    return .object(members + [("unrecognizedCodes", .list(codes))])
  }
}
