// How an arena grows and shrinks. mmap, mlock and munmap of a chunk may take long, so they are
// called without holding a lock: capacity is reserved under the core's lock, then the chunk is
// mapped, and then it is added to the arena under the lock again, unless the arena was frozen or
// destroyed meanwhile.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Allocating

  /// Allocates when the shard has no room. Holds no lock.
  @inline(never)
  func allocateGrowing(
    _ request: Shard.Request, _ key: LabelKey, _ mine: Int
  ) throws(EnclaveError) -> SecretHandle {
    var mayGiveBack = true
    while true {
      do {
        try requireRoom()
        return try grow(request, key, mine)
      } catch {
        guard error.isExhaustion else { throw error }
        // First fallback: free slots of another shard.
        for index in 0..<shardCount where index != mine {
          if gate.access == .open,
            let handle = unsafe try allocateWithoutGrowing(request, key, index)
          {
            return handle
          }
        }
        // Second: a chunk that another thread is mapping right now.
        if withCore({ $0.pendingChunks > 0 }) {
          ProcessFacts.pause(milliseconds: 1)
          continue
        }
        // Third: unmapping spare memory.
        guard mayGiveBack else { throw error }
        mayGiveBack = false
        var isMore = trim(all: true) > 0
        if case .capacity = error {} else { isMore = Registry.trimAll() || isMore }
        guard isMore else { throw error }
      }
    }
  }

  private func requireRoom() throws(EnclaveError) {
    do { try Metadata.requireRoom() } catch { throw .system(error) }
  }

  private func grow(
    _ request: Shard.Request, _ key: LabelKey, _ shard: Int
  ) throws(EnclaveError) -> SecretHandle {
    guard request.isSlab(options.layout) else {
      // Memory kept by another shard is cheaper than mapping, locking and faulting in a new chunk.
      for index in 0..<shardCount
      where index != shard && withShard(index, { $0.hasRoom(for: request) }) {
        if let handle = unsafe try allocateWithoutGrowing(request, key, index) { return handle }
      }
      let slab = unsafe try addIsolatedSlab(request, shard)
      do {
        let handle = unsafe try allocateWithoutGrowing(request, key, shard, fresh: slab)
        return unsafe handle.unsafelyUnwrapped
      } catch {
        unsafe dropIsolatedSlab(slab)
        throw error
      }
    }
    let sizeClass = SizeClass.index(for: request.slotBytes)
    while true {
      if try addSlab(sizeClass, shard) {
        if let handle = unsafe try allocateWithoutGrowing(request, key, shard) { return handle }
      } else {
        try addSlabChunk(SizeClass.all[sizeClass].slabPages * Page.size)
      }
    }
  }

  /// Gives a shard a slab of a size class from a chunk that has room. Returns false if none has.
  private func addSlab(_ sizeClass: Int, _ index: Int) throws(EnclaveError) -> Bool {
    try withShard(index) { shard throws(EnclaveError) in
      // Another thread may have been faster.
      if unsafe shard.heads[sizeClass] != nil { return true }
      guard
        let (slab, isUsed) = unsafe try withCore({ core throws(EnclaveError) in
          unsafe try core.carve(sizeClass, shard: UInt8(index))
        })
      else { return false }
      do throws(EnclaveError) {
        // Canaries are written once, while the slab is new; wiping a slot leaves its canary.
        unsafe try withLibraryWindow(slab, shard: &shard) {
          if isUsed { unsafe wipe(slab.pointee.base, byteCount: slab.pointee.byteCount) }
          unsafe canaries.write(all: slab)
        }
      } catch {
        withCore { unsafe $0.release(slab) }
        throw error
      }
      unsafe shard.add(slab)
      return true
    }
  }

  // MARK: - Mapping

  /// Adds a chunk for slabs, of the usual size, or smaller where RLIMIT_MEMLOCK or the capacity is
  /// close.
  private func addSlabChunk(_ least: Int) throws(EnclaveError) {
    let (wanted, reserved) = try withCore { core throws(EnclaveError) in
      let wanted = max(core.nextChunkBytes, least)
      return (wanted, try core.reserve(wanted: wanted, least: least))
    }
    defer { withCore { $0.unreserve(reserved) } }
    var byteCount = reserved
    while true {
      do {
        try add(byteCount, unit: least, mayGoUnlocked: false)
        break
      } catch {
        guard error.isLockFailure, let failure = error.systemFailure else { throw error }
        let room = MemoryGroup.tooSmall(for: UInt64(byteCount))?.room ?? .max
        var smaller = byteCount / 2
        while UInt64(smaller) > room { smaller /= 2 }
        if smaller >= max(least, Page.size) {
          byteCount = smaller & ~(Page.size - 1)
          continue
        }
        if trim(all: true) > 0 || Registry.trimAll() {
          byteCount = reserved
          continue
        }
        try continueUnlocked(after: failure, wanted: wanted, needed: least)
        try add(reserved, unit: least, mayGoUnlocked: true)
        LockRetry.start()
        break
      }
    }
    startMarkingIdleSlabs()
  }

  private func addIsolatedSlab(
    _ request: Shard.Request, _ shard: Int
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    let byteCount = request.pageBytes
    let reserved = try withCore { core throws(EnclaveError) in
      try core.reserve(wanted: byteCount, least: byteCount)
    }
    defer { withCore { $0.unreserve(reserved) } }
    var index: Int
    while true {
      do {
        index = try add(byteCount, unit: nil, mayGoUnlocked: false)
        break
      } catch {
        guard error.isLockFailure, let failure = error.systemFailure else { throw error }
        if trim(all: true) > 0 || Registry.trimAll() { continue }
        try continueUnlocked(after: failure, wanted: byteCount, needed: byteCount)
        index = try add(byteCount, unit: nil, mayGoUnlocked: true)
        LockRetry.start()
        break
      }
    }
    startMarkingIdleSlabs()
    do {
      return unsafe try withCore { core throws(EnclaveError) in
        unsafe try core.makeIsolatedSlab(chunk: index, shard: UInt8(shard))
      }
    } catch {
      unmap(withCore { $0.mayShrink ? $0.detach(index) : nil })
      throw error
    }
  }

  /// Records a failed lock. Throws if the arena's policy requires the lock.
  private func continueUnlocked(
    after failure: SystemFailure, wanted: Int, needed: Int
  ) throws(EnclaveError) {
    // Read files before taking the lock.
    let report = LockFailure(
      errno: failure.errno, atMs: ProcessFacts.bootMilliseconds,
      bytesInUse: ProcessFacts.lockedBytes(), soft: (try? ProcessFacts.memlockLimit())?.soft)
    withCore { $0.recordLockFailure(failure, report, byteCount: wanted) }
    guard options.lock == .preferred else {
      throw ArenaCore.explained(failure, needed: needed)
    }
    // Without swap, memory that does not fit cannot be used unlocked either.
    if let group = MemoryGroup.tooSmall(for: UInt64(needed)), !group.maySwap {
      throw .memoryGroupLimit(limit: group.limit, inUse: group.inUse, needed: UInt64(needed))
    }
  }

  /// Maps a chunk, adds it to the arena and returns its index. `unit` is the byte count of the slab
  /// it is mapped for; nil for an isolated chunk. A failed lock is thrown as `system`: the caller
  /// decides what to do by the arena's policy.
  @discardableResult
  private func add(
    _ byteCount: Int, unit: Int?, mayGoUnlocked: Bool
  ) throws(EnclaveError) -> Int {
    let fork: ForkProtection?
    let chunk: Chunk
    do throws(SystemFailure) {
      (chunk, fork) = try map(byteCount, unit: unit, mayGoUnlocked: mayGoUnlocked)
    } catch {
      if error.call == .lockChunk || error.call == .mapSecretMemory && error.errno == 11 {
        throw .system(error)
      }
      throw ArenaCore.explained(error, needed: byteCount)
    }
    let softLimit = options.lock == .off ? nil : (try? ProcessFacts.memlockLimit())?.soft
    do {
      return try withCore { core throws(EnclaveError) in
        var chunk = chunk
        if mayGoUnlocked { chunk.lockErrno = core.lockFailure?.errno ?? 0 }
        return try core.publish(chunk, fork: fork, softLimit: softLimit)
      }
    } catch {
      chunk.wipeEntry?.remove()
      unmap(chunk.mapping)
      throw error
    }
  }

  /// Maps a chunk and applies its protections in the order that the kernel allows: advice, then the
  /// lock while the memory is readable, then the gate.
  private func map(
    _ byteCount: Int, unit: Int?, mayGoUnlocked: Bool
  ) throws(SystemFailure) -> (Chunk, ForkProtection?) {
    let isSecret = options.backing == .secret
    let mapping = try GuardedMapping(
      byteCount: byteCount, backing: isSecret ? .secret : .anonymous)
    var chunk = Chunk(mapping: mapping, isIsolated: unit == nil)
    chunk.isAwaited = true
    do throws(SystemFailure) {
      unsafe try PageOwners.reserve(mapping.data, mapping.byteCount)
      try mapping.excludeFromDumps()
      if !isSecret { try mapping.optOutOfPageMerging() }
      let fork: ForkProtection? =
        options.isInheritedByFork
        ? nil : isSecret ? try mapping.excludeFromFork() : try mapping.protectFromFork()
      if isSecret {
        chunk.isLocked = true  // by its nature, and charged to the limit when mapped
      } else if options.lock != .off, !mayGoUnlocked {
        if options.isLockedOnFault {
          try mapping.lockOnFault()
        } else {
          // The kernel would kill the process. ENOMEM is 12.
          guard MemoryGroup.hasRoom(for: byteCount) else {
            throw SystemFailure(.lockChunk, errno: 12)
          }
          try mapping.lock()
        }
        chunk.isLocked = true
      }
      switch mechanism {
      case .key:
        // Never key 0, which is open to every thread. EINVAL is 22.
        guard let key = gate.key else { throw SystemFailure(.tagChunk, errno: 22) }
        try mapping.tag(key: key)
      case .pages:
        if chunk.isLocked, !isSecret {
          unsafe lockPagesOnFault(mapping.data, byteCount: mapping.byteCount)
        }
        // The pages of an isolated chunk are opened together.
        if let unit, chunk.mapping.separate(unit: unit) { chunk.unit = unit / Page.size }
        try mapping.close()
      case .cipher, .none: break
      }
      chunk.wipeEntry = unsafe try WipeEntry(data: mapping.data, gate: gate)
      return (chunk, fork)
    } catch {
      // Nothing was written yet. If unmapping fails, the addresses that stay mapped are counted.
      _ = try? chunk.mapping.unmap()
      throw error
    }
  }

  // MARK: - Giving back

  /// Unmaps all spare chunks, or only those in excess of what is kept. Returns how many bytes.
  @discardableResult
  func trim(all: Bool = false) -> Int {
    var byteCount = 0
    while let mapping = takeSpare(all: all, isFirst: byteCount == 0) {
      byteCount += mapping.byteCount
      unmap(mapping)
    }
    return byteCount
  }

  /// `Arena.trim()`: unmaps all spare chunks. Returns how many bytes.
  package func trimSpare() throws(EnclaveError) -> Int {
    guard gate.isOwn else { throw .inheritedByFork }
    if gate.access == .destroyed { throw .destroyed }
    return asLibrary { trim(all: true) }
  }

  /// Bytes of chunks that hold no secret.
  var idleBytes: Int {
    for index in 0..<shardCount { withShard(index) { $0.reportIdleSlabs() } }
    return withCore { $0.isDestroyed ? 0 : $0.spareBytes }
  }

  /// Takes a spare chunk that should be unmapped. Once there is an excess, half of the limit stays,
  /// so that usage around the limit does not map and unmap all the time.
  ///
  /// For another arena's benefit, the last small chunk stays: allocations that come and go in small
  /// arenas (a vault's keys, what it decrypts) then need no headroom after the first.
  func takeSpare(all: Bool, isFirst: Bool, forOther: Bool = false) -> GuardedMapping? {
    withEverything { shards, core in
      guard core.mayShrink else { return nil }
      if forOther, core.chunkCount < 2, core.bytesMapped <= ArenaCore.smallBytes { return nil }
      if all { markIdleSlabs(shards, &core) }
      let kept = all ? 0 : isFirst ? core.keepBytes : core.keepBytes / 2
      return core.spareBytes > kept ? core.takeSpare(shards, all: all) : nil
    }
  }

  /// Once spare memory may exceed the limit, makes shards report empty slabs.
  private func startMarkingIdleSlabs() {
    guard !marksIdle, withCore({ $0.isLarge }) else { return }
    withEverything { shards, core in
      marksIdle = true
      markIdleSlabs(shards, &core)
    }
  }

  private func markIdleSlabs(_ shards: Shards, _ core: inout ArenaCore) {
    for shard in 0..<shardCount {
      for sizeClass in 0..<SizeClass.all.count {
        if let slab = unsafe shards[shard].spareSlab(sizeClass) { unsafe core.markIdle(slab) }
      }
    }
  }

  /// Unmaps a wiped isolated slab that is on no shard's list. If the arena is being frozen, the slab is
  /// kept as a spare: freezing may fail.
  func dropIsolatedSlab(_ slab: UnsafeMutablePointer<Slab>) {
    let mapping = withCore { core -> GuardedMapping? in
      guard core.mayShrink else { return nil }
      let index = unsafe Int(slab.pointee.chunk)
      unsafe core.release(slab)
      return core.detach(index)
    }
    if let mapping { return unmap(mapping) }
    unsafe withShard(Int(slab.pointee.shard)) { shard in
      withCore { core in
        if core.isDestroyed { return }
        unsafe shard.push(slab)
        unsafe core.markIdle(slab)
      }
    }
  }

  /// Unmaps memory that is wiped and no longer belongs to the arena.
  func unmap(_ mapping: GuardedMapping?) {
    guard let mapping else { return }
    do { try mapping.unmap() } catch {
      // The addresses stay mapped, as zeros, but release what they take of the lock limit.
      if options.backing != .secret { _ = try? mapping.discard() }
      withCore { $0.page?.writer.event(.unmapFailed, arena: id, failure: error) }
    }
  }
}

extension Registry {
  /// Unmaps spare memory of all arenas of the process. Returns whether there was any.
  static func trimAll() -> Bool {
    // Taken under the lock, so that the arenas stay; unmapped outside it.
    let mappings = with { state in
      var mappings: [GuardedMapping] = []
      for arena in state.arenas {
        while let mapping = arena.takeSpare(all: true, isFirst: true, forOther: true) {
          mappings.append(mapping)
        }
      }
      return mappings
    }
    for mapping in mappings {
      do { try mapping.unmap() } catch { _ = try? mapping.discard() }
    }
    return ScratchMemory.trim() || !mappings.isEmpty
  }
}
