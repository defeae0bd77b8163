// Changes as lines: for screen readers, logs, pipes, and terminals that cannot place their cursor.

import ArgumentParser
import MemwatchInspector
import MemwatchTerminal

enum Speaking {
  /// Says that there will be lines and no screen, where the terminal leaves no choice.
  static func begin() {
    if let why = Screen.withoutCursor {
      Output.error("memwatch: \(why): a line for each change, as with --screen-reader")
    }
  }

  /// A line for each change until the process is gone; its last state.
  static func follow(
    _ inspector: Inspector, _ flags: ScreenFlags, auditing: Inspector.Auditing = .automatic
  ) throws(Failure) -> PublisherState {
    inspector.openLimitMs = UInt64(flags.openLimit.milliseconds)
    var last: Snapshot?
    while true {
      let snapshot = inspector.sample(auditing: auditing, .none)
      try say(snapshot, after: last)
      last = snapshot
      if [.exited, .exec, .replaced].contains(snapshot.process.state) {
        return snapshot.process.state
      }
      Exiting.pause(milliseconds: UInt32(flags.interval.milliseconds))
    }
  }

  /// The changes from one sample of a record to the next.
  static func tell(_ snapshots: [Snapshot]) throws(Failure) {
    var last: Snapshot?
    for snapshot in snapshots {
      try say(snapshot, after: last)
      last = snapshot
    }
  }

  private static func say(_ snapshot: Snapshot, after last: Snapshot?) throws(Failure) {
    let time = clock(snapshot.sampledAt)
    let lines = snapshot.changes(since: last).map { "\(time)  \($0)\n" }
    if !lines.isEmpty { try Output.standard(lines.joined()) }
  }
}
