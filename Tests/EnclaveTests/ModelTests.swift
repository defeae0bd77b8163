// The gate's protocol, explored by a model checker: every interleaving, and the store buffer.

import Foundation
import TestSupport
import Testing

@Suite struct ModelTests {
  static let hasSpin = (try? Launch(["sh", "-c", "command -v spin"]).run().status) == 0

  /// Without the barrier the checker must find what the barrier is for.
  @Test(.enabled(if: hasSpin, "the model checker spin is not installed"), arguments: [true, false])
  func noInterleavingOpensADestroyedArena(hasBarrier: Bool) throws {
    let scratch = try Scratch()
    let model = Programs.package.appending(path: "Tests/Models/gate.pml").path
    var launch = Launch(
      ["spin"] + (hasBarrier ? [] : ["-DNO_BARRIER"]) + ["-run", "-safety", model])
    launch.directory = scratch.path
    let result = try launch.run(within: 120)
    let errors = result.output.split(separator: "\n")
      .first { $0.contains("errors:") }?.split(separator: " ").last
    #expect(errors == (hasBarrier ? "0" : "1"), "\(result.output) \(result.error)")
    if !hasBarrier { #expect(result.output.contains("assertion violated")) }
  }
}
