// The arena: what an application creates, names and destroys.

import EnclaveStats
import EnclaveSystem

/// Named pages with one set of properties, from which secrets are allocated.
///
/// An arena maps memory in chunks between guard pages, locks it into RAM (mlock(2)), and keeps it
/// out of core dumps (MADV_DONTDUMP) and forked children (MADV_WIPEONFORK). It closes the memory
/// while nobody uses it (pkeys(7), mprotect(2)), and wipes each secret when it is freed.
///
/// An arena lives while the object or one of its secrets does. In a forked child every use of it
/// throws `EnclaveError.inheritedByFork`.
///
/// Threads: all members may be called from any thread. Bookkeeping outside the secret pages takes
/// about 13 bytes per secret.
@safe
public final class Arena: Sendable {
  /// Whether memory must be locked (mlock(2)).
  public enum Lock: Sendable {
    /// Memory that cannot be locked is not used: allocating throws.
    case required
    /// Memory that cannot be locked is used anyway, and shown as `partial` or `unlocked`. A thread
    /// of the library retries once a second until it is locked.
    case preferred
    /// Memory is not locked.
    case off
  }

  /// How secrets are placed in pages.
  public enum Layout: Sendable {
    /// Many secrets per page, by size class, with a canary behind each. Secrets larger than 4 KiB
    /// get separate pages.
    case slab
    /// Separate pages for each secret, with the data against the trailing guard page, as far as its
    /// alignment allows (see `Options.endsAtGuard`). Costs at least one locked page and three
    /// mappings per secret.
    case isolated
  }

  /// What closes the arena while nobody uses it.
  public enum Gate: Sendable {
    /// The best gate of this machine: a protection key if there is one, otherwise pages.
    case automatic
    /// A protection key (pkeys(7)): a window opens the arena for its own thread only, in a few
    /// nanoseconds and without a system call. Creating the arena throws `unsupported` if no key is
    /// available.
    case key
    /// mprotect(2): no thread can access a page unless some thread has a window to it. Opening and
    /// closing are one system call each, and every thread can read while a window is open.
    case pages
    /// A cipher: contents are encrypted at rest, and a window decrypts one secret into a locked
    /// page of its thread. Works without system calls, on any processor. Whoever can read any
    /// address of the process can decrypt, since the key is in the process too. Opening takes time
    /// proportional to the secret's size, and changes made in one window are visible in windows
    /// opened later. `lock` then applies to the ciphertext and may as well be off: the key and open
    /// secrets are always locked. Needs libsodium (trait `Sodium`).
    case cipher
    /// No gate: the memory is always readable and writable.
    case none
  }

  /// Whether other arenas may use the same protection key. A machine has 15. When they run out,
  /// arenas share: writable with writable arenas, and frozen with frozen ones.
  public enum KeySharing: Sendable {
    case allowed
    /// A key that is not shared: creating the arena throws `unsupported` if none is left.
    case never
  }

  /// What the pages are made of.
  public enum Backing: Sendable {
    /// Ordinary private memory.
    case anonymous
    /// memfd_secret(2): the kernel removes the pages from its own map, so that /proc/PID/mem,
    /// ptrace(2), core dumps and most kernel bugs cannot reach them. The price: mapping a page
    /// costs about ten times as much (some 10 µs, measured), the memory is always locked and
    /// charged to RLIMIT_MEMLOCK, the machine cannot hibernate while it exists, and it is absent
    /// from forked children.
    case secret
  }

  /// The properties of an arena. They do not change after it is created.
  public struct Options: Sendable {
    public var layout: Layout
    public var lock: Lock
    public var gate: Gate
    /// The largest number of data bytes that the arena maps, at least one page; nil: unlimited.
    public var capacity: Int?
    public var keySharing = KeySharing.allowed
    public var backing = Backing.anonymous
    /// Makes secrets in separate pages end exactly at the guard page whatever their size, so that
    /// reading or writing one byte beyond the end faults. Their addresses are then unaligned unless
    /// `allocate` is given an alignment. Otherwise data is aligned to 16, with up to 15 bytes
    /// between it and the guard: writes there are detected when the secret is freed, reads are not.
    public var endsAtGuard = false
    /// Requests memory with tagged addresses (arm64 MTE). Creating the arena throws `unsupported`
    /// if the machine has no such memory.
    public var isTagged = false
    /// Leaves the arena unwiped at exit, for memory that is still used during exit, such as the
    /// buffers of stdio.
    public var isKeptAtExit = false
    /// Its secrets are held by address, in C: destroying the arena invalidates all of them.
    package var isHeldByAddress = false
    /// A forked child continues with its own copy (`ForkInheritance`). For whole heaps and adopted
    /// programs, whose children need the contents. Never for a vault or a cipher gate.
    package var isInheritedByFork = false
    /// Pages are locked when first touched (MLOCK_ONFAULT). For whole heaps and adopted programs:
    /// memory that is mapped but never used takes no RAM. RLIMIT_MEMLOCK counts it nevertheless.
    package var isLockedOnFault = false
    /// The alignment of a secret allocated without one.
    package var alignment: Int { endsAtGuard ? 1 : 16 }

