// An arena's state, in raw memory that the Arena object and the secrets' handles point to, so that
// a handle is trivial and the hot path touches no reference count.
//
// Theory of operation
//
//   chunk   one mapping: guard page | data pages | guard page. Locked, kept out of dumps and forked
//           children, and put under the arena's key as a whole. Slab chunks start at 4 pages and
//           double up to 64. An isolated secret has a chunk to itself; when it is freed, the next
//           secret with the same number of pages reuses the chunk.
//   slab    1, 2 or 4 pages of a slab chunk that belong to one size class, or all of an isolated
//           chunk: the unit that a page gate opens and closes. Belongs to one shard.
//   slot    one secret's place in a slab:  | payload … zeros | canary, 16 bytes |
//           A free slot is zeroed and already has its canary, so allocating opens nothing.
//   shard   the slabs, free slots and counts used by some of the threads, with a lock of its own.
//   gate    the open windows and the protection key: see CEnclaveGate.h. Windows take no lock.
//
// Bookkeeping of slots (32 bytes each), slabs and chunks is in ordinary memory, outside the secret
// pages: an overflow cannot reach it, and reading it opens nothing.
//
// Each size class has a list of slabs with free slots, and each slab has a list of its free slots.
// Both are LIFO, so the slot that is warm in the cache is used next. Allocate and free are O(1),
// except when a chunk is added.
//
// Locks, in the order in which they are taken: the registry's; `refresh`, for publishing; `state`,
// for freezing, sealing and destroying; the shards', by number; the core's, for growth and the
// stats page. What is read without a lock is immutable (ArenaHeader) or belongs to the gate.

import EnclaveStats
import EnclaveSystem

/// The mechanism that closes an arena, chosen from what the machine offers.
enum GateKind: Sendable { case key, pages, cipher, none }

/// The most recent failed lock.
struct LockFailure: BitwiseCopyable {
  var errno: Int32
  var atMs: UInt64
  var bytesInUse: UInt64?
  var soft: UInt64?
}

/// Immutable arena state; readable without a lock.
@safe
struct ArenaHeader {
  let id: UInt64
  let name: OwnedName
  let options: Arena.Options
  let mechanism: GateKind
  let canaries: Canaries
  let gate: GateState
  /// The cipher and its key, under a cipher gate.
  let cipher: CipherGate?
  let createdAtMs: UInt64
  /// Spin locks, a cache line each: state, core, refresh, then the shards'.
  let words: UnsafeMutablePointer<UInt32>
  let shards: Shards
  let shardCount: Int
  let core: UnsafeMutablePointer<ArenaCore>
  /// How many handles are left after the Arena object was released.
  let remainingHandles: UnsafeMutablePointer<UInt64>
  /// References to this memory: 1 for the Arena object and its handles together, and 1 for each
  /// iteration over the registry that still has to visit this arena.
  var references: UInt64 = 1
}

