// Runs the own tests of the bindings for other languages, with the installed library.

import Foundation
import TestSupport
import Testing

func isInstalled(_ tool: String) -> Bool {
  (try? Launch(["sh", "-c", "command -v \(tool)"]).run().status) == 0
}

extension Installed {
  static let bindings = Programs.package.appending(path: "Sources/Bindings").path

  /// The environment in which programs in any language find the installed library.
  var bindingEnvironment: [String: String] {
    [
      "LD_LIBRARY_PATH": libraries, "PKG_CONFIG_PATH": libraries + "/pkgconfig",
      "PYTHONPATH": Installed.bindings + "/python", "PYTHONDONTWRITEBYTECODE": "1",
      "CARGO_TARGET_DIR": prefix.file("target"), "CARGO_TERM_COLOR": "never",
    ]
  }
}

@Suite(.waitsForProcesses) struct BindingTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  private func run(
    _ arguments: [String], in folder: String, stats: Scratch? = nil
  ) throws -> Ended {
    var launch = Launch(arguments, stats: stats, environment: installed.bindingEnvironment)
    launch.directory = Installed.bindings + "/" + folder
    return try launch.run(within: 300)
  }

  @Test(.enabled(if: isInstalled("python3"), "python3 is not installed"))
  func pythonTestsPass() throws {
    let result = try run(
      ["python3", "-W", "error::ResourceWarning", "-m", "unittest", "discover", "-s", "tests"],
      in: "python", stats: try Scratch(onTmpfs: true))
    #expect(result.status == 0, "\(result.error)")
    let count = result.error.firstMatch(of: /Ran (\d+) tests/).flatMap { Int($0.1) } ?? 0
    #expect(count >= 45, "\(result.error)")
  }

  @Test(.enabled(if: isInstalled("mypy"), "mypy is not installed"))
  func pythonTypesCheck() throws {
    let cache = try Scratch()
    let result = try run(["mypy", "--cache-dir", cache.path], in: "python")
    #expect(result.status == 0, "\(result.output)")
    #expect(result.output.contains("no issues found in 7 source files"), "\(result.output)")
  }

  /// A secret without a label is counted under the line of its allocation.
  @Test(.enabled(if: isInstalled("python3"), "python3 is not installed"))
  func memwatchShowsPythonsSecrets() throws {
    let stats = try Scratch(onTmpfs: true)
    let script = stats.file("served.py")
    try """
    import enclave, sys
    enclave.publish_start("served")
    arena = enclave.Arena("from-python", lock=enclave.Lock.PREFERRED)
    kept = [arena.allocate(1),
            arena.allocate(1, label="a token"), arena.allocate_copying(b"hunter2", label="a token")]
    enclave.publish_refresh()
    print("ready", flush=True)
    sys.stdin.read()
    """.write(toFile: script, atomically: true, encoding: .utf8)
    let process = Launch(
      ["python3", script], stats: stats, environment: installed.bindingEnvironment
    ).process()
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    try process.run()
    defer {
      if process.isRunning { kill(process.processIdentifier, SIGKILL) }
      process.waitUntilExit()
    }
    try #require(output.fileHandleForReading.readData(ofLength: 6) == Data("ready\n".utf8))
    let shown = try memwatch("snapshot", "served", "--format", "json", stats: stats)
    try #require(shown.status == 0, "\(shown.error)")
    #expect(!shown.output.contains("hunter2"))
    let arena = try #require((json(shown.output)["arenas"] as? [[String: Any]])?.first)
    #expect(arena["name"] as? String == "from-python")
    let labels = try #require(arena["labels"] as? [[String: Any]])
    #expect(
      Dictionary(uniqueKeysWithValues: labels.map { ($0["label"] as! String, $0["live"] as! Int) })
        == ["served.py:4": 1, "a token": 2])
    try input.fileHandleForWriting.close()
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
  }

  @Test(.enabled(if: isInstalled("cargo"), "cargo is not installed"))
  func rustTestsPass() throws {
    let result = try run(["cargo", "test", "--offline", "--locked"], in: "rust")
    #expect(result.status == 0, "\(result.output)\(result.error)")
    // The tests of the test file, and of the documentation, which has programs that must not
    // compile.
    let passed = result.output.matches(of: /test result: ok. (\d+) passed/).compactMap { Int($0.1) }
    #expect(passed.contains { $0 >= 15 } && passed.contains(8), "\(result.output)")
    #expect(result.output.matches(of: /compile fail \.\.\. ok/).count == 6)
  }
}
