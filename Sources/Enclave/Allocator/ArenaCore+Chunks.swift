// An arena's chunks: which pages are free, which become slabs, and which are unmapped.
//
// Everything here runs under the core's lock and makes no long system call. Chunks are mapped and
// unmapped outside all locks; see ArenaReference+Growing.swift.
//
// A slab that becomes empty returns to its chunk, and its pages can serve any size class. The last
// slab with free slots in a size class stays with its shard, so that repeatedly allocating and
// freeing one secret costs nothing. Chunks without secrets are spare: wiped, locked and closed. Up
// to `keepBytes` of them are kept, and half of that once the limit is exceeded, so that an arena
// whose size oscillates does not map and unmap all the time.

import EnclaveStats
import EnclaveSystem

extension ArenaCore {
  // MARK: - How much is kept

  /// At most 2 MiB or an eighth of the arena's peak is kept spare, whichever is larger, but less
  /// than half of RLIMIT_MEMLOCK, so that a drained arena leaves room for others.
  static func keepBytes(peak: Int, softLimit: UInt64?) -> Int {
    let most = max(2 << 20, peak / 8)
    guard let softLimit, softLimit != .max else { return most }
    return min(most, softLimit < 2 ? 0 : Int(softLimit / 2 - 1) & ~(Page.size - 1))
  }

  /// Whether an empty isolated slab is kept for the next secret. A large slab that could not be
  /// locked is not: a new one might be.
  func mayKeep(_ slab: UnsafeMutablePointer<Slab>) -> Bool {
    let byteCount = unsafe slab.pointee.byteCount
    let isLocked = unsafe chunks[Int(slab.pointee.chunk)].isLocked
    return byteCount <= keepBytes
      && (isLocked || options.lock == .off || byteCount <= Self.smallBytes)
  }

  /// Chunks up to this size are not worth unmapping for other arenas.
  static let smallBytes = Shard.isolatedLists * Page.size

  /// Large enough that spare chunks may exceed the limit: shards then report every empty slab.
  var isLarge: Bool { bytesMapped > keepBytes }

  var hasExcess: Bool { spareBytes > keepBytes }

  // MARK: - Growing and shrinking

  /// Throws if the arena can no longer grow.
  func requireGrowth() throws(EnclaveError) {
    if isDestroyed || isBroken { throw .destroyed }
    if isFrozenOrFreezing { throw .frozen }
  }

  /// Whether chunks may be removed. Freezing and destroying change them without the core's lock.
  var mayShrink: Bool { !isFrozenOrFreezing && !isDestroyed }

  /// Reserves capacity for a chunk that is about to be mapped: up to `wanted` bytes, at least
  /// `least`. `unreserve` releases it.
  mutating func reserve(wanted: Int, least: Int) throws(EnclaveError) -> Int {
    try requireGrowth()
    var byteCount = wanted
    if let capacity = options.capacity {
      let left = (capacity - bytesMapped - pendingBytes) & ~(Page.size - 1)
      if left < least { throw .capacity(inUse: bytesMapped, limit: capacity) }
      byteCount = min(byteCount, left)
    }
    // Make room for the bookkeeping of publishing and unmapping before the memory exists.
    do { try chunks.reserve(chunks.count + pendingChunks + 1) } catch { throw .system(error) }
    pendingBytes += byteCount
    pendingChunks += 1
    return byteCount
  }

  mutating func unreserve(_ byteCount: Int) {
    pendingBytes -= byteCount
    pendingChunks -= 1
  }

  /// Adds a newly mapped chunk to the arena. If this throws, the caller unmaps the chunk.
  mutating func publish(
    _ new: Chunk, fork: ForkProtection?, softLimit: UInt64?
  ) throws(EnclaveError) -> Int {
    try requireGrowth()
    // Too late for the signal handler to see the chunk.
    if WipeTable.hasBegun { throw .destroyed }
    // The addresses may still be marked as a destroyed arena's.
    unsafe PageOwners.set(nil, at: new.mapping.data, new.mapping.byteCount)
    let index: Int
    if freeChunkEntry != Chunk.none {
      index = Int(freeChunkEntry)
      freeChunkEntry = chunks[index].next
      chunks[index] = new
    } else {
      do { try chunks.append(new) } catch { throw .system(error) }
      index = chunks.count - 1
    }
    // The weakest protection of all chunks: `absent` if one of them could not be zeroed on fork.
    if let fork { forkProtection = forkProtection == .absent ? .absent : fork }
    let byteCount = new.mapping.byteCount
    chunkCount += 1
    bytesMapped += byteCount
    peakBytesMapped = max(peakBytesMapped, bytesMapped)
    if !new.isIsolated { slabChunkBytes += byteCount }
    countMaps(of: new, 1)
    if new.isLocked {
      bytesLocked += byteCount
      peakBytesLocked = max(peakBytesLocked, bytesLocked)
    }
    keepBytes = Self.keepBytes(peak: peakBytesMapped, softLimit: softLimit)
    changes &+= 1
    if !new.isIsolated { update(index) }
    publishChunk(index, event: .chunkMapped)
    return index
  }

