// Gives up privileges: capabilities, new privileges, opening files.

internal import CMemwatchSystem
package import EnclaveSystem

package enum Privileges {
  private static func check(_ function: String, _ result: Int64) throws(FileFailure) -> Int64 {
    guard result >= 0 else {
      throw FileFailure(function: function, path: "of this process", errno: Int32(-result))
    }
    return result
  }

  /// The number of threads of this process; nil if /proc cannot be read.
  package static var threads: Int64? {
    let count = cms_thread_count()
    return count < 0 ? nil : count
  }

  /// Keeps only the permitted capabilities in `mask` (capset(2)). An empty mask also empties the
  /// bounding set. Nothing stays inheritable or ambient.
  package static func keepCapabilities(_ mask: UInt64) throws(FileFailure) {
    _ = try check("capset", cms_keep_capabilities(mask))
  }

  /// Raises the soft limit of open files to the hard one, but to 16,384 at most (setrlimit(2)): an
  /// exporter keeps some files open for each process.
  package static func raiseFileLimit() { cms_raise_file_limit() }

  /// The number of files that this process may have open (RLIMIT_NOFILE).
  package static var fileLimit: Int { Int(clamping: cms_file_limit()) }

  /// Sets PR_SET_NO_NEW_PRIVS (prctl(2)): programs started from here gain nothing from set-user-ID
  /// or file capabilities. Landlock and seccomp require it.
  package static func refuseNewPrivileges() throws(FileFailure) {
    _ = try check("prctl(PR_SET_NO_NEW_PRIVS)", cms_no_new_privileges())
  }

  /// Denies opening files and binding or connecting TCP ports, and, if the kernel supports it,
  /// signals and abstract sockets outside this process (landlock(7)). Open descriptors keep
  /// working. It also denies ptrace access, and so maps, smaps and mem of other processes.
  ///
  /// - Returns: the version of Landlock's ABI.
  package static func restrictFiles() throws(FileFailure) -> Int64 {
    try check("landlock_restrict_self", cms_landlock_restrict())
  }
}
