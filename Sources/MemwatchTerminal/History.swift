// What was, since this screen was opened: plots that fit the space. Pure.

import MemwatchInspector

/// One point of the past.
package struct Moment: Equatable, Sendable {
  /// Milliseconds since 1970.
  package var at: UInt64
  package var locked: Double?
  package var opens: Double
  package var operations: Double
  package var failures: Double
}

/// The last hour or so: each point is a sample, or the worst of several.
package struct History: Equatable, Sendable {
  /// As many points as the widest plot has halves of columns.
  static let capacity = 1024
  package private(set) var moments: [Moment] = []
  private var previous: (at: UInt64, opens: UInt64, operations: UInt64, failures: UInt64)?
  /// So many samples make one point.
  private var samplesAPoint = 1
  private var samplesInLast = 0

  package static func == (a: History, b: History) -> Bool { a.moments == b.moments }

  mutating func add(_ snapshot: Snapshot) {
    func sum(_ value: (ArenaSnapshot) -> UInt64?) -> UInt64 {
      snapshot.arenas.reduce(0) { $0 &+ (value($1) ?? 0) }
    }
    let now = (
      at: snapshot.sampledAt, opens: sum(\.opens),
      operations: sum { ($0.allocations ?? 0) &+ ($0.frees ?? 0) },
      failures: sum {
        ($0.failedAllocations ?? 0) &+ ($0.failedLocks ?? 0) &+ ($0.failedOpens ?? 0)
      }
    )
    defer { previous = now }
    guard let before = previous, now.at > before.at else { return }
    let seconds = Double(now.at - before.at) / 1000
    // Arenas that go take their counts with them.
    func rate(_ a: UInt64, _ b: UInt64) -> Double { a > b ? Double(a - b) / seconds : 0 }
    add(
      Moment(
        at: now.at, locked: snapshot.memlock.locked.map { Double($0) },
        opens: rate(now.opens, before.opens), operations: rate(now.operations, before.operations),
        failures: rate(now.failures, before.failures)))
  }

  private mutating func add(_ moment: Moment) {
    if samplesInLast > 0, samplesInLast < samplesAPoint, let last = moments.last {
      moments[moments.count - 1] = last.worst(moment)
      samplesInLast += 1
    } else {
      moments.append(moment)
      samplesInLast = 1
    }
    guard moments.count > Self.capacity else { return }
    moments = stride(from: 0, to: moments.count, by: 2).map { at in
      at + 1 < moments.count ? moments[at].worst(moments[at + 1]) : moments[at]
    }
    samplesAPoint *= 2
    samplesInLast = samplesAPoint
  }

  /// How long until a limit is reached, if what is locked goes on as it did in the last points; nil
  /// where it does not grow.
  package func millisecondsUntil(_ limit: UInt64) -> UInt64? {
    let recent = moments.suffix(60).compactMap { moment in
      moment.locked.map { (x: Double(moment.at), y: $0) }
    }
    guard recent.count >= 10, let last = recent.last, last.y < Double(limit) else { return nil }
    let (mx, my) = (
      recent.reduce(0) { $0 + $1.x } / Double(recent.count),
      recent.reduce(0) { $0 + $1.y } / Double(recent.count)
    )
    let above = recent.reduce(0) { $0 + ($1.x - mx) * ($1.y - my) }
    let below = recent.reduce(0) { $0 + ($1.x - mx) * ($1.x - mx) }
    guard below > 0, above / below > 1e-9 else { return nil }
    let wait = (Double(limit) - last.y) / (above / below)
    return wait < 1000 * 86_400 * 7 ? UInt64(wait) : nil
  }
}

extension Moment {
  fileprivate func worst(_ other: Moment) -> Moment {
    Moment(
      at: other.at, locked: [locked, other.locked].compactMap { $0 }.max(),
      opens: max(opens, other.opens), operations: max(operations, other.operations),
      failures: max(failures, other.failures))
  }
}

/// A line of values as rows of text.
enum Plot {
  /// Two points in each column, four levels in each row (braille); one of each without it.
  static func rows(
    _ values: [Double?], width: Int, height: Int, top: Double, unicode: Bool
  ) -> [String] {
    guard width > 0, height > 0 else { return [] }
    let (across, down) = unicode ? (2, 4) : (1, 2)
    let points = width * across
    let shown = fitted(values, points)
    func level(_ value: Double?) -> Int {
      guard let value, top > 0, value > 0 else { return 0 }
      let most = Double(height * down)
      return Int(min(most, max(1, (value / top * most).rounded())))
    }
    return (0..<height).map { row in
      let floor = (height - 1 - row) * down
      var line = ""
      for column in 0..<width {
        if unicode {
          // Dots of a braille cell, from the bottom: left 7 3 2 1, right 8 6 5 4.
          let dots: [[UInt32]] = [[0x40, 0x04, 0x02, 0x01], [0x80, 0x20, 0x10, 0x08]]
          var bits: UInt32 = 0
          for side in 0..<2 {
            let filled = min(4, max(0, level(shown[column * 2 + side]) - floor))
            for dot in 0..<filled { bits |= dots[side][dot] }
          }
          line.unicodeScalars.append(bits == 0 ? " " : Unicode.Scalar(0x2800 + bits)!)
        } else {
          let filled = level(shown[column]) - floor
          line += filled >= 2 ? "#" : filled == 1 ? "_" : " "
        }
      }
      return line
    }
  }

  /// So many points, the newest at the right: each the largest of what falls on it.
  private static func fitted(_ values: [Double?], _ points: Int) -> [Double?] {
    guard values.count > points else {
      return Array(repeating: nil, count: points - values.count) + values
    }
    return (0..<points).map { point in
      let (from, to) = (
        point * values.count / points,
        max((point + 1) * values.count / points, point * values.count / points + 1)
      )
      return values[from..<to].compactMap { $0 }.max()
    }
  }
}
