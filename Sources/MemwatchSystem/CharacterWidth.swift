// The width of characters, as the C library and curses see them.

internal import CMemwatchSystem

package enum CharacterWidth {
  /// Loads the locale while files can still be opened.
  package static func prepare() { _ = cms_character_width(0x3042) }

  /// The columns of a scalar: wcwidth(3), independent of the locale; nil: the C library does not know it.
  package static func columns(_ scalar: Unicode.Scalar) -> Int? {
    let columns = cms_character_width(scalar.value)
    return columns < 0 ? nil : Int(columns)
  }
}
