// Publishing what the arenas of this process are like, for memwatch.

import EnclaveStats
import EnclaveSystem

/// Publishes the process' arenas through a stats page for as long as this value lives.
///
/// The page holds names, counts, sizes, states and times. It never holds contents, hashes of
/// contents, canaries or keys. Publishing is off until this is called, or until the first arena is
/// made while `ENCLAVE_STATS=1` is in the environment (ignored in set-user-ID programs).
///
/// It costs one thread, which wakes every `tickMilliseconds`, and some 1 MiB of tmpfs.
@safe
public struct StatsPublisher: ~Copyable, Sendable {
  /// Whether the page tells where chunks lie. With addresses memwatch can audit each arena;
  /// without, it compares totals.
  public enum Addresses: Sendable {
    /// While other processes of the same user may read this one's maps anyway (PR_GET_DUMPABLE);
    /// taken off the page when that ends.
    case whileDumpable
    case always
    case never
  }

  public struct Options: Sendable {
    public var addresses = Addresses.whileDumpable
    /// What memwatch calls the process; the command's name when nil.
    public var name: Label?
    /// How many secrets are listed one by one, as they are at each tick: the time of their allocation is
    /// up to a tick late. The others, and those that come and go between two ticks, are counted under
    /// their labels. 64 bytes of the page each.
    public var listedSecrets = 4096
    /// How many arenas are listed; the others are counted.
    public var listedArenas = 256
    /// How fine the page's times are; 10 to 10,000.
    public var tickMilliseconds: UInt32 = 100 {
      didSet { tickMilliseconds = min(max(tickMilliseconds, 10), 10_000) }
    }
    public init() {}
  }

  private let number: UInt64

  private init(number: UInt64) { self.number = number }

  /// Starts publishing.
  ///
  /// The page is a file in `$ENCLAVE_STATS_DIR`, else `$XDG_RUNTIME_DIR/enclave`, else
  /// `/dev/shm/enclave-UID`. After setuid(2) it goes to a page of the new user within a tick; where that
  /// fails, the old page stays, which only the old user and root may open. The old file stays until
  /// another publisher of the old user removes it.
  ///
  /// - Throws: `alreadyPublishing`; `unsuitableDirectory`; `system` for a call that failed. Nothing
  ///   is left behind then.
  public static func start(_ options: Options = Options()) throws(EnclaveError) -> StatsPublisher {
    StatsPublisher(number: try Registry.startPublishing(options: options))
  }

  deinit { Registry.stopPublishing(number) }

  /// Goes on publishing until the process ends.
  public consuming func keepUntilExit() {
    Registry.keep(number)
  }

  /// Writes the counts as they are now. They are written every `tickMilliseconds` anyway.
  public func refresh() { Registry.refresh() }

  /// Takes the page away. Letting the value go does the same.
  public consuming func stop() {}

  /// The page's file; nil when publishing has ended.
  public var path: String? { Registry.page(number)?.path }

  /// Whether the page is still whole: false once its file was truncated under this process, which
  /// ends the publishing and nothing else.
  public var isPublishing: Bool { Registry.page(number).map { !$0.isLost } ?? false }
}
