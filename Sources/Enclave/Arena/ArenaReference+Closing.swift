// Freezing, sealing and destroying an arena: operations that first hold back all windows.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// Runs `body` while new windows wait and after frees in progress have finished. Throws
  /// `windowsOpen` without any change if `refuses` rejects the open windows.
  ///
  /// `body` returns the new access. It takes the locks of the shards and the core where it needs
  /// them, but not across slow system calls (except to wipe under a page gate). If anything throws,
  /// the old access is restored, or `destroyed` is set if the arena is broken. The state's lock is
  /// held throughout: only other changes of this arena wait for it.
  private func change(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: () throws(EnclaveError) -> GateState.Access
  ) throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    guard let windows = try attemptChange(unless: refuses, body) else { return }
    throw windowsError(windows)
  }

  /// Returns the windows if they were refused; nil if `body` ran.
  private func attemptChange(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: () throws(EnclaveError) -> GateState.Access
  ) throws(EnclaveError) -> GateState.Windows? {
    unsafe lock(stateWord)
    defer { unsafe unlock(stateWord) }
    // A signal's wipe takes no lock; the `destroyed` that it sets must survive this change.
    var before = gate.access
    while !gate.exchangeAccess(from: before, to: .changing) { before = gate.access }
    var after = before
    defer { _ = gate.exchangeAccess(from: .changing, to: after) }
    gate.runBarrier()
    let windows = gate.windows
    if refuses(windows) { return windows }
    var tries: UInt32 = 0
    while gate.windows.wiping > 0 { ProcessFacts.backOff(&tries) }
    defer { withCore { $0.changes &+= 1 } }
    do throws(EnclaveError) { after = try body() } catch {
      // A change that failed half way may have left the arena unusable.
      if withCore({ $0.isBroken }) { after = .destroyed }
      throw error
    }
    return nil
  }

  private func windowsError(_ windows: GateState.Windows) -> EnclaveError {
    let label = windows.label.map { labelText($0) }
    return windows.open > windows.abandoned
      ? .windowsOpen(windows.open, label: label)
      : .windowsAbandoned(windows.open, label: label)
  }

  func labelText(_ label: UInt16) -> String {
    let text = withCore { core in
      Int(label) < core.labels.entries.count ? core.labels.entries[Int(label)].text : []
    }
    return String(decoding: text, as: UTF8.self)
  }

  // MARK: - Freeze and seal

  func freeze() throws(EnclaveError) {
    // Nothing will be allocated any more, so spare memory is useless.
    if gate.isOwn { asLibrary { _ = trim(all: true) } }
    try change { windows in
      // An arena with a shared key needs another key, which windows that are already open would not
      // have.
      let needsKey = gate.key.map { KeyPool.isShared($0) } ?? false
      return windows.writes > 0 || needsKey && windows.reads > 0
    } _: { () throws(EnclaveError) in
      // From here on nothing is allocated, and no chunk comes or goes.
      try withEverything { _, core throws(EnclaveError) in
        if core.isDestroyed { throw .destroyed }
        core.isFrozenOrFreezing = true
      }
      if gate.isFrozen { return .frozen }
      do throws(SystemFailure) { try protect() } catch {
        withEverything { shards, core in
          core.isFrozenOrFreezing = false
          if core.isBroken { countAsWiped(shards) }
        }
        throw .system(error)
      }
      gate.setFrozen()
      withCore { $0.page?.writer.event(.arenaFrozen, arena: id) }
      return .frozen
    }
  }

  /// Makes all pages read-only, or gives them a key that only frozen arenas use.
  private func protect() throws(SystemFailure) {
    switch mechanism {
    case .key:
      let key = gate.key ?? 0
      gate.key = try KeyPool.freeze(key, isExclusive: options.keySharing == .never) {
        other throws(SystemFailure) in
        // Another arena may have come to share the key since the check above. Windows that are
        // open have opened only the old key, and would fault.
        if gate.windows.reads > 0 { throw SystemFailure(.tagChunk, errno: 16) }  // EBUSY
        try forEachChunk { chunk throws(SystemFailure) in
          try chunk.mapping.tag(key: other)
        } undoing: { chunk in
          (try? chunk.mapping.tag(key: key)) != nil
        }
      }
    case .cipher, .none:
      try forEachChunk { chunk throws(SystemFailure) in
        try chunk.mapping.freeze()
      } undoing: { chunk in
        unsafe closeWithRetry(chunk.mapping.data, chunk.mapping.byteCount, to: .readWrite)
      }
    case .pages: break
    }
  }

  /// Changes every chunk. If one fails, perhaps halfway, undoes it for that one and those before. If
  /// that fails too, wipes the arena: windows to it would fault, or its pages would stay under a key
  /// that another arena gets.
  private func forEachChunk(
    _ body: (Chunk) throws(SystemFailure) -> Void, undoing undo: (Chunk) -> Bool
  ) throws(SystemFailure) {
    for index in 0..<withCore({ $0.chunks.count }) {
      guard let chunk = mappedChunk(index) else { continue }
      do throws(SystemFailure) { try body(chunk) } catch {
        // EPERM and ENOSYS: a filter refuses the call, which has changed nothing.
        let end = [1, 38].contains(error.errno) ? index : index + 1
        let isUndone = (0..<end).allSatisfy { mappedChunk($0).map(undo) ?? true }
        if !isUndone {
          withCore { core in
            core.isDestroyed = true
            core.isBroken = true
          }
          gate.setWiped()
          wipeReachable()?.printToStandardError()
        }
        throw error
      }
    }
  }

  private func mappedChunk(_ index: Int) -> Chunk? {
    withCore { $0.chunks[index].isMapped ? $0.chunks[index] : nil }
  }

  func seal() throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    guard mechanism == .key || hasCipherGate else { throw .sealNeedsKeyGate }
    do throws(SystemFailure) { try Probe.seals() } catch { throw .unsupported(.seals, error) }
    try freeze()
    try change { _ in
      false
    } _: { () throws(EnclaveError) in
      try withEverything { _, core throws(EnclaveError) in try seal(&core) }
      return .frozen
    }
  }

  /// Seals every chunk, under all locks: mseal(2) only marks mappings, which is fast.
  private func seal(_ core: inout ArenaCore) throws(EnclaveError) {
    if core.isDestroyed { throw .destroyed }
    if core.isSealed { return }
    // From the first sealed chunk on, the key is bound to its pages.
    if let key = gate.key { KeyPool.bind(key) }
    for index in 0..<core.chunks.count
    where core.chunks[index].isMapped && !core.chunks[index].isSealed {
      do throws(SystemFailure) { try core.chunks[index].mapping.seal() } catch {
        throw EnclaveError.system(error)
      }
      // Nobody can write to it any more, not even a signal's wipe, which destroys the key
      // instead.
      if hasCipherGate {
        core.chunks[index].wipeEntry?.remove()
        unsafe core.chunks.pointer(at: index).pointee.wipeEntry = nil
      }
      unsafe core.chunks.pointer(at: index).pointee.isSealed = true
    }
    core.isSealed = true
    core.page?.writer.event(.arenaSealed, arena: id)
  }

  // MARK: - Destroy

  /// Wipes and unmaps everything once no window is open. Waits for windows until `deadline`, in
  /// milliseconds since boot.
  func destroy(until deadline: UInt64) throws(EnclaveError) {
    while true {
      do throws(EnclaveError) {
        try change { windows in
          // An abandoned window has no thread left that could use or close it.
          windows.open > windows.abandoned
        } _: { () throws(EnclaveError) in
          try wipeAndUnmap()
          return .destroyed
        }
        break
      } catch {
        guard case .windowsOpen = error, ProcessFacts.bootMilliseconds < deadline else {
          throw error
        }
        ProcessFacts.pause(milliseconds: 1)
      }
    }
    removeFromRegistry()
  }

  /// Removes the arena from the registry and the stats page, and returns its key to the pool.
  private func removeFromRegistry() {
    let key = withCore { core -> Int? in
      guard !core.isRemoved else { return nil }
      core.isRemoved = true
      return gate.key
    }
    if let key { KeyPool.release(key) }
    Registry.remove(self)
  }

  private func wipeAndUnmap() throws(EnclaveError) {
    withEverything { _, core in
      core.isDestroyed = true
      core.isBroken = true  // whatever fails from here on, the arena is unusable
      if options.isHeldByAddress { core.markAddressesAsDestroyed() }
    }
    // Windows and frees no longer wait: they are refused from now on.
    _ = gate.exchangeAccess(from: .changing, to: .destroyed)
    if hasCipherGate {
      cipher.destroyKeyForGood()
      ScratchMemory.releaseAll(of: id)
    }
    var failure: SystemFailure?
    for index in 0..<withCore({ $0.chunks.count }) {
      guard let chunk = mappedChunk(index) else { continue }
      do throws(SystemFailure) {
        // After a wipe, its pages may carry another key or be read-only.
        try wipeChunk(chunk, isBestEffort: gate.isWiped)
        try remove(chunk, index)
      } catch { failure = failure ?? error }
    }
    withEverything { shards, _ in
      countAsWiped(shards)
      // No address finds these secrets any more, and C checks a handle's address first, so the
      // memory is freed with the arena.
      if failure == nil, options.isHeldByAddress {
        for index in 0..<shardCount { shards[index].handles = 0 }
      }
    }
    if let failure { throw .system(failure) }
  }

  /// Unmaps a wiped chunk.
  private func remove(_ chunk: Chunk, _ index: Int) throws(SystemFailure) {
    withCore { $0.beginRemoval(index) }
    do throws(SystemFailure) {
      if chunk.isSealed {
        try releaseSealed(chunk)
      } else {
        try chunk.mapping.unmap()
      }
    } catch {
      withCore { core in
        unsafe core.chunks.pointer(at: index).pointee.isBeingRemoved = false
        core.page?.writer.event(.unmapFailed, arena: id, failure: error)
      }
      throw error
    }
    withCore { $0.finishRemoval(index) }
  }

  /// Releases what can be released of a sealed chunk: its memory and lock, under a cipher gate only
  /// the lock, of memfd_secret nothing. The addresses stay reserved until the process ends.
  private func releaseSealed(_ chunk: Chunk) throws(SystemFailure) {
    // Discarding sealed pages requires the key to be open.
    let found = gate.openKey(writing: true)
    defer { gate.closeKey(found) }
    // memfd_secret pages are released only by unmapping, so they stay, wiped and locked. Sealed
    // memory that is not writable cannot be discarded at all.
    if mechanism == .cipher {
      if chunk.isLocked || chunk.lockedBytes > 0 { try chunk.mapping.unlock() }
    } else if options.backing != .secret {
      try chunk.mapping.discard()
    }
    Registry.countRetiredMapping(byteCount: chunk.mapping.byteCount)
  }

  private func countAsWiped(_ shards: Shards) {
    for index in 0..<shardCount {
      shards[index].totals.wipedWithArena &+= UInt64(shards[index].totals.secrets)
      shards[index].totals.bytesInUse = 0
      shards[index].totals.stuckPages = 0
    }
  }

  /// Wipes everything but leaves it mapped, even under open windows, which then read zeros. Nothing
  /// can be opened afterwards.
  ///
  /// Returns what could not be wiped.
  func wipeAndKeep() -> EmergencyWipe.Failure? {
    var failure: EmergencyWipe.Failure?
    _ = try? change { _ in
      false
    } _: { () throws(EnclaveError) in
      withEverything { _, core in core.isDestroyed = true }
      gate.setWiped()
      // Under a page gate, a window that closes meanwhile would close the pages that are being wiped.
      failure = hasPageGate ? withEverything { _, _ in wipeReachable() } : wipeReachable()
      withEverything { shards, _ in countAsWiped(shards) }
      return .destroyed
    }
    return failure
  }

  /// Wipes an arena that the exit handler skips, once exit no longer uses it.
  package func wipeAtExit() {
    if gate.isOwn { wipeAndKeep()?.printToStandardError() }
  }

  // MARK: - The last reference

  /// The Arena object was released: the remaining handles keep the memory.
  func releaseObject() {
    // A child leaves its parent's arenas alone, and leaks its copy of this memory.
    guard gate.isOwn else { return }
    withEverything { shards, _ in
      var handles = 0
      for index in 0..<shardCount {
        shards[index].isObjectReleased = true
        handles += shards[index].handles
      }
      unsafe addRelaxed(UInt64(handles) + 1, to: header.pointee.remainingHandles)
    }
    releaseRemainingHandle()
  }

  /// Drops a handle. With the last handle of an arena whose object was released, the arena goes
  /// too. The count and the check are one step under the shard's lock, so `releaseObject` either has
  /// counted this handle or runs later.
  func dropHandle(_ shard: Int) {
    let isObjectReleased = withShard(shard) { shard in
      // The handles of a destroyed C arena were all dropped already.
      guard shard.handles > 0 else { return false }
      shard.handles -= 1
      return shard.isObjectReleased
    }
    if isObjectReleased { releaseRemainingHandle() }
  }

  /// Drops one of the remaining handles; the last one destroys the arena.
  func releaseRemainingHandle() {
    guard unsafe dropReference(header.pointee.remainingHandles) == 0 else { return }
    // No handles are left. Chunks that could not be wiped or unmapped stay mapped, closed; that
    // does not need this memory.
    if gate.access != .destroyed || withCore({ $0.bytesMapped > 0 }) {
      do throws(EnclaveError) { try destroy(until: 0) } catch {
        // A window that was left by a jump is still counted. Then wipe at least the contents, and
        // keep this memory in case the window is closed later.
        wipeNow()?.printToStandardError()
        removeFromRegistry()
        return
      }
    }
    removeFromRegistry()
    release()
  }

  // MARK: - Checks

  /// Checks every canary and every free slot, and under a cipher gate every ciphertext. Returns what is
  /// wrong.
  ///
  /// Frees are held back, because a half-wiped secret has no canary; windows may be open.
  func check() throws(EnclaveError) -> [Violation] {
    var found: [Violation] = []
    var live: [SecretHandle] = []
    try change { _ in
      false
    } _: { () throws(EnclaveError) in
      try withEverything { shards, core throws(EnclaveError) in
        if core.isDestroyed { throw .destroyed }
        for index in 0..<core.slabs.count {
          unsafe try check(core.slabs[index].slab, shards, core, &found)
          if hasCipherGate { unsafe Self.addLive(core.slabs[index].slab, to: &live) }
        }
      }
      if gate.isWiped { throw .destroyed }  // a signal wiped meanwhile
      return gate.isFrozen ? .frozen : .open
    }
    // Without a lock, because decrypting everything takes long.
    for handle in live {
      if let violation = try handle.checkCiphertext() { found.append(violation) }
    }
    return found
  }

  private static func addLive(_ slab: UnsafeMutablePointer<Slab>, to live: inout [SecretHandle]) {
    for slot in unsafe 0..<Int(slab.pointee.slotCount) {
      if let handle = unsafe SecretHandle(live: slab, slot: slot) { live.append(handle) }
    }
  }

  private func check(
    _ slab: UnsafeMutablePointer<Slab>, _ shards: Shards, _ core: ArenaCore,
    _ found: inout [Violation]
  ) throws(EnclaveError) {
    guard unsafe slab.pointee.byteCount > 0 else { return }
    let shard = unsafe Int(slab.pointee.shard)
    if mechanism == .pages { unsafe try openPages(slab, writing: false, shard: &shards[shard]) }
    let key = gate.openKey(writing: false)
    unsafe canaries.check(
      slab, keepsFreed: hasCipherGate && core.chunks[Int(slab.pointee.chunk)].isSealed
    ) { slot, kind, offset in
      let entry = unsafe Slab.slots(of: slab) + slot
      let isLive = kind != .writeAfterFree
      let text = unsafe isLive ? core.labels.entries[Int(entry.pointee.label)].text : []
      found.append(
        Violation(
          kind: kind, arena: "\(name)",
          label: isLive ? String(decoding: text, as: UTF8.self) : nil,
          byteCount: isLive ? unsafe Int(entry.pointee.byteCount) : nil, offset: offset))
    }
    gate.closeKey(key)
    if mechanism == .pages { unsafe closePages(slab, writing: false, shard: &shards[shard]) }
  }
}
