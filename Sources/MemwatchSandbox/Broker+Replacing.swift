// The one file that a confined process may replace, any number of times.

import EnclaveSystem
import MemwatchSystem

/// A file in the export directory, named before the sandbox starts.
package final class ReplaceableFile {
  let name: String
  /// Whether to remove it when the confined process ends, however it ends.
  let isRemovedAtEnd: Bool
  fileprivate(set) var isWritten = false
  /// Whether this broker's temporary file exists.
  fileprivate var hasTemporaryFile = false

  package init(name: String, isRemovedAtEnd: Bool) {
    self.name = name
    self.isRemovedAtEnd = isRemovedAtEnd
  }
}

extension Broker {
  private func replacedFile() throws(FileFailure) -> ReplaceableFile {
    guard let replaced else {
      throw FileFailure(function: "replace", path: "", errno: FileFailure.eperm)
    }
    return replaced
  }

  /// Creates a temporary file, mode 0644, beside the file that is to be replaced.
  func beginReplacing() throws(FileFailure) -> OpenFile {
    let replaced = try replacedFile()
    let temporary = temporary(replaced.name)
    let directory = try directory()
    // The name contains this process's id, so an existing file is left over from an earlier
    // process.
    Files.remove(temporary, in: directory)
    replaced.hasTemporaryFile = false
    let file = try OpenFile(creating: temporary, in: directory)
    do throws(FileFailure) { try file.changeMode(0o644) } catch {
      Files.remove(temporary, in: directory)
      throw error
    }
    replaced.hasTemporaryFile = true
    return file
  }

  /// Replaces the file by the temporary one, or discards the temporary one.
  func finishReplacing(keeping: Bool) throws(FileFailure) {
    let replaced = try replacedFile()
    guard replaced.hasTemporaryFile else {
      throw FileFailure(function: "replace", path: replaced.name, errno: FileFailure.einval)
    }
    replaced.hasTemporaryFile = false
    let temporary = temporary(replaced.name)
    let directory = try directory()
    guard keeping else { return Files.remove(temporary, in: directory) }
    do throws(FileFailure) {
      try Files.replace(replaced.name, by: temporary, in: directory)
      replaced.isWritten = true
    } catch {
      Files.remove(temporary, in: directory)
      throw error
    }
  }

  /// After the confined process has ended: removes what it left, since nobody updates the file now.
  func removeReplaced() {
    guard let replaced, let directory = try? directory() else { return }
    if replaced.hasTemporaryFile { Files.remove(temporary(replaced.name), in: directory) }
    if replaced.isRemovedAtEnd, replaced.isWritten { Files.remove(replaced.name, in: directory) }
  }
}
