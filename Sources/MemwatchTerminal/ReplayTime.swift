// Parses the times that `t` takes, and finds the sample they mean. Pure.

/// `14:02`, `14:02:11`, `+30s`, `-5m`.
package enum ReplayTime {
  /// The index of the sample that a time means.
  ///
  /// A time of day means the first sample at or after it; if the record spans days, the nearest.
  /// `+` means the first sample at or after that time, `-` the last at or before. Beyond the ends
  /// it is the first or last sample, and `note` says so.
  ///
  /// - Parameters:
  ///   - times: the samples', in milliseconds since 1970, ascending.
  ///   - secondOfDay: the local time of one of them.
  package static func index(
    of text: String, in times: [UInt64], at position: Int, secondOfDay: (UInt64) -> Int
  ) -> (index: Int?, note: String?) {
    let text = text.filter { $0 != " " }
    guard times.indices.contains(position) else { return (nil, nil) }
    if let delta = milliseconds(text) {
      let (now, isBack) = (times[position], text.first == "-")
      let (then, isOver) =
        isBack ? now.subtractingReportingOverflow(delta) : now.addingReportingOverflow(delta)
      let found =
        isOver
        ? nil
        : isBack ? times.lastIndex { $0 <= then } : times.firstIndex { $0 >= then }
      if let found { return (found, nil) }
      return isBack ? (0, "the record begins here") : (times.count - 1, "the record ends here")
    }
    guard let second = second(text) else { return (nil, "no time: 14:02, 14:02:11, +30s or -5m") }
    var nearest: Int?
    for index in times.indices {
      let isThere: Bool
      if index == 0 {
        isThere = secondOfDay(times[0]) == second
      } else {
        // The seconds from the previous sample to that time of day.
        let (before, at) = (times[index - 1], times[index])
        let wait = UInt64((second - secondOfDay(before) + 86_400) % 86_400) * 1000
        isThere = wait > 0 && at >= before && wait <= at - (before - before % 1000)
      }
      if isThere, nearest.map({ abs($0 - position) > abs(index - position) }) ?? true {
        nearest = index
      }
    }
    return (nearest, nearest == nil ? "the record does not reach \(text)" : nil)
  }

  /// `+30s`, `-5m`, `+1h`, `-500ms`.
  private static func milliseconds(_ text: String) -> UInt64? {
    guard text.first == "+" || text.first == "-" else { return nil }
    let digits = text.dropFirst().prefix { ("0"..."9").contains($0) }
    let factors: [Substring: UInt64] = ["ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000]
    guard let number = UInt64(digits), let factor = factors[text.dropFirst(digits.count + 1)]
    else { return nil }
    let (product, isOver) = number.multipliedReportingOverflow(by: factor)
    return isOver ? .max : product
  }

  /// `14:02` and `9:02:11`, as seconds of the day.
  private static func second(_ text: String) -> Int? {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard (2...3).contains(parts.count), parts.allSatisfy({ (1...2).contains($0.count) })
    else { return nil }
    let numbers = parts.compactMap { part in
      part.allSatisfy { ("0"..."9").contains($0) } ? Int(part) : nil
    }
    guard numbers.count == parts.count, numbers[0] < 24, numbers[1...].allSatisfy({ $0 < 60 })
    else { return nil }
    return numbers[0] * 3600 + numbers[1] * 60 + (numbers.count > 2 ? numbers[2] : 0)
  }
}
