// The user's settings file: lines of `name = value`. Pure.

import MemwatchInspector

/// Screen settings from the file; nil where the file does not mention them.
package struct Configuration: Equatable, Sendable {
  package var intervalMs: Int?
  package var openLimitMs: UInt64?
  package var usesMouse: Bool?
  package var useColor: Bool?
  /// The columns of the arena list, in order.
  package var columns: [String]?
  package var sort: String?

  package init() {}

  /// - Parameter milliseconds: parses a duration such as 500ms.
  /// - Returns: the settings, and the lines that were not understood and are ignored.
  package static func parse(
    _ text: String, milliseconds: (String) -> Int?
  ) -> (configuration: Configuration, errors: [String]) {
    var (configuration, errors) = (Configuration(), [String]())
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    {
      let line = trimmed(line.prefix { $0 != "#" })
      guard !line.isEmpty else { continue }
      let parts = line.split(separator: "=", maxSplits: 1).map { trimmed($0) }
      if parts.count == 2, configuration.set(parts[0], to: parts[1], milliseconds) { continue }
      errors.append("line \(index + 1): \(SafeText(String(line.prefix(60))))")
    }
    return (configuration, errors)
  }

  private mutating func set(
    _ name: String, to value: String, _ milliseconds: (String) -> Int?
  ) -> Bool {
    let known = ArenaColumn.allCases.map(\.rawValue)
    switch (name, value) {
    case ("interval", _):
      guard let time = milliseconds(value), (50...3_600_000).contains(time) else { return false }
      intervalMs = time
    case ("open-limit", _):
      guard let time = milliseconds(value) else { return false }
      openLimitMs = UInt64(time)
    case ("mouse", "on"): usesMouse = true
    case ("mouse", "off"): usesMouse = false
    case ("theme", "auto"): useColor = true
    case ("theme", "mono"): useColor = false
    case ("sort", _):
      guard known.contains(value.uppercased()) else { return false }
      sort = value.uppercased()
    case ("columns", _):
      let titles = value.split(separator: ",").map { Self.trimmed($0).uppercased() }
      guard !titles.isEmpty, titles.allSatisfy({ known.contains($0) }),
        Set(titles).count == titles.count
      else { return false }
      columns = titles
    default: return false
    }
    return true
  }

  private static func trimmed(_ text: some StringProtocol) -> String {
    var text = text.drop { $0.isWhitespace }
    while text.last?.isWhitespace == true { text.removeLast() }
    return String(text)
  }
}

extension Model {
  /// Sets the initial columns and order of the arena list.
  package mutating func apply(_ configuration: Configuration) {
    if let columns = configuration.columns { columnChoices[View.arenas.rawValue] = columns }
    if let sort = configuration.sort.flatMap(ArenaColumn.init(rawValue:)) {
      (self.sort, isSorted) = (sort, true)
    }
  }
}
