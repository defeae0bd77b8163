// The one file that calls curses. It draws grids and reports keys.

import CMemwatchNcurses
import Glibc

/// The screen could not be used, and why.
package struct ScreenFailure: Error, Sendable {
  package var message: String
  package init(message: String) { self.message = message }
}

/// A terminal in full-screen mode; restored when this goes.
@safe
struct Terminal: ~Copyable {
  private let screen: OpaquePointer
  private let window: UnsafeMutablePointer<WINDOW>
  private let input: UnsafeMutablePointer<FILE>
  private let output: UnsafeMutablePointer<FILE>
  let isUTF8: Bool
  private var drawn: Grid?
  private var looks: [UInt32]
  private var hasBegun = false
  private let usesMouse: Bool

  /// Opens what drawing needs; the terminal stays as it is until `begin`.
  init(useColor: Bool, useMouse: Bool = false) throws(ScreenFailure) {
    isUTF8 = mwn_use_locale()
    usesMouse = useMouse
    mwn_catch_signals()
    guard let output = unsafe mwn_output_stream(), let input = unsafe mwn_input_stream() else {
      throw ScreenFailure(
        message: "there is no terminal to read keys from; `memwatch -1` prints one snapshot")
    }
    let name = Self.kind
    guard let screen = unsafe mwn_new_terminal(output, input) else {
      throw ScreenFailure(
        message: name.isEmpty
          ? "TERM is not set; set it (TERM=xterm-256color), or use `memwatch -1`"
          : "TERM is \"\(name)\" and no "
            + "terminal of that kind is known; set TERM=xterm-256color, or use `memwatch -1`")
    }
    guard let window = unsafe newwin(0, 0, 0, 0) else {
      endwin()
      unsafe delscreen(screen)
      throw ScreenFailure(message: "the terminal gives no window")
    }
    unsafe self.screen = unsafe screen
    unsafe self.window = unsafe window
    unsafe self.input = unsafe input
    unsafe self.output = unsafe output
    looks = Array(repeating: 0, count: Role.allCases.count)
    let noColor = unsafe getenv("NO_COLOR").map { unsafe $0.pointee != 0 } ?? false
    setLooks(color: useColor && !noColor)
    // Until then they end this process, as those of any other command.
    mwn_release_signals()
  }

  /// Takes the terminal: full screen, keys one by one.
  mutating func begin() {
    guard !hasBegun else { return }
    hasBegun = true
    mwn_catch_signals()
    unsafe mwn_restore_on_fault(mwn_stream_descriptor(input), mwn_stream_descriptor(output))
    cbreak()
    noecho()
    nonl()
    unsafe keypad(window, true)
    unsafe nodelay(window, true)
    if usesMouse {
      mousemask(mwn_mouse_events, nil)
      mouseinterval(0)
    }
    if unsafe getenv("ESCDELAY") == nil { set_escdelay(25) }
  }

  static func keep() { mwn_keep_terminal() }
  static func restore() { mwn_restore_terminal() }

  /// TERM, made safe.
  static var kind: String {
    let name = unsafe getenv("TERM").map { unsafe String(cString: $0) } ?? ""
    return String(
      String.UnicodeScalarView(name.unicodeScalars.filter { (32..<127).contains($0.value) }))
  }

  static var canPlaceCursor: Bool { mwn_can_place_cursor() }

  static func prepareStreams() { mwn_fill_standard_streams() }

  /// Gives the terminal back.
  mutating func end() {
    guard hasBegun else { return }
    hasBegun = false
    // curses would wait for ever on a terminal that takes nothing.
    if canDraw { endwin() } else { mwn_restore_terminal() }
  }

  /// Whether the terminal takes output now. (A pseudo-terminal says no only once its buffer of some
  /// 64 KiB is full: poll(2), pty(7).)
  var canDraw: Bool { unsafe mwn_can_write(mwn_stream_descriptor(output)) }

  deinit {
    unsafe delwin(window)
    if hasBegun { endwin() }
    unsafe delscreen(screen)
    unsafe fclose(input)
    unsafe fclose(output)
  }

