// The last hour of samples, bounded in bytes: for stepping back in time and for changes. Holds no
// individual secrets and no page maps. Pure.

package import MemwatchInspector

/// Samples of one publisher, oldest first.
package struct Timeline: Sendable {
  /// How far back the samples go.
  package static let maximumAge: UInt64 = 3_600_000
  /// An hour at one sample per second.
  package static let maximumCount = 3600
  /// The approximate limit for all samples together.
  package static let maximumBytes = 12 << 20

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
    let oldest = new.sampledAt - Self.maximumAge
    let gone = samples.firstIndex { $0.sampledAt >= oldest } ?? 0
    // In large steps: removing the first sample costs O(all samples).
    if gone > 0, samples[0].sampledAt + 240_000 < oldest { remove { $0 < gone } }
    while samples.count > 8,
      samples.count > Self.maximumCount + Self.maximumCount / 8 || byteCount > Self.maximumBytes
    { thin() }
  }

  /// Drops every second sample of the older half: older samples are kept at larger intervals.
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

  /// The last sample at or before a time; the first sample if all are later.
  package func sample(notAfter time: Timestamp) -> Snapshot? {
    samples[..<firstIndex(after: time)].last ?? samples.first
  }

  /// The index of the last sample at or before a time.
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
  /// Shares the storage of equal parts with another sample. Returns the approximate bytes not
  /// shared.
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
      // (A text too long for inline storage takes about 48 bytes more.)
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
