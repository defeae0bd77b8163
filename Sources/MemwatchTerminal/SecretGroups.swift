// The listed secrets, grouped by arena and label. Pure.

import MemwatchInspector

/// Made once for each table of secrets. A screen that shows the same 100,000 secrets ten times a
/// second does not visit them again.
struct SecretGroups: Sendable {
  /// The secrets of one label.
  struct Members: Sendable {
    /// Indices in the snapshot's list.
    fileprivate(set) var secrets: [Int32] = []
    /// Times that are unknown are `.max`.
    fileprivate var known = SecretAges()
    /// When the secrets that were never opened were allocated, in order.
    fileprivate var neverOpened: [Timestamp] = []

    /// - Parameter mark: secrets allocated before it count as never opened.
    func ages(at now: Timestamp, mark: Timestamp) -> SecretAges {
      var ages = known
      if ages.listed > 0 {
        ages.oldest = min(ages.oldest, now)
        ages.leastRecent = min(ages.leastRecent, now)
      }
      let older = neverOpened.firstPosition { $0 >= mark }
      ages.neverOpened = UInt64(older)
      ages.oldestNeverOpened = older > 0 ? neverOpened[0] : .max
      return ages
    }
  }

  /// Where an arena's groups are.
  private struct Place: Equatable {
    var first: Int
    /// Label indices, in order. Group and label have the same number unless indices are missing.
    var labels: [UInt64]
    var isDense: Bool

    func group(of label: UInt64) -> Int? {
      if isDense { return label < UInt64(labels.count) ? first + Int(label) : nil }
      let index = labels.firstPosition { $0 >= label }
      return index < labels.count && labels[index] == label ? first + index : nil
    }
  }

  /// What they were made from. While the list is kept, no other list can have its address.
  private let secrets: [SecretSnapshot]
  private let places: [UInt64: Place]
  private var all: [Members]
  private var listedCounts: [UInt64: UInt64] = [:]

  init(_ snapshot: Snapshot) {
    secrets = snapshot.secrets
    places = Self.places(snapshot)
    all = Array(repeating: Members(), count: places.values.reduce(0) { $0 + $1.labels.count })
    // Look an arena up only when it changes from one secret to the next.
    var last: (arena: UInt64, place: Place?, listed: UInt64)?
    for (index, secret) in secrets.enumerated() {
      if last?.arena != secret.arenaID {
        if let last { listedCounts[last.arena, default: 0] += last.listed }
        last = (secret.arenaID, places[secret.arenaID], 0)
      }
      last!.listed += 1
      // Indices without a label come from a corrupt page; they have no row either.
      guard let group = last!.place?.group(of: secret.labelIndex) else { continue }
      all[group].add(secret, Int32(clamping: index))
    }
    if let last { listedCounts[last.arena, default: 0] += last.listed }
    for index in all.indices { all[index].neverOpened.sort() }
  }

  /// Whether they were made from the same list of secrets, and the same labels.
  func isMade(from snapshot: Snapshot) -> Bool {
    unsafe secrets.withUnsafeBufferPointer { old in
      unsafe snapshot.secrets.withUnsafeBufferPointer { new in
        unsafe old.baseAddress == new.baseAddress && old.count == new.count
      }
    } && places == Self.places(snapshot)
  }

  /// The number of an arena's secrets that are listed.
  func listed(in arena: UInt64) -> UInt64 { listedCounts[arena] ?? 0 }

  subscript(arena arena: UInt64, label label: UInt64) -> Members? {
    places[arena]?.group(of: label).map { all[$0] }
  }

  private static func places(_ snapshot: Snapshot) -> [UInt64: Place] {
    var (places, first) = ([UInt64: Place](), 0)
    for arena in snapshot.arenas where places[arena.id] == nil {
      let labels = arena.labels.map(\.index).sorted()
      let isDense = labels.enumerated().allSatisfy { UInt64($0) == $1 }
      places[arena.id] = Place(first: first, labels: labels, isDense: isDense)
      first += labels.count
    }
    return places
  }
}

extension SecretGroups.Members {
  fileprivate mutating func add(_ secret: SecretSnapshot, _ index: Int32) {
    secrets.append(index)
    known.add(secret, at: .max, mark: .max)
    if secret.opens == 0, let born = secret.allocatedAt { neverOpened.append(born) }
  }
}

extension Array {
  /// The first position whose element, and all after it, satisfy a predicate; binary search.
  fileprivate func firstPosition(where isPast: (Element) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if isPast(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