/// A pointer to an arena.
@safe
package struct ArenaReference: BitwiseCopyable, @unchecked Sendable {
  let header: UnsafeMutablePointer<ArenaHeader>

  static let maximumShards = 8
  private static let wordsPerLine = 16

  static func make(
    id: UInt64, name: Label, options: Arena.Options, mechanism: GateKind, key: Int?,
    canaries: Canaries, generation: UInt64
  ) throws(SystemFailure) -> ArenaReference {
    // Everything that can fail comes first: one block of memory, and the gate's.
    let shardCount = Self.processors
    let wordCount = (3 + shardCount) * wordsPerLine
    let shardsAt = (wordCount * 4 + 127) & ~127
    let headerAt = shardsAt + Shards.byteCount(shardCount)
    let coreAt = headerAt + (MemoryLayout<ArenaHeader>.size + 63) & ~63
    let remainingHandlesAt = coreAt + (MemoryLayout<ArenaCore>.size + 63) & ~63
    let block = unsafe try Metadata.allocate(byteCount: remainingHandlesAt + 64, alignment: 128)
    let gate: GateState
    let cipher: CipherGate?
    let reusableSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
    do throws(SystemFailure) {
      gate = try GateState(generation: generation)
      do throws(SystemFailure) {
        unsafe reusableSlabs = unsafe try Metadata.allocate(
          UnsafeMutablePointer<Slab>?.self, count: SizeClass.all.count + 1)
        do throws(SystemFailure) {
          cipher =
            try mechanism == .cipher ? CipherGate(AEAD.preferredForSlots!, gate: gate) : nil
        } catch {
          unsafe Metadata.free(reusableSlabs)
          throw error
        }
      } catch {
        gate.free()
        throw error
      }
    } catch {
      unsafe Metadata.free(block)
      throw error
    }
    unsafe reusableSlabs.initialize(repeating: nil, count: SizeClass.all.count + 1)
    gate.key = key
    let words = unsafe block.bindMemory(to: UInt32.self, capacity: wordCount)
    unsafe words.initialize(repeating: 0, count: wordCount)
    let arena = unsafe ArenaReference(
      header: (block + headerAt).bindMemory(to: ArenaHeader.self, capacity: 1))
    let remainingHandles = unsafe (block + remainingHandlesAt).bindMemory(
      to: UInt64.self, capacity: 1)
    unsafe remainingHandles.initialize(to: 0)
    let shards = unsafe Shards(at: block + shardsAt)
    let core = unsafe (block + coreAt).bindMemory(to: ArenaCore.self, capacity: 1)
    unsafe arena.header.initialize(
      to: ArenaHeader(
        id: id, name: OwnedName(copying: name), options: options, mechanism: mechanism,
        canaries: canaries, gate: gate, cipher: cipher,
        createdAtMs: ProcessFacts.bootMilliseconds, words: words, shards: shards,
        shardCount: shardCount, core: core, remainingHandles: remainingHandles))
    unsafe core.initialize(to: ArenaCore(arena: arena, reusableSlabs: reusableSlabs))
    for index in 0..<shardCount {
      unsafe shards.pointer(at: index).initialize(
        to: Shard(arena: arena, index: UInt8(index), tables: shards.tables(index)))
    }
    return arena
  }

  /// The number of processors, rounded up to a power of two.
  private static let processors: Int = {
    var count = 1
    while count < ProcessFacts.processors, count < maximumShards { count *= 2 }
    return count
  }()

  /// Keeps this memory alive. The caller holds the registry's lock, and the arena is registered.
  func retain() { unsafe addRelaxed(1, to: &header.pointee.references) }

  /// Drops a reference; the last one frees the memory.
  func release() {
    if unsafe dropReference(&header.pointee.references) == 0 { free() }
  }

  /// Frees the memory. The chunks are unmapped, or stay closed until the process ends.
  private func free() {
    for index in 0..<shardCount { unsafe header.pointee.shards[index].deallocate() }
    unsafe header.pointee.core.pointee.deallocate()
    name.deallocate()
    unsafe header.pointee.cipher?.free()
    gate.free()
    unsafe Metadata.free(header.pointee.words)  // the start of the block
  }

  /// The cipher and its key, under a cipher gate.
  var cipher: CipherGate { unsafe header.pointee.cipher.unsafelyUnwrapped }
  package var id: UInt64 { unsafe header.pointee.id }
  var name: OwnedName { unsafe header.pointee.name }
  var options: Arena.Options { unsafe header.pointee.options }
  var mechanism: GateKind { unsafe header.pointee.mechanism }
  var canaries: Canaries { unsafe header.pointee.canaries }
  var gate: GateState { unsafe header.pointee.gate }
  var shardCount: Int { unsafe header.pointee.shardCount }

  // MARK: - Locks

  var stateWord: UnsafeMutablePointer<UInt32> { unsafe header.pointee.words }
  private var coreWord: UnsafeMutablePointer<UInt32> {
    unsafe header.pointee.words + Self.wordsPerLine
  }
  /// Whether shards report empty slabs to the core. Shares a cache line with the core's lock.
  var marksIdle: Bool {
    get { unsafe loadRelaxed(UnsafeRawPointer(coreWord + 2)) != 0 }
    nonmutating set {
      unsafe storeRelaxed(newValue ? 1 : 0, at: UnsafeMutableRawPointer(coreWord + 2))
    }
  }
  /// Held while writing changes to the stats page.
  var refreshWord: UnsafeMutablePointer<UInt32> {
    unsafe header.pointee.words + 2 * Self.wordsPerLine
  }
  func shardWord(_ index: Int) -> UnsafeMutablePointer<UInt32> {
    unsafe header.pointee.words + (3 + index) * Self.wordsPerLine
  }

  func withCore<R, E: Error>(_ body: (inout ArenaCore) throws(E) -> R) throws(E) -> R {
    unsafe lock(coreWord)
    defer { unsafe unlock(coreWord) }
    return unsafe try body(&header.pointee.core.pointee)
  }

  /// For callers that hold the lock across calls without a closure.
  func lockCore() { unsafe lock(coreWord) }
  func unlockCore() { unsafe unlock(coreWord) }

  func withShard<R, E: Error>(
    _ index: Int, _ body: (inout Shard) throws(E) -> R
  ) throws(E) -> R {
    unsafe lock(shardWord(index))
    defer { unsafe unlock(shardWord(index)) }
    return unsafe try body(&header.pointee.shards[index])
  }

  /// Takes the locks of all shards and the core. Then nothing changes except windows (unless a page
  /// gate opens them) and the pages of an arena that is being frozen or destroyed.
  func withEverything<R, E: Error>(
    _ body: (Shards, inout ArenaCore) throws(E) -> R
  ) throws(E) -> R {
    for index in 0..<shardCount { unsafe lock(shardWord(index)) }
    defer { for index in 0..<shardCount { unsafe unlock(shardWord(index)) } }
    return try withCore { core throws(E) in unsafe try body(header.pointee.shards, &core) }
  }
}

