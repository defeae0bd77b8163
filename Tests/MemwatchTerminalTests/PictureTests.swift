// Pictures in a renderer that is no browser: what is at a place of the grid is there in the picture.

import Foundation
import TestSupport
import Testing

@testable import MemwatchInspector
@testable import MemwatchTerminal

@Suite struct PictureTests {
  static let canRender: Bool =
    (try? Launch(["sh", "-c", "command -v rsvg-convert && fc-list :spacing=100 | grep -q ."]).run())?
    .status == 0

  /// Reads a PNG of 8-bit RGB or RGBA, and writes a line for each row of cells: `#` where a cell holds
  /// more than its ground.
  private static let script = """
    import struct, sys, zlib
    data, at, packed = open(sys.argv[1], "rb").read(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR": width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT": packed += body
        at += length + 12
    size = {2: 3, 6: 4}[colour]
    assert depth == 8
    raw, stride = zlib.decompress(packed), width * size
    rows, last = [], bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        kind, row = raw[start], bytearray(raw[start + 1:start + 1 + stride])
        for x in range(stride):
            a = row[x - size] if x >= size else 0
            b, c = last[x], last[x - size] if x >= size else 0
            near = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[x] = row[x] + (0, a, b, (a + b) // 2, near)[kind] & 255
        rows.append(row)
        last = row
    for top in range(8, height - 8, 16):
        line = ""
        for left in range(8, width - 8, 8):
            pixels = {bytes(rows[y][x * size:x * size + 3]) for y in range(top, top + 16)
                      for x in range(left, left + 8)}
            line += "#" if len(pixels) > 1 else "."
        print(line)
    """

  @Test(
    .enabled(
      if: canRender, "needs rsvg-convert and a monospaced font (librsvg2-bin, fonts-dejavu)"),
    arguments: [View.arenas, .secrets, .events, .history, .help])
  func wordsAreWhereTheyAreOnTheScreen(view: View) throws {
    var model = model(sample())
    for second in 1...5 { model.update(sample(at: now + UInt64(second) * 1000)) }
    model.view = view
    let grid = draw(model, 100, 30, unicode: true)
    let scratch = try Scratch()
    let (picture, image) = (scratch.file("x.svg"), scratch.file("x.png"))
    try grid.svg.write(toFile: picture, atomically: true, encoding: .utf8)
    let rendered = try Launch(["rsvg-convert", "-o", image, picture]).run()
    try #require(rendered.status == 0, "\(rendered.error)")
    let read = try Launch(["python3", "-c", Self.script, image]).run()
    try #require(read.status == 0, "\(read.error)")
    let ink = read.output.split(separator: "\n").map { Array($0) }
    try #require(ink.count == 30 && ink.allSatisfy { $0.count == 100 })
    var (words, blanks) = (0, 0)
    for (row, cells) in grid.rows.enumerated() {
      for column in cells.indices {
        func character(_ at: Int) -> Character {
          cells.indices.contains(at) ? cells[at].character ?? "?" : " "
        }
        let isBlank = (column - 1...column + 1).allSatisfy { character($0) == " " }
        let isStart =
          character(column - 1) == " " && character(column).isASCII
          && (character(column).isLetter || character(column).isNumber)
        if isBlank {
          blanks += 1
          #expect(ink[row][column] == ".", "\(view) row \(row) column \(column)")
        }
        if isStart {
          words += 1
          #expect(ink[row][column] == "#", "\(view) row \(row) column \(column)")
        }
      }
    }
    #expect(words > 40 && blanks > 200, "\(view): \(words) words, \(blanks) blanks")
  }
}
