// The arena: what an application makes, names and destroys.

import EnclaveStats
import EnclaveSystem

/// Named pages with one set of properties, from which secrets are allocated.
///
/// An arena maps its memory itself, in chunks between guard pages; locks it into RAM (mlock(2));
/// keeps it out of core dumps (MADV_DONTDUMP) and forked children (MADV_WIPEONFORK); closes it
/// while nobody uses it (mprotect(2)); and wipes each secret when it is freed.
///
/// It lives while the object or a secret of it does. In a forked child every use of it throws
/// `EnclaveError.inheritedByFork`.
///
/// Threads: all members may be called from any thread. The memory outside of the pages costs about
/// 13 bytes a secret.
@safe
public final class Arena: Sendable {
  /// What to do about mlock(2).
  public enum Lock: Sendable {
    /// Memory that cannot be locked is not used: allocating throws.
    case required
    /// Memory that cannot be locked is used all the same, and shown as `partial` or `unlocked`.
    case preferred
    /// No lock is asked for.
    case off

    var code: LockPolicyCode {
      switch self {
      case .required: .required
      case .preferred: .preferred
      case .off: .off
      }
    }
  }

  /// How secrets lie in the pages.
  public enum Layout: Sendable {
    /// Many secrets a page, by size class, a canary behind each. Secrets above 4 KiB get pages of
    /// their own.
    case slab
    /// Pages of its own for each secret, the data against the trailing guard page. Costs at least
    /// one locked page and three mappings a secret.
    case isolated
  }

  /// What closes the arena while nobody uses it.
  public enum Gate: Sendable {
    /// The best that this machine has.
    case automatic
    /// mprotect(2): no thread can touch a page unless some thread has a window to it. Opening and
    /// closing are one system call each.
    case pages
    /// Nothing: the memory can always be read and written.
    case none

    var closesPages: Bool { self != .none }
    var code: GateCode { self == .none ? .none : .pages }
  }

  /// The properties of an arena; they do not change.
  public struct Options: Sendable {
    public var layout: Layout
    public var lock: Lock
    public var gate: Gate
    /// The most data bytes that the arena maps; nil for no limit of its own.
    public var capacity: Int?

    public init(
      layout: Layout = .slab, lock: Lock = .required, gate: Gate = .automatic,
      capacity: Int? = nil
    ) {
      self.layout = layout
      self.lock = lock
      self.gate = gate
      self.capacity = capacity
    }
  }

  nonisolated(unsafe) let core: UnsafeMutablePointer<ArenaCore>

  /// Makes an arena. It maps nothing until the first secret is allocated.
  ///
  /// - Throws: `EnclaveError.system` when random bytes or the page that notices forks cannot be
  ///   had.
  public init(_ name: Label, _ options: Options = .init()) throws(EnclaveError) {
    unsafe core = unsafe try Registry.add(name: name.text, options: options)
  }

  deinit { unsafe ArenaCore.release(core) }

  /// Allocates a secret of zeros.
  ///
  /// - Parameters:
  ///   - byteCount: 0 to 2 GiB.
  ///   - alignment: of the first byte: a power of two, at most the page size. Slots are aligned to
  ///     16; more may take a larger slot.
  ///   - label: what the secret is counted under; the call site when there is none.
  /// - Throws: `lockLimit`, `mapLimit`, `capacity`, `invalidSize`, `destroyed`,
  ///   `inheritedByFork`, or `system` for any other call that failed. Nothing has changed then, and
  ///   other secrets are unharmed.
  /// - Complexity: O(1), but for a chunk that has to be added.
  public func allocate(
    byteCount: Int, alignment: Int = 16, label: Label? = nil, file: StaticString = #fileID,
    line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let key = LabelKey(label, file: file, line: line)
    let place = unsafe try ArenaCore.locked(core) { core throws(EnclaveError) in
      if unsafe core.pointee.isDestroyed { throw .destroyed }
      let (index, isNew) = unsafe core.pointee.labels.find(key)
      if isNew { unsafe core.pointee.publishLabel(index, isNew: true) }
      return unsafe try core.pointee.allocate(
        byteCount: byteCount, alignment: alignment, label: index)
    }
    return unsafe Secret(core: core, place: place)
  }

