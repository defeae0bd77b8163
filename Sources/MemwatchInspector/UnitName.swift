// The service that a process belongs to.

package enum Units {
  /// The systemd service in the process' control group; nil: none, or not known.
  package static func name(of pid: Int32) -> SafeText? {
    ProcessProbe(pid: pid, countingMaps: false).unit.map { SafeText($0) }
  }
}
