// Atomically replacing a file that others may be reading.

internal import CMemwatchSystem
package import EnclaveSystem

extension Files {
  /// Replaces a file by another (rename(2)): readers see the old one or the new one.
  package static func replace(
    _ name: String, by temporary: String, in directory: Int32
  ) throws(FileFailure) {
    let result = unsafe cms_replace(directory, temporary, name)
    guard result >= 0 else {
      throw FileFailure(function: "rename", path: name, errno: Int32(-result))
    }
  }
}

extension OpenFile {
  /// Sets the permissions, regardless of the umask (fchmod(2)).
  package func changeMode(_ mode: UInt32) throws(FileFailure) {
    let result = cms_change_mode(descriptor, mode)
    guard result >= 0 else {
      throw FileFailure(function: "fchmod", path: path, errno: Int32(-result))
    }
  }
}
