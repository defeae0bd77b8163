// Colour roles, and how terminals show them. Pure.

/// The meaning of a cell, which decides its look. A role only repeats what a word says.
package enum Role: UInt8, Sendable, CaseIterable {
  case normal, strong, faint, good, warning, bad
  /// The selected row; its cells keep their severity.
  case selected, selectedGood, selectedWarning, selectedBad
  /// Parts of a meter: with room, nearly full, and full.
  case arenas, others, meterWarning, meterBad
  /// The verdict's row.
  case bandGood, bandWarning, bandBad

  package var whenSelected: Role {
    switch self {
    case .good: .selectedGood
    case .warning: .selectedWarning
    case .bad: .selectedBad
    default: .selected
    }
  }

  package var isSelected: Bool {
    [.selected, .selectedGood, .selectedWarning, .selectedBad].contains(self)
  }
}

/// The colours of a terminal.
package enum ColorDepth: Sendable, CaseIterable { case none, eight, many }

/// Colours are xterm's numbers; nil is the terminal's own.
package struct Look: Equatable, Sendable {
  package var ink: Int?
  package var ground: Int?
  package var isBold = false
  package var isFaint = false
  package var isReversed = false
  package static let plain = Look()

  init(
    _ ink: Int? = nil, on ground: Int? = nil, bold: Bool = false, faint: Bool = false,
    reversed: Bool = false
  ) {
    (self.ink, self.ground) = (ink, ground)
    (isBold, isFaint, isReversed) = (bold, faint, reversed)
  }
}

extension Role {
  /// Every look is legible on light and dark terminals: its foreground contrasts with both, or it
  /// sets its own background.
  package func look(_ depth: ColorDepth) -> Look {
    switch depth {
    case .none:
      switch self {
      case .strong, .bad, .meterBad, .bandGood: Look(bold: true)
      case .faint: Look(faint: true)
      case .selected, .selectedGood, .selectedWarning, .bandWarning: Look(reversed: true)
      case .selectedBad, .bandBad: Look(bold: true, reversed: true)
      case .normal, .good, .warning, .arenas, .others, .meterWarning: Look()
      }
    case .eight:
      switch self {
      case .warning: Look(0, on: 3)
      case .bad: Look(1, bold: true)
      case .selectedWarning: Look(0, on: 3, bold: true)
      case .selectedBad: Look(7, on: 1, bold: true)
      // Cyan, magenta and yellow are illegible on white.
      case .arenas: Look(6, on: 0)
      case .others: Look(5, on: 0)
      case .meterWarning: Look(3, on: 0)
      case .meterBad: Look(1)
      case .bandGood: Look(0, on: 2)
      case .bandWarning: Look(0, on: 3)
      case .bandBad: Look(7, on: 1, bold: true)
      case .normal, .strong, .faint, .good, .selected, .selectedGood: look(.none)
      }
    case .many:
      switch self {
      case .good: Look(28)
      case .warning: Look(130)
      case .bad: Look(160, bold: true)
      case .selectedWarning: Look(16, on: 220)
      case .selectedBad: Look(231, on: 160, bold: true)
      case .arenas: Look(31)
      case .others: Look(133)
      case .meterWarning: Look(136)
      case .meterBad: Look(160)
      case .bandGood: Look(231, on: 28)
      case .bandWarning: Look(16, on: 220)
      case .bandBad: Look(231, on: 160, bold: true)
      case .normal, .strong, .faint, .selected, .selectedGood: look(.none)
      }
    }
  }
}