    public init(
      layout: Layout = .slab, lock: Lock = .required, gate: Gate = .automatic,
      capacity: Int? = nil, keySharing: KeySharing = .allowed, backing: Backing = .anonymous,
      isTagged: Bool = false, endsAtGuard: Bool = false, isKeptAtExit: Bool = false
    ) {
      self.layout = layout
      self.lock = lock
      self.gate = gate
      self.capacity = capacity
      self.keySharing = keySharing
      self.backing = backing
      self.isTagged = isTagged
      self.endsAtGuard = endsAtGuard
      self.isKeptAtExit = isKeptAtExit
    }
  }

  package let reference: ArenaReference

  /// The name, as memwatch shows it.
  public var name: String { "\(reference.name)" }

  /// Creates an arena. Nothing is mapped until the first secret is allocated.
  ///
  /// - Throws: `EnclaveError.unsupported` for a requested gate, backing or tagging that is
  ///   unavailable; `capacity` if it is less than a page; `system` if random bytes or fork
  ///   detection are unavailable.
  public init(_ name: Label, _ options: Options = .init()) throws(EnclaveError) {
    reference = try Registry.add(name: name, options: options)
  }

  deinit { reference.releaseObject() }

  /// Allocates a secret of zeros, and waits if RLIMIT_MEMLOCK leaves no headroom.
  ///
  /// - Parameters:
  ///   - byteCount: 0 to 2 GiB.
  ///   - alignment: the alignment of the first byte, a power of two up to the page size. nil means 16,
  ///     or 1 if `endsAtGuard` is set. Slots are aligned to 16; more may need a larger slot.
  ///   - label: the label to count the secret under; nil means the call site.
  ///   - patience: the minimum time to wait for headroom under RLIMIT_MEMLOCK. The thread sleeps and
  ///     checks every 10 ms.
  ///   - file: the file of the call site.
  ///   - line: the line of the call site.
  /// - Throws: `lockLimit`, `memoryGroupLimit`, `mapLimit`, `capacity`, `invalidSize`, `frozen`,
  ///   `destroyed`, `inheritedByFork`, or `system` for another failed call. Then nothing has changed,
  ///   and other secrets are unharmed.
  /// - Complexity: O(1), except when a chunk has to be added.
  public func allocate(
    byteCount: Int, alignment: Int? = nil, label: Label? = nil,
    waitingForHeadroom patience: Duration,
    file: StaticString = #fileID, line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let end = patience.endFromNow
    while true {
      let before = room
      do {
        return try allocate(
          byteCount: byteCount, alignment: alignment, label: label, file: file, line: line)
      } catch {
        guard error.isLockFailure else { throw error }
        // Each failed attempt is counted and published, so retry only when it may succeed.
        repeat {
          guard ProcessFacts.bootMilliseconds < end else { throw error }
          ProcessFacts.pause(milliseconds: 10)
          // Memory that became spare meanwhile stays locked until it is trimmed.
        } while !(asLibrary { Registry.trimAll() }) && !room.isLarger(than: before)
      }
    }
  }

  /// What determines whether a failed allocation may succeed now.
  private struct Room {
    var limit: UInt64?
    var locked: UInt64?
    var bytesInUse: Int

    func isLarger(than other: Room) -> Bool {
      guard let limit, let locked, let otherLimit = other.limit, let otherLocked = other.locked
      else { return true }
      return limit > otherLimit || locked < otherLocked || bytesInUse < other.bytesInUse
    }
  }