  /// Adds (1) or subtracts (-1) a chunk's mappings.
  private mutating func countMaps(of chunk: Chunk, _ sign: Int) {
    dataMaps += sign * chunk.mapping.dataMaps
    guard mechanism == .pages else { return }
    if chunk.isSeparate {
      separatePages += sign * chunk.pageCount
    } else {
      mergedPages += sign * chunk.pageCount
    }
  }

  /// A slab of a size class, with canaries still to be written, and whether its pages were used
  /// before. Returns nil if no chunk has room for it.
  mutating func carve(
    _ sizeClass: Int, shard: UInt8
  ) throws(EnclaveError) -> (slab: UnsafeMutablePointer<Slab>, isUsed: Bool)? {
    try requireGrowth()
    let shape = SizeClass.all[sizeClass]
    let pages = shape.slabPages
    guard let index = chunkWithRoom(for: pages) else { return nil }
    let chunk = unsafe chunks.pointer(at: index)
    let first = unsafe chunk.pointee.room(for: pages).unsafelyUnwrapped
    unsafe chunk.pointee.isAwaited = false
    let slab: UnsafeMutablePointer<Slab>
    do throws(EnclaveError) {
      unsafe slab = unsafe try makeSlab(
        Slab.Shape(
          base: chunk.pointee.mapping.data + first * Page.size, byteCount: pages * Page.size,
          chunk: index, slotBytes: shape.slotBytes, slotCount: shape.slots(pageSize: Page.size),
          sizeClass: UInt8(sizeClass), shard: shard))
    } catch {
      update(index)
      throw error
    }
    unsafe chunk.pointee.used |= chunk.pointee.bits(slab)
    let isUsed = unsafe first * Page.size < chunk.pointee.carvedBytes
    unsafe setCarved(index, max(chunk.pointee.carvedBytes, (first + pages) * Page.size))
    update(index)
    changes &+= 1
    return unsafe (slab, isUsed)
  }

  /// A chunk with room for a slab of this many pages. Prefers chunks whose separate mappings are
  /// one slab, and among those the smallest sufficient room, because the others may drain
  /// meanwhile.
  private func chunkWithRoom(for pages: Int) -> Int? {
    let units: InlineArray<3, Int> = pages == 1 ? [1, 2, 4] : pages == 2 ? [2, 1, 4] : [4, 2, 1]
    for unit in units.indices {
      let first = Chunk.lists(units[unit])
      for list in (first + (pages == 1 ? 1 : pages == 2 ? 2 : 3))...(first + 3)
      where roomLists[list] != Chunk.none { return Int(roomLists[list]) }
    }
    return nil
  }

  /// The slab of an isolated chunk.
  mutating func makeIsolatedSlab(
    chunk index: Int, shard: UInt8
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    // Allowed while the arena is being frozen, because its chunks must stay until that has
    // succeeded or failed. The caller's allocation checks the state again.
    if isDestroyed || isBroken { throw .destroyed }
    let byteCount = chunks[index].mapping.byteCount
    let slab = unsafe try makeSlab(
      Slab.Shape(
        base: chunks[index].mapping.data, byteCount: byteCount, chunk: index,
        slotBytes: byteCount, slotCount: 1, sizeClass: Slab.isolatedClass, shard: shard))
    setCarved(index, byteCount)
    return unsafe slab
  }

  /// Sets how many bytes of a chunk may hold secrets and must be wiped.
  private func setCarved(_ index: Int, _ byteCount: Int) {
    unsafe chunks.pointer(at: index).pointee.carvedBytes = byteCount
    chunks[index].wipeEntry?.setUsed(byteCount)
  }

