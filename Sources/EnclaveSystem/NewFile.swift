// Files that are whole or not there.

internal import CEnclaveSystem

package enum NewFile {
  /// Writes a file that must not exist yet, mode 0600: first under another name in the same
  /// directory, then renamed without replacing (renameat2(2), RENAME_NOREPLACE).
  package static func write(_ bytes: [UInt8], to path: String) throws(FileFailure) {
    if (try? Files.status(path)) != nil {
      throw FileFailure(function: "create", path: path, errno: FileFailure.eexist)
    }
    let temporary = path + ".\(ProcessFacts.pid).tmp"
    do throws(FileFailure) {
      let file = try OpenFile(creating: temporary)
      do throws(FileFailure) {
        try file.write(bytes)
        try file.synchronize()
        try Files.renameExclusively(temporary, to: path)
      } catch {
        Files.remove(temporary)
        throw error
      }
    } catch {
      throw FileFailure(function: error.function, path: path, errno: error.errno)
    }
  }
}
