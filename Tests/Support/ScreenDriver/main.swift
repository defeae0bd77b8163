// screen-driver PID FILE: runs memwatch's screen for a live process, and writes each grid to FILE,
// so that a test can compare it with the terminal. It is not confined, because it writes that file.

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
