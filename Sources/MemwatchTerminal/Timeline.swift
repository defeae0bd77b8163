// The last hour of samples, bounded in bytes: what steps in time show, and what changes are told from.
// Pure. Neither secrets nor pages one by one are kept.

package import MemwatchInspector

/// Samples of one publisher, the oldest first.
package struct Timeline: Sendable {
  /// How far back they go.
  package static let reach: UInt64 = 3_600_000
  /// At one a second, an hour.
  package static let most = 3600
  /// What all of them may take, about.
  package static let mostBytes = 12 << 20

  package private(set) var samples: [Snapshot] = []
  private var costs: [Int] = []
  package private(set) var byteCount = 0

  package init() {}

  package mutating func add(_ snapshot: Snapshot) {
    if let last = samples.last, snapshot.sampledAt <= last.sampledAt { return }
    var new = snapshot
    new.secrets = []
    for index in new.arenas.indices {
      for chunk in new.arenas[index].chunks.indices { new.arenas[index].chunks[chunk].pages = nil }
    }
    let cost = samples.last.map { new.share(with: $0) } ?? new.cost(after: nil)
    samples.append(new)
    costs.append(cost)
    byteCount += cost
    let oldest = new.sampledAt - Self.reach
    let gone = samples.firstIndex { $0.sampledAt >= oldest } ?? 0
    // In large steps: to remove the first costs what all of them cost.
    if gone > 0, samples[0].sampledAt + 240_000 < oldest { remove { $0 < gone } }
    while samples.count > 8, samples.count > Self.most + Self.most / 8 || byteCount > Self.mostBytes
    { thin() }
  }

  /// Every second one of the older half goes: what is long past is kept in larger steps.
  private mutating func thin() {
    let half = max(2, samples.count / 2)
    let before = samples.count
    remove { $0 < half && $0 % 2 == 1 }
    if samples.count == before { remove { $0 == 0 } }
  }

  private mutating func remove(where isGone: (Int) -> Bool) {
    samples = samples.indices.filter { !isGone($0) }.map { samples[$0] }
    costs = samples.indices.map { samples[$0].cost(after: $0 == 0 ? nil : samples[$0 - 1]) }
    byteCount = costs.reduce(0, +)
  }

  /// The last sample that is no younger than a time; the first one where all are younger.
  package func sample(notAfter time: Timestamp) -> Snapshot? {
    samples[..<firstIndex(after: time)].last ?? samples.first
  }

  /// Where a sample of this time is, or the last one before it.
  package func index(at time: Timestamp) -> Int? {
    samples.isEmpty ? nil : max(0, firstIndex(after: time) - 1)
  }

  private func firstIndex(after time: Timestamp) -> Int {
    var (low, high) = (0, samples.count)
    while low < high {
      let middle = (low + high) / 2
      if samples[middle].sampledAt <= time { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

extension Snapshot {
  /// Takes the storage of another for what is equal. What is left is this one's own cost, about.
  fileprivate mutating func share(with other: Snapshot) -> Int {
    if events == other.events { events = other.events }
    if calls == other.calls { calls = other.calls }
    if problems == other.problems { problems = other.problems }
    if vaults == other.vaults { vaults = other.vaults }
    if arenas == other.arenas {
      arenas = other.arenas
    } else {
      for (index, before) in zip(arenas.indices, other.arenas) where arenas[index].id == before.id {
        if arenas[index].labels == before.labels { arenas[index].labels = before.labels }
        if arenas[index].chunks == before.chunks { arenas[index].chunks = before.chunks }
        if arenas[index].sizes == before.sizes { arenas[index].sizes = before.sizes }
      }
    }
    return cost(after: other)
  }

  fileprivate func cost(after other: Snapshot?) -> Int {
    func cost<Element: Equatable>(_ list: [Element], _ before: [Element]?) -> Int {
      // (Text that does not fit in a String is some 48 bytes more.)
      list == before ? 0 : list.count * (MemoryLayout<Element>.stride + 48)
    }
    var sum = MemoryLayout<Snapshot>.stride
    sum += cost(events, other?.events) + cost(calls, other?.calls)
    sum += cost(problems, other?.problems) + cost(vaults, other?.vaults)
    guard arenas != other?.arenas else { return sum }
    sum += cost(arenas, nil)
    for (index, arena) in arenas.enumerated() {
      let before = other.flatMap { $0.arenas.indices.contains(index) ? $0.arenas[index] : nil }
      sum += cost(arena.labels, before?.labels) + cost(arena.chunks, before?.chunks)
      sum += cost(arena.sizes, before?.sizes)
    }
    return sum
  }
}
