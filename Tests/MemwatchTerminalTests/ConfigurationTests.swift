// The configuration file: valid settings apply, and invalid ones are reported.

import MemwatchTerminal
import TestSupport
import Testing

@Suite struct ConfigurationTests {
  private func parse(_ text: String) -> (configuration: Configuration, errors: [String]) {
    Configuration.parse(text) { $0.hasSuffix("s") ? Int($0.dropLast()).map { $0 * 1000 } : nil }
  }

  @Test func everySettingIsRead() {
    let (read, errors) = parse(
      """
      # mine
      interval = 2s
      open-limit=30s   # half a minute
      mouse = off
      theme = mono
        sort = secrets
      columns = ARENA, state , in use
      """)
    var expected = Configuration()
    expected.intervalMs = 2000
    expected.openLimitMs = 30_000
    (expected.usesMouse, expected.useColor) = (false, false)
    (expected.sort, expected.columns) = ("SECRETS", ["ARENA", "STATE", "IN USE"])
    #expect(read == expected && errors.isEmpty, "\(errors)")
  }

  @Test(arguments: [
    "interval = 1", "interval = 0s", "columns = ARENA, WEIGHT", "columns =",
    "columns = ARENA, ARENA",
    "mouse = maybe", "secret = x", "= 3", "nothing", "sort = 7",
  ])
  func unknownSettingsAreIgnored(line: String) {
    let (read, errors) = parse("mouse = off\n\(line)\ntheme = mono")
    #expect(read.usesMouse == false && read.useColor == false)
    #expect(errors.count == 1 && errors[0].hasPrefix("line 2: "), "\(errors)")
  }
}
