// Parses terminal input that terminfo does not describe: bracketed pastes, and other escape
// sequences, which are swallowed. Pure.

/// Takes characters one at a time, as curses delivers them. (ECMA-48, 5.4; xterm's ctlseqs:
/// bracketed paste, mouse reports.)
package struct InputParser {
  private enum State: Equatable {
    case ground
    /// ESC.
    case escape
    /// ESC [ and the characters after it.
    case control(String)
    /// ESC O.
    case single
    /// The number of characters still to come in a mouse report.
    case report(Int)
    /// ESC ], P, _, ^ or X, until BEL or ESC \\. True: the last character was ESC.
    case string(Bool)
    case paste
  }
  private var state = State.ground
  private var pasted = String.UnicodeScalarView()
  private static let end = "\u{1b}[201~".unicodeScalars
  /// The longest paste that is kept; the rest is dropped.
  private static let most = 4096

  package init() {}

  /// - Returns: the key that this character completes, if any.
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
      // Alt plus a key: not bound to anything.
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
        // Keep the tail: the end marker may still arrive.
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

  /// No more input is waiting: a lone ESC was the Esc key; an unfinished sequence is discarded.
  package mutating func flush() -> Key? {
    guard state != .paste else { return nil }
    defer { state = .ground }
    return state == .escape ? .escape : nil
  }

  /// Whether a terminfo key counts as a key now; inside a paste it does not.
  package mutating func acceptsKey() -> Bool {
    if state == .paste { return false }
    defer { state = .ground }
    // After ESC it is Alt plus the key.
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

  /// The keys of one read(2), for terminals without bracketed paste: 8 or more bytes with more than
  /// one distinct character are a paste. (A repeating key is one character.)
  package static func keys(_ keys: [Key], byteCount: Int, saysPaste: Bool) -> [Key] {
    let characters = keys.compactMap { key in
      if case .character(let character) = key, character.columns > 0 { character } else { nil }
    }
    guard !saysPaste, byteCount >= 8, characters.count >= 2, Set(characters).count > 1 else {
      return keys
    }
    // (A leading ^U may have been typed.)
    let before = keys.prefix { key in
      if case .character(let character) = key { character.columns == 0 } else { true }
    }
    return before + [.paste(String(characters))]
  }
}