  private var room: Room {
    Room(
      limit: (try? ProcessFacts.memlockLimit())?.soft, locked: ProcessFacts.lockedBytes(),
      bytesInUse: statistics.bytesInUse)
  }

  /// Creates an arena for a vault's keys. Its protection key is shared with other vaults only, if at
  /// all.
  package init(vault name: Label, _ options: Options) throws(EnclaveError) {
    reference = try Registry.add(name: name, options: options, kind: .vault)
  }

  /// Allocates a secret of zeros under the label of another secret.
  package func allocate(byteCount: Int, key: LabelKey) throws(EnclaveError) -> Secret {
    let request = try Shard.Request(
      byteCount: byteCount, alignment: reference.options.alignment)
    return Secret(handle: try reference.allocate(request, key: key))
  }

  /// Allocates a secret of zeros; does not wait for headroom.
  public func allocate(
    byteCount: Int, alignment: Int? = nil, label: Label? = nil, file: StaticString = #fileID,
    line: UInt32 = #line
  ) throws(EnclaveError) -> Secret {
    let request = try Shard.Request(
      byteCount: byteCount, alignment: alignment ?? reference.options.alignment)
    return Secret(
      handle: try reference.allocate(request, key: LabelKey(label, file: file, line: line)))
  }

  /// Makes the arena write-once: from now on its contents can only be read, until it is destroyed.
  ///
  /// Writing through the API throws `frozen`; writing through a pointer faults. A secret that is
  /// freed is still wiped, and its slot is not reused. Freezing twice does nothing.
  ///
  /// - Throws: `windowsOpen` while any window for writing is open (or any window at all, if the
  ///   arena shares its protection key and must switch to another); `destroyed`, `inheritedByFork`;
  ///   `system` if a call failed, and then nothing has changed.
  public func freeze() throws(EnclaveError) { try reference.freeze() }

  /// Freezes the arena and seals its mappings (mseal(2)): from now on nobody in this process can
  /// unmap, move, replace or re-protect them, nor discard their contents, until the process ends.
  ///
  /// Destroying the arena still wipes it and releases its memory and lock. The addresses stay
  /// reserved until the process ends, and are counted on the stats page. (memfd_secret pages stay
  /// too, wiped and locked: only unmapping would release them.)
  ///
  /// - Throws: `sealNeedsKeyGate`; `unsupported` if the kernel has no mseal; otherwise as `freeze`.
  public func seal() throws(EnclaveError) { try reference.seal() }

  /// Returns memory that holds no secret (`Statistics.idleBytes`) to the system, and releases its
  /// lock. A frozen arena has none. O(memory returned).
  ///
  /// - Returns: how many bytes were returned.
  ///
  /// - Throws: `destroyed`, `inheritedByFork`.
  @discardableResult
  public func trim() throws(EnclaveError) -> Int { try reference.trimSpare() }

  /// Wipes and unmaps the arena immediately. Using one of its secrets throws `destroyed` from then on.
  ///
  /// - Parameter patience: how long to wait for open windows.
  ///
  /// - Throws: `windowsOpen` if windows are still open, and then nothing has changed; `system` if
  ///   pages could not be opened for wiping or not be unmapped. Those pages stay closed, and
  ///   calling this again retries.
  public func destroy(waitingUpTo patience: Duration = .zero) throws(EnclaveError) {
    try reference.destroy(until: patience.endFromNow)
  }

  /// Checks every canary and every free slot, and returns what is wrong. Holds the arena's locks. Under
  /// a cipher gate it also decrypts every secret, in windows of its own that are counted like any other,
  /// and without a lock. O(memory).
  ///
  /// - Throws: `destroyed`, `inheritedByFork`; `system` if pages could not be opened; `noScratch`.
  public func check() throws(EnclaveError) -> [Violation] { try reference.check() }

  /// Whether an address range lies within one live secret of this arena. O(1), no lock.
  public func contains(_ range: UnsafeRawBufferPointer) -> Bool {
    guard reference.gate.isOwn, let handle = unsafe SecretHandle.live(at: range),
      unsafe handle.arena.header == reference.header
    else { return false }
    return true
  }

  /// Frees a secret whose ownership was given up with `Secret.leak()`.
  ///
  /// An address that is already free, or not a secret of this arena, is a `Violation`.
  @unsafe
  public func free(_ address: UnsafeMutableRawPointer) throws(EnclaveError) {
    unsafe try reference.free(address: address)
  }

