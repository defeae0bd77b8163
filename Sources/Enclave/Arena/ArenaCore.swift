// The arena's insides, in raw memory that the Arena object and the secrets' handles point to, so
// that a handle is trivial and no reference count moves on the hot path.
//
// Theory of operation
//
//   chunk   one mapping: guard page | data pages | guard page. Locked, kept out of dumps and
//           forks, and put under the arena's key as a whole. Slab chunks start at 4 pages and
//           double up to 64; an isolated secret has a chunk to itself, and leaves it to the next of
//           as many pages.
//   slab    1, 2 or 4 pages of a slab chunk that belong to one size class (or all of an isolated
//           chunk): the unit that a page gate opens and closes. Belongs to one shard.
//   slot    one secret's place in a slab:  | payload … zeros | canary, 16 bytes |
//           A free slot is zero and has its canary already, so that allocating opens nothing.
//   shard   the slabs, free slots and counts of some threads, under a lock of their own.
//   gate    who has windows open, and the protection key: see CEnclaveGate.h. Windows take no lock.
//
// What is known about slots (32 bytes each), slabs and chunks lies in ordinary memory, outside of
// the secret pages: an overflow cannot reach it, and reading it opens nothing.
//
// Each size class has a list of slabs with free slots; a slab has a list of its free slots. Both are
// LIFO: the slot that is warm in the cache is used next. Allocate and free are O(1), but for the
// growth by a chunk.
//
// Locks, in the order in which they are taken: the registry's; `refresh`, for whoever writes what is
// new on the page; `state`, for whoever freezes, seals or destroys; the shards', by number; the core's,
// for growth and the page. What is read without a lock never changes (ArenaHeader), or belongs to the
// gate.

import EnclaveStats
import EnclaveSystem

/// What closes an arena, once it is known what the machine has.
enum GateKind: Sendable { case key, pages, cipher, none }

/// The last lock that failed.
struct LockFailure: BitwiseCopyable {
  var errno: Int32
  var atMs: UInt64
  var bytesInUse: UInt64?
  var soft: UInt64?
}

/// What of an arena never changes.
@safe
struct ArenaHeader {
  let id: UInt64
  let name: OwnedName
  let options: Arena.Options
  let mechanism: GateKind
  let canaries: Canaries
  let gate: GateState
  /// The key, under a cipher gate.
  let cipher: CipherGate?
  let createdAtMs: UInt64
  /// Spin words, a cache line each: state, core, refresh, then the shards'.
  let words: UnsafeMutablePointer<UInt32>
  let shards: Shards
  let shardCount: Int
  let core: UnsafeMutablePointer<ArenaCore>
  /// Handles that are left once the Arena object is gone.
  let orphans: UnsafeMutablePointer<UInt64>
  /// What keeps the metadata: 1 for the Arena object and its handles together, and 1 for each walk
  /// over the registry's list that has this arena still before it.
  var references: UInt64 = 1
}

