// The width of characters on a terminal, as the C library and curses see it.

internal import CMemwatchSystem

package enum CharacterWidth {
  /// Loads the locale while files can still be opened.
  package static func prepare() { _ = cms_character_width(0x3042) }

  /// The number of columns that a scalar takes: wcwidth(3), in a UTF-8 locale whatever the
  /// program's locale is. nil if the C library does not know the scalar.
  package static func columns(_ scalar: Unicode.Scalar) -> Int? {
    let columns = cms_character_width(scalar.value)
    return columns < 0 ? nil : Int(columns)
  }
}
