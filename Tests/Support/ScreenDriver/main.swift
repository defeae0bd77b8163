// screen-driver PID FILE: memwatch's screen over a live process; each grid that it draws goes to FILE, so
// that a test can compare it with what the terminal shows. Not confined: it writes where it likes.

import Foundation
import MemwatchInspector
import MemwatchTerminal

let arguments = CommandLine.arguments
guard arguments.count == 3, let pid = Int32(arguments[1]) else { exit(64) }
let file = URL(fileURLWithPath: arguments[2])
Screen.prepareStreams()
var settings = ScreenSettings(intervalMs: 1000, forceASCII: false, useColor: true)
let prepared = try Screen.prepare(settings)
let inspector: Inspector
do { inspector = try Inspector.attach(to: .pid(pid)) } catch { exit(2) }
_ = Screen.run(
  .attached(inspector), on: prepared, write: { _, path in "not written: \(path)" },
  drawn: { grid in
    let lines = grid.rows.map { row in String(row.compactMap(\.character)) }
    try? Data(lines.joined(separator: "\n").utf8).write(to: file, options: .atomic)
  })
