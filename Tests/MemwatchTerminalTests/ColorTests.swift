// The meaning of colours, and their contrast on light and dark terminals.

import Foundation
import MemwatchTerminal
import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct ColorTests {
  private func roles(_ grid: Grid, _ row: Int, of character: Character) -> Set<Role> {
    Set(grid.rows[row].filter { $0.character == character }.map(\.role))
  }

  private func row(_ grid: Grid, _ text: String) -> Int {
    (0..<grid.height).first { grid.line($0).contains(text) } ?? 0
  }

  private func withLocked(_ locked: UInt64, fits: Bool) -> Snapshot {
    var snapshot = sample(arenas: 3)
    (snapshot.memlock.locked, snapshot.memlock.lockedByArenas) = (
      ByteCount(locked), ByteCount(locked)
    )
    (snapshot.memlock.lockedByOthers, snapshot.memlock.nextChunkFits) = (0, fits)
    return snapshot
  }

  @Test func aMetersColourShowsItsLevel() {
    for (locked, fits, role) in [
      (UInt64(4 << 20), true, Role.arenas), (6 << 20, true, .meterWarning),
      (8 << 20, false, .meterBad), (4 << 20, false, .meterBad),
    ] {
      let grid = draw(model(withLocked(locked, fits: fits)), 100, 30)
      #expect(roles(grid, row(grid, "Memlock ["), of: "#") == [role], "\(locked) \(fits)")
    }
    var snapshot = sample(arenas: 3)
    snapshot.maps.inUse = 60_000
    let grid = draw(model(snapshot), 100, 30)
    #expect(roles(grid, row(grid, "Maps "), of: "#") == [.meterWarning])
  }

  @Test(arguments: [80, 100, 160, 200]) func metersEndAtOneColumn(width: Int) {
    let grid = draw(model(sample(arenas: 3)), width, 40)
    let ends = ["Memlock [", "Maps    ["].map { title in
      grid.rows[row(grid, title)].firstIndex { $0.character == "]" }
    }
    #expect(ends[0] != nil && ends[0] == ends[1], "\(grid.text)")
  }

  /// The selection hides nothing.
  @Test func theSelectedRowKeepsItsSeverity() {
    let grid = draw(model(sample(arenas: 3)), 100, 30)
    let cells = grid.rows[row(grid, "! session-tokens")]
    #expect(!cells.contains { !$0.role.isSelected })
    #expect(cells[0].role == .selectedBad, "the mark")
    let line = String(cells.compactMap(\.character))
    for word in ["PROBLEM", "partial"] {
      let at = line.distance(from: line.startIndex, to: line.range(of: word)!.lowerBound)
      #expect(cells[at].role == .selectedBad, "\(word)")
    }
    var map = model(sample(arenas: 3))
    press(&map, "3")
    let list = draw(map, 100, 30)
    let chunk = list.rows[row(list, "! G")]
    #expect(chunk[0].role == .selectedBad && chunk[2].role == .selectedBad)
    // A row that is all red would look like the verdict, and not as selected.
    #expect(chunk[99].role == .selected)
    // The tab of the view that is shown, too.
    var host = Host(root: "/nonexistent")
    host.facts[0].judgement = .bad
    map.update(host)
    for key in ["6", "1"] {
      press(&map, key)
      let tabs = draw(map, 100, 30).rows[1]
      let mark = tabs.first { $0.character == "!" }
      #expect(mark?.role == (key == "6" ? .selectedBad : .bad))
    }
  }

  /// The legend has the colour of the meter.
  @Test(arguments: [false, true]) func theLegendHasTheMetersColour(isFull: Bool) {
    var snapshot = sample(arenas: 3)
    snapshot.memlock.nextChunkFits = !isFull
    snapshot.memlock.headroom = isFull ? 0 : 1 << 20
    for index in snapshot.arenas.indices { snapshot.arenas[index].nextChunkBytes = 16384 }
    for (width, arenas) in [(80, 3), (80, 1), (100, 3), (160, 3)] {
      var some = snapshot
      some.arenas = Array(some.arenas.prefix(arenas))
      let line = draw(model(some), width, 30).line(5)
      #expect(line.contains(isFull ? "WILL NOT FIT" : "fits in all"), "\(line)")
    }
    let grid = draw(model(snapshot), 100, 30)
    let meter = grid.rows[row(grid, "Memlock [")][9]
    let legend = grid.rows[row(grid, "Memlock [") + 1][8]
    #expect(meter == legend && meter.role == (isFull ? .meterBad : .meterWarning))
  }

  /// A meter of a limit that is not enforced shows its share of it, and is full beyond it.
  @Test(
    arguments: [(0, 0), (8 << 10, 1), (4 << 20, 20), (8 << 20, 40), (64 << 20, 40)]
      as [(UInt64, Int)])
  func theMeterShowsALimitThatIsNotEnforced(locked: UInt64, cells: Int) {
    var snapshot = sample(arenas: 3)
    snapshot.memlock.binds = .no
    snapshot.memlock.locked = ByteCount(locked)
    snapshot.memlock.lockedByArenas = ByteCount(locked)
    snapshot.memlock.lockedByOthers = 0
    let grid = draw(model(snapshot), 100, 30)
    let bar = grid.rows[row(grid, "Memlock [")]
    #expect(bar.count { $0.role == .arenas } == cells, "\(grid.line(4))")
  }

  @Test func verdictRowHasItsOwnBackground() {
    var snapshot = sample(arenas: 3)
    func role() -> Set<Role> {
      let grid = draw(model(snapshot), 100, 30)
      return Set(grid.rows[row(grid, String(snapshot.verdict.prefix(7)))].map(\.role))
    }
    #expect(role() == [.bandBad])
    snapshot.problems[0].severity = .warning
    #expect(role() == [.bandWarning])
    snapshot.problems = []
    #expect(role() == [.bandWarning], "nothing was audited")
  }

  @Test func verdictsOnTheHostHaveColors() {
    var model = model(sample(arenas: 3))
    model.update(Host(root: "/nonexistent"))
    model.view = .host
    let roles = draw(model, 100, 60).rows.flatMap { $0.map { $0.role } }
    #expect(roles.contains(.warning))
    let lines = model.lines
    #expect(lines.contains { $0.hasPrefix("? unknown  ") })
  }

  /// The number of open windows and the seal are two columns.
  @Test(arguments: [80, 100, 160]) func openAndSealAreTwoColumns(width: Int) {
    let grid = draw(model(sample(arenas: 3)), width, 30)
    #expect(grid.text.contains("0  open") && grid.text.contains("OPEN  SEAL"))
  }

  // MARK: - Contrast

  private func luminance(_ color: Int) -> Double {
    let system = [
      (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205),
      (0, 205, 205), (229, 229, 229),
    ]
    let steps = [0, 95, 135, 175, 215, 255]
    let (red, green, blue) =
      color < 8
      ? system[color]
      : (steps[(color - 16) / 36], steps[(color - 16) / 6 % 6], steps[(color - 16) % 6])
    func linear(_ value: Int) -> Double {
      let share = Double(value) / 255
      return share <= 0.04045 ? share / 12.92 : pow((share + 0.055) / 1.055, 2.4)
    }
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
  }

  private func contrast(_ a: Double, _ b: Double) -> Double {
    (max(a, b) + 0.05) / (min(a, b) + 0.05)
  }

  /// WCAG 2.2 requires 3 : 1 for large or bold text and graphics, and 4.5 : 1 for other text.
  @Test(arguments: ColorDepth.allCases) func everyStyleHasContrastOnLightAndDark(depth: ColorDepth)
  {
    for role in Role.allCases {
      let look = role.look(depth)
      guard let ink = look.ink else {
        #expect(look.ground == nil, "\(role): the terminal's ink on a ground of ours")
        continue
      }
      let isDrawing = [.arenas, .others, .meterWarning, .meterBad].contains(role) || look.isBold
      let least = isDrawing ? 3 : 4.4
      for ground in look.ground.map({ [luminance($0)] }) ?? [0, 1] {
        let ratio = contrast(luminance(ink), ground)
        #expect(ratio >= least, "\(role) \(depth): \(ratio)")
      }
    }
  }

  /// Without colour, the selected row and problems still stand out.
  @Test func problemsStandOutWithoutColor() {
    for role in Role.allCases where role.isSelected {
      #expect(role.look(.none).isReversed && role.look(.eight) != Look.plain)
    }
    #expect(Role.bad.look(.none).isBold && Role.bandBad.look(.none).isReversed)
  }
}
