// The state of a publisher that is running although nobody holds its page's lock.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

/// A page without a lock holder, whose process is still running.
///
/// execve(2) replaces a process's mappings before it closes close-on-exec descriptors, which drops
/// the record lock. So if the lock is free and the page is not mapped, another program runs; a
/// program that only closed the descriptor still maps its page.
struct UnlockedPage {
  let hasClosed: Bool
  let state: PublisherState
  let detail: String

  private static let mostMapBytes = 64 << 20

  /// - Parameters:
  ///   - status: of the page's file; nil: unknown.
  ///   - hasClosed: whether the page says that its publisher stopped.
  init(pid: Int32, status: FileStatus?, fileName: String, hasClosed: Bool) {
    self.hasClosed = hasClosed
    if hasClosed {
      (state, detail) = (.detached, "the program stopped publishing")
    } else if StatsPageName(fileName) == nil {
      // A copy of the page, or another name of it.
      (state, detail) = (.detached, "no process holds this file, and its publisher still runs")
    } else {
      switch Self.maps(pid, status) {
      case true?:
        (state, detail) = (
          .detached, "the program closed the descriptor of its page, and still runs"
        )
      case false?:
        (state, detail) = (
          .exec, "process \(pid) executed another program, which does not publish"
        )
      case nil:
        (state, detail) = (
          .detached,
          "the program closed the descriptor of its page, or executed another program: its "
            + "mappings may not be read"
        )
      }
    }
  }

  /// Whether a process maps its page; nil if its mappings cannot be read.
  private static func maps(_ pid: Int32, _ status: FileStatus?) -> Bool? {
    guard let status,
      let text = InspectedFile.process(.maps, pid: pid).bytes(limit: mostMapBytes), !text.isEmpty,
      text.count < mostMapBytes
    else { return nil }
    return text.split(separator: UInt8(ascii: "\n")).contains { line in
      // Address, permissions, offset, device, inode. The name does not help: a page is created
      // without one.
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
      guard fields.count > 4, ProcText.number(fields[4]) == status.inode else { return false }
      let device = fields[3].split(separator: UInt8(ascii: ":"))
        .map { ProcText.number($0, radix: 16) }
      return device == [status.deviceMajor, status.deviceMinor]
    }
  }
}
