// The tests that the threat model names exist, and its command runs them.

import Foundation
import TestSupport
import Testing

@Suite struct ThreatModelTests {
  @Test func everyRowNamesATestThatItsCommandRuns() throws {
    let model = try String(
      contentsOf: Programs.package.appending(
        path: "Sources/MemwatchSandbox/MemwatchSandbox.docc/ThreatModel.md"), encoding: .utf8)
    var suites: [String: Set<String>] = [:]
    let tests = Programs.package.appending(path: "Tests")
    let files = try #require(
      FileManager.default.enumerator(at: tests, includingPropertiesForKeys: nil))
    for case let file as URL in files where file.pathExtension == "swift" {
      var suite = ""
      for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
        if let name = line.firstMatch(of: /@Suite.* (?:struct|class) (\w+)/) {
          suite = String(name.1)
        }
        if let name = line.firstMatch(of: /func (\w+)\(/) {
          suites[String(name.1), default: []].insert(suite)
        }
      }
    }
    let command = try #require(model.split(separator: "\n").first { $0.hasPrefix("swift test") })
    let filter = command.split(separator: "'")[1].split(separator: "|")
    var rows = 0
    for line in model.split(separator: "\n") where line.hasPrefix("| ") {
      let cell = line.split(separator: "|").last { !$0.allSatisfy(\.isWhitespace) }!
      guard !cell.contains("test "), !cell.contains("---") else { continue }
      rows += 1
      let names = cell.matches(of: /`([^`]+)`/).map { String($0.1) }
      #expect(!names.isEmpty, "\(line)")
      for name in names {
        if name.contains("/") {
          let path = Programs.package.appending(path: name).path
          #expect(FileManager.default.isExecutableFile(atPath: path), "\(name)")
          continue
        }
        let found = try #require(suites[name], "no test \(name)")
        let isRun = found.contains { suite in
          filter.contains { $0 == suite }
            || FileManager.default.fileExists(
              atPath: tests.appending(path: "MemwatchSandboxTests/\(suite).swift").path)
        }
        #expect(isRun, "\(name) of \(found)")
      }
    }
    #expect(rows > 25)
  }
}
