// The service that a process belongs to.

package enum Units {
  /// The systemd service of the process's control group; nil: none or unknown.
  package static func name(of pid: Int32) -> SafeText? {
    ProcessProbe(pid: pid, countingMaps: false).unit.map { SafeText($0) }
  }
}
