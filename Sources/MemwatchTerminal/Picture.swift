// A grid as an SVG 1.1 picture, for documents and reports. Pure.

extension Grid {
  private static let (cell, line, margin) = (8, 16, 8)

  /// Cells are 8 by 16. Each word is positioned by its own x, so columns stay aligned in every font
  /// and renderer; bars, rules and dots are drawn as shapes, independent of the font. Dark by
  /// default; light where the browser prefers it (`prefers-color-scheme`).
  package var svg: String {
    var lines = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(width * Self.cell + 2 * Self.margin)\" "
        + "height=\"\(height * Self.line + 2 * Self.margin)\" "
        + "font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" "
        + "font-size=\"13\">",
      Self.lightStyle,
      "<rect class=\"ground\" width=\"100%\" height=\"100%\" fill=\"#101418\"/>",
    ]
    for (row, cells) in rows.enumerated() {
      var column = 0
      while column < cells.count {
        let role = cells[column].role
        var end = column
        while end < cells.count, cells[end].role == role { end += 1 }
        lines += Self.drawn(cells[column..<end], row: row, role: role)
        column = end
      }
    }
    lines.append("</svg>")
    return lines.joined(separator: "\n") + "\n"
  }

  /// Draws a run of cells with one role.
  private static func drawn(_ cells: ArraySlice<Cell>, row: Int, role: Role) -> [String] {
    var lines: [String] = []
    let look = look(role)
    let y = row * line + margin
    if let ground = look.ground {
      lines.append(
        "<rect class=\"\(role)-ground\" x=\"\(x(cells.startIndex))\" y=\"\(y)\" "
          + "width=\"\(cells.count * cell)\" height=\"\(line)\" fill=\"\(ground)\"/>")
    }
    var (path, words) = ("", "")
    var column = cells.startIndex
    while column < cells.endIndex {
      guard let character = cells[column].character, character != " " else {
        column += 1
        continue
      }
      if let shape = shape(character, x: x(column), y: y) {
        path += shape
        column += 1
        continue
      }
      // A word ends at a blank or at a non-ASCII character, whose width depends on the font.
      var text = String(character)
      var end = column + 1
      while character.isASCII, end < cells.endIndex, let next = cells[end].character,
        next != " ", next.isASCII
      {
        text.append(next)
        end += 1
      }
      words += "<tspan x=\"\(x(column))\">\(escaped(text))</tspan>"
      column = end
    }
    if !path.isEmpty {
      lines.append("<path class=\"\(role)\" fill=\"\(look.ink)\" d=\"\(path)\"/>")
    }
    if !words.isEmpty {
      let weight = look.isBold ? " font-weight=\"bold\"" : ""
      lines.append(
        "<text class=\"\(role)\" y=\"\(y + 12)\" fill=\"\(look.ink)\"\(weight)>\(words)</text>")
    }
    return lines
  }

  private static func x(_ column: Int) -> Int { column * cell + margin }

  /// Blocks, lines and braille dots as rectangles of a path; nil: draw the character as text.
  private static func shape(_ character: Character, x: Int, y: Int) -> String? {
    func box(_ x: Int, _ y: Int, _ width: Int, _ height: Int) -> String {
      "M\(x) \(y)h\(width)v\(height)h-\(width)z"
    }
    guard let scalar = character.unicodeScalars.first, character.unicodeScalars.count == 1 else {
      return nil
    }
    switch scalar.value {
    case 0x2500: return box(x, y + 8, cell, 1)
    case 0x2502: return box(x + 4, y, 1, line)
    case 0x2514: return box(x + 4, y, 1, 9) + box(x + 4, y + 8, 4, 1)
    case 0x2581...0x2588:
      let height = Int(scalar.value - 0x2580) * 2
      return box(x, y + line - height, cell, height)
    // ▒
    case 0x2592: return stride(from: 1, to: 16, by: 4).map { box(x, y + $0, cell, 2) }.joined()
    case 0x2800...0x28ff:
      let bits = scalar.value - 0x2800
      let places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
      return places.enumerated().filter { bits & (1 << $0.offset) != 0 }
        .map { box(x + 1 + $0.element.0 * 4, y + 1 + $0.element.1 * 4, 2, 3) }.joined()
    default: return nil
    }
  }

  private static func look(_ role: Role) -> (ink: String, ground: String?, isBold: Bool) {
    switch role {
    case .normal: ("#d0d4d8", nil, false)
    case .strong: ("#ffffff", nil, true)
    case .faint: ("#8a9199", nil, false)
    case .good: ("#7fd88f", nil, false)
    case .warning, .meterWarning: ("#f0c05a", nil, false)
    case .bad, .meterBad: ("#ff7b72", nil, true)
    case .selected, .selectedGood: ("#101418", "#d0d4d8", false)
    case .selectedWarning, .bandWarning: ("#101418", "#f0c05a", false)
    case .selectedBad, .bandBad: ("#ffffff", "#b62324", true)
    case .bandGood: ("#ffffff", "#1a7f37", false)
    case .arenas: ("#79c0ff", nil, false)
    case .others: ("#d2a8ff", nil, false)
    }
  }

  /// Overrides for light backgrounds; bands keep their own colours.
  private static var lightStyle: String {
    let looks: [(Role, String)] = [
      (.normal, "#24292f"), (.strong, "#000000"), (.faint, "#59636e"), (.good, "#1a7f37"),
      (.warning, "#9a6700"), (.meterWarning, "#9a6700"), (.bad, "#cf222e"), (.meterBad, "#cf222e"),
      (.arenas, "#0969da"), (.others, "#8250df"), (.selected, "#ffffff"),
      (.selectedGood, "#ffffff"),
    ]
    let rules = looks.map { ".\($0.0){fill:\($0.1)}" }
    let backgrounds = [
      ".ground{fill:#ffffff}", ".selected-ground,.selectedGood-ground{fill:#32383f}",
    ]
    return "<style>@media (prefers-color-scheme: light){" + (rules + backgrounds).joined()
      + "}</style>"
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
  }
}
