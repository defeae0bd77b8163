// Model-checked protocols: every interleaving, including delayed stores.

import Foundation
import TestSupport
import Testing

@Suite struct ModelTests {
  static let hasSpin = (try? Launch(["sh", "-c", "command -v spin"]).run().status) == 0

  /// The complete model holds. Without any one of these parts the checker must find a violation.
  static let models: [(model: String, part: [String], without: String)] =
    ["", "NO_BARRIER", "HANDLER_WAITS", "PLAIN_RESTORE"].map { ("gate", [], $0) }
    + ["", "SPLIT_RELEASE"].map { ("gate", ["HANDLES"], $0) }
    + ["", "NO_FIRST_FENCE", "NO_RELEASE", "STAMP_FIRST", "READ_ONCE"].map { ("page", [], $0) }
    + ["", "NAME_FIRST", "OPENS_OWN"].map { ("files", [], $0) }
    + ["", "NO_BARRIER", "COUNTS_LATE", "WAKES_ONCE", "COUNT_BESIDE"].map { ("lock", [], $0) }
    + [
      "", "NO_FIRST_FENCE", "NO_RELEASE", "READ_ONCE", "NO_CLAIM", "NO_WORKING", "HANDLER_WAITS",
      "KEY_FIRST", "NO_ORDER", "NO_LAST_LOOK", "CHILD_READS",
    ].map { ("cipher", [], $0) }
    + ["", "NO_NUMBER", "NO_LOOK", "NO_WIPERS", "LOADS_FIRST", "CLEARS_USED"].map {
      ("scratch", [], $0)
    }

  @Test(.enabled(if: hasSpin, "the model checker spin is not installed"), arguments: models)
  func everyInterleavingHolds(model: String, part: [String], without: String) throws {
    let scratch = try Scratch()
    let path = Programs.package.appending(path: "Tests/Models/\(model).pml").path
    var launch = Launch(
      ["spin"] + (part + [without]).filter { !$0.isEmpty }.map { "-D\($0)" } + [
        "-run", "-safety", "-m1000000", path,
      ])
    launch.directory = scratch.path
    let result = try launch.run()
    let errors = result.output.split(separator: "\n")
      .first { $0.contains("errors:") }?.split(separator: " ").last
    #expect(errors == (without.isEmpty ? "0" : "1"), "\(result.output) \(result.error)")
    #expect(!result.output.contains("too small"), "not all was explored: \(result.output)")
    if !without.isEmpty {
      #expect(result.output.contains(/pan:1: (assertion violated|invalid end)/))
    }
  }
}
