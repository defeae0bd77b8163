// Comma-separated values (RFC 4180).

/// Rows as CSV: rows end with CR LF; cells that a spreadsheet would take for a formula get a
/// leading apostrophe.
package func commaSeparated(_ rows: [[String]]) -> String {
  rows.map { row in row.map(cell).joined(separator: ",") + "\r\n" }.joined()
}

private func cell(_ text: String) -> String {
  let isFormula = text.first.map { "=+-@".contains($0) } ?? false && UInt64(text) == nil
  let safe = (isFormula ? "'" : "") + text
  guard safe.contains(where: { ",\"\r\n".contains($0) }) else { return safe }
  return "\"" + safe.replacing("\"", with: "\"\"") + "\""
}

extension Snapshot {
  /// The arenas, one per row, with every single-valued field; unknown values are empty.
  package var csv: String {
    var rows: [[String]] = []
    for arena in arenas {
      guard case .object(let fields) = document(of: arena) else { continue }
      let single = fields.filter { _, value in
        switch value {
        case .list, .object: false
        default: true
        }
      }
      if rows.isEmpty { rows.append(single.map(\.0)) }
      rows.append(single.map { $0.1 == .null ? "" : $0.1.plain })
    }
    // A last row counts the arenas that did not fit into the page's table.
    if let unlisted = arenasUnlisted, unlisted > 0 {
      let text = "\(counted(Int(clamping: unlisted), "more arena")) not listed"
      if rows.isEmpty { rows = [["name"]] }
      rows.append(rows[0].map { $0 == "name" ? text : "" })
    }
    return commaSeparated(rows)
  }

  /// A copy with numbers in place of label texts, which reveal what secrets are for.
  package var withoutLabels: Snapshot {
    var copy = self
    for arena in copy.arenas.indices {
      for label in copy.arenas[arena].labels.indices {
        copy.arenas[arena].labels[label].label = SafeText("label \(label + 1)")
      }
    }
    return copy
  }
}
