// Text views: audit, host, vaults, output, help and detail.

import MemwatchInspector

extension Model {
  /// The filtered lines of a text view, wrapped to the screen.
  package var lines: [String] { lines(width: layout.width) }

  func lines(width: Int) -> [String] {
    switch view {
    case .output: filteredLines
    case .detail: filteredDetails.wrapped(width).map(\.line)
    case .vaults:
      matching(snapshot?.vaultLines(width: width) ?? []).flatMap { $0.wrapped(width) }
    default: filteredLines.flatMap { $0.wrapped(width) }
    }
  }

  /// The filtered details of the selected arena.
  var filteredDetails: [Detail] {
    let details = selected.map { allDetails(of: $0) } ?? []
    guard !filter.isEmpty else { return details }
    return details.filter { Self.contains($0.line, filter) }
  }

  var filteredLines: [String] { matching(allLines) }

  /// The lines that the filter shows.
  private func matching(_ lines: [String]) -> [String] {
    filter.isEmpty ? lines : lines.filter { Self.contains($0, filter) }
  }

  var allLines: [String] {
    switch view {
    case .findings: findingLines
    case .host: host?.lines ?? []
    case .vaults: snapshot?.vaultLines ?? []
    case .output: output ?? []
    case .help: helpLines
    case .detail: selected.map { allDetails(of: $0).map(\.line) } ?? []
    case .arenas, .secrets, .map, .events, .processes, .history: []
    }
  }

  var findingLines: [String] {
    guard let snapshot else { return [] }
    if snapshot.process.state == .exited { return Array(snapshot.postMortemLines.dropFirst()) }
    guard let audit = snapshot.audit else { return ["not audited yet: press A to audit"] }
    let summary = "audited at \(clock(audit.at)) in \(audit.durationMs) ms: \(snapshot.auditCounts)"
    let found = snapshot.findingLines.dropFirst(2)
    let isCompared = audit.scope == .arenas
    let none = isCompared ? "no findings  (no claim differs from what the kernel reports)" : ""
    return [summary] + (audit.reason.map { [$0] } ?? []) + [""]
      + (found.isEmpty ? [none] : Array(found))
  }

  package var helpLines: [String] {
    let rows = Binding.all.map { binding in
      [binding.keys.map(\.name).joined(separator: " "), binding.help]
    }
    return table(rows) + [
      "^Z  suspend", "",
      "STATE   ok, PROBLEM, DIFFERS (the kernel disagrees), a warning's reason, n/a (unknown);",
      "        gone, stopped, detached: the process's state; its rows are as last seen",
      "LOCK    locked, partial, unlocked, off (not requested)",
      "PROT    closed, read, r-w: the most open state of any thread now",
      "        encrypted: closed by a cipher, which the kernel cannot confirm",
      "SEAL    open, frozen (read until destroyed), sealed (mapping fixed until exit)",
      "GATE    key N, pages (mprotect), cipher, none",
      "",
      "memwatch changes nothing in the process that it watches and shows no contents:",
      "it reads the stats page and /proc, and never another process's memory.",
    ]
  }
}

extension String {
  /// The text wrapped to a width, between items (three blanks) or at blanks where possible.
  /// Continuation lines are indented by two more columns than the first.
  func wrapped(_ width: Int) -> [String] {
    guard width > 8, columns > width else { return [self] }
    let indent = String(repeating: " ", count: min(prefix { $0 == " " }.count + 2, width / 2))
    var lines: [String] = []
    var rest = self[...]
    while rest.columns + (lines.isEmpty ? 0 : indent.columns) > width {
      let room = width - (lines.isEmpty ? 0 : indent.columns)
      var (end, used) = (rest.startIndex, 0)
      // The last places to end the line: at a blank, not between number and unit, between items.
      var (blank, word, gap) = (String.Index?.none, String.Index?.none, String.Index?.none)
      var last: Character = " "
      while true {
        if end < rest.endIndex, rest[end] == " ", used > 0 {
          blank = end
          let isUnit = rest[rest.index(after: end)...].first?.isLetter == true
          if !last.isNumber || !isUnit { word = end }
          if used > room / 4, rest[end...].hasPrefix("   ") { (word, gap) = (end, end) }
        }
        guard end < rest.endIndex, used + rest[end].columns <= room else { break }
        last = rest[end]
        used += last.columns
        end = rest.index(after: end)
      }
      // The grid cuts a character that is wider than the line.
      if end == rest.startIndex { end = rest.index(after: end) }
      let cut = gap ?? word ?? blank ?? end
      lines.append((lines.isEmpty ? "" : indent) + rest[..<cut])
      rest = rest[cut...].drop { $0 == " " }
    }
    return rest.isEmpty ? lines : lines + [indent + rest]
  }
}
