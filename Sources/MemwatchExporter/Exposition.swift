// Prometheus' text format 0.0.4.

import MemwatchInspector

/// The series of one collection. Adding to an existing series aggregates, so no label set occurs
/// twice.
struct Exposition {
  private var values: [String: [[String]: Double]] = [:]
  private(set) var count = 0

  /// Adds a value; nil (unknown) adds nothing.
  mutating func add(_ metric: Metric, _ labels: [String], _ value: Double?) {
    assert(labels.count == metric.labels.count, metric.name)
    guard let value else { return }
    guard let old = values[metric.name]?[labels] else {
      values[metric.name, default: [:]][labels] = value
      count += 1
      return
    }
    values[metric.name]![labels] = metric.aggregation.combine(old, value)
  }

  mutating func add(_ metric: Metric, _ labels: [String], _ value: UInt64?) {
    add(metric, labels, value.map { Double($0) })
  }

  mutating func add(_ metric: Metric, _ labels: [String], _ value: ByteCount?) {
    add(metric, labels, value.map { Double($0) })
  }

  mutating func add(_ metric: Metric, _ labels: [String], _ value: Bool?) {
    add(metric, labels, value.map { $0 ? 1.0 : 0.0 })
  }

  var text: String {
    var text = ""
    for metric in Metric.all {
      guard let series = values[metric.name] else { continue }
      text += "# HELP \(metric.name) \(metric.help)\n"
      text += "# TYPE \(metric.name) \(metric.kind.rawValue)\n"
      for (labels, value) in series.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
        text += metric.name
        if !labels.isEmpty {
          let pairs = zip(metric.labels, labels).map { "\($0)=\"\(Self.escaped($1))\"" }
          text += "{\(pairs.joined(separator: ","))}"
        }
        text += " \(Self.number(value))\n"
      }
    }
    return text
  }

  /// Escapes backslash, double quote and line feed in a label value.
  static func escaped(_ value: String) -> String {
    var text = ""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "\\": text += "\\\\"
      case "\"": text += "\\\""
      case "\n": text += "\\n"
      default: text.unicodeScalars.append(scalar)
      }
    }
    return text
  }

  static func number(_ value: Double) -> String {
    if value == .infinity { return "+Inf" }
    if let whole = Int64(exactly: value), whole.magnitude < 1 << 53 { return "\(whole)" }
    return "\(value)"
  }
}
