// An arena's chunks: which pages of them are free, what becomes a slab, and what is given back.
//
// Everything here is done under the core's lock and makes no call to the kernel that takes long:
// chunks are mapped and unmapped outside of all locks, see ArenaReference+Growing.swift.
//
// A slab that holds no secret any more goes back to its chunk, and its pages serve any size class;
// the last one of a size class with free slots stays with its shard, so that a secret that comes and
// goes costs nothing. Chunks of which nothing is needed are spare: wiped, locked and closed. They
// are kept up to `keepBytes`, and half of that once there are more, so that an arena that breathes
// does not map and unmap.

import EnclaveStats
import EnclaveSystem

extension ArenaCore {
  // MARK: - How much is kept

  /// At most 2 MiB, or an eighth of what the arena once had, are kept for nothing; and under half of
  /// what may be locked, so that a drained arena leaves room for others.
  static func keepBytes(peak: Int, softLimit: UInt64?) -> Int {
    let most = max(2 << 20, peak / 8)
    guard let softLimit, softLimit != .max else { return most }
    return min(most, softLimit < 2 ? 0 : Int(softLimit / 2 - 1) & ~(Page.size - 1))
  }

  /// Whether an empty isolated slab waits for the next secret. A large one that could not be locked
  /// does not: the next may be.
  func mayKeep(_ slab: UnsafeMutablePointer<Slab>) -> Bool {
    let byteCount = unsafe slab.pointee.byteCount
    let isLocked = unsafe chunks[Int(slab.pointee.chunk)].isLocked
    return byteCount <= keepBytes
      && (isLocked || options.lock == .off || byteCount <= Self.smallBytes)
  }

  /// A chunk of no more than this is not worth giving back for others.
  static let smallBytes = Shard.isolatedLists * Page.size

  /// There is more than may be spare: shards tell of each slab that becomes empty.
  var isLarge: Bool { bytesMapped > keepBytes }

  var hasExcess: Bool { spareBytes > keepBytes }

  // MARK: - Growth

  /// Throws when the arena does not grow any more.
  func expectGrowth() throws(EnclaveError) {
    if isDestroyed || isBroken { throw .destroyed }
    if arena.gate.isFrozen { throw .frozen }
  }

  /// Takes a share of the capacity for a chunk that is about to be mapped: up to `wanted` bytes, at
  /// least `least`. `unreserve` gives it back.
  mutating func reserve(wanted: Int, least: Int) throws(EnclaveError) -> Int {
    try expectGrowth()
    var byteCount = wanted
    if let capacity = options.capacity {
      let left = (capacity - bytesMapped - bytesComing) & ~(Page.size - 1)
      if left < least { throw .capacity(inUse: bytesMapped, limit: capacity) }
      byteCount = min(byteCount, left)
    }
    // What publishing and giving back need is there before the memory is.
    do { try chunks.reserve(chunks.count + growing + 1) } catch { throw .system(error) }
    bytesComing += byteCount
    growing += 1
    return byteCount
  }

  mutating func unreserve(_ byteCount: Int) {
    bytesComing -= byteCount
    growing -= 1
  }

