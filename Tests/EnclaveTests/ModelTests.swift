// Protocols explored by a model checker: every interleaving, and stores that are late.

import Foundation
import TestSupport
import Testing

@Suite struct ModelTests {
  static let hasSpin = (try? Launch(["sh", "-c", "command -v spin"]).run().status) == 0

  /// A model as it is holds; with any of these left out the checker must find what that is for.
  static let models: [(model: String, without: String)] =
    ["", "NO_BARRIER"].map { ("gate", $0) }
    + ["", "NO_FIRST_FENCE", "NO_RELEASE", "STAMP_FIRST", "READ_ONCE"].map { ("page", $0) }
    + ["", "NAME_FIRST", "OPENS_OWN"].map { ("files", $0) }

  @Test(.enabled(if: hasSpin, "the model checker spin is not installed"), arguments: models)
  func everyInterleavingHolds(model: String, without: String) throws {
    let scratch = try Scratch()
    let path = Programs.package.appending(path: "Tests/Models/\(model).pml").path
    var launch = Launch(
      ["spin"] + (without.isEmpty ? [] : ["-D\(without)"]) + ["-run", "-safety", "-m1000000", path])
    launch.directory = scratch.path
    let result = try launch.run()
    let errors = result.output.split(separator: "\n")
      .first { $0.contains("errors:") }?.split(separator: " ").last
    #expect(errors == (without.isEmpty ? "0" : "1"), "\(result.output) \(result.error)")
    if !without.isEmpty { #expect(result.output.contains("assertion violated")) }
  }
}
