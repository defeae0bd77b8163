// The dashboard in Assets/fleet has nothing that Grafana would reject or show empty. (FleetTests
// check the names of its series.)

import Foundation
import TestSupport
import Testing

@Suite struct DashboardTests {
  private struct Dashboard: Decodable {
    struct Source: Decodable, Equatable { var type, uid: String }
    struct Position: Decodable { var x, y, w, h: Int }
    struct Query: Decodable {
      var refId, expr: String
      var datasource: Source
    }
    struct Panel: Decodable {
      var id: Int
      var type, title: String
      var gridPos: Position
      var datasource: Source?
      var targets: [Query]?
    }
    struct Variable: Decodable {
      var name, type: String
      var datasource: Source?
      var definition: String?
    }
    struct Annotation: Decodable {
      var datasource: Source
      var expr: String
    }
    struct Variables: Decodable { var list: [Variable] }
    struct Annotations: Decodable { var list: [Annotation] }
    var uid, title: String
    var schemaVersion: Int
    var templating: Variables
    var annotations: Annotations
    var panels: [Panel]

    /// Every expression, and its location.
    var expressions: [(place: String, text: String)] {
      panels.flatMap { panel in (panel.targets ?? []).map { (panel.title, $0.expr) } }
        + annotations.list.map { ("annotation", $0.expr) }
    }
  }

  private func dashboard() throws -> Dashboard {
    try JSONDecoder().decode(Dashboard.self, from: Data(FleetTests.text("dashboard.json").utf8))
  }

  @Test func dashboardReferencesAreConsistent() throws {
    let dashboard = try dashboard()
    let source = Dashboard.Source(type: "prometheus", uid: "${datasource}")
    #expect(dashboard.uid == "memwatch" && dashboard.schemaVersion >= 30)
    #expect(dashboard.panels.count > 15)
    #expect(Set(dashboard.panels.map(\.id)).count == dashboard.panels.count)
    #expect(Set(dashboard.panels.map(\.title)).count == dashboard.panels.count)
    var taken: Set<[Int]> = []
    for panel in dashboard.panels {
      let place = panel.gridPos
      #expect(place.x >= 0 && place.w > 0 && place.h > 0, "\(panel.title)")
      #expect(place.x + place.w <= 24, "\(panel.title)")
      for x in place.x..<(place.x + place.w) {
        for y in place.y..<(place.y + place.h) {
          #expect(taken.insert([x, y]).inserted, "\(panel.title) lies over another one")
        }
      }
      let queries = panel.targets ?? []
      #expect((panel.type == "row") == queries.isEmpty, "\(panel.title)")
      #expect(Set(queries.map(\.refId)).count == queries.count, "\(panel.title)")
      #expect(queries.allSatisfy { $0.datasource == source }, "\(panel.title)")
      #expect(panel.type == "row" || panel.datasource == source, "\(panel.title)")
    }
    // Used variables are declared, and declared variables are used.
    let names = Set(dashboard.templating.list.map(\.name))
    let definitions = dashboard.templating.list.compactMap { $0.definition }
    let used = (dashboard.expressions.map(\.text) + definitions).flatMap { text in
      text.matches(of: /\$\{?(\w+)/).map { String($0.1) }
    }
    #expect(Set(used).subtracting(["__rate_interval"]).union(["datasource"]) == names)
    #expect(definitions.allSatisfy { $0.contains(/^label_values\(memwatch_\w+.*, \w+\)$/) })
    #expect(dashboard.annotations.list.allSatisfy { $0.datasource == source })
  }

  @Test(
    .enabled(
      if: FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool"),
      "promtool (Debian: prometheus) is not installed"))
  func promtoolAcceptsEveryExpression() throws {
    func check(_ expressions: [String]) throws -> Ended {
      let rules = expressions.enumerated().map { index, text in
        let expression = text.replacing("$__rate_interval", with: "5m")
          .replacing(/\$\w+/, with: ".*").replacing("'", with: "''")
        return "      - {record: 'test:expression:\(index)', expr: '\(expression)'}"
      }
      let scratch = try Scratch()
      let text = "groups:\n  - name: dashboard\n    rules:\n" + rules.joined(separator: "\n") + "\n"
      try text.write(toFile: scratch.file("rules.yml"), atomically: true, encoding: .utf8)
      return try Launch(["promtool", "check", "rules", scratch.file("rules.yml")]).run()
    }
    let expressions = try dashboard().expressions.map(\.text)
    #expect(expressions.count > 20)
    let ended = try check(expressions)
    #expect(ended.status == 0, "\(ended.output)\(ended.error)")
    #expect(ended.output.contains("\(expressions.count) rules found"))
    // The control: the check finds mistakes.
    #expect(try check(expressions + ["sum by (memwatch_publishers"]).status != 0)
  }
}
