// What a process may do, and giving it up.

internal import CMemwatchSystem
package import EnclaveSystem

package enum Rights {
  private static func check(_ function: String, _ result: Int64) throws(FileFailure) -> Int64 {
    guard result >= 0 else {
      throw FileFailure(function: function, path: "of this process", errno: Int32(-result))
    }
    return result
  }

  /// The threads of this process; nil when /proc cannot be read.
  package static var threads: Int64? {
    let count = cms_thread_count()
    return count < 0 ? nil : count
  }

  /// Keeps of the permitted capabilities those of a mask (capset(2)); with none, the bounding set is
  /// emptied too. Nothing stays inheritable or ambient.
  package static func keepCapabilities(_ mask: UInt64) throws(FileFailure) {
    _ = try check("capset", cms_keep_capabilities(mask))
  }

  /// prctl(2), PR_SET_NO_NEW_PRIVS: programs that this process starts gain nothing by set-user-ID or
  /// file capabilities; Landlock and seccomp need it.
  package static func refuseNewPrivileges() throws(FileFailure) {
    _ = try check("prctl(PR_SET_NO_NEW_PRIVS)", cms_no_new_privileges())
  }

  /// landlock(7): no file can be opened any more, no TCP port bound or reached, and where the kernel knows
  /// it, no signal sent and no abstract socket reached outside. Descriptors that are open go on
  /// working. It also takes away what ptrace_may_access needs: maps, smaps and mem of other processes.
  ///
  /// - Returns: the version of Landlock's interface.
  package static func restrictFiles() throws(FileFailure) -> Int64 {
    try check("landlock_restrict_self", cms_landlock_restrict())
  }
}
