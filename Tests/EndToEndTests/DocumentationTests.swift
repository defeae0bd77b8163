// The files in Assets that are written by the program itself.

import Foundation
import Glibc
import TestSupport
import Testing

/// The completions and the manual page in Assets match the program's own output. `MEMWATCH_RECORD=1
/// swift test` rewrites them.
@Suite struct DocumentationTests {
  @Test(arguments: [
    ("memwatch.1", ["manual"]), ("memwatch.bash", ["--generate-completion-script", "bash"]),
    ("memwatch.zsh", ["--generate-completion-script", "zsh"]),
    ("memwatch.fish", ["--generate-completion-script", "fish"]),
  ])
  func assetsMatchTheProgramsOutput(name: String, arguments: [String]) throws {
    let ended = try Launch([Programs.memwatch] + arguments).run()
    #expect(ended.status == 0 && !ended.output.isEmpty)
    let file = Programs.package.appending(path: "Assets/\(name)")
    if ProcessInfo.processInfo.environment["MEMWATCH_RECORD"] == "1" {
      try ended.output.write(to: file, atomically: true, encoding: .utf8)
    }
    #expect(ended.output == (try String(contentsOf: file, encoding: .utf8)))
  }

  @Test func theManualNamesEverything() throws {
    let page = try String(
      contentsOf: Programs.package.appending(path: "Assets/memwatch.1"), encoding: .utf8)
    for command in [
      "watch", "list", "snapshot", "audit", "check", "host", "diff", "record", "replay", "export",
      "demo", "run",
    ] {
      #expect(page.contains(".Ss \(command)\n"), "\(command)")
      let help = try memwatch(command, "--help").output
      #expect(!help.contains("milliseconds:"), "a default is told as it is typed: \(command)")
      for option in help.matches(of: #/--([a-z-]+)/#).map({ String($0.1) })
      where option != "help" && option != "version" {
        #expect(page.contains("Fl -\(option)"), "\(command) --\(option)")
      }
    }
  }
}
