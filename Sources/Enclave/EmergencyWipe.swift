// Wiping everything at once.

/// Wiping that does not wait for anybody.
public enum EmergencyWipe {
  /// Wipes every arena of the process, vaults' keys included, now. They stay mapped, as zeros; from
  /// now on each use of one throws `EnclaveError.destroyed`.
  ///
  /// It waits for no window: whoever has one open reads zeros from now on, and gets `destroyed`
  /// instead of a result when it closes. Any thread, outside of signal handlers. O(memory in use).
  public static func wipeEverything() { Registry.wipeEverything() }
}
