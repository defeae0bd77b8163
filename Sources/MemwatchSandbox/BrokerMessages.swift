// Requests from the confined process to its broker: a kind, two numbers and, for new files only, a
// name. They never contain a path.

internal import EnclaveSystem
internal import MemwatchSystem

struct BrokerRequest: Equatable {
  enum Kind: UInt8 {
    case stat = 1
    case status, limits, maps, smaps, cgroup
    case children, namespaces, userName, mapLimit, host, page, named
    case search, create, finish
    /// Answered by the closure that the program passed to the broker.
    case other
    /// `first` is 0 to start replacing the replaceable file, 1 to commit, and 2 to discard.
    case replace

    /// Whether such a request contains the name of a new file.
    var takesName: Bool { self == .create || self == .finish }
  }

  var kind: Kind
  var first: UInt64 = 0
  var second: UInt64 = 0
  /// The name of a new file: one path component.
  var name = ""

  /// The kind, two numbers, and a name of at most 255 bytes.
  static let mostBytes = 17 + 255

  init(_ kind: Kind, _ first: UInt64 = 0, _ second: UInt64 = 0, name: String = "") {
    self.kind = kind
    self.first = first
    self.second = second
    self.name = name
  }

  /// Parses a message. Returns nil for an unknown kind, a missing or unexpected name, or a name of
  /// more than one component.
  init?(_ bytes: ArraySlice<UInt8>) {
    guard bytes.count >= 17, bytes.count <= Self.mostBytes, let kind = Kind(rawValue: bytes.first!)
    else { return nil }
    func word(_ offset: Int) -> UInt64 {
      let start = bytes.startIndex + offset
      return bytes[start..<start + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
    self.init(kind, word(1), word(9))
    let rest = bytes.dropFirst(17)
    guard rest.isEmpty != kind.takesName else { return nil }
    guard kind.takesName else { return }
    // One component: no hidden file, no `..`.
    guard !rest.contains(0), !rest.contains(UInt8(ascii: "/")), rest.first != UInt8(ascii: "."),
      let name = String(validating: rest, as: UTF8.self)
    else { return nil }
    self.name = name
  }

  var bytes: [UInt8] {
    [kind.rawValue] + Self.littleEndian(first) + Self.littleEndian(second) + Array(name.utf8)
  }

  /// The bytes of a word, least significant first.
  static func littleEndian(_ word: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
  }
}

extension ProcessFile {
  var kind: BrokerRequest.Kind { BrokerRequest.Kind(rawValue: rawValue)! }
}

extension StatsPageLocation {
  var fields: [String] {
    var fields = [path]
    switch outcome {
    case .opened(let owner): fields += ["opened", "\(owner)", ""]
    case .foreign(let owner): fields += ["foreign", "\(owner)", ""]
    case .failed(let failure): fields += ["failed", "\(failure.errno)", failure.function]
    }
    fields.append("\(pages.count)")
    return fields + pages.flatMap { ["\($0.number)", $0.name] }
  }

  static func decode(_ fields: [String]) -> [StatsPageLocation] {
    var locations: [StatsPageLocation] = []
    var rest = fields[...]
    while rest.count >= 5 {
      let head = Array(rest.prefix(5))
      rest = rest.dropFirst(5)
      let outcome: Outcome
      switch head[1] {
      case "opened": outcome = .opened(owner: UInt32(head[2]) ?? .max)
      case "foreign": outcome = .foreign(owner: UInt32(head[2]) ?? .max)
      default:
        outcome = .failed(
          FileFailure(function: head[3], path: head[0], errno: Int32(head[2]) ?? 0))
      }
      var location = StatsPageLocation(path: head[0], outcome: outcome)
      for _ in 0..<(Int(head[4]) ?? 0) {
        guard rest.count >= 2 else { break }
        if let number = Int(rest[rest.startIndex]) {
          location.pages.append(.init(number: number, name: rest[rest.startIndex + 1]))
        }
        rest = rest.dropFirst(2)
      }
      locations.append(location)
    }
    return locations
  }
}
