// Publishing the state of this process's arenas for memwatch.

import EnclaveStats
import EnclaveSystem

/// Publishes the process's arenas through a stats page while this value exists.
///
/// The page holds names, counts, sizes, states and times. It never holds contents, hashes of
/// contents, canaries or keys. Publishing is off until `start` is called, or until the first arena
/// is created with `ENCLAVE_STATS=1` in the environment (ignored in set-user-ID programs).
///
/// It costs one thread that wakes every `tickMilliseconds`, and about 1 MiB of tmpfs.
@safe
public struct StatsPublisher: ~Copyable, Sendable {
  /// Whether the page contains the addresses of chunks. With addresses memwatch can audit each
  /// arena; without them it compares totals.
  public enum Addresses: Sendable {
    /// While processes of the same user can read this one's maps anyway (PR_GET_DUMPABLE); withheld
    /// once they cannot.
    case whileDumpable
    case always
    case never
  }

  public struct Options: Sendable {
    public var addresses = Addresses.whileDumpable
    /// The name that memwatch shows; nil means the command's name.
    public var name: Label?
    /// How many secrets are listed individually, as of each tick: allocation times may be up to a
    /// tick late. Other secrets, and those allocated and freed between two ticks, are only counted
    /// under their labels. Each takes 64 bytes of the page.
    public var listedSecrets = 4096
    /// How many arenas are listed individually; the others are only counted.
    public var listedArenas = 256
    /// The resolution of the page's times, in milliseconds: 10 to 10,000.
    public var tickMilliseconds: UInt32 = 100 {
      didSet { tickMilliseconds = min(max(tickMilliseconds, 10), 10_000) }
    }
    /// The default options.
    public init() {}
  }

  private let number: UInt64

  private init(number: UInt64) { self.number = number }

  /// Starts publishing.
  ///
  /// The page is a file in `$ENCLAVE_STATS_DIR`, otherwise in `$XDG_RUNTIME_DIR/enclave`, otherwise
  /// in `/dev/shm/enclave-UID`. After setuid(2) publishing moves to a page of the new user within a
  /// tick. If that fails, it continues on the old page, which only the old user and root may open.
  /// The old file stays until another publisher of the old user removes it.
  ///
  /// If `ENCLAVE_STATS=1` started publishing already, this takes over its page, which keeps its tick
  /// and the sizes of its tables.
  ///
  /// Publishing also moves to a new page when the program closes the page's descriptor, as daemons
  /// do that close all: closing it drops the lock that marks the publisher as alive.
  ///
  /// - Throws: `alreadyPublishing`; `unsuitableDirectory`; `system` for a failed call. After an
  ///   error no file remains.
  public static func start(_ options: Options = Options()) throws(EnclaveError) -> StatsPublisher {
    StatsPublisher(number: try Registry.startPublishing(options: options))
  }

  deinit { Registry.stopPublishing(number) }

  /// Publishes until the process ends.
  public consuming func keepUntilExit() {
    Registry.keep(number)
  }

  /// Publishes the current counts at once; otherwise they are published every `tickMilliseconds`.
  public func refresh() { Registry.refresh() }

  /// Stops publishing and removes the page. Destroying the value does the same.
  public consuming func stop() {}

  /// The path of the page's file; nil once publishing has ended.
  public var path: String? { Registry.page(number)?.path }

  /// Whether the page is intact. False once its file was truncated by somebody else, which ends
  /// publishing and has no other effect.
  public var isPublishing: Bool { Registry.page(number).map { !$0.isLost } ?? false }
}
