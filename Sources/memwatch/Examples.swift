// Examples of commands, for help and manual.

enum Examples {
  static let all: [(purpose: String, command: String)] = [
    ("The screen of a program that publishes", "memwatch my-server"),
    ("Start a program, and show it", "memwatch run -- ./my-server --port 8443"),
    ("What is wrong, what to type, how much room is left", "memwatch snapshot my-server"),
    ("The same for another tool", "memwatch snapshot my-server --format json | jq .problems"),
    ("Does the kernel agree? 6 where it does not", "memwatch audit my-server"),
    (
      "Fail a test suite whose secrets are not protected",
      "memwatch run --check --require locked,nodump -- ./my-server --selftest"
    ),
    (
      "What changed over night; 6 when something did",
      "memwatch diff --exit-code monday.json tuesday.json"
    ),
    ("Record an hour", "memwatch record my-server -o incident.record --for 1h"),
    ("Look at it later, with pause, steps and jumps", "memwatch replay incident.record"),
    ("Which settings of this host harm secrets", "memwatch host"),
  ]

  private static let heading = "EXAMPLES:"

  /// As the end of a discussion; of one command, or all.
  static func text(of command: String? = nil) -> String {
    let chosen = all.filter { example in
      command.map { example.command.contains("memwatch \($0) ") } ?? true
    }
    return ([heading] + chosen.flatMap { ["  \($0.purpose):", "    \($0.command)"] })
      .joined(separator: "\n")
  }

  /// A discussion without its examples.
  static func removed(from discussion: String) -> String {
    var lines = discussion.split(separator: "\n", omittingEmptySubsequences: false)
    if let start = lines.firstIndex(where: { $0 == heading }) { lines.removeSubrange(start...) }
    while lines.last?.isEmpty ?? false { lines.removeLast() }
    return lines.joined(separator: "\n")
  }
}