  /// The current contents of an arena.
  public struct Statistics: Sendable, Equatable {
    public var secretCount: Int
    public var bytesInUse: Int
    public var bytesMapped: Int
    public var bytesLocked: Int
    /// The mapped bytes of chunks that hold no secret: wiped, closed, and kept for later secrets.
    /// At most 2 MiB or an eighth of the peak of mapped bytes, whichever is more, and less than
    /// half of RLIMIT_MEMLOCK. They are returned to the system when memory cannot be locked, when
    /// the capacity is used up, when the arena is frozen, and by `Arena.trim()`.
    public var idleBytes: Int
    /// Under a page gate: pages of chunks whose slabs are separate mappings, so that opening a slab
    /// splits no mapping. (Opening slabs with fewer pages than the chunk was mapped for still
    /// does.)
    public var separatePages: Int
    /// Under a page gate: pages of chunks that are one mapping. Opening a slab splits the mapping,
    /// at three times the cost. A process has at most 2,048 mappings for separate pages, and at
    /// most an eighth of vm.max_map_count.
    public var mergedPages: Int
    public var openWindows: Int
    /// How many of the open windows were left open by threads that have ended. (Does not include
    /// threads beyond the 63rd that use the library at the same time.)
    public var abandonedWindows: Int
    /// Pages that could not be closed again.
    public var stuckOpenPages: Int
    public var failedLocks: UInt64
    public var failedOpens: UInt64
    public var failedAllocations: UInt64
    public var corruptions: UInt64
    /// Slots of a frozen arena whose secret was freed.
    public var retiredSlots: Int
    public var isFrozen: Bool
    public var isSealed: Bool
    /// The number of the protection key; nil without a key gate.
    public var protectionKey: Int?
  }

  /// The current statistics. Takes the arena's locks one by one. O(threads). All 0 in a forked
  /// child.
  public var statistics: Statistics {
    var statistics = Statistics(
      secretCount: 0, bytesInUse: 0, bytesMapped: 0, bytesLocked: 0, idleBytes: 0, separatePages: 0,
      mergedPages: 0, openWindows: 0, abandonedWindows: 0,
      stuckOpenPages: 0, failedLocks: 0, failedOpens: 0, failedAllocations: 0,
      corruptions: 0,
      retiredSlots: 0, isFrozen: false, isSealed: false, protectionKey: nil)
    guard reference.gate.isOwn else { return statistics }
    let totals = reference.totals.shards
    statistics.idleBytes = reference.idleBytes
    statistics.secretCount = totals.secrets
    statistics.bytesInUse = totals.bytesInUse
    statistics.stuckOpenPages = totals.stuckPages
    statistics.failedOpens = totals.failedOpens
    statistics.failedAllocations = totals.failedAllocations
    statistics.corruptions = totals.corruptions
    statistics.retiredSlots = totals.retiredSlots
    reference.withCore { core in
      statistics.bytesMapped = core.bytesMapped
      statistics.bytesLocked = core.bytesLocked
      statistics.separatePages = core.separatePages
      statistics.mergedPages = core.mergedPages
      statistics.failedLocks = core.failedLocks
      statistics.isSealed = core.isSealed
      let windows = reference.gate.windows
      statistics.openWindows = windows.open
      statistics.abandonedWindows = windows.abandoned
    }
    statistics.isFrozen = reference.gate.isFrozen
    statistics.protectionKey = reference.gate.key
    return statistics
  }
}

extension Arena: CustomStringConvertible, CustomReflectable {
  /// The arena's name and nothing else.
  public var description: String { "Arena(\(reference.name))" }
  public var customMirror: Mirror { Mirror(self, children: []) }
}

extension Arena.Lock {
  var code: LockPolicyCode {
    switch self {
    case .required: .required
    case .preferred: .preferred
    case .off: .off
    }
  }
}

extension Duration {
  /// When a wait that starts now has lasted at least this long, in milliseconds since boot; now if
  /// there is no wait. The clock truncates to milliseconds, so one is added.
  var endFromNow: UInt64 {
    let now = ProcessFacts.bootMilliseconds
    guard self > .zero else { return now }
    let (seconds, attoseconds) = components
    let milliseconds = UInt64((attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    return now + UInt64(min(seconds, 1 << 40)) * 1000 + milliseconds + 1
  }
}
