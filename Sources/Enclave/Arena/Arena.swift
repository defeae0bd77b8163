// The arena: what an application makes, names and destroys.

import EnclaveStats
import EnclaveSystem

/// Named pages with one set of properties, from which secrets are allocated.
///
/// An arena maps its memory itself, in chunks between guard pages; locks it into RAM (mlock(2));
/// keeps it out of core dumps (MADV_DONTDUMP) and forked children (MADV_WIPEONFORK); closes it
/// while nobody uses it (pkeys(7), mprotect(2)); and wipes each secret when it is freed.
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
    /// Memory that cannot be locked is used all the same, and shown as `partial` or `unlocked`. A thread
    /// of the library's tries once a second to lock it later, and ends when it is.
    case preferred
    /// No lock is asked for.
    case off
  }

  /// How secrets lie in the pages.
  public enum Layout: Sendable {
    /// Many secrets a page, by size class, a canary behind each. Secrets above 4 KiB get pages of
    /// their own.
    case slab
    /// Pages of its own for each secret, the data against the trailing guard page (as far as its
    /// alignment allows: `Options.endsAtGuard`). Costs at least one locked page and three mappings a
    /// secret.
    case isolated
  }

  /// What closes the arena while nobody uses it.
  public enum Gate: Sendable {
    /// The best that this machine has: a protection key, else pages.
    case automatic
    /// A protection key (pkeys(7)): a window opens the arena for its own thread alone, in some
    /// nanoseconds and without a system call. Throws `unsupported` where there is none to be had.
    case key
    /// mprotect(2): no thread can touch a page unless some thread has a window to it. Opening and
    /// closing are one system call each, and any thread can read along while a window is open.
    case pages
    /// A cipher: contents rest encrypted, and a window decrypts one secret into a locked page of its
    /// thread. No system call, on any processor; who can read any address of the process can decrypt,
    /// since the key lies in it too. Opening a secret takes time for its size; what one window writes is
    /// seen by windows that open after it. Locking the arena (`lock`) is for the ciphertext, and may as
    /// well be off: the key and what is open are always locked. Needs libsodium (trait `Sodium`).
    case cipher
    /// Nothing: the memory can always be read and written.
    case none
  }

  /// Whether other arenas may be under the same protection key. A machine has 15; arenas share
  /// when they run out, only writable with writable and frozen with frozen ones.
  public enum KeySharing: Sendable {
    case allowed
    /// A key of its own: making the arena throws `unsupported` when there is none left.
    case never
  }

  /// What the pages are.
  public enum Backing: Sendable {
    /// Ordinary private memory.
    case anonymous
    /// memfd_secret(2): the kernel takes the pages out of its own map, so that neither
    /// /proc/PID/mem, ptrace(2), a core dump nor most kernel bugs reach them. The price: about ten
    /// times the cost to map a page (some 10 µs, measured), always locked and charged to
    /// RLIMIT_MEMLOCK, no hibernation while it lives, and the memory is absent from forked
    /// children.
    case secret
  }

  /// The properties of an arena; they do not change.
  public struct Options: Sendable {
    public var layout: Layout
    public var lock: Lock
    public var gate: Gate
    /// The most data bytes that the arena maps, at least a page; nil for no limit of its own.
    public var capacity: Int?
    public var keySharing = KeySharing.allowed
    public var backing = Backing.anonymous
    /// Secrets with pages of their own end at the guard page at every size: the first byte behind one is
    /// a fault, for reads too. Their addresses have no alignment then, unless `allocate` is asked for
    /// one. Without this the data is aligned to 16, and up to 15 bytes lie between it and the guard:
    /// writes there are found when the secret is freed, reads are not.
    public var endsAtGuard = false
    /// Ask for memory whose addresses carry tags (arm64 MTE). Making the arena throws
    /// `unsupported` where there is no such thing.
    public var isTagged = false
    /// Do not wipe the arena when the process exits: for memory that exit itself still uses, such as
    /// the buffers of stdio.
    public var isKeptAtExit = false
    /// Its secrets are held by address, in C: destroying the arena ends them all.
    package var isHeldByAddress = false
    /// A forked child goes on with a copy as its own (`ForkInheritance`), for whole heaps and adopted
    /// programs: what they need in a child is there and nowhere else. Never for a vault or a cipher gate.
    package var isInheritedByFork = false
    /// Pages are locked when they are touched first (MLOCK_ONFAULT), for whole heaps and adopted programs:
    /// what they map and do not use takes no memory. RLIMIT_MEMLOCK counts it all the same.
    package var isLockedOnFault = false
    /// Of a secret that is asked for without one.
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

  /// Makes an arena. It maps nothing until the first secret is allocated.
  ///
  /// - Throws: `EnclaveError.unsupported` for a gate, backing or tagging that was asked for and is
  ///   not there; `capacity` when it is less than a page; `system` when random bytes or the page that notices forks cannot be had.
  public init(_ name: Label, _ options: Options = .init()) throws(EnclaveError) {
    reference = try Registry.add(name: name, options: options)
  }

  deinit { reference.orphan() }

  /// Allocates a secret of zeros.
  ///
  /// - Parameters:
  ///   - byteCount: 0 to 2 GiB.
  ///   - alignment: of the first byte: a power of two, at most the page size; 16 when nil, or 1 where
  ///     `endsAtGuard` is set. Slots are aligned to 16; more may take a larger slot.
  ///   - label: what the secret is counted under; the call site when there is none.
  ///   - patience: how long to wait for headroom under RLIMIT_MEMLOCK when there is none, and no
  ///     less; the thread sleeps meanwhile, and looks every 10 ms.
  ///   - file: the file of the call site.
  ///   - line: the line of the call site.
  /// - Throws: `lockLimit`, `memoryGroupLimit`, `mapLimit`, `capacity`, `invalidSize`, `frozen`, `destroyed`,
  ///   `inheritedByFork`, or `system` for any other call that failed. Nothing has changed then, and
  ///   other secrets are unharmed.
  /// - Complexity: O(1), but for a chunk that has to be added.
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
        // Each failed attempt is counted and published: try again only when that may succeed.
        repeat {
          guard ProcessFacts.bootMilliseconds < end else { throw error }
          ProcessFacts.pause(milliseconds: 10)
          // What became idle meanwhile stays locked, until somebody asks for it.
        } while !(asLibrary { Registry.trimAll() }) && !room.isLarger(than: before)
      }
    }
  }

  /// What decides whether a failed allocation may succeed now.
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

  /// An arena for a vault's keys: it shares its protection key with other vaults at most.
  package init(vault name: Label, _ options: Options) throws(EnclaveError) {
    reference = try Registry.add(name: name, options: options, kind: .vault)
  }

  /// Allocates a secret of zeros under a label that another secret has.
  package func allocate(byteCount: Int, key: LabelKey) throws(EnclaveError) -> Secret {
    let request = try Shard.Request(
      byteCount: byteCount, alignment: reference.options.alignment)
    return Secret(handle: try reference.allocate(request, key: key))
  }

  /// Allocates a secret of zeros; does not wait.
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
  /// Writing through the API throws `frozen`; writing around it is a fault. A secret that is freed
  /// is wiped all the same, and its slot stays empty. Freezing twice does nothing.
  ///
  /// - Throws: `windowsOpen` while a window for writing is open anywhere (or, where the arena
  ///   shares its protection key and so has to change it, any window); `destroyed`,
  ///   `inheritedByFork`; `system` when a call failed, and nothing has changed then.
  public func freeze() throws(EnclaveError) { try reference.freeze() }

  /// Freezes the arena and seals its mappings (mseal(2)): nobody in this process can unmap, move,
  /// replace or re-protect them any more, nor discard their contents, until the process ends.
  ///
  /// Destroying the arena wipes it and gives its memory and its lock back; the addresses stay
  /// taken until the process ends, and are counted on the stats page. (Of secret memory the pages
  /// stay too, wiped and locked: only unmapping would give them back.)
  ///
  /// - Throws: `sealNeedsKeyGate`; `unsupported` where the kernel has no mseal; else as `freeze`.
  public func seal() throws(EnclaveError) { try reference.seal() }

  /// Gives memory that holds no secret back to the system, and its lock with it: `Statistics.idleBytes`.
  /// A frozen arena has none to give. O(memory that is given back).
  ///
  /// - Returns: how many bytes.
  /// - Throws: `destroyed`, `inheritedByFork`.
  @discardableResult
  public func trim() throws(EnclaveError) -> Int { try reference.giveBackIdle() }

  /// Wipes and unmaps the arena at once. Its secrets are gone: using one throws `destroyed`.
  ///
  /// - Parameter patience: how long to wait for windows that are open.
  /// - Throws: `windowsOpen` when windows are still open, and nothing has changed then; `system`
  ///   when pages could not be opened to be wiped, or not unmapped: they stay closed, and calling
  ///   again tries them again.
  public func destroy(waitingUpTo patience: Duration = .zero) throws(EnclaveError) {
    try reference.destroy(until: patience.endFromNow)
  }

  /// Looks at every canary and every free slot, and returns what is wrong. Holds the arena's locks
  /// meanwhile. Under a cipher gate it decrypts every secret too, in windows of its own that are
  /// counted as any other, and without a lock. O(memory).
  ///
  /// - Throws: `destroyed`, `inheritedByFork`; `system` when pages could not be opened; `noScratch`.
  public func check() throws(EnclaveError) -> [Violation] { try reference.check() }

  /// Whether a range of addresses lies within one live secret of this arena. O(1), no lock.
  public func contains(_ range: UnsafeRawBufferPointer) -> Bool {
    guard reference.gate.isOwn, let handle = unsafe SecretHandle.live(at: range),
      unsafe handle.arena.header == reference.header
    else { return false }
    return true
  }

  /// Frees a secret that was taken out of its handle by `Secret.leak()`.
  ///
  /// An address that is free already, or no secret's of this arena, is a `Violation`.
  @unsafe
  public func free(_ address: UnsafeMutableRawPointer) throws(EnclaveError) {
    unsafe try reference.free(address: address)
  }

  /// What the arena holds now.
  public struct Statistics: Sendable, Equatable {
    public var secretCount: Int
    public var bytesInUse: Int
    public var bytesMapped: Int
    public var bytesLocked: Int
    /// Of the mapped bytes, those of chunks that hold no secret: wiped, closed, and kept for the next
    /// secrets. At most 2 MiB or an eighth of the most that was mapped, whichever is more, and less than
    /// half of RLIMIT_MEMLOCK. They go back to the system when memory cannot be locked or the capacity is
    /// used up, when the arena is frozen, and by `Arena.trim()`.
    public var idleBytes: Int
    /// Under a page gate: pages of chunks of which each slab is a mapping of its own, so that opening
    /// one splits no mapping. (Where a chunk serves slabs of fewer pages than those that it was mapped
    /// for, opening them does.)
    public var separatePages: Int
    /// Under a page gate: pages of chunks in one piece, of which opening one splits the mapping, at
    /// three times the cost. A process has 2,048 mappings for separate pages, and at most an eighth of
    /// vm.max_map_count.
    public var mergedPages: Int
    public var openWindows: Int
    /// Of those, how many were left open by threads that have ended. (Not of threads beyond the 63rd
    /// that use the library at a time.)
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

  /// The counts of now. Takes the arena's locks one by one; O(threads). All 0 in a forked child.
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
  /// The arena's name, nothing else.
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
  /// When a wait that begins now has lasted no less than this, in milliseconds since boot; now for
  /// no wait at all. The clock's milliseconds are cut off, so that one more has to pass.
  var endFromNow: UInt64 {
    let now = ProcessFacts.bootMilliseconds
    guard self > .zero else { return now }
    let (seconds, attoseconds) = components
    let milliseconds = UInt64((attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    return now + UInt64(min(seconds, 1 << 40)) * 1000 + milliseconds + 1
  }
}
