// Cells at the edges of the screen.

import MemwatchTerminal
import Testing

@Suite struct GridTests {
  /// A character with two columns is drawn completely or not at all, at the edge and at a limit.
  @Test(arguments: 0...5) func wideCharactersAreNotCut(column: Int) {
    var grid = Grid(width: 5, height: 2)
    let end = grid.put("鍵鍵鍵", row: 0, column: column)
    #expect(end <= 5)
    let cells = grid.rows[0]
    #expect(cells.count == 5)
    for index in cells.indices where cells[index].character == "鍵" {
      #expect(index + 1 < 5 && cells[index + 1].character == nil)
    }
    #expect(cells.count { $0.character == "鍵" } == (5 - column) / 2)
    var limited = Grid(width: 40, height: 1)
    #expect(limited.put("a鍵b", row: 0, column: column, limit: 2) == column + 1)
    #expect(limited.line(0) == String(repeating: " ", count: column) + "a")
  }

  @Test func cellsOutsideTheGridAreNotWritten() {
    var grid = Grid(width: 3, height: 2)
    for (row, column) in [(-1, 0), (2, 0), (0, -1), (0, 3), (1, 99)] {
      grid.put("xyz", row: row, column: column)
      grid.put("鍵", row: row, column: column)
    }
    #expect(grid == Grid(width: 3, height: 2))
  }
}
