// Field-by-field differences between two snapshots.

/// The old and new value of one field; nil: absent.
package struct Difference: Equatable, Sendable {
  package var path: String
  package var before: Value?
  package var after: Value?

  package enum Kind: String, CaseIterable, Sendable { case changed, added, removed }

  package var kind: Kind {
    before == nil ? .added : after == nil ? .removed : .changed
  }

  package var document: Value {
    .object([
      ("path", .text(path)), ("kind", .text(kind.rawValue)), ("before", before ?? .null),
      ("after", after ?? .null),
    ])
  }
}

extension Value {
  /// The fields that differ, in the order of the old document. List items are matched by `id`,
  /// `serial`, `label` or `name`, so insertions do not shift the others.
  package func differences(from old: Value) -> [Difference] {
    let (before, after) = (old.leaves(naming: \.listName), leaves(naming: \.listName))
    let then = Dictionary(before.map { ($0.path, $0.value) }) { first, _ in first }
    let now = Dictionary(after.map { ($0.path, $0.value) }) { first, _ in first }
    var all: [Difference] = []
    for (path, value) in before where now[path] != value {
      all.append(Difference(path: path, before: value, after: now[path]))
    }
    for (path, value) in after where then[path] == nil {
      all.append(Difference(path: path, before: nil, after: value))
    }
    return all
  }

  private static let listNames = [
    "name", "label", "id", "serial", "address", "payloadBytes", "call", "arenaId", "message",
  ]

  var listName: String? {
    guard case .object(let members) = self else { return nil }
    let values = Dictionary(members) { first, _ in first }
    for name in Self.listNames {
      switch values[name] {
      case .text(let text): return text
      case .number(let number): return "\(number)"
      default: continue
      }
    }
    return nil
  }

  /// A value on one line.
  package var plain: String {
    switch self {
    case .null: "n/a"
    case .bool(let flag): flag ? "yes" : "no"
    case .number(let number): "\(number)"
    case .text(let text): text
    case .unrecognized(let code): "?\(code)"
    case .list, .object: "none"
    }
  }
}
