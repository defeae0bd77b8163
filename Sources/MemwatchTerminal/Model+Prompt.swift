// Prompts: file names, times, searches and filters.

import MemwatchInspector

/// A prompt and the text typed so far.
package struct Prompt: Equatable, Sendable {
  package enum Kind: Sendable {
    case search, filter, write, writeView, leave, time, record
  }
  package var kind: Kind
  package var text: String
  package var question: String
}

extension Model {
  /// The suggested name for a new file.
  func fileName(
    _ snapshot: Snapshot, _ now: Timestamp, _ ending: String, _ what: String = ""
  ) -> String {
    let pid = snapshot.process.pid.map { "-\($0)" } ?? ""
    let time = clock(now).filter { $0 != ":" }
    let name = snapshot.process.name.string.map { $0.isSafeInFileName ? $0 : "_" }
    return "memwatch-\(String(name.prefix(64)))\(pid)-\(what)\(time).\(ending)"
  }

  /// The column titles that the current view can show.
  var availableColumns: [String] {
    view == .arenas
      ? ArenaColumn.allCases.map(\.rawValue)
      : (listing?.columns ?? []).map(\.title)
  }

  /// Pasted text goes into a prompt as text; it never runs commands or ends the line.
  mutating func paste(_ text: String) {
    guard let prompt, prompt.kind != .leave else {
      return showMessage("pasted text ignored: it would have acted as keys")
    }
    for character in text where character.columns > 0 { _ = type(.character(character)) }
  }

  mutating func type(_ key: Key) -> [Effect] {
    guard var line = prompt else { return [] }
    if line.kind == .leave {
      switch key {
      case .character("y"), .character("Y"): return [.quit(leaveRunning: true)]
      case .character("n"), .character("N"): return [.quit(leaveRunning: false)]
      case .interrupt: return [.quit(leaveRunning: false)]
      case .escape, .backspace, .character("q"): prompt = nil
      default: break
      }
      return []
    }
    switch key {
    case .interrupt: return quit()
    case .escape:
      if line.kind == .search { search = "" }
      prompt = nil
      return []
    case .backspace: if !line.text.isEmpty { line.text.removeLast() }
    case .character(let character):
      if character.asciiValue == 21 {  // ^U
        line.text = ""
      } else if character.columns > 0, line.text.count < 200 {
        line.text.append(character)
      }
    case .enter:
      prompt = nil
      switch line.kind {
      case .write: return line.text.isEmpty ? [] : [.write(line.text)]
      case .writeView: return line.text.isEmpty ? [] : [.writeView(line.text)]
      case .filter: setFilter(line.text)
      case .record: return line.text.isEmpty ? [] : [.record(line.text)]
      case .time:
        if line.text.isEmpty { return [] }
        guard replay == nil else { return [.goTo(time: line.text)] }
        goTo(line.text)
      case .search: if !search.isEmpty, match == nil { showNoMatch() }
      case .leave: break
      }
      return []
    default: break
    }
    prompt = line
    switch line.kind {
    case .search:
      search = line.text
      if !search.isEmpty { _ = find(step: 1, includingThis: true) }
    case .filter: setFilter(line.text)
    case .write, .writeView, .leave, .time, .record: break
    }
    return []
  }
}

extension Character {
  fileprivate var isSafeInFileName: Bool { isLetter || isNumber || "-_.".contains(self) }
}