@safe
struct ArenaCore {
  let arena: ArenaReference
  let options: Arena.Options
  let mechanism: GateKind

  var chunks = RawList<Chunk>()
  var slabs = RawList<SlabReference>()
  /// Chunks with room for a slab, as lists of indices; see `Chunk.roomList`.
  var roomLists = InlineArray<12, Int32>(repeating: Chunk.none)
  /// The list of unused chunk entries.
  var freeChunkEntry = Chunk.none
  /// Slabs whose pages were released, by size class, with isolated slabs last. They are reused,
  /// never freed, so their slots keep stale handles stale.
  let reusableSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  var slabChunkBytes = 0
  /// Bytes of chunks that hold no secret, and how many of them are kept.
  var spareBytes = 0
  var keepBytes = 0
  /// The index of the isolated chunk that became spare last.
  var newestSpare = -1
  var peakBytesMapped = 0
  /// Chunks that are being mapped outside the locks, and their bytes.
  var pendingChunks = 0
  var pendingBytes = 0
  var forkProtection: ForkProtection?

  var bytesMapped = 0
  /// The mappings that the chunks take between their guards.
  var dataMaps = 0
  /// Under a page gate: pages that open without splitting a mapping, and pages that do not.
  var separatePages = 0
  var mergedPages = 0
  var bytesLocked = 0
  var peakBytesLocked = 0
  var chunkCount = 0
  var failedLocks: UInt64 = 0
  var lockFailure: LockFailure?
  /// The arena is frozen, or is being frozen.
  var isFrozenOrFreezing = false
  var isSealed = false
  var isDestroyed = false
  /// A change failed half way: nothing can be opened any more.
  var isBroken = false
  /// Removed from the registry and from the stats page.
  var isRemoved = false
  /// Incremented by every change that must be published.
  var changes: UInt64 = 0

  var labels = LabelTable()
  var page: ArenaPublication?

