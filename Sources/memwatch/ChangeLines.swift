// Changes as lines: for screen readers, logs, pipes, and terminals without cursor addressing.

import ArgumentParser
import MemwatchInspector
import MemwatchTerminal

enum ChangeLines {
  /// Says that lines replace the screen, if the terminal cannot show one.
  static func begin() {
    if let why = Screen.withoutCursor {
      Output.error("memwatch: \(why): printing a line for each change, as with --screen-reader")
    }
  }

  /// Writes a line for each change until the process is gone. Returns its last state.
  static func follow(
    _ inspector: Inspector, _ flags: ScreenFlags, auditing: Inspector.Auditing = .automatic
  ) throws(Failure) -> PublisherState {
    inspector.openLimitMs = UInt64(flags.openLimit.milliseconds)
    var last: Snapshot?
    while true {
      let snapshot = inspector.sample(auditing: auditing, .none)
      try writeChanges(snapshot, after: last)
      last = snapshot
      if [.exited, .exec, .replaced].contains(snapshot.process.state) {
        return snapshot.process.state
      }
      Exiting.pause(milliseconds: UInt32(flags.interval.milliseconds))
    }
  }

  /// Writes the changes between the samples of a record.
  static func write(_ snapshots: [Snapshot]) throws(Failure) {
    var last: Snapshot?
    for snapshot in snapshots {
      try writeChanges(snapshot, after: last)
      last = snapshot
    }
  }

  private static func writeChanges(_ snapshot: Snapshot, after last: Snapshot?) throws(Failure) {
    let time = clock(snapshot.sampledAt)
    let lines = snapshot.changes(since: last).map { "\(time)  \($0)\n" }
    if !lines.isEmpty { try Output.standard(lines.joined()) }
  }
}
