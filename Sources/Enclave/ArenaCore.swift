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
// What is known about slots (12 bytes each), slabs and chunks lies in ordinary memory, outside of
// the secret pages: an overflow cannot reach it, and reading it opens nothing.
//
// Each size class has a list of slabs with free slots; a slab has a list of its free slots. Both are
// LIFO: the slot that is warm in the cache is used next. Allocate and free are O(1), but for the
// growth by a chunk.
//
// Locks, in the order in which they are taken: the registry's; `state`, for whoever freezes, seals
// or destroys; the shards', by number; the core's, for growth and the page. What is read without a
// lock never changes (ArenaHeader), or belongs to the gate.

import EnclaveStats
import EnclaveSystem

/// What closes an arena, once it is known what the machine has.
enum GateKind: Sendable { case key, pages, none }

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
  let createdAtMs: UInt64
  /// Spin words, a cache line each: state, core, then the shards'.
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
  ) -> ArenaReference {
    let arena = unsafe ArenaReference(header: .allocate(capacity: 1))
    let shardCount = Self.processors
    let wordCount = (2 + shardCount) * wordsPerLine
    let words = unsafe UnsafeMutableRawPointer.allocate(byteCount: wordCount * 4, alignment: 64)
      .bindMemory(to: UInt32.self, capacity: wordCount)
    unsafe words.initialize(repeating: 0, count: wordCount)
    let gate = GateState(generation: generation)
    gate.key = key
    let orphans = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    unsafe orphans.initialize(to: 0)
    let shards = Shards(count: shardCount)
    let core = UnsafeMutablePointer<ArenaCore>.allocate(capacity: 1)
    unsafe arena.header.initialize(
      to: ArenaHeader(
        id: id, name: OwnedName(copying: name), options: options, mechanism: mechanism,
        canaries: canaries, gate: gate,
        createdAtMs: ProcessFacts.bootMilliseconds, words: words, shards: shards,
        shardCount: shardCount, core: core, orphans: orphans))
    unsafe core.initialize(to: ArenaCore(arena: arena))
    for index in 0..<shardCount {
      unsafe shards.pointer(at: index).initialize(to: Shard(arena: arena, index: UInt8(index)))
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
    unsafe header.pointee.shards.deallocate()
    unsafe header.pointee.core.deallocate()
    unsafe header.pointee.words.deallocate()
    unsafe header.pointee.orphans.deallocate()
    name.deallocate()
    gate.free()
    unsafe header.deallocate()
  }

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
  func shardWord(_ index: Int) -> UnsafeMutablePointer<UInt32> {
    unsafe header.pointee.words + (2 + index) * Self.wordsPerLine
  }

  func withCore<R, E: Error>(_ body: (inout ArenaCore) throws(E) -> R) throws(E) -> R {
    unsafe lock(coreWord)
    defer { unsafe unlock(coreWord) }
    return unsafe try body(&header.pointee.core.pointee)
  }

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
  private var carving: Int?  // the slab chunk that slabs are cut from
  private var deadChunks = RawList<UInt32>()
  /// Isolated slabs whose pages are gone; their slots keep stale handles stale.
  private var deadSlabs = RawList<SlabReference>()
  private var slabChunkBytes = 0
  var forkProtection: ForkProtection?

  var bytesMapped = 0
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

  init(arena: ArenaReference) {
    self.arena = arena
    options = arena.options
    mechanism = arena.mechanism
  }

  mutating func deallocate() {
    for index in 0..<slabs.count {
      unsafe slabs[index].slab.pointee.listings?.deallocate()
      unsafe slabs[index].slab.deallocate()
    }
    for index in 0..<chunks.count where chunks[index].isMapped {
      chunks[index].wipeEntry?.remove()
      unsafe PageOwners.set(nil, at: chunks[index].mapping.data, chunks[index].mapping.byteCount)
    }
    chunks.deallocate()
    slabs.deallocate()
    deadSlabs.deallocate()
    deadChunks.deallocate()
    labels.deallocate()
  }

  // MARK: - Growth

  /// The data bytes of the next slab chunk.
  var nextChunkBytes: Int {
    let pages = slabChunkBytes / Page.size
    return min(max(pages, Self.firstChunkPages), Self.largestChunkPages) * Page.size
  }

  /// A slab of a size class, with its canaries still to be written.
  mutating func carveSlab(
    _ sizeClass: Int, shard: UInt8
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    let shape = SizeClass.all[sizeClass]
    let slabBytes = shape.slabPages * Page.size
    if carving == nil || !canCarve(carving!, slabBytes) { carving = try addSlabChunk(slabBytes) }
    let chunk = unsafe chunks.pointer(at: carving!)
    let base = unsafe chunk.pointee.mapping.data + chunk.pointee.carvedBytes
    let slab = unsafe makeSlab(
      base: base, byteCount: slabBytes, chunk: carving!, slotBytes: shape.slotBytes,
      slotCount: shape.slots(pageSize: Page.size), sizeClass: UInt8(sizeClass), shard: shard)
    unsafe setCarved(carving!, chunk.pointee.carvedBytes + slabBytes)
    changes &+= 1
    return unsafe slab
  }

  /// A slab that could not be used: its pages are carved again.
  mutating func uncarve(_ slab: UnsafeMutablePointer<Slab>) {
    let chunk = unsafe Int(slab.pointee.chunk)
    unsafe setCarved(chunk, chunks[chunk].carvedBytes - slab.pointee.byteCount)
    unsafe PageOwners.set(nil, at: slab.pointee.base, slab.pointee.byteCount)
    _ = slabs.popLast()
    unsafe slab.pointee.listings?.deallocate()
    unsafe slab.deallocate()
  }

  /// So many bytes of a chunk may hold secrets: what is wiped.
  private func setCarved(_ index: Int, _ byteCount: Int) {
    unsafe chunks.pointer(at: index).pointee.carvedBytes = byteCount
    chunks[index].wipeEntry?.use(byteCount)
  }

  private func canCarve(_ index: Int, _ byteCount: Int) -> Bool {
    let chunk = chunks[index]
    return chunk.isMapped && chunk.mapping.byteCount - chunk.carvedBytes >= byteCount
  }

  private mutating func makeSlab(
    base: UnsafeMutableRawPointer, byteCount: Int, chunk: Int, slotBytes: Int, slotCount: Int,
    sizeClass: UInt8, shard: UInt8
  ) -> UnsafeMutablePointer<Slab> {
    let slab = unsafe Slab.allocate(slotCount: slotCount)
    let slots = unsafe Slab.slots(of: slab)
    unsafe slots.initialize(repeating: Slot(), count: slotCount)
    for slot in 0..<slotCount {
      unsafe slots[slot].nextFree = slot + 1 < slotCount ? UInt16(slot + 1) : Slab.endOfList
    }
    unsafe slab.initialize(
      to: Slab(
        next: nil, listings: page == nil ? nil : Self.makeListings(slotCount), arena: arena,
        shard: shard, sizeClass: sizeClass, slotCount: UInt16(slotCount), slots: slots,
        base: base, byteCount: byteCount, slotBytes: slotBytes, chunk: UInt32(chunk),
        reciprocal: Slab.reciprocal(slotBytes: slotBytes, slotCount: slotCount),
        previous: nil))
    unsafe slabs.append(SlabReference(slab: slab))
    unsafe PageOwners.set(slab, at: base, byteCount)
    return unsafe slab
  }

  static func makeListings(_ count: Int) -> UnsafeMutablePointer<PublishedSecret> {
    let listings = UnsafeMutablePointer<PublishedSecret>.allocate(capacity: count)
    unsafe listings.initialize(repeating: PublishedSecret(), count: count)
    return unsafe listings
  }

  /// A chunk for slabs: of the usual size; smaller where RLIMIT_MEMLOCK or the capacity is near.
  private mutating func addSlabChunk(_ least: Int) throws(EnclaveError) -> Int {
    let wanted = max(nextChunkBytes, least)
    var byteCount = wanted
    if let capacity = options.capacity {
      let left = (capacity - bytesMapped) & ~(Page.size - 1)
      if left >= least { byteCount = min(byteCount, left) }
    }
    while true {
      do {
        let index = try addChunk(byteCount, isIsolated: false, mayGoUnlocked: false)
        slabChunkBytes += byteCount
        return index
      } catch {
        guard error.isLockFailure else { throw error }
        if byteCount / 2 >= max(least, Page.size) {
          byteCount = byteCount / 2 & ~(Page.size - 1)
          continue
        }
        noteLockFailure(error, byteCount: wanted)
        guard options.lock == .preferred else { throw explained(error, needed: least) }
        let size = options.capacity.map { min(wanted, max(least, $0 - bytesMapped)) } ?? wanted
        let index = try addChunk(
          size & ~(Page.size - 1), isIsolated: false, mayGoUnlocked: true)
        slabChunkBytes += size
        return index
      }
    }
  }

  /// Maps a chunk and puts its protections on, in the order that the kernel allows: dump and fork
  /// advice, then the lock while it is readable, then the gate.
  private mutating func addChunk(
    _ byteCount: Int, isIsolated: Bool, mayGoUnlocked: Bool
  ) throws(EnclaveError) -> Int {
    if let capacity = options.capacity, bytesMapped + byteCount > capacity {
      throw .capacity(inUse: bytesMapped, limit: capacity)
    }
    let mapping: GuardedMapping
    let isSecret = options.backing == .secret
    do {
      mapping = try GuardedMapping(
        byteCount: byteCount, backing: isSecret ? .secret : .anonymous)
    } catch { throw explained(.system(error), needed: byteCount) }
    var isLocked = false
    let wipeEntry: WipeEntry
    do throws(SystemFailure) {
      unsafe try PageOwners.reserve(mapping.data, mapping.byteCount)
      try mapping.excludeFromDumps()
      if !options.isInheritedByFork {
        let fork = isSecret ? try mapping.leaveOutOfFork() : try mapping.keepFromFork()
        // The weaker of what the chunks have: absent, where one could not be wiped.
        forkProtection = forkProtection == .absent ? .absent : fork
      }
      if isSecret {
        isLocked = true  // by its nature, and charged when it was mapped
      } else if options.lock != .off, !mayGoUnlocked {
        try mapping.lock()
        isLocked = true
      }
      switch mechanism {
      case .key: try mapping.tag(key: arena.gate.key ?? 0)
      case .pages: try mapping.close()
      case .none: break
      }
      wipeEntry = unsafe try WipeEntry(data: mapping.data, gate: arena.gate)
    } catch {
      // Nothing was written yet; addresses that stay mapped are counted by the failed unmap.
      _ = try? mapping.unmap()
      // A failed lock is the caller's to explain: what it does next depends on the policy.
      if error.call == .lockChunk { throw .system(error) }
      throw explained(.system(error), needed: byteCount)
    }
    // Too late for the handler to see it.
    if WipeTable.hasBegun { throw .destroyed }
    var chunk = Chunk(mapping: mapping, isIsolated: isIsolated)
    chunk.wipeEntry = wipeEntry
    chunk.isLocked = isLocked
    if mayGoUnlocked { chunk.lockErrno = lockFailure?.errno ?? 0 }
    chunkCount += 1
    bytesMapped += byteCount
    changes &+= 1
    if isLocked {
      bytesLocked += byteCount
      peakBytesLocked = max(peakBytesLocked, bytesLocked)
    }
    let index: UInt32
    if let dead = deadChunks.popLast() {
      chunks[Int(dead)] = chunk
      index = dead
    } else {
      chunks.append(chunk)
      index = UInt32(chunks.count - 1)
    }
    publishChunk(Int(index), event: .chunkMapped)
    return Int(index)
  }

  private mutating func noteLockFailure(_ error: EnclaveError, byteCount: Int) {
    failedLocks &+= 1
    changes &+= 1
    let failure = error.systemFailure
    lockFailure = LockFailure(
      errno: failure?.errno ?? 0, atMs: ProcessFacts.bootMilliseconds,
      bytesInUse: ProcessFacts.lockedBytes(), soft: (try? ProcessFacts.memlockLimit())?.soft)
    page?.writer.event(.lockFailed, arena: arena.id, failure: failure, bytes: UInt64(byteCount))
  }

  /// Names the limit behind a failure, where that can be seen.
  func explained(_ error: EnclaveError, needed: Int) -> EnclaveError {
    guard case .system(let failure) = error else { return error }
    switch failure.call {
    case .lockChunk, .mapSecretMemory:
      // ENOSYS is 38, EPERM 1: the kernel has no such memory, or none for this process.
      if failure.call == .mapSecretMemory, failure.errno == 38 || failure.errno == 1 {
        return .unsupported(.secretMemory, failure)
      }
      guard let limit = try? ProcessFacts.memlockLimit() else { return error }
      let inUse = ProcessFacts.lockedBytes() ?? UInt64(bytesLocked)
      guard limit.soft != .max, inUse + UInt64(needed) > limit.soft else { return error }
      return .lockLimit(soft: limit.soft, inUse: inUse, needed: UInt64(needed))
    default: break
    }
    return Self.mapLimit(or: failure)
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

  mutating func makeIsolatedSlab(
    _ byteCount: Int, shard: UInt8
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    var index: Int
    do {
      index = try addChunk(byteCount, isIsolated: true, mayGoUnlocked: false)
    } catch {
      guard error.isLockFailure else { throw error }
      noteLockFailure(error, byteCount: byteCount)
      guard options.lock == .preferred else { throw explained(error, needed: byteCount) }
      index = try addChunk(byteCount, isIsolated: true, mayGoUnlocked: true)
    }
    setCarved(index, byteCount)
    let base = unsafe chunks[index].mapping.data
    // A slab that died leaves its slots behind: their generations keep stale handles stale.
    for dead in 0..<deadSlabs.count where unsafe deadSlabs[dead].slab.pointee.shard == shard {
      let slab = unsafe deadSlabs[dead].slab
      if let last = deadSlabs.popLast(), dead < deadSlabs.count { deadSlabs[dead] = last }
      unsafe slab.pointee.base = unsafe base
      unsafe slab.pointee.byteCount = byteCount
      unsafe slab.pointee.slotBytes = byteCount
      unsafe slab.pointee.chunk = UInt32(index)
      unsafe slab.pointee.stuck = .closed
      if page != nil, unsafe slab.pointee.listings == nil {
        unsafe Slab.setListings(Self.makeListings(1), of: slab)
      }
      unsafe PageOwners.set(slab, at: base, byteCount)
      return unsafe slab
    }
    return unsafe makeSlab(
      base: base, byteCount: byteCount, chunk: index, slotBytes: byteCount, slotCount: 1,
      sizeClass: Slab.isolatedClass, shard: shard)
  }

  /// Gives a wiped isolated slab's pages back.
  mutating func dropIsolatedSlab(_ slab: UnsafeMutablePointer<Slab>) {
    guard unsafe removeChunk(Int(slab.pointee.chunk)) == nil else { return }
    unsafe slab.pointee.byteCount = 0
    unsafe deadSlabs.append(SlabReference(slab: slab))
  }

  /// Unmaps a chunk whose contents are wiped.
  mutating func removeChunk(_ index: Int) -> SystemFailure? {
    let chunk = chunks[index]
    // First: once it is unmapped, the addresses may be another arena's.
    chunk.wipeEntry?.remove()
    unsafe chunks.pointer(at: index).pointee.wipeEntry = nil
    if !isDestroyed || !options.isHeldByAddress {
      unsafe PageOwners.set(nil, at: chunk.mapping.data, chunk.mapping.byteCount)
    }
    do throws(SystemFailure) {
      if chunk.isSealed {
        // Its addresses stay until the process ends; its memory and its lock do not. Who has not
        // the key open may not discard sealed pages.
        let found = arena.gate.openKey(writing: true)
        defer { arena.gate.closeKey(found) }
        // Secret memory is a file that only unmapping gives back: it is wiped, and stays locked.
        if options.backing != .secret { try chunk.mapping.discard() }
        Registry.retire(byteCount: chunk.mapping.byteCount)
      } else {
        try chunk.mapping.unmap()
      }
    } catch {
      page?.writer.event(.unmapFailed, arena: arena.id, failure: error)
      return error
    }
    unsafe chunks.pointer(at: index).pointee.isMapped = false
    chunkCount -= 1
    changes &+= 1
    bytesMapped -= chunk.mapping.byteCount
    if chunk.isLocked { bytesLocked -= chunk.mapping.byteCount }
    publishChunk(index, event: .chunkUnmapped)
    deadChunks.append(UInt32(index))
    return nil
  }

  // MARK: - Locking later

  /// Locks chunks that could not be locked before, as far as `headroom` bytes of RLIMIT_MEMLOCK
  /// allow; returns what is left of them. The caller holds all locks, and no window is open: the
  /// pages must be readable for mlock(2), and are closed again.
  mutating func lockLater(headroom: UInt64) -> UInt64 {
    var headroom = headroom
    for index in 0..<chunks.count where chunks[index].isMapped && !chunks[index].isLocked {
      let chunk = unsafe chunks.pointer(at: index)
      let byteCount = unsafe chunk.pointee.mapping.byteCount
      guard UInt64(byteCount) <= headroom else { continue }
      let isPages = mechanism == .pages
      do throws(SystemFailure) {
        if isPages {
          unsafe try setProtection(.read, at: chunk.pointee.mapping.data, byteCount: byteCount)
        }
      } catch { return headroom }
      let found = arena.gate.openKey(writing: false)
      let isLocked = unsafe (try? chunk.pointee.mapping.lock()) != nil
      arena.gate.closeKey(found)
      if isPages, unsafe !closeAgain(chunk.pointee.mapping.data, byteCount) {
        for number in 0..<slabs.count where unsafe slabs[number].slab.pointee.chunk == UInt32(index)
        {
          unsafe arena.markStuck(
            slabs[number].slab,
            shard: &arena.header.pointee.shards[
              Int(slabs[number].slab.pointee.shard)])
        }
      }
      guard isLocked else { return headroom }
      headroom -= UInt64(byteCount)
      unsafe chunk.pointee.isLocked = true
      unsafe chunk.pointee.lockErrno = 0
      bytesLocked += byteCount
      peakBytesLocked = max(peakBytesLocked, bytesLocked)
      changes &+= 1
      page?.writer.event(.lockRestored, arena: arena.id, bytes: UInt64(byteCount))
      republishChunk(index)
    }
    return headroom
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
  var systemFailure: SystemFailure? {
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
    case .lockLimit: true
    default: false
    }
  }
}
