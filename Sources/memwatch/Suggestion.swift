// Help for mistyped commands.

import ArgumentParser
import MemwatchInspector

enum Suggestion {
  static var commands: [String] {
    Memwatch.configuration.subcommands.filter { $0.configuration.shouldDisplay }
      .map { $0._commandName }
  }

  /// The command that a mistyped word probably means: it begins like the word, or two letters differ.
  static func command(for word: String) -> String? {
    let close = commands.map { ($0, distance(word, $0)) }.filter {
      $0.1 <= 2 && $0.1 < $0.0.count / 2
    }
    return commands.first { word.count > 1 && $0.hasPrefix(word) } ?? close.min { $0.1 < $1.1 }?.0
  }

  /// `Did you mean: memwatch snapshot?`, and the names that can be given instead.
  static func lines(for name: String) -> [String] {
    var lines: [String] = []
    if let command = command(for: name) { lines.append("Did you mean: memwatch \(command)?") }
    let names = Set(Discovery.run().publishers.filter { $0.state.isHeld }.map(\.name.string))
      .sorted()
    if !names.isEmpty {
      let rest = names.count > 8 ? ", … (memwatch list shows all)" : ""
      lines.append("Publishing now: " + names.prefix(8).joined(separator: ", ") + rest)
    }
    return lines
  }

  /// Fails for `memwatch help WORD` where no command has that name.
  static func checkHelp(_ arguments: [String]) throws(Failure) {
    guard arguments.first == "help", arguments.count > 1, let word = arguments.last,
      !word.hasPrefix("-"), !commands.contains(word), word != "help"
    else { return }
    let hint = command(for: word).map { " Did you mean: memwatch help \($0)?" } ?? ""
    throw Failure(
      Exit.usage,
      "unknown command \(SafeText(word)).\(hint)\nCommands: " + commands.joined(separator: ", ")
    )
  }

  /// What the parser does not say of a value that it refuses.
  static func reason(for message: String) -> String? {
    message.contains("<time>'") || message.contains("<interval>'")
      ? "A time is a number with a unit: 500ms, 10s, 2m, 1h." : nil
  }

  /// The letters to insert, remove, replace or exchange with their neighbour.
  private static func distance(_ a: String, _ b: String) -> Int {
    let (a, b) = (Array(a.utf8.prefix(32)), Array(b.utf8))
    var rows = [Array(0...b.count)]
    for i in 1...max(1, a.count) where !a.isEmpty {
      var row = [i]
      for j in 1...max(1, b.count) where !b.isEmpty {
        var least = min(row[j - 1], rows[i - 1][j]) + 1
        least = min(least, rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1))
        if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] {
          least = min(least, rows[i - 2][j - 2] + 1)
        }
        row.append(least)
      }
      rows.append(row)
    }
    return rows[rows.count - 1][b.count]
  }
}