  /// Roles to attributes. The terminal's own foreground and background are kept, so that light and
  /// dark terminals both work; colour is never the only sign.
  private mutating func setLooks(color: Bool) {
    func look(_ role: Role, _ attributes: UInt32) { looks[Int(role.rawValue)] = attributes }
    look(.strong, mwn_bold)
    look(.faint, mwn_dim)
    look(.bad, mwn_bold)
    look(.selected, mwn_reverse)
    guard color, has_colors(), start_color() == OK else { return }
    use_default_colors()
    let pairs: [(Role, Int32, UInt32)] = [
      (.good, COLOR_GREEN, 0), (.warning, COLOR_YELLOW, 0), (.bad, COLOR_RED, mwn_bold),
      (.arenas, COLOR_CYAN, 0), (.others, COLOR_MAGENTA, 0),
    ]
    for (index, (role, color, attributes)) in pairs.enumerated() {
      guard init_pair(Int16(index + 1), Int16(color), -1) == OK else { continue }
      look(role, UInt32(bitPattern: COLOR_PAIR(Int32(index + 1))) | attributes)
    }
  }

  var size: (width: Int, height: Int) {
    unsafe (max(0, Int(getmaxx(window))), max(0, Int(getmaxy(window))))
  }

  /// Brings the terminal to what the grid says; rows that did not change are left alone.
  mutating func draw(_ grid: Grid) {
    for row in 0..<grid.height {
      if let drawn, drawn.width == grid.width, drawn.height == grid.height,
        drawn.rows[row] == grid.rows[row]
      {
        continue
      }
      var column = 0
      while column < grid.width {
        let role = grid.rows[row][column].role
        var text = ""
        let start = column
        while column < grid.width, grid.rows[row][column].role == role {
          if let character = grid.rows[row][column].character { text.append(character) }
          column += 1
        }
        unsafe wattrset(window, Int32(bitPattern: looks[Int(role.rawValue)]))
        unsafe mvwaddstr(window, Int32(row), Int32(start), text)
      }
    }
    unsafe wattrset(window, 0)
    unsafe wmove(window, Int32(grid.cursor.row), Int32(grid.cursor.column))
    unsafe wrefresh(window)
    drawn = grid
  }

  /// Rings the bell.
  func ring() { beep() }

  /// Draws everything anew at the next `draw`.
  mutating func redraw() {
    drawn = nil
    unsafe clearok(window, true)
  }

  /// Waits for keys, and until the terminal takes output where there is something to be drawn.
  ///
  /// - Returns: whether the terminal is there.
  func wait(milliseconds: Int, toDraw: Bool) -> Bool {
    unsafe mwn_wait(
      mwn_stream_descriptor(input), toDraw ? mwn_stream_descriptor(output) : -1,
      Int32(clamping: milliseconds)) >= 0
  }

  /// The signal that asked this process to end, or 0.
  var signal: Int32 { mwn_caught_signal() }

  /// Takes the terminal again where this process was stopped meanwhile: others may have used it.
  ///
  /// - Returns: whether it has to be drawn on anew.
  mutating func resume() -> Bool {
    guard mwn_was_continued() else { return false }
    reset_prog_mode()
    redraw()
    return true
  }

  enum SnapshotBuilder {
    case key(Key)
    case ignored, nothing
  }

  /// The next key that is waiting.
  func nextKey() -> SnapshotBuilder {
    var code = wint_t()
    let kind = unsafe wget_wch(window, &code)
    if kind == ERR { return .nothing }
    if kind == KEY_CODE_YES {
      switch Int32(bitPattern: code) {
      case KEY_UP: return .key(.up)
      case KEY_DOWN: return .key(.down)
      case KEY_LEFT: return .key(.left)
      case KEY_RIGHT: return .key(.right)
      case KEY_PPAGE: return .key(.pageUp)
      case KEY_NPAGE: return .key(.pageDown)
      case KEY_HOME: return .key(.home)
      case KEY_END: return .key(.end)
      case KEY_ENTER: return .key(.enter)
      case KEY_BACKSPACE: return .key(.backspace)
      case KEY_BTAB: return .key(.backTab)
      case KEY_F0 + 1: return .key(.help)
      case KEY_RESIZE: return .key(.resize)
      case KEY_MOUSE:
        var event = MEVENT()
        guard unsafe getmouse(&event) == OK else { return .ignored }
        if event.bstate & mwn_wheel_up != 0 { return .key(.up) }
        if event.bstate & mwn_wheel_down != 0 { return .key(.down) }
        return .key(.click(row: Int(event.y)))
      default: return .ignored
      }
    }
    switch code {
    case 9: return .key(.tab)
    case 10, 13: return .key(.enter)
    case 12: return .key(.redraw)
    case 27: return .key(.escape)
    case 3: return .key(.interrupt)
    case 127, 8: return .key(.backspace)
    default:
      guard let scalar = Unicode.Scalar(code) else { return .ignored }
      return .key(.character(Character(scalar)))
    }
  }
}
