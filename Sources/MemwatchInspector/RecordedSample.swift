// A sample as stored in a record: differences from the previous sample; secrets summarised by
// label.

/// One line of a record; decoded against the previous sample.
package struct RecordedSample: Codable {
  /// Without its lists.
  private var sample: Snapshot
  private var calls: ListChange<CallSnapshot>
  private var events: ListChange<EventSnapshot>
  private var arenaCount: Int
  /// The arenas that differ, and their positions.
  private var at: [Int] = []
  private var arenas: [RecordedArena] = []

  /// - Parameters: both from `summarizingSecrets`; `earlier` is nil for the first sample.
  package init(_ new: Snapshot, after earlier: Snapshot?) {
    sample = new
    (sample.secrets, sample.calls, sample.events, sample.arenas) = ([], [], [], [])
    calls = ListChange(new.calls, after: earlier?.calls ?? [])
    events = ListChange(new.events, after: earlier?.events ?? [])
    arenaCount = new.arenas.count
    for (index, arena) in new.arenas.enumerated() {
      let old = earlier.flatMap { index < $0.arenas.count ? $0.arenas[index] : nil }
      if arena == old { continue }
      at.append(index)
      arenas.append(RecordedArena(arena, after: old))
    }
  }

  /// Whether a line contains only text that a recorder writes: printable, so the only escapes are
  /// of quotes, backslashes and slashes. A record may come from anyone.
  package static func isWellFormed(_ line: [UInt8]) -> Bool {
    var isEscaped = false
    var isASCII = true
    for byte in line {
      if isEscaped {
        guard byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") || byte == UInt8(ascii: "/")
        else { return false }
        isEscaped = false
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
      }
      if byte < 0x20 || byte == 0x7f { return false }
      if byte >= 0x80 { isASCII = false }
    }
    if isASCII { return !isEscaped }
    let safe = SafeText(String(decoding: line, as: UTF8.self)).string
    return !isEscaped && safe.utf8.elementsEqual(line)
  }

  /// The decoded sample; nil if the line does not follow from `earlier`.
  package func snapshot(after earlier: Snapshot?) -> Snapshot? {
    var new = sample
    guard let calls = calls.applied(to: earlier?.calls ?? []),
      let events = events.applied(to: earlier?.events ?? []), at.count == arenas.count
    else { return nil }
    (new.calls, new.events) = (calls, events)
    new.arenas = Array((earlier?.arenas ?? []).prefix(max(0, arenaCount)))
    for (index, arena) in zip(at, arenas) {
      let isThere = new.arenas.indices.contains(index)
      guard isThere || index == new.arenas.count,
        let whole = arena.snapshot(after: isThere ? new.arenas[index] : nil)
      else { return nil }
      if isThere { new.arenas[index] = whole } else { new.arenas.append(whole) }
    }
    return new.arenas.count == arenaCount ? new : nil
  }
}

private struct RecordedArena: Codable {
  /// Without its lists.
  var arena: ArenaSnapshot
  var chunks: ListChange<ChunkSnapshot>
  var labels: ListChange<LabelSnapshot>

  init(_ new: ArenaSnapshot, after earlier: ArenaSnapshot?) {
    arena = new
    (arena.chunks, arena.labels) = ([], [])
    chunks = ListChange(new.chunks, after: earlier?.chunks ?? [])
    labels = ListChange(new.labels, after: earlier?.labels ?? [])
  }

  func snapshot(after earlier: ArenaSnapshot?) -> ArenaSnapshot? {
    var new = arena
    guard let chunks = chunks.applied(to: earlier?.chunks ?? []),
      let labels = labels.applied(to: earlier?.labels ?? [])
    else { return nil }
    (new.chunks, new.labels) = (chunks, labels)
    return new
  }
}

/// A list relative to an earlier one: its length and the elements that differ.
private struct ListChange<Element: Codable & Equatable>: Codable {
  var count: Int
  var at: [Int]
  var elements: [Element]

  init(_ new: [Element], after old: [Element]) {
    count = new.count
    at = new.indices.filter { $0 >= old.count || new[$0] != old[$0] }
    elements = at.map { new[$0] }
  }

  /// nil if the change does not fit the list.
  func applied(to old: [Element]) -> [Element]? {
    guard at.count == elements.count else { return nil }
    var new = Array(old.prefix(max(0, count)))
    for (index, element) in zip(at, elements) {
      if new.indices.contains(index) {
        new[index] = element
      } else if index == new.count {
        new.append(element)
      } else {
        return nil
      }
    }
    return new.count == count ? new : nil
  }
}

extension Snapshot {
  /// For replays: without fixes. The process may be gone and its pid reused, and a record may come
  /// from anyone.
  package var withoutFixes: Snapshot {
    var copy = self
    for index in copy.problems.indices {
      (copy.problems[index].fix, copy.problems[index].keep) = (nil, nil)
    }
    for index in copy.audit?.findings.indices ?? 0..<0 {
      copy.audit?.findings[index].fix = "shown for live processes only"
    }
    return copy
  }

  /// For records: replaces individual secrets by a summary of each label.
  package var summarizingSecrets: Snapshot {
    var copy = self
    copy.secrets = []
    let arenas = Dictionary(
      self.arenas.enumerated().map { ($1.id, $0) }, uniquingKeysWith: { first, _ in first })
    var ages: [[UInt64: SecretAges]] = .init(repeating: [:], count: self.arenas.count)
    for secret in secrets {
      guard let arena = arenas[secret.arenaID] else { continue }
      ages[arena][secret.labelIndex, default: SecretAges()].add(secret, at: sampledAt, mark: .max)
    }
    for arena in copy.arenas.indices {
      for label in copy.arenas[arena].labels.indices {
        copy.arenas[arena].labels[label].ages =
          ages[arena][copy.arenas[arena].labels[label].index] ?? SecretAges()
      }
    }
    return copy
  }
}
