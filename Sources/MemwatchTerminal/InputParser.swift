// What comes from a terminal and is no key of its description: pasted text, and escape sequences of
// other kinds, which are swallowed. Pure.

/// Takes characters one by one, as curses gives them. (ECMA-48, 5.4; xterm's ctlseqs: bracketed paste,
/// mouse reports.)
package struct InputParser {
  private enum State: Equatable {
    case ground
    /// ESC.
    case escape
    /// ESC [ and what followed it.
    case control(String)
    /// ESC O.
    case single
    /// So many characters of a mouse report.
    case report(Int)
    /// ESC ], P, _, ^ or X, up to BEL or ESC \\; whether the last was ESC.
    case string(Bool)
    case paste
  }
  private var state = State.ground
  private var pasted = String.UnicodeScalarView()
  private static let end = "\u{1b}[201~".unicodeScalars
  /// Of a paste; the rest of it is dropped.
  private static let most = 4096

  package init() {}

  /// - Returns: the key that is complete with this character; nil: none, so far or at all.
  package mutating func take(_ scalar: Unicode.Scalar) -> Key? {
    switch state {
    case .ground:
      if scalar.value == 27 {
        state = .escape
        return nil
      }
      return Self.key(scalar)
    case .escape:
      switch scalar {
      case "[": state = .control("")
      case "O": state = .single
      case "]", "P", "_", "^", "X": state = .string(false)
      case "\u{1b}": return .escape
      // A key with Alt: it is no key of this program, and not the one without Alt.
      default: state = .ground
      }
    case .control(let parameters):
      switch scalar.value {
      case 0x20..<0x40: state = .control(String((parameters + String(scalar)).prefix(64)))
      case 0x40..<0x7f where parameters == "200" && scalar == "~":
        state = .paste
        pasted = String.UnicodeScalarView()
      case 0x40..<0x7f where parameters.isEmpty && scalar == "M": state = .report(3)
      case 27: state = .escape
      default: state = .ground
      }
    case .single: state = .ground
    case .report(let count): state = count > 1 ? .report(count - 1) : .ground
    case .string(let wasEscape):
      state =
        scalar.value == 7 || wasEscape && scalar == "\\" ? .ground : .string(scalar.value == 27)
    case .paste:
      pasted.append(scalar)
      guard pasted.suffix(Self.end.count).elementsEqual(Self.end) else {
        // What ends it can still come.
        if pasted.count > 2 * Self.most {
          pasted.removeSubrange(
            pasted.index(
              pasted.startIndex, offsetBy: Self.most)..<pasted.index(
                pasted.endIndex, offsetBy: -Self.end.count))
        }
        return nil
      }
      state = .ground
      pasted.removeLast(Self.end.count)
      return .paste(String(String(pasted).prefix(Self.most)))
    }
    return nil
  }

  /// Nothing more is waiting: ESC was the key, and a sequence that has begun comes to nothing.
  package mutating func flush() -> Key? {
    guard state != .paste else { return nil }
    defer { state = .ground }
    return state == .escape ? .escape : nil
  }

  /// A key of the terminal's description came; false: in a paste, of which it is a part.
  package mutating func takesKey() -> Bool {
    if state == .paste { return false }
    defer { state = .ground }
    // With Alt, it is another key.
    return state == .ground
  }

  private static func key(_ scalar: Unicode.Scalar) -> Key {
    switch scalar.value {
    case 9: .tab
    case 10, 13: .enter
    case 12: .redraw
    case 3: .interrupt
    case 127, 8: .backspace
    default: .character(Character(scalar))
    }
  }

  /// The keys of one read of a terminal that does not say what is pasted: of 8 or more bytes with more
  /// than one distinct character it is a text. (A key that repeats is one character.)
  package static func keys(_ keys: [Key], byteCount: Int, saysPaste: Bool) -> [Key] {
    let characters = keys.compactMap { key in
      if case .character(let character) = key, character.columns > 0 { character } else { nil }
    }
    guard !saysPaste, byteCount >= 8, characters.count >= 2, Set(characters).count > 1 else {
      return keys
    }
    // (^U may be typed before.)
    let before = keys.prefix { key in
      if case .character(let character) = key { character.columns == 0 } else { true }
    }
    return before + [.paste(String(characters))]
  }
}
