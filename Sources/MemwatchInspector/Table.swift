// Comma-separated values (RFC 4180).

/// Rows of cells as CSV: every row ends with CR LF; what a spreadsheet would take for a formula gets an
/// apostrophe in front.
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
  /// The arenas, one a row, with every field that is one value; what is not known is empty.
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
    // What the page's table has no room for is a last row, with that for a name.
    if let unlisted = arenasUnlisted, unlisted > 0 {
      let text = "\(counted(Int(clamping: unlisted), "more arena")) not listed"
      if rows.isEmpty { rows = [["name"]] }
      rows.append(rows[0].map { $0 == "name" ? text : "" })
    }
    return commaSeparated(rows)
  }

  /// The same, with numbers for the texts of labels: they tell what secrets are for.
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
