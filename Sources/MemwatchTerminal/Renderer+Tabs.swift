// Draws the tabs: the views, each with a count of what is new or bad.

import MemwatchInspector

extension Renderer {
  struct Tab {
    var view: View
    var key: String
    var name: String
    var short: String
    /// `·3`: three new; `!2`: two bad.
    var count = ""
    var isBad = false
  }

  var tabs: [Tab] {
    var tabs: [Tab] = [
      Tab(view: .arenas, key: "1", name: "Arenas", short: "Arenas"),
      Tab(view: .secrets, key: "2", name: "Labels", short: "Labels"),
      Tab(view: .map, key: "3", name: "Map", short: "Map"),
      Tab(view: .events, key: "4", name: "Events", short: "Events"),
      Tab(view: .findings, key: "5", name: "Audit", short: "Audit"),
      Tab(view: .host, key: "6", name: "Host", short: "Host"),
      Tab(view: .vaults, key: "7", name: "Vaults", short: "Vault"),
      Tab(view: .processes, key: "8", name: "Processes", short: "Procs"),
      Tab(view: .history, key: "9", name: "History", short: "Hist"),
    ]
    if model.output != nil {
      tabs.append(Tab(view: .output, key: "o", name: "Output", short: "Out"))
    }
    let new = style.unicode ? "·" : "+"
    for index in tabs.indices {
      let (count, mark, isBad): (Int, String, Bool) =
        switch tabs[index].view {
        case .events: (model.newEvents, new, false)
        case .findings:
          (model.snapshot?.audit?.findings.count(where: \.isDifference) ?? 0, "!", true)
        case .host: (model.host?.badFacts.count ?? 0, "!", true)
        case .vaults: (model.snapshot?.vaults.count { ($0.failures ?? 0) > 0 } ?? 0, "!", true)
        default: (0, "", false)
        }
      guard count > 0 else { continue }
      (tabs[index].count, tabs[index].isBad) = ("\(mark)\(min(count, 99))", isBad)
    }
    return tabs
  }

  /// Uses full names if they fit, then short ones, then only the current view's name.
  mutating func drawTabs(row: Int) {
    let tabs = tabs
    func isHere(_ tab: Tab) -> Bool {
      tab.view == (model.view == .detail ? .arenas : model.view)
    }
    let texts: [[String]] = [
      tabs.map { " \($0.key) \($0.name)\($0.count) " },
      tabs.map { " \($0.key) \($0.short)\($0.count)" },
      tabs.map { " \($0.key)" + (isHere($0) ? " \($0.short)" : "") + $0.count },
    ]
    let fitting = texts.first { $0.reduce(0) { $0 + $1.columns } <= width } ?? texts[2]
    var at = 0
    for (tab, text) in zip(tabs, fitting) where at + text.columns <= width {
      if let key = tab.key.first {
        layout.clickTargets.append(
          .init(row: row, columns: at..<at + text.columns, key: .character(key)))
      }
      let isHere = isHere(tab)
      let end = grid.put(text, row: row, column: at, role: isHere ? .selected : .normal)
      if !isHere { grid.put(tab.key, row: row, column: at + 1, role: .strong) }
      let trailing = text.hasSuffix(" ") ? 1 : 0
      let role: Role = tab.isBad ? .bad : .strong
      grid.put(
        tab.count, row: row, column: end - trailing - tab.count.columns,
        role: isHere ? role.whenSelected : role)
      at = end
    }
  }
}
