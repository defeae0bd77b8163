// What this machine offers, found out by asking for it.

public import EnclaveSystem

/// What a machine may or may not offer.
public enum Capability: String, Sendable, CaseIterable {
  /// Gates that open an arena for one thread (pkeys(7); x86-64 with PKU).
  case protectionKeys
  /// Mappings that cannot be changed any more (mseal(2), Linux 6.10).
  case seals
  /// Memory that the kernel itself cannot reach (memfd_secret(2), Linux 5.14, where enabled).
  case secretMemory
  /// Guard pages without mappings of their own (MADV_GUARD_INSTALL, Linux 6.13).
  case guardMarkers
  /// Memory that a forked child reads as zeros (MADV_WIPEONFORK, Linux 4.14).
  case wipeOnFork
  /// Memory whose addresses carry tags (arm64 MTE).
  case memoryTagging

  public enum Availability: Sendable, Equatable {
    case available
    /// Asked for, and refused: why.
    case unavailable(SystemFailure)
  }

  /// Asks the kernel, each time. A protection key that is taken for the answer goes to the
  /// process' pool. Any thread; some microseconds.
  public var availability: Availability {
    do throws(SystemFailure) {
      switch self {
      case .protectionKeys: KeyPool.giveBack(try KeyPool.take(.writable, isExclusive: false))
      case .seals: try Probe.seals()
      case .secretMemory: try Probe.secretMemory()
      case .guardMarkers: try Probe.guardMarkers()
      case .wipeOnFork: try Probe.wipeOnFork()
      case .memoryTagging: try Probe.memoryTagging()
      }
      return .available
    } catch { return .unavailable(error) }
  }

  public var isAvailable: Bool { availability == .available }
}
