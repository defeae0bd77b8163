// What the command needs of the system beside inspecting: streams, new files, a pause, children.

import EnclaveSystem

package enum Console {
  /// Writes to a standard stream (1 or 2); what went wrong, or nil.
  package static func write(_ text: String, to descriptor: Int32) -> String? {
    let path = descriptor == 1 ? "standard output" : "standard error"
    do { try Files.write(Array(text.utf8), to: descriptor, path: path) } catch {
      return "\(error)"
    }
    return nil
  }

  /// Writes a file that must not exist yet, whole or not at all; what went wrong, or nil.
  package static func writeNewFile(_ text: String, to path: String) -> String? {
    do { try NewFile.write(Array(text.utf8), to: path) } catch {
      return error.exists
        ? "\(SafeText(path)) exists; memwatch never overwrites a file" : "\(error)"
    }
    return nil
  }

  package static func pause(milliseconds: UInt32) { ProcessFacts.pause(milliseconds: milliseconds) }
  /// CLOCK_BOOTTIME.
  package static var milliseconds: UInt64 { ProcessFacts.bootMilliseconds }
  /// CLOCK_REALTIME.
  package static var realMilliseconds: UInt64 { ProcessFacts.realMilliseconds }

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
