// Renders the model to a grid. Pure: the same model, size, style and time give the same grid.

package import MemwatchInspector

/// The characters that the terminal can show.
package struct Style: Equatable, Sendable {
  /// Whether non-ASCII characters may be drawn.
  package var unicode: Bool
  package init(unicode: Bool) { self.unicode = unicode }

  var rule: String { unicode ? "─" : "-" }
  var arenas: String { unicode ? "█" : "#" }
  var others: String { unicode ? "▒" : "=" }
  var free: String { unicode ? "·" : "." }
}

package struct Renderer {
  let model: Model
  let style: Style
  /// The time of the frame.
  let now: Timestamp
  var grid: Grid
  var layout = ScreenLayout()
  /// The first row below the header, the tabs and the verdict.
  var top = 1

  /// Draws the screen.
  package static func render(
    _ model: Model, width: Int, height: Int, style: Style, now: Timestamp
  ) -> (grid: Grid, layout: ScreenLayout) {
    var renderer = Renderer(
      model: model, style: style, now: now, grid: Grid(width: width, height: height))
    renderer.layout.pageRows = 1
    renderer.draw()
    return (renderer.grid, renderer.layout)
  }

  var width: Int { grid.width }
  var chips: [String] { model.stateChips(at: now) + model.filterChips }
  var height: Int { grid.height }

  /// Text for this terminal. Without UTF-8, non-ASCII characters become `?`, and `…` becomes `~`.
  func displayable(_ text: String) -> String {
    style.unicode ? text : String(text.map { $0.isASCII ? $0 : $0 == "…" ? "~" : "?" })
  }

  mutating func draw() {
    guard width > 0, height > 0 else { return }
    if width < 40 || height < 8 {
      grid.put(displayable(oneLine).fitted(width), row: 0, column: 0, role: .strong)
      if height > 1 { grid.put("memwatch: 40x8 needed".fitted(width), row: 1, column: 0) }
      drawPrompt()
      return
    }
    drawTop()
    layout.listID = model.listID
    layout.width = width
    if let list = model.checklist {
      drawChecklist(list)
      drawPrompt()
      return
    }
    switch model.view {
    case .arenas:
      if model.snapshot == nil {
        drawText(["no process is attached"], title: "arenas")
      } else if height < 20 || width < 80 {
        drawSmall()
      } else {
        drawArenas()
      }
    case .secrets, .map, .events:
      if let listing = model.listing {
        drawListing(listing)
      } else {
        drawText(["no arena is selected"], title: "arenas")
      }
    case .history: drawHistory()
    case .processes: drawProcesses()
    case .findings: drawText(model.lines(width: width), title: "audit")
    case .host: drawText(model.lines(width: width), title: "host")
    case .vaults: drawText(model.lines(width: width), title: "vaults")
    case .output: drawText(model.lines(width: width), title: "output of the command")
    case .help: drawText(model.lines(width: width), title: "help")
    case .detail: drawDetail()
    }
    drawKeyLine()
    drawPrompt()
  }

  var oneLine: String {
    guard let snapshot = model.snapshot else { return "memwatch: no publisher" }
    let seen = snapshot.lastSeenText(at: now).map { " \($0):" } ?? ""
    let chips = model.stateChips(at: now).map { $0 + " " }.joined()
    return chips + snapshot.process.state.rawValue.uppercased() + seen + " " + snapshot.verdict
  }
}

/// A number from another process, rounded and clamped to a non-negative integer.
func wholeNumber(_ value: Double) -> Int { value > 0 ? Int(min(value.rounded(), 1e18)) : 0 }
