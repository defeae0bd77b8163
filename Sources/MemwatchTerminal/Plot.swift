// Plots a series of values over time as rows of text. Pure.

import MemwatchInspector

/// Braille: two points per column, four levels per row. ASCII: one and two.
enum Plot {
  static func pointsAcross(unicode: Bool) -> Int { unicode ? 2 : 1 }

  /// The time that a plot spans. The first point covers the interval before it.
  static func span(of moments: [Moment]) -> ClosedRange<Timestamp>? {
    guard let first = moments.first, let last = moments.last else { return nil }
    let step = moments.count > 1 ? moments[1].at.since(first.at) : 1000
    return (first.at - step)...max(last.at, first.at)
  }

  /// The span, but at least so many milliseconds: the first samples start at the right, and are not
  /// drawn as if they were a long time.
  static func axis(of moments: [Moment], atLeast least: UInt64) -> ClosedRange<Timestamp>? {
    guard let span = span(of: moments) else { return nil }
    return min(span.lowerBound, span.upperBound - least)...span.upperBound
  }

  /// Resamples to `points` equal steps: the largest value of each step, or of the point that covers
  /// it; nil before the first point.
  static func values(
    _ moments: [Moment], over span: ClosedRange<Timestamp>, points: Int,
    _ value: (Moment) -> Double?
  ) -> [Double?] {
    guard points > 0, !moments.isEmpty else { return [] }
    let length = Double(span.upperBound.since(span.lowerBound))
    let start = self.span(of: moments)!.lowerBound
    var next = 0
    return (0..<points).map { point in
      let end =
        point == points - 1
        ? span.upperBound
        : span.lowerBound + UInt64(length * Double(point + 1) / Double(points))
      var largest: Double?
      while next < moments.count, moments[next].at <= end {
        if let found = value(moments[next]) { largest = max(largest ?? found, found) }
        next += 1
      }
      if let largest { return largest }
      guard end > start else { return nil }
      return value(moments[min(next, moments.count - 1)])
    }
  }

  static func rows(_ values: [Double?], height: Int, top: Double, unicode: Bool) -> [String] {
    guard height > 0 else { return [] }
    let (across, down) = (pointsAcross(unicode: unicode), unicode ? 4 : 2)
    func level(_ index: Int) -> Int {
      guard index < values.count, let value = values[index], top > 0, value > 0 else { return 0 }
      let most = Double(height * down)
      return Int(min(most, max(1, (value / top * most).rounded())))
    }
    return (0..<height).map { row in
      let floor = (height - 1 - row) * down
      var line = ""
      for column in 0..<values.count / across {
        if unicode {
          // Dots of a braille cell, bottom up: left 7 3 2 1, right 8 6 5 4.
          let dots: [[UInt32]] = [[0x40, 0x04, 0x02, 0x01], [0x80, 0x20, 0x10, 0x08]]
          var bits: UInt32 = 0
          for side in 0..<2 {
            let filled = min(4, max(0, level(column * 2 + side) - floor))
            for dot in 0..<filled { bits |= dots[side][dot] }
          }
          line.unicodeScalars.append(bits == 0 ? " " : Unicode.Scalar(0x2800 + bits)!)
        } else {
          let filled = level(column) - floor
          line += filled >= 2 ? "#" : filled == 1 ? "_" : " "
        }
      }
      return line
    }
  }

  /// One row of bars (`▁▃▇`), for a list cell.
  static func spark(_ values: [Double], width: Int, unicode: Bool) -> String {
    let shown = values.suffix(width)
    let top = shown.max() ?? 0
    let bars = Array(unicode ? "▁▂▃▄▅▆▇█" : "_.-=+*##")
    let text = shown.map { value in
      let level = top > 0 ? Int((value / top * Double(bars.count - 1)).rounded()) : 0
      return bars[min(max(0, level), bars.count - 1)]
    }
    return String(repeating: " ", count: max(0, width - shown.count)) + String(text)
  }
}
