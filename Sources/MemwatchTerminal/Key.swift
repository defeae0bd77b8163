// Keys, and the one table that binds them to actions and makes the help and the footer.

/// A key press, mouse click or paste from the terminal.
package enum Key: Equatable, Hashable, Sendable {
  case character(Character)
  case up, down, left, right, pageUp, pageDown, home, end
  case enter, escape, backspace, tab, backTab, help
  case interrupt, redraw, resize
  /// A mouse click.
  case click(row: Int, column: Int)
  /// Pasted text.
  case paste(String)

  /// The key's name in the help.
  package var name: String {
    switch self {
    case .character(" "): "Space"
    case .character(let character):
      character.asciiValue.map { $0 < 32 } == true
        ? "^" + String(Unicode.Scalar(character.asciiValue! + 64)) : String(character)
    case .up: "Up"
    case .down: "Down"
    case .left: "Left"
    case .right: "Right"
    case .pageUp: "PgUp"
    case .pageDown: "PgDn"
    case .home: "Home"
    case .end: "End"
    case .enter: "Enter"
    case .escape: "Esc"
    case .backspace: "Backspace"
    case .tab: "Tab"
    case .backTab: "S-Tab"
    case .help: "F1"
    case .interrupt: "^C"
    case .redraw: "^L"
    case .resize, .click, .paste: ""
    }
  }
}

/// An action that a key is bound to.
package enum Action: String, CaseIterable, Sendable {
  case down, up, pageDown, pageUp, top, bottom
  case back, enter, detail, nextView, arenas, secrets, map, events, findings, host, vaults,
    processes,
    history,
    output
  case search, next, previous, nextProblem, previousProblem, filter, sort, invert, columns
  case mark, copyFix, pause, refresh, audit, acknowledge, stepForward, stepBack, goToTime, slower,
    faster,
    write, writeView, record
  case help, quit, quitNow, redraw

  /// Whether the action needs an attached process.
  var needsProcess: Bool {
    switch self {
    case .detail, .stepForward, .stepBack, .goToTime, .arenas, .secrets, .map, .events, .findings,
      .vaults, .history, .mark, .pause,
      .audit,
      .acknowledge, .write, .writeView, .record, .copyFix, .nextProblem, .previousProblem:
      true
    default: false
    }
  }
}

package struct Binding: Sendable {
  package var keys: [Key]
  package var action: Action
  package var help: String
  /// The word in the footer; nil: not shown there.
  package var short: String?

  private init(_ keys: [Key], _ action: Action, _ help: String, _ short: String? = nil) {
    self.keys = keys
    self.action = action
    self.help = help
    self.short = short
  }

  private static func control(_ letter: Character) -> Key {
    .character(Character(Unicode.Scalar(letter.asciiValue! & 31)))
  }

  package static let all: [Binding] = [
    Binding([.character("j"), .down, control("N")], .down, "next line", "move"),
    Binding([.character("k"), .up, control("P")], .up, "previous line"),
    Binding([.pageDown, .character(" "), control("F"), control("D")], .pageDown, "next page"),
    Binding([.pageUp, .character("b"), control("B"), control("U")], .pageUp, "previous page"),
    Binding([.character("g"), .home], .top, "first line"),
    Binding([.character("G"), .end], .bottom, "last line"),
    Binding(
      [.enter, .right, .character("l")], .enter,
      "open: an arena's labels, a label's secrets, a chunk's pages, an event's arena; attach"),
    Binding(
      [.character("h"), .left, .backspace, .escape], .back, "go back; end a search or a filter"),
    Binding(
      [.character("d")], .detail, "all details of the selected arena, and the fix", "detail"),
    Binding([.tab, .backTab], .nextView, "next view", "view"),
    Binding([.character("1")], .arenas, "arenas"),
    Binding([.character("2")], .secrets, "labels of all arenas"),
    Binding([.character("3")], .map, "map: the selected arena's chunks and pages"),
    Binding([.character("4")], .events, "events"),
    Binding([.character("5")], .findings, "audit: where the kernel disagrees"),
    Binding([.character("6")], .host, "host: settings of this machine that affect secrets"),
    Binding([.character("7")], .vaults, "vaults: what is encrypted at rest"),
    Binding([.character("8")], .processes, "processes that publish"),
    Binding([.character("9")], .history, "history: locks, opens and failures over time"),
    Binding([.character("o")], .output, "output of the command (memwatch run)"),
    Binding([.character("/")], .search, "search names as you type", "search"),
    Binding([.character("n")], .next, "next match; without a search the next problem"),
    Binding([.character("N")], .previous, "previous match or problem"),
    Binding([.character("]")], .nextProblem, "next problem, also during a search"),
    Binding([.character("[")], .previousProblem, "previous problem"),
    Binding(
      [.character("f"), .character("&")], .filter, "show only names that contain a text", "filter"),
    Binding([.character("s")], .sort, "sort by the next column", "sort"),
    Binding([.character("I")], .invert, "invert the order"),
    Binding([.character(">")], .columns, "choose columns and their order; s saves them"),
    Binding(
      [.character("m")], .mark, "count changes from now on (default: the last five minutes)",
      "since"),
    Binding(
      [.character("y")], .copyFix, "copy the fix to the terminal's clipboard (OSC 52)", "copy fix"),
    Binding([.character("p"), .character("Z")], .pause, "pause or resume", "pause"),
    Binding([.character("r")], .refresh, "take a sample now"),
    Binding([.character("A")], .audit, "audit now: compare claims with the kernel"),
    Binding([.character("a")], .acknowledge, "acknowledge alerts that are over"),
    Binding(
      [.character(".")], .stepForward, "next sample; after the newest, live again", "time"),
    Binding([.character(",")], .stepBack, "previous sample, of the last hour or of a record"),
    Binding([.character("t")], .goToTime, "go to a time: 14:02, -5m, +30s, live"),
    Binding([.character("+")], .slower, "sample half as often"),
    Binding([.character("-")], .faster, "sample twice as often"),
    Binding([.character("w")], .write, "write everything to a new file", "write"),
    Binding(
      [.character("W")], .writeView,
      "write this view, as filtered and sorted, to a new file"),
    Binding(
      [.character("R")], .record, "start or stop recording to a new file, for memwatch replay"),
    Binding([.character("?"), .help], .help, "this help", "help"),
    Binding([.character("q")], .quit, "go back; quit from the top view", "quit"),
    Binding([.character("Q"), .interrupt], .quitNow, "quit"),
    Binding([.redraw], .redraw, "redraw the screen"),
  ]

  private static let table: [Key: Action] = {
    var table: [Key: Action] = [:]
    for binding in all { for key in binding.keys { table[key] = binding.action } }
    return table
  }()

  package static func action(for key: Key) -> Action? { table[key] }
}
