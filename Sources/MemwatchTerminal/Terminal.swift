// The one file that calls curses. It draws grids and reports keys.

import CMemwatchNcurses
import Glibc

/// The screen could not be used.
package struct ScreenFailure: Error, Sendable {
  package var message: String
  package init(message: String) { self.message = message }
}

/// A terminal in full-screen mode.
@safe
struct Terminal: ~Copyable {
  private let screen: OpaquePointer
  private let window: UnsafeMutablePointer<WINDOW>
  /// What keys are read from. Of a window, curses would first draw what has changed (wgetch(3X)), and
  /// wait for a terminal that takes no output; of a pad it does not.
  private let keys: UnsafeMutablePointer<WINDOW>
  private let input: UnsafeMutablePointer<FILE>
  private let output: UnsafeMutablePointer<FILE>
  let isUTF8: Bool
  private var drawn: Grid?
  private var looks: [UInt32]
  private var hasBegun = false
  private let usesMouse: Bool
  private var parser = InputParser()

  /// Opens everything that drawing needs; the terminal does not change until `begin`.
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
    guard let window = unsafe newwin(0, 0, 0, 0), let keys = unsafe newpad(1, 1) else {
      endwin()
      unsafe delscreen(screen)
      throw ScreenFailure(message: "the terminal gives no window")
    }
    unsafe self.screen = unsafe screen
    unsafe self.window = unsafe window
    unsafe self.keys = unsafe keys
    unsafe self.input = unsafe input
    unsafe self.output = unsafe output
    looks = Array(repeating: 0, count: Role.allCases.count)
    let noColor = unsafe getenv("NO_COLOR").map { unsafe $0.pointee != 0 } ?? false
    setLooks(color: useColor && !noColor)
    // Until `begin`, signals end this process as usual.
    mwn_release_signals()
  }

  /// Enters full-screen mode.
  mutating func begin() {
    guard !hasBegun else { return }
    hasBegun = true
    mwn_catch_signals()
    unsafe mwn_restore_on_fault(mwn_stream_descriptor(input), mwn_stream_descriptor(output))
    cbreak()
    noecho()
    nonl()
    unsafe keypad(keys, true)
    unsafe nodelay(keys, true)
    if usesMouse {
      mousemask(mwn_mouse_events, nil)
      mouseinterval(0)
    }
    if unsafe getenv("ESCDELAY") == nil { set_escdelay(25) }
    mwn_bracket_paste(true)
  }

  static func keep() { mwn_keep_terminal() }
  static func restore() { mwn_restore_terminal() }

  /// TERM, sanitised.
  static var kind: String {
    let name = unsafe getenv("TERM").map { unsafe String(cString: $0) } ?? ""
    return String(
      String.UnicodeScalarView(name.unicodeScalars.filter { (32..<127).contains($0.value) }))
  }

  static var canPlaceCursor: Bool { mwn_can_place_cursor() }

  static func prepareStreams() { mwn_fill_standard_streams() }

  /// Leaves full-screen mode.
  mutating func end() {
    guard hasBegun else { return }
    hasBegun = false
    mwn_bracket_paste(false)
    // endwin() would block forever on a terminal that accepts no output.
    if canDraw { endwin() } else { mwn_restore_terminal() }
  }

  /// Whether the terminal accepts output now. (A pseudo-terminal refuses only once its buffer of
  /// some 64 KiB is full: poll(2), pty(7).)
  var canDraw: Bool { unsafe mwn_can_write(mwn_stream_descriptor(output)) }

  deinit {
    unsafe delwin(keys)
    unsafe delwin(window)
    if hasBegun { endwin() }
    unsafe delscreen(screen)
    unsafe fclose(input)
    unsafe fclose(output)
  }

  /// Maps roles to attributes. Keeps the terminal's own foreground and background, so light and
  /// dark terminals both work; colour is never the only sign.
  private mutating func setLooks(color: Bool) {
    var depth = ColorDepth.none
    if color, has_colors(), start_color() == OK, use_default_colors() == OK {
      depth = mwn_color_count() >= 256 ? .many : .eight
    }
    for role in Role.allCases {
      var look = role.look(depth)
      var attributes: UInt32 = 0
      if look.ink != nil || look.ground != nil {
        let pair = Int16(role.rawValue) + 1
        if init_pair(pair, Int16(look.ink ?? -1), Int16(look.ground ?? -1)) == OK {
          attributes = UInt32(bitPattern: COLOR_PAIR(Int32(pair)))
        } else {
          look = role.look(.none)
        }
      }
      if look.isBold { attributes |= mwn_bold }
      if look.isFaint { attributes |= mwn_dim }
      if look.isReversed { attributes |= mwn_reverse }
      looks[Int(role.rawValue)] = attributes
    }
  }

  var size: (width: Int, height: Int) {
    unsafe (max(0, Int(getmaxx(window))), max(0, Int(getmaxy(window))))
  }

  /// Draws the grid; rewrites only rows that changed.
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
    mwn_set_drawing(true)
    unsafe wrefresh(window)
    mwn_set_drawing(false)
    drawn = grid
  }

  /// Sends text to the terminal's clipboard, if it accepts output now.
  func copy(_ text: String) {
    let sequence = Clipboard.sequence(text)
    unsafe sequence.withUnsafeBufferPointer { unsafe mwn_send($0.baseAddress, $0.count) }
  }

  /// Rings the bell, if the terminal accepts output now.
  func ring() { if canDraw { beep() } }

  /// Makes the next `draw` redraw everything.
  mutating func redraw() {
    drawn = nil
    unsafe clearok(window, true)
  }

  /// Waits for keys; with `toDraw`, also until the terminal accepts output.
  ///
  /// - Returns: whether the terminal still exists.
  func wait(milliseconds: Int, toDraw: Bool) -> Bool {
    unsafe mwn_wait(
      mwn_stream_descriptor(input), toDraw ? mwn_stream_descriptor(output) : -1,
      Int32(clamping: milliseconds)) >= 0
  }

  /// The signal that asked this process to end, or 0.
  var signal: Int32 { mwn_caught_signal() }

  /// Re-enters full-screen mode after this process was stopped: another program may have used the
  /// terminal.
  ///
  /// - Returns: whether a full redraw is needed.
  mutating func resume() -> Bool {
    guard mwn_was_continued() else { return false }
    reset_prog_mode()
    mwn_bracket_paste(true)
    redraw()
    return true
  }

  /// The pending keys.
  mutating func takeKeys() -> [Key] {
    let byteCount = Int(unsafe mwn_waiting_bytes(mwn_stream_descriptor(input)))
    var keys: [Key] = []
    while true {
      var code = wint_t()
      let kind = unsafe wget_wch(self.keys, &code)
      if kind == ERR { break }
      if kind == KEY_CODE_YES {
        let key = special(Int32(bitPattern: code))
        if key == .resize || parser.acceptsKey(), let key { keys.append(key) }
      } else if let scalar = Unicode.Scalar(code), let key = parser.take(scalar) {
        keys.append(key)
      }
    }
    if let key = parser.flush() { keys.append(key) }
    return InputParser.keys(keys, byteCount: byteCount, saysPaste: mwn_knows_paste())
  }

  /// Maps a curses key code.
  private func special(_ code: Int32) -> Key? {
    switch code {
    case KEY_UP: return .up
    case KEY_DOWN: return .down
    case KEY_LEFT: return .left
    case KEY_RIGHT: return .right
    case KEY_PPAGE: return .pageUp
    case KEY_NPAGE: return .pageDown
    case KEY_HOME: return .home
    case KEY_END: return .end
    case KEY_ENTER: return .enter
    case KEY_BACKSPACE: return .backspace
    case KEY_BTAB: return .backTab
    case KEY_F0 + 1: return .help
    case KEY_RESIZE: return .resize
    case KEY_MOUSE:
      var event = MEVENT()
      guard unsafe getmouse(&event) == OK else { return nil }
      if event.bstate & mwn_wheel_up != 0 { return .up }
      if event.bstate & mwn_wheel_down != 0 { return .down }
      return .click(row: Int(event.y), column: Int(event.x))
    default: return nil
    }
  }
}