  private func reusableSlab(_ sizeClass: UInt8) -> UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  {
    unsafe reusableSlabs + Int(min(sizeClass, UInt8(SizeClass.all.count)))
  }

  private mutating func makeSlab(
    _ shape: Slab.Shape
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    let slotCount = shape.slotCount
    let slab: UnsafeMutablePointer<Slab>
    let dead = unsafe reusableSlab(shape.sizeClass)
    if let old = unsafe dead.pointee {
      unsafe dead.pointee = unsafe old.pointee.next
      unsafe slab = unsafe old
      unsafe slab.pointee.setPages(shape)
      if page != nil { unsafe Slab.startCountingWindows(of: slab) }
    } else {
      let cipherSlots: UnsafeMutableRawPointer?
      do throws(SystemFailure) {
        try slabs.reserve(slabs.count + 1)
        unsafe slab = unsafe try Slab.allocate(slotCount: slotCount)
        do throws(SystemFailure) {
          unsafe cipherSlots = unsafe try makeCipherSlots(slotCount)
        } catch {
          unsafe Metadata.free(slab)
          throw error
        }
        unsafe try slabs.append(SlabReference(slab: slab))
      } catch { throw .system(error) }
      unsafe Slab.slots(of: slab).initialize(repeating: Slot(), count: slotCount)
      unsafe slab.initialize(
        to: Slab(
          shape, arena: arena, cipherSlots: cipherSlots, countsWindows: page != nil))
    }
    let slots = unsafe Slab.slots(of: slab)
    for slot in 0..<slotCount {
      unsafe slots[slot].nextFree = slot + 1 < slotCount ? UInt16(slot + 1) : Slab.endOfList
    }
    unsafe PageOwners.set(slab, at: shape.base, shape.byteCount)
    return unsafe slab
  }

  private func makeCipherSlots(_ count: Int) throws(SystemFailure) -> UnsafeMutableRawPointer? {
    guard mechanism == .cipher else { return nil }
    let slots = unsafe try Metadata.allocate(byteCount: count * CipherSlot.byteCount)
    unsafe CipherSlot.initialize(slots, count: count)
    return unsafe slots
  }

  // MARK: - Spare memory

  /// Marks a slab as empty; it stays with its shard.
  mutating func markIdle(_ slab: UnsafeMutablePointer<Slab>) { unsafe setIdle(slab, true) }

  /// Marks an empty slab as used again.
  mutating func clearIdle(_ slab: UnsafeMutablePointer<Slab>) { unsafe setIdle(slab, false) }

  private mutating func setIdle(_ slab: UnsafeMutablePointer<Slab>, _ isIdle: Bool) {
    guard unsafe slab.pointee.isIdle != isIdle else { return }
    unsafe slab.pointee.isIdle = isIdle
    let index = unsafe Int(slab.pointee.chunk)
    let chunk = unsafe chunks.pointer(at: index)
    if unsafe chunk.pointee.isIsolated {
      if isIdle { newestSpare = index }
      unsafe chunk.pointee.isSpare = isIdle
      unsafe spareBytes += isIdle ? slab.pointee.byteCount : -slab.pointee.byteCount
      return
    }
    let bits = unsafe chunk.pointee.bits(slab)
    unsafe chunk.pointee.idle = isIdle ? chunk.pointee.idle | bits : chunk.pointee.idle & ~bits
    update(index)
  }

  /// Releases an empty slab that is no longer on its shard's list. Its pages can serve any slab.
  mutating func release(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe clearIdle(slab)
    let index = unsafe Int(slab.pointee.chunk)
    let chunk = unsafe chunks.pointer(at: index)
    unsafe PageOwners.set(nil, at: slab.pointee.base, slab.pointee.byteCount)
    // An isolated chunk may have more pages than `used` has bits.
    if unsafe !chunk.pointee.isIsolated { unsafe chunk.pointee.used &= ~chunk.pointee.bits(slab) }
    unsafe slab.pointee.byteCount = 0
    unsafe slab.pointee.chunk = .max
    let dead = unsafe reusableSlab(slab.pointee.sizeClass)
    unsafe slab.pointee.previous = nil
    unsafe slab.pointee.next = unsafe dead.pointee
    unsafe dead.pointee = unsafe slab
    if unsafe !chunk.pointee.isIsolated { update(index) }
    changes &+= 1
  }