  /// Wipes and unmaps the arena at once. Its secrets are gone: using one throws `destroyed`.
  ///
  /// - Throws: `windowsOpen` when a window is open, and nothing has changed then; `system` when
  ///   pages could not be opened to be wiped, or not unmapped: they stay closed, and calling again
  ///   tries them again.
  public func destroy() throws(EnclaveError) {
    unsafe try ArenaCore.destroy(core)
  }

  /// What the arena holds now.
  public struct Statistics: Sendable, Equatable {
    public var secretCount: Int
    public var bytesInUse: Int
    public var bytesMapped: Int
    public var bytesLocked: Int
    public var openWindows: Int
    /// Pages that could not be closed again.
    public var stuckOpenPages: Int
    public var failedLocks: UInt64
    public var failedOpens: UInt64
    public var failedAllocations: UInt64
  }

  /// The counts of now. Takes the arena's lock; O(1). All 0 in a forked child.
  public var statistics: Statistics {
    let totals = unsafe (try? ArenaCore.locked(core) { unsafe $0.pointee.totals }) ?? Totals()
    return Statistics(
      secretCount: totals.secrets, bytesInUse: totals.bytesInUse,
      bytesMapped: totals.bytesMapped, bytesLocked: totals.bytesLocked,
      openWindows: totals.openWindows, stuckOpenPages: totals.stuckPages,
      failedLocks: totals.failedLocks, failedOpens: totals.failedOpens,
      failedAllocations: totals.failedAllocations)
  }
}

extension Arena: CustomStringConvertible {
  /// The arena's name, nothing else.
  public var description: String { unsafe "Arena(\(core.header.name))" }
}

extension ArenaCore {
  /// Runs under the arena's lock, unless this process is a child of the arena's.
  static func locked<R: ~Copyable>(
    _ core: UnsafeMutablePointer<ArenaCore>,
    _ body: (UnsafeMutablePointer<ArenaCore>) throws(EnclaveError) -> R
  ) throws(EnclaveError) -> R {
    // Before the lock: another thread of the parent may have held it when the child was made.
    guard unsafe ForkWatch.current == core.header.forkGeneration else { throw .inheritedByFork }
    unsafe lock(core.header.lockWord)
    defer { unsafe unlock(core.header.lockWord) }
    return unsafe try body(core)
  }

  static func destroy(_ core: UnsafeMutablePointer<ArenaCore>) throws(EnclaveError) {
    while true {
      let isBusy = unsafe try locked(core) { core throws(EnclaveError) in
        if unsafe core.pointee.wiping > 0 { return true }
        if unsafe core.pointee.totals.openWindows > 0 {
          throw unsafe .windowsOpen(core.pointee.totals.openWindows)
        }
        if let failure = unsafe core.pointee.destroy() {
          unsafe core.pointee.publishTotals()
          throw .system(failure)
        }
        return false
      }
      if !isBusy { break }
      // Another thread is wiping a secret outside of the lock: microseconds.
    }
    unsafe Registry.remove(core)
  }

  /// Gives up one reference; the last one destroys what is left.
  static func release(_ core: UnsafeMutablePointer<ArenaCore>) {
    // A child leaves its parent's arenas alone; its copy of the metadata is not worth a risk.
    guard unsafe ForkWatch.current == core.header.forkGeneration else { return }
    unsafe lock(core.header.lockWord)
    unsafe core.pointee.references -= 1
    let isLast = unsafe core.pointee.references == 0
    unsafe unlock(core.header.lockWord)
    guard isLast else { return }
    // Nobody else has a handle: what follows needs no lock, and takes it for the publisher's sake.
    unsafe lock(core.header.lockWord)
    if unsafe !core.pointee.isDestroyed {
      _ = unsafe core.pointee.destroy()
    }
    unsafe unlock(core.header.lockWord)
    unsafe Registry.remove(core)
    // Chunks that could not be wiped or unmapped keep their place in memory, closed; the metadata
    // is not needed for that.
    unsafe core.pointee.deallocate()
    unsafe core.free()
  }
}
