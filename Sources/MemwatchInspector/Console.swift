// What the command needs of the system beside inspecting: streams, new files, a pause, children.

import EnclaveSystem
import MemwatchSystem

package struct ConsoleFailure: Error {
  package var message: String
}

package enum Console {
  /// Writes to a standard stream (1 or 2); what went wrong, or nil.
  package static func write(_ text: String, to descriptor: Int32) -> String? {
    let path = descriptor == 1 ? "standard output" : "standard error"
    do { try Files.write(Array(text.utf8), to: descriptor, path: path) } catch {
      return "\(error)"
    }
    return nil
  }

  /// A write past RLIMIT_FSIZE is an error from now on, and ends nothing.
  package static func surviveFileLimit() { ChildProcess.ignoreFileLimit() }

  /// The limits of memory that memwatch runs under, in words; nil when there is none.
  package static var memoryLimits: String? { ChildProcess.memoryLimits }

  /// Writes a file that must not exist yet, whole or not at all; what went wrong, or nil.
  package static func writeNewFile(_ text: String, to path: String) -> String? {
    let files = InspectedFiles.current
    do throws(FileFailure) {
      let file = try files.create(path, whole: true)
      do throws(FileFailure) {
        try file.write(Array(text.utf8))
        try file.synchronize()
      } catch {
        try? files.finish(path, keeping: false)
        throw error
      }
      try files.finish(path, keeping: true)
    } catch { return message(error, path) }
    return nil
  }

  private static func message(_ failure: FileFailure, _ path: String) -> String {
    var failure = failure
    failure.path = SafeText(path).string
    return failure.exists
      ? "\(failure.path) exists; memwatch never overwrites a file" : "\(failure)"
  }

  /// A file that is made now and grows, mode 0600.
  package final class GrowingFile {
    private let file: OpenFile
    package init(_ path: String) throws(ConsoleFailure) {
      do { file = try InspectedFiles.current.create(path, whole: false) } catch {
        throw ConsoleFailure(message: message(error, path))
      }
    }
    /// Writes at the end; what went wrong, or nil.
    package func append(_ bytes: [UInt8]) -> String? {
      do { try file.write(bytes) } catch { return "\(error)" }
      return nil
    }
  }

  /// A file that the user named; nil when it cannot be read, or is larger than the limit.
  package static func bytes(of path: String, limit: Int = 64 << 20) -> [UInt8]? {
    Inspected.named(path).bytes(limit: limit + 1).flatMap { $0.count > limit ? nil : $0 }
  }

  /// The lines of a file that the user named; nil when it cannot be read.
  package static func lines(of path: String) -> [String]? {
    Inspected.named(path).text(limit: 1 << 20).map {
      $0.split(separator: "\n").map { String($0) }
    }
  }

  package static func pause(milliseconds: UInt32) { ProcessFacts.pause(milliseconds: milliseconds) }
  /// CLOCK_BOOTTIME.
  package static var milliseconds: UInt64 { ProcessFacts.bootMilliseconds }
  /// CLOCK_REALTIME.
  package static var now: Timestamp { Timestamp(realMs: ProcessFacts.realMilliseconds) }

  /// Whether a file is there that may be run.
  package static func isExecutable(_ path: String) -> Bool {
    guard let status = try? Files.status(path) else { return false }
    return status.isRegular && status.mode & 0o111 != 0
  }

  /// The directory of this program's file.
  package static var programDirectory: String {
    let path = Files.link("/proc/self/exe") ?? ""
    return String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
  }
}