  static let firstChunkPages = 4
  static let largestChunkPages = 64

  init(
    arena: ArenaReference, reusableSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  ) {
    self.arena = arena
    options = arena.options
    mechanism = arena.mechanism
    unsafe self.reusableSlabs = unsafe reusableSlabs
  }

  mutating func deallocate() {
    for index in 0..<slabs.count {
      unsafe Metadata.free(slabs[index].slab.pointee.cipherSlots)
      unsafe Metadata.free(slabs[index].slab)
    }
    for index in 0..<chunks.count where chunks[index].isMapped {
      chunks[index].wipeEntry?.remove()
      unsafe PageOwners.set(nil, at: chunks[index].mapping.data, chunks[index].mapping.byteCount)
    }
    chunks.deallocate()
    slabs.deallocate()
    unsafe Metadata.free(reusableSlabs)
    labels.deallocate()
  }

  // MARK: - Growth

  /// The data bytes of the next slab chunk.
  var nextChunkBytes: Int {
    let pages = slabChunkBytes / Page.size
    return min(max(pages, Self.firstChunkPages), Self.largestChunkPages) * Page.size
  }

  mutating func recordLockFailure(_ failure: SystemFailure?, _ report: LockFailure, byteCount: Int)
  {
    failedLocks &+= 1
    changes &+= 1
    lockFailure = report
    page?.writer.event(.lockFailed, arena: arena.id, failure: failure, bytes: UInt64(byteCount))
  }

  /// Converts a failure into an error that names the limit behind it, if that can be determined.
  static func explained(_ failure: SystemFailure, needed: Int) -> EnclaveError {
    let error = EnclaveError.system(failure)
    switch failure.call {
    case .lockChunk, .mapSecretMemory:
      // ENOSYS is 38, EPERM 1: the kernel lacks memfd_secret or forbids it to this process.
      if failure.call == .mapSecretMemory, failure.errno == 38 || failure.errno == 1 {
        return .unsupported(.secretMemory, failure)
      }
      if let group = MemoryGroup.tooSmall(for: UInt64(needed)) {
        return .memoryGroupLimit(limit: group.limit, inUse: group.inUse, needed: UInt64(needed))
      }
      guard let limit = try? ProcessFacts.memlockLimit() else { return error }
      let inUse = ProcessFacts.lockedBytes() ?? 0
      guard limit.soft != .max, inUse + UInt64(needed) > limit.soft else { return error }
      return .lockLimit(soft: limit.soft, inUse: inUse, needed: UInt64(needed))
    default: break
    }
    return mapLimit(or: failure)
  }

  /// ENOMEM (12) and EAGAIN (11) are what mapping calls return at vm.max_map_count.
  static func mapLimit(or failure: SystemFailure) -> EnclaveError {
    if failure.errno == 12 || failure.errno == 11, let inUse = ProcessFacts.mapCount(),
      let limit = ProcessFacts.mapLimit(), inUse + 3 >= limit
    {
      return .mapLimit(inUse: inUse, limit: limit)
    }
    return .system(failure)
  }
}

/// Closes pages, trying twice. Returns false if they stay open.
func closeWithRetry(
  _ address: UnsafeMutableRawPointer, _ byteCount: Int, to protection: Protection = .closed
) -> Bool {
  for _ in 0..<2 {
    if unsafe (try? setProtection(protection, at: address, byteCount: byteCount)) != nil {
      return true
    }
  }
  return false
}

extension EnclaveError {
  package var systemFailure: SystemFailure? {
    switch self {
    case .system(let failure), .unsupported(_, let failure): failure
    default: nil
    }
  }

  var isLockFailure: Bool {
    switch self {
    // memfd_secret pages are charged when mapped, so EAGAIN (11) is their failed lock.
    case .system(let failure):
      failure.call == .lockChunk
        || failure.call == .mapSecretMemory && failure.errno == 11
    case .lockLimit, .memoryGroupLimit: true
    default: false
    }
  }
}
