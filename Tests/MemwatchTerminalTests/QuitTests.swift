// Quitting a screen that started a command also ends the command, unless the user decides
// otherwise.

import MemwatchTerminal
import Testing

@Suite struct QuitTests {
  @Test(arguments: [
    (Key.character("y"), [Effect.quit(leaveRunning: true)]),
    (.character("Y"), [.quit(leaveRunning: true)]), (.character("n"), [.quit(leaveRunning: false)]),
    (.character("N"), [.quit(leaveRunning: false)]), (.interrupt, [.quit(leaveRunning: false)]),
    (.escape, []), (.character("x"), []), (.enter, []),
  ])
  func onlyYesLeavesTheCommandRunning(key: Key, answer: [Effect]) {
    for first in [Key.character("q"), .interrupt] {
      var model = model(sample())
      model.runningChild = 99
      #expect(model.handle(first, now: now).isEmpty && model.prompt != nil)
      #expect(model.handle(key, now: now) == answer)
    }
  }
}
