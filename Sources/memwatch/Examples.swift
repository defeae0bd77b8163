// Examples of commands, for help and manual.

enum Examples {
  static let all: [(purpose: String, command: String)] = [
    ("Watch a program that publishes", "memwatch my-server"),
    ("Start a program and watch it", "memwatch run -- ./my-server --port 8443"),
    ("Problems, fixes and headroom", "memwatch snapshot my-server"),
    (
      "The same as JSON, for other tools",
      "memwatch snapshot my-server --format json | jq .problems"
    ),
    ("Compare with the kernel; exits with 6 if it disagrees", "memwatch audit my-server"),
    (
      "Fail a test suite whose secrets are not protected",
      "memwatch run --check --require locked,nodump -- ./my-server --selftest"
    ),
    (
      "What changed overnight; exits with 6 if anything did",
      "memwatch diff --exit-code monday.json tuesday.json"
    ),
    ("Record an hour", "memwatch record my-server -o incident.record --for 1h"),
    ("Replay it later, with pause, steps and jumps", "memwatch replay incident.record"),
    ("Host settings that put secrets at risk", "memwatch host"),
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
