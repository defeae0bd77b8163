// What this machine offers, determined by trying it.

public import EnclaveSystem

/// A mechanism that a machine may or may not offer.
public enum Capability: String, Sendable, CaseIterable {
  /// Gates that open an arena for one thread (pkeys(7); x86-64 with PKU).
  case protectionKeys
  /// Mappings that can no longer be changed (mseal(2), Linux 6.10).
  case seals
  /// Memory that the kernel itself cannot access (memfd_secret(2), Linux 5.14, where enabled).
  case secretMemory
  /// Guard pages that are not separate mappings (MADV_GUARD_INSTALL, Linux 6.13).
  case guardMarkers
  /// Memory that a forked child reads as zeros (MADV_WIPEONFORK, Linux 4.14).
  case wipeOnFork
  /// Memory with tagged addresses (arm64 MTE).
  case memoryTagging

  public enum Availability: Sendable, Equatable {
    case available
    /// The kernel refused, with this failure.
    case unavailable(SystemFailure)
  }

  /// Asks the kernel each time. A protection key allocated to find out stays in the process's pool.
  /// Any thread; takes some microseconds.
  public var availability: Availability {
    do throws(SystemFailure) {
      switch self {
      case .protectionKeys: KeyPool.release(try KeyPool.take(.writable, isExclusive: false))
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