  /// A chunk that was mapped becomes the arena's. The caller unmaps it when this throws.
  mutating func publish(
    _ new: Chunk, fork: ForkProtection?, softLimit: UInt64?
  ) throws(EnclaveError) -> Int {
    try expectGrowth()
    // Too late for the handler to see it.
    if WipeTable.hasBegun { throw .destroyed }
    // The addresses may have been a destroyed arena's, and still be known as such.
    unsafe PageOwners.set(nil, at: new.mapping.data, new.mapping.byteCount)
    let index: Int
    if deadChunk != Chunk.none {
      index = Int(deadChunk)
      deadChunk = chunks[index].next
      chunks[index] = new
    } else {
      do { try chunks.append(new) } catch { throw .system(error) }
      index = chunks.count - 1
    }
    // The weaker of what the chunks have: absent, where one could not be wiped.
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

  /// Counts a chunk's maps in (1) or out (-1).
  private mutating func countMaps(of chunk: Chunk, _ sign: Int) {
    dataMaps += sign * chunk.mapping.dataMaps
    guard mechanism == .pages else { return }
    if chunk.isSeparate {
      separatePages += sign * chunk.pageCount
    } else {
      mergedPages += sign * chunk.pageCount
    }
  }

  /// A slab of a size class, with its canaries still to be written, and whether its pages were used
  /// before; nil when no chunk has room for it.
  mutating func carve(
    _ sizeClass: Int, shard: UInt8
  ) throws(EnclaveError) -> (slab: UnsafeMutablePointer<Slab>, isUsed: Bool)? {
    try expectGrowth()
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

  /// One whose units are a slab, if there is one: of these the one with the least room that is enough,
  /// since others may drain meanwhile.
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
    let byteCount = chunks[index].mapping.byteCount
    let slab = unsafe try makeSlab(
      Slab.Shape(
        base: chunks[index].mapping.data, byteCount: byteCount, chunk: index,
        slotBytes: byteCount, slotCount: 1, sizeClass: Slab.isolatedClass, shard: shard))
    setCarved(index, byteCount)
    return unsafe slab
  }

  /// So many bytes of a chunk may hold secrets: what is wiped.
  private func setCarved(_ index: Int, _ byteCount: Int) {
    unsafe chunks.pointer(at: index).pointee.carvedBytes = byteCount
    chunks[index].wipeEntry?.use(byteCount)
  }

  private func deadSlab(_ sizeClass: UInt8) -> UnsafeMutablePointer<UnsafeMutablePointer<Slab>?> {
    unsafe deadSlabs + Int(min(sizeClass, UInt8(SizeClass.all.count)))
  }

  private mutating func makeSlab(
    _ shape: Slab.Shape
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    let slotCount = shape.slotCount
    let slab: UnsafeMutablePointer<Slab>
    let dead = unsafe deadSlab(shape.sizeClass)
    if let old = unsafe dead.pointee {
      unsafe dead.pointee = unsafe old.pointee.next
      unsafe slab = unsafe old
      unsafe slab.pointee.reuse(shape)
      if page != nil { unsafe Slab.countWindows(of: slab) }
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

  // MARK: - What is not needed

  /// A slab became empty and stays with its shard.
  mutating func markIdle(_ slab: UnsafeMutablePointer<Slab>) { unsafe setIdle(slab, true) }

  /// An empty slab is used again.
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

  /// An empty slab that is off its shard's list goes: its pages may serve any slab.
  mutating func release(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe clearIdle(slab)
    let index = unsafe Int(slab.pointee.chunk)
    let chunk = unsafe chunks.pointer(at: index)
    unsafe PageOwners.set(nil, at: slab.pointee.base, slab.pointee.byteCount)
    // An isolated chunk may have more pages than there are bits.
    if unsafe !chunk.pointee.isIsolated { unsafe chunk.pointee.used &= ~chunk.pointee.bits(slab) }
    unsafe slab.pointee.byteCount = 0
    unsafe slab.pointee.chunk = .max
    let dead = unsafe deadSlab(slab.pointee.sizeClass)
    unsafe slab.pointee.previous = nil
    unsafe slab.pointee.next = unsafe dead.pointee
    unsafe dead.pointee = unsafe slab
    if unsafe !chunk.pointee.isIsolated { update(index) }
    changes &+= 1
  }

  /// Keeps the lists of chunks with room, and the count of spare bytes, up with a chunk's pages.
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

  /// Takes a spare chunk out of the arena, and the empty slabs that shards still have of it; the
  /// caller, who holds all locks, unmaps it when it has given them back. Not the isolated one that
  /// became spare last, unless `all`.
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

  /// Takes a chunk without runs out of the arena. What is mapped is the caller's to unmap.
  mutating func detach(_ index: Int) -> GuardedMapping {
    let chunk = chunks[index]
    // First: once it is unmapped, the addresses may be another arena's.
    chunk.wipeEntry?.remove()
    unsafe PageOwners.set(nil, at: chunk.mapping.data, chunk.mapping.byteCount)
    finishRemoval(index)
    return chunk.mapping
  }

  private mutating func finishRemoval(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    let byteCount = unsafe chunk.pointee.mapping.byteCount
    unsafe chunk.pointee.wipeEntry = nil
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
    unsafe chunk.pointee.next = deadChunk
    deadChunk = Int32(index)
  }

  /// Unmaps a chunk of an arena that is being destroyed, and whose contents are wiped.
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
        // Nor may anybody discard sealed memory that cannot be written.
        if mechanism == .cipher {
          if chunk.isLocked || chunk.lockedBytes > 0 { try chunk.mapping.unlock() }
        } else if options.backing != .secret {
          try chunk.mapping.discard()
        }
        Registry.retire(byteCount: chunk.mapping.byteCount)
      } else {
        try chunk.mapping.unmap()
      }
    } catch {
      page?.writer.event(.unmapFailed, arena: arena.id, failure: error)
      return error
    }
    finishRemoval(index)
    return nil
  }
}