/// An arena, reached by pointer.
@safe
package struct ArenaReference: BitwiseCopyable, @unchecked Sendable {
  let header: UnsafeMutablePointer<ArenaHeader>

  static let maximumShards = 8
  private static let wordsPerLine = 16

  static func make(
    id: UInt64, name: Label, options: Arena.Options, mechanism: GateKind, key: Int?,
    canaries: Canaries, generation: UInt64
  ) throws(SystemFailure) -> ArenaReference {
    // Everything that can fail first, in one block and the gate's.
    let shardCount = Self.processors
    let wordCount = (3 + shardCount) * wordsPerLine
    let shardsAt = (wordCount * 4 + 127) & ~127
    let headerAt = shardsAt + Shards.byteCount(shardCount)
    let coreAt = headerAt + (MemoryLayout<ArenaHeader>.size + 63) & ~63
    let orphansAt = coreAt + (MemoryLayout<ArenaCore>.size + 63) & ~63
    let block = unsafe try Metadata.allocate(byteCount: orphansAt + 64, alignment: 128)
    let gate: GateState
    let cipher: CipherGate?
    let deadSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
    do throws(SystemFailure) {
      gate = try GateState(generation: generation)
      do throws(SystemFailure) {
        unsafe deadSlabs = unsafe try Metadata.allocate(
          UnsafeMutablePointer<Slab>?.self, count: SizeClass.all.count + 1)
        do throws(SystemFailure) {
          cipher = try mechanism == .cipher ? CipherGate(SlotCipher.preferred!, gate: gate) : nil
        } catch {
          unsafe Metadata.free(deadSlabs)
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
    unsafe deadSlabs.initialize(repeating: nil, count: SizeClass.all.count + 1)
    gate.key = key
    let words = unsafe block.bindMemory(to: UInt32.self, capacity: wordCount)
    unsafe words.initialize(repeating: 0, count: wordCount)
    let arena = unsafe ArenaReference(
      header: (block + headerAt).bindMemory(to: ArenaHeader.self, capacity: 1))
    let orphans = unsafe (block + orphansAt).bindMemory(to: UInt64.self, capacity: 1)
    unsafe orphans.initialize(to: 0)
    let shards = unsafe Shards(at: block + shardsAt)
    let core = unsafe (block + coreAt).bindMemory(to: ArenaCore.self, capacity: 1)
    unsafe arena.header.initialize(
      to: ArenaHeader(
        id: id, name: OwnedName(copying: name), options: options, mechanism: mechanism,
        canaries: canaries, gate: gate, cipher: cipher,
        createdAtMs: ProcessFacts.bootMilliseconds, words: words, shards: shards,
        shardCount: shardCount, core: core, orphans: orphans))
    unsafe core.initialize(to: ArenaCore(arena: arena, deadSlabs: deadSlabs))
    for index in 0..<shardCount {
      unsafe shards.pointer(at: index).initialize(
        to: Shard(arena: arena, index: UInt8(index), tables: shards.tables(index)))
    }
    return arena
  }

  /// As many as there are processors, rounded up to a power of two.
  private static let processors: Int = {
    var count = 1
    while count < ProcessFacts.processors, count < maximumShards { count *= 2 }
    return count
  }()

  /// Keeps the metadata. The caller holds the registry's lock, and the arena is on its list.
  func retain() { unsafe addRelaxed(1, to: &header.pointee.references) }

  /// The last one frees the metadata.
  func release() {
    if unsafe dropReference(&header.pointee.references) == 0 { free() }
  }

  /// Frees the metadata; the chunks are gone, or stay closed until the process ends.
  private func free() {
    for index in 0..<shardCount { unsafe header.pointee.shards[index].deallocate() }
    unsafe header.pointee.core.pointee.deallocate()
    name.deallocate()
    unsafe header.pointee.cipher?.free()
    gate.free()
    unsafe Metadata.free(header.pointee.words)  // the block's first
  }

  /// The key of a cipher gate.
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
  /// Whether shards tell the core of slabs that become empty; on the line of the core's lock.
  var marksIdle: Bool {
    get { unsafe loadRelaxed(UnsafeRawPointer(coreWord + 2)) != 0 }
    nonmutating set {
      unsafe storeRelaxed(newValue ? 1 : 0, at: UnsafeMutableRawPointer(coreWord + 2))
    }
  }
  /// Whoever writes what is new on the page, one at a time.
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

  /// For who holds it across calls that are no closure.
  func lockCore() { unsafe lock(coreWord) }
  func unlockCore() { unsafe unlock(coreWord) }

  func withShard<R, E: Error>(
    _ index: Int, _ body: (inout Shard) throws(E) -> R
  ) throws(E) -> R {
    unsafe lock(shardWord(index))
    defer { unsafe unlock(shardWord(index)) }
    return unsafe try body(&header.pointee.shards[index])
  }

  /// All shards and the core: nothing moves but windows of a key gate.
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
  /// Chunks with room for a slab, by their index: see `Chunk.roomList`.
  var roomLists = InlineArray<12, Int32>(repeating: Chunk.none)
  /// Places of chunks that are gone.
  var deadChunk = Chunk.none
  /// Slabs whose pages are gone, by size class, the isolated ones last; their slots keep stale
  /// handles stale.
  let deadSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  var slabChunkBytes = 0
  /// Of chunks that nothing is needed of, and how many of them are kept.
  var spareBytes = 0
  var keepBytes = 0
  /// The place of the isolated chunk that became spare last.
  var newestSpare = -1
  var peakBytesMapped = 0
  /// Chunks that are being mapped outside of the locks, and their bytes.
  var growing = 0
  var bytesComing = 0
  var forkProtection: ForkProtection?

  var bytesMapped = 0
  /// The maps that chunks take between their guards.
  var dataMaps = 0
  /// Under a page gate: pages that open without splitting a map, and pages that do not.
  var separatePages = 0
  var mergedPages = 0
  var bytesLocked = 0
  var peakBytesLocked = 0
  var chunkCount = 0
  var failedLocks: UInt64 = 0
  var lockFailure: LockFailure?
  var isSealed = false
  var isDestroyed = false
  /// Something failed half way: nothing can be opened any more.
  var isBroken = false
  /// Off the registry's list and the page.
  var hasLeft = false
  /// Raised by everything that the page tells.
  var changes: UInt64 = 0

  var labels = LabelTable()
  var page: ArenaPublication?

  static let firstChunkPages = 4
  static let largestChunkPages = 64

  init(
    arena: ArenaReference, deadSlabs: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  ) {
    self.arena = arena
    options = arena.options
    mechanism = arena.mechanism
    unsafe self.deadSlabs = unsafe deadSlabs
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
    unsafe Metadata.free(deadSlabs)
    labels.deallocate()
  }

  // MARK: - Growth

  /// The data bytes of the next slab chunk.
  var nextChunkBytes: Int {
    let pages = slabChunkBytes / Page.size
    return min(max(pages, Self.firstChunkPages), Self.largestChunkPages) * Page.size
  }

  mutating func noteLockFailure(_ failure: SystemFailure?, _ told: LockFailure, byteCount: Int) {
    failedLocks &+= 1
    changes &+= 1
    lockFailure = told
    page?.writer.event(.lockFailed, arena: arena.id, failure: failure, bytes: UInt64(byteCount))
  }

  /// Names the limit behind a failure, where that can be seen.
  static func explained(_ failure: SystemFailure, needed: Int) -> EnclaveError {
    let error = EnclaveError.system(failure)
    switch failure.call {
    case .lockChunk, .mapSecretMemory:
      // ENOSYS is 38, EPERM 1: the kernel has no such memory, or none for this process.
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

  /// ENOMEM is 12, EAGAIN is 11: what map calls answer at vm.max_map_count.
  static func mapLimit(or failure: SystemFailure) -> EnclaveError {
    if failure.errno == 12 || failure.errno == 11, let inUse = ProcessFacts.mapCount(),
      let limit = ProcessFacts.mapLimit(), inUse + 3 >= limit
    {
      return .mapLimit(inUse: inUse, limit: limit)
    }
    return .system(failure)
  }
}

/// Closes pages; tries twice. False when they stay open.
func closeAgain(
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
    // Secret memory is charged when it is mapped: EAGAIN (11) is its failed lock.
    case .system(let failure):
      failure.call == .lockChunk
        || failure.call == .mapSecretMemory && failure.errno == 11
    case .lockLimit, .memoryGroupLimit: true
    default: false
    }
  }
}
