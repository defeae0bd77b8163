// System services for the command: streams, new files, clocks.

import EnclaveSystem
import MemwatchSystem

package struct ConsoleFailure: Error {
  package var message: String
}

package enum Console {
  /// Writes to a standard stream (1 or 2). Returns an error message, or nil.
  package static func write(_ text: String, to descriptor: Int32) -> String? {
    let path = descriptor == 1 ? "standard output" : "standard error"
    do { try Files.write(Array(text.utf8), to: descriptor, path: path) } catch {
      return "\(error)"
    }
    return nil
  }

  /// From now on a write past RLIMIT_FSIZE is an error and does not end the process.
  package static func surviveFileLimit() { ChildProcess.ignoreFileLimit() }

  package static var isRoot: Bool { ProcessFacts.uid == 0 }

  /// The memory limits of memwatch itself, in words; nil: none.
  package static var memoryLimits: String? { ChildProcess.memoryLimits }

  /// Atomically writes a new file; it must not exist. Returns an error message, or nil.
  package static func writeNewFile(_ text: String, to path: String) -> String? {
    let files = FileOpener.current
    do throws(FileFailure) {
      let file = try files.create(path, atomically: true)
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
      ? "\(failure.path) already exists; memwatch does not overwrite files" : "\(failure)"
  }

  /// A new file, mode 0600, that is appended to.
  package final class GrowingFile {
    private let file: OpenFile
    package init(_ path: String) throws(ConsoleFailure) {
      do { file = try FileOpener.current.create(path, atomically: false) } catch {
        throw ConsoleFailure(message: message(error, path))
      }
    }
    /// Appends bytes. Returns an error message, or nil.
    package func append(_ bytes: [UInt8]) -> String? {
      do { try file.write(bytes) } catch { return "\(error)" }
      return nil
    }
  }

  /// The contents of a file from the command line; nil if it cannot be read or is larger than the
  /// limit.
  package static func bytes(of path: String, limit: Int = 64 << 20) -> [UInt8]? {
    InspectedFile.named(path).bytes(limit: limit + 1).flatMap { $0.count > limit ? nil : $0 }
  }

  /// The lines of a file from the command line; nil if it cannot be read.
  package static func lines(of path: String) -> [String]? {
    InspectedFile.named(path).text(limit: 1 << 20).map {
      $0.split(separator: "\n").map { String($0) }
    }
  }

  package static func pause(milliseconds: UInt32) { ProcessFacts.pause(milliseconds: milliseconds) }
  /// Loads what `columns(of:)` needs, while files can still be opened.
  package static func prepareText() { CharacterWidth.prepare() }

  /// The columns that a character takes on a terminal: 2 for East Asian wide characters and emoji, 0 for
  /// combining characters.
  package static func columns(of scalar: Unicode.Scalar) -> Int {
    if let columns = CharacterWidth.columns(scalar) { return columns }
    // The C library does not know the character, for example a new emoji: one column unless it is
    // invisible.
    return scalar.properties.isDefaultIgnorableCodePoint
      || scalar.properties.generalCategory == .control ? 0 : 1
  }

  /// Blocks signals until the broker takes them.
  package static func blockSignals() throws { try SignalWatch.block() }

  /// CLOCK_BOOTTIME.
  package static var milliseconds: UInt64 { ProcessFacts.bootMilliseconds }
  /// CLOCK_REALTIME.
  package static var now: Timestamp { Timestamp(realMs: ProcessFacts.realMilliseconds) }

  /// Whether an executable file exists.
  package static func isExecutable(_ path: String) -> Bool {
    guard let status = try? Files.status(path) else { return false }
    return status.isRegular && status.mode & 0o111 != 0
  }

  /// The directory of the running program.
  package static var programDirectory: String {
    let path = Files.link("/proc/self/exe") ?? ""
    return String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
  }
}
