// A grid as a picture (SVG 1.1): what is on the screen, for documents and reports. Pure.

extension Grid {
  /// Cells are 8 by 16; each run of one role is one text, stretched to its cells, so that columns stay
  /// straight in every font.
  package var svg: String {
    let (cell, line) = (8, 16)
    var lines = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(width * cell + 16)\" "
        + "height=\"\(height * line + 16)\" font-family=\"ui-monospace,Menlo,Consolas,monospace\" "
        + "font-size=\"13\">",
      "<rect width=\"100%\" height=\"100%\" fill=\"#101418\"/>",
    ]
    for (row, cells) in rows.enumerated() {
      var column = 0
      while column < cells.count {
        let role = cells[column].role
        var end = column
        var text = ""
        while end < cells.count, cells[end].role == role {
          if let character = cells[end].character { text.append(character) }
          end += 1
        }
        let (x, y) = (column * cell + 8, row * line + 8)
        let look = Self.look(role)
        if let ground = look.ground {
          lines.append(
            "<rect x=\"\(x)\" y=\"\(y)\" width=\"\((end - column) * cell)\" height=\"\(line)\" "
              + "fill=\"\(ground)\"/>")
        }
        if text.contains(where: { $0 != " " }) {
          let weight = look.isBold ? " font-weight=\"bold\"" : ""
          lines.append(
            "<text x=\"\(x)\" y=\"\(y + 12)\" textLength=\"\((end - column) * cell)\" "
              + "xml:space=\"preserve\" fill=\"\(look.ink)\"\(weight)>\(Self.escaped(text))</text>")
        }
        column = end
      }
    }
    lines.append("</svg>")
    return lines.joined(separator: "\n") + "\n"
  }

  private static func look(_ role: Role) -> (ink: String, ground: String?, isBold: Bool) {
    switch role {
    case .normal: ("#d0d4d8", nil, false)
    case .strong: ("#ffffff", nil, true)
    case .faint: ("#8a9199", nil, false)
    case .good: ("#7fd88f", nil, false)
    case .warning: ("#f0c05a", nil, false)
    case .bad: ("#ff7b72", nil, true)
    case .selected: ("#101418", "#d0d4d8", false)
    case .arenas: ("#79c0ff", nil, false)
    case .others: ("#d2a8ff", nil, false)
    }
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
  }
}
