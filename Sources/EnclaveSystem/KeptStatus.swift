// A descriptor of /proc/self/status, for processes that lose sight of /proc.

internal import CEnclaveSystem

/// The process' status file, kept open: after chroot(2) there may be no /proc.
///
/// It is that file and no directory of /proc: through an open directory outside of its root, a
/// process can leave that root.
///
/// A program may close the descriptor and reuse its number, so it is only read while it refers to
/// the same file. A forked child inherits the descriptor of its parent's status.
package enum KeptStatus {
  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static var file: (Int32, StatsPageCalls.Identity)?

  private static func withFile<R>(_ body: (inout (Int32, StatsPageCalls.Identity)?) -> R) -> R {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    return unsafe body(&file)
  }

  /// Opens the file, unless it is open. Without /proc, nothing is kept.
  package static func keep() {
    withFile { file in
      if let (descriptor, identity) = file, !StatsPageCalls.hasLost(descriptor, of: identity) {
        return
      }
      file = nil
      let descriptor = Int32(ces_open_own_status())
      var status = StatsPageCalls.Status()
      guard descriptor >= 0, StatsPageCalls.status(descriptor, &status) == 0 else { return }
      file = (descriptor, status.identity)
    }
  }

  /// In a forked child: closes the file of the parent, and opens the child's.
  package static func keepInChild() {
    withFile { file in
      if let (descriptor, identity) = file { StatsPageCalls.close(descriptor, of: identity) }
      file = nil
    }
    keep()
  }

  /// The text of /proc/self/status, or of the file that was kept open. nil if neither can be read.
  package static func current() -> [UInt8]? {
    ProcessFacts.readFile("/proc/self/status", limit: 16384) ?? read()
  }

  /// The text of the file that was kept open.
  package static func read() -> [UInt8]? {
    guard let (descriptor, identity) = withFile({ $0 }),
      !StatsPageCalls.hasLost(descriptor, of: identity)
    else { return nil }
    var text = [UInt8](repeating: 0, count: 16384)
    let count = unsafe text.withUnsafeMutableBytes {
      unsafe ces_pread(descriptor, $0.baseAddress!, $0.count, 0)
    }
    guard count > 0 else { return nil }
    return Array(text.prefix(Int(count)))
  }
}