  /// Updates the lists of chunks with room, and the number of spare bytes, for a changed chunk.
  private mutating func update(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    let list = unsafe chunk.pointee.roomList
    if unsafe list != chunk.pointee.list {
      unlink(index)
      unsafe chunk.pointee.list = list
      if list > 0 {
        unsafe chunk.pointee.next = roomLists[list]
        unsafe chunk.pointee.previous = Chunk.none
        if roomLists[list] != Chunk.none {
          unsafe chunks.pointer(at: Int(roomLists[list])).pointee.previous = Int32(index)
        }
        roomLists[list] = Int32(index)
      }
    }
    let isSpare =
      unsafe chunk.pointee.isMapped && !chunk.pointee.isAwaited
      && chunk.pointee.used == chunk.pointee.idle
    if unsafe isSpare != chunk.pointee.isSpare {
      unsafe chunk.pointee.isSpare = isSpare
      let byteCount = unsafe chunk.pointee.mapping.byteCount
      spareBytes += isSpare ? byteCount : -byteCount
    }
  }

  private mutating func unlink(_ index: Int) {
    let chunk = chunks[index]
    guard chunk.list > 0 else { return }
    if chunk.previous != Chunk.none {
      unsafe chunks.pointer(at: Int(chunk.previous)).pointee.next = chunk.next
    } else {
      roomLists[chunk.list] = chunk.next
    }
    if chunk.next != Chunk.none {
      unsafe chunks.pointer(at: Int(chunk.next)).pointee.previous = chunk.previous
    }
    unsafe chunks.pointer(at: index).pointee.list = 0
  }

  /// Removes a spare chunk from the arena, together with its empty slabs that shards still list.
  /// The caller holds all locks, and unmaps the chunk after releasing them. Unless `all`, keeps the
  /// isolated chunk that became spare last.
  mutating func takeSpare(_ shards: Shards, all: Bool) -> GuardedMapping? {
    guard spareBytes > 0 else { return nil }
    var index = chunks.count - 1
    while index >= 0, !chunks[index].isSpare || !all && index == newestSpare { index -= 1 }
    guard index >= 0 else { return nil }
    var at = 0
    let mapping = chunks[index].mapping
    while at < mapping.byteCount {
      guard let owner = unsafe pageOwner(of: mapping.data + at) else {
        at += Page.size
        continue
      }
      let slab = unsafe owner.assumingMemoryBound(to: Slab.self)
      at += unsafe slab.pointee.byteCount
      unsafe shards[Int(slab.pointee.shard)].drop(slab)
      unsafe release(slab)
    }
    return detach(index)
  }

  /// Removes a chunk without slabs from the arena. The caller unmaps it.
  mutating func detach(_ index: Int) -> GuardedMapping {
    beginRemoval(index)
    finishRemoval(index)
    return chunks[index].mapping
  }

  /// Called before a chunk is unmapped, because another arena may use the addresses afterwards.
  mutating func beginRemoval(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    unsafe chunk.pointee.isBeingRemoved = true
    unsafe chunk.pointee.wipeEntry?.remove()
    unsafe chunk.pointee.wipeEntry = nil
    // A C arena's addresses stay marked as destroyed.
    if !isDestroyed || !options.isHeldByAddress {
      unsafe PageOwners.set(
        nil, at: chunk.pointee.mapping.data, chunk.pointee.mapping.byteCount)
    }
  }

  mutating func finishRemoval(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    let byteCount = unsafe chunk.pointee.mapping.byteCount
    unsafe chunk.pointee.isMapped = false
    unlink(index)
    if unsafe chunk.pointee.isSpare { spareBytes -= byteCount }
    unsafe chunk.pointee.isSpare = false
    chunkCount -= 1
    changes &+= 1
    bytesMapped -= byteCount
    if unsafe !chunk.pointee.isIsolated { slabChunkBytes -= byteCount }
    unsafe countMaps(of: chunk.pointee, -1)
    if unsafe chunk.pointee.isLocked { bytesLocked -= byteCount }
    publishChunk(index, event: .chunkUnmapped)
    unsafe chunk.pointee.next = freeChunkEntry
    freeChunkEntry = Int32(index)
  }
}
