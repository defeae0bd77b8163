// The alert rules and the route in Assets/fleet use existing metrics, and work as described.

import Foundation
import TestSupport
import Testing

@testable import MemwatchExporter

private func isInstalled(_ program: String) -> Bool {
  FileManager.default.isExecutableFile(atPath: "/usr/bin/" + program)
}

@Suite struct FleetTests {
  static let folder = Programs.package.appending(path: "Assets/fleet")

  static func text(_ name: String) throws -> String {
    try String(contentsOf: folder.appending(path: name), encoding: .utf8)
  }

  private func run(_ arguments: String..., in directory: String = folder.path) throws -> Ended {
    var launch = Launch(arguments)
    launch.directory = directory
    return try launch.run()
  }

  /// Every series in the folder's files is in the table, and uses only its labels.
  @Test func everySeriesIsInTheTable() throws {
    let labels = Dictionary(uniqueKeysWithValues: Metric.all.map { ($0.name, Set($0.labels)) })
    var seen = 0
    for name in try FileManager.default.contentsOfDirectory(atPath: Self.folder.path) {
      for match in try Self.text(name).matches(of: /(memwatch_[a-z_]+)(?:\{([^}]*)\})?/) {
        let metric = String(match.1)
        let known = try #require(labels[metric], "\(name): there is no \(metric)")
        for label in (match.2 ?? "").matches(of: /(\w+)(?:=|!)/).map({ String($0.1) }) {
          #expect(
            known.contains(label) || ["instance", "job"].contains(label),
            "\(name): \(metric) has no label \(label)")
        }
        seen += 1
      }
    }
    #expect(seen > 50)
  }

  @Test(.enabled(if: isInstalled("promtool"), "promtool (Debian: prometheus) is not installed"))
  func theRulesPassTheirTests() throws {
    let checked = try run("promtool", "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
    #expect(checked.status == 0, "\(checked.output)\(checked.error)")
    let tested = try run("promtool", "test", "rules", "rules-test.yml")
    #expect(tested.status == 0, "\(tested.output)\(tested.error)")
  }

  /// An alert whose expression never holds, or without its `for:` time, fails the unit tests, which
  /// shows that they test each alert.
  @Test(.enabled(if: isInstalled("promtool"), "promtool (Debian: prometheus) is not installed"))
  func theUnitTestsCoverEachAlert() throws {
    let parts = try Self.text("rules.yml").components(separatedBy: "      - alert: ")
    #expect(parts.count > 10)
    let scratch = try Scratch()
    try Self.text("rules-test.yml").write(
      toFile: scratch.file("rules-test.yml"), atomically: true, encoding: .utf8)
    func fails(_ index: Int, _ rule: String) throws -> Bool {
      var changed = parts
      changed[index] = rule
      try changed.joined(separator: "      - alert: ").write(
        toFile: scratch.file("rules.yml"), atomically: true, encoding: .utf8)
      return try run("promtool", "test", "rules", "rules-test.yml", in: scratch.path).status != 0
    }
    #expect(try !fails(0, parts[0]), "the rules as they are")
    for (index, rule) in parts.enumerated().dropFirst() {
      let name = rule.prefix { $0 != "\n" }
      let silent = rule.replacing(/(?s)expr: .*?\n        (for|labels):/) {
        "expr: vector(0) > 1\n        \($0.1):"
      }
      #expect(silent != rule)
      #expect(try fails(index, silent), "\(name) need not fire")
      let hasty = rule.replacing(/\n        for: \w+/, with: "")
      if hasty != rule { #expect(try fails(index, hasty), "\(name) may fire at once") }
    }
  }

  @Test(
    .enabled(
      if: isInstalled("amtool"), "amtool (Debian: prometheus-alertmanager) is not installed"))
  func theRouteSendsEachAlertSomewhere() throws {
    let checked = try run("amtool", "check-config", "alertmanager.yml")
    #expect(checked.status == 0, "\(checked.output)\(checked.error)")
    let rules = try Self.text("rules.yml")
    let alerts = rules.matches(of: /(?s)- alert: (\w+).*?severity: (\w+)/)
    #expect(alerts.count > 10)
    for (name, severity) in alerts.map({ (String($0.1), String($0.2)) })
      + [("Other", "critical")]
    {
      let route = try run(
        "amtool", "config", "routes", "test", "--config.file=alertmanager.yml",
        "alertname=\(name)", "severity=\(severity)")
      let expected = name == "Other" ? "default" : severity == "critical" ? "on-call" : "tickets"
      #expect(route.output == expected + "\n", "\(name): \(route.error)")
    }
  }
}
