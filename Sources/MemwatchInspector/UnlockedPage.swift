// What a process that still runs did to a page whose lock nobody holds.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

/// A page without a publisher, though the process that made it runs.
///
/// `execve(2)` replaces the mappings of a process before it closes the descriptors that are marked
/// close-on-exec, and only then the record lock goes: without a lock, mappings without the page are
/// those of another program. A program that closed the descriptor still maps its page.
struct UnlockedPage {
  let hasClosed: Bool
  let state: PublisherState
  let detail: String

  private static let mostMapBytes = 64 << 20

  /// - Parameters:
  ///   - status: of the page's file; nil: not known.
  ///   - hasClosed: the page says that its publisher stopped.
  init(pid: Int32, status: FileStatus?, fileName: String, hasClosed: Bool) {
    self.hasClosed = hasClosed
    if hasClosed {
      (state, detail) = (.detached, "the program stopped publishing")
    } else if StatsPageName(fileName) == nil {
      // A copy, or another name, which the process need not know.
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

  /// Whether a process maps its page; nil where its mappings cannot be read.
  private static func maps(_ pid: Int32, _ status: FileStatus?) -> Bool? {
    guard let status,
      let text = Inspected.process(.maps, pid: pid).bytes(limit: mostMapBytes), !text.isEmpty,
      text.count < mostMapBytes
    else { return nil }
    return text.split(separator: UInt8(ascii: "\n")).contains { line in
      // Address, permissions, offset, device, inode. The name is none that tells: a page is born
      // without one.
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
      guard fields.count > 4, ProcText.number(fields[4]) == status.inode else { return false }
      let device = fields[3].split(separator: UInt8(ascii: ":"))
        .map { ProcText.number($0, radix: 16) }
      return device == [status.deviceMajor, status.deviceMinor]
    }
  }
}
