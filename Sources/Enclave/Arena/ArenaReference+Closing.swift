// Freezing, sealing and destroying an arena: operations that first hold back all windows.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// Runs `body` with all locks held, while new windows wait and after frees in progress have
  /// finished. Throws `windowsOpen` without any change if `refuses` rejects the open windows.
  ///
  /// `body` returns the new access. If anything throws, the access is restored.
  private func change(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: (Shards, inout ArenaCore) throws(EnclaveError) -> GateState.Access
  ) throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    guard let windows = try attemptChange(unless: refuses, body) else { return }
    throw windowsError(windows)
  }

  /// Returns the windows if they were refused; nil if `body` ran.
  private func attemptChange(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: (Shards, inout ArenaCore) throws(EnclaveError) -> GateState.Access
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
    after = try withEverything { shards, core throws(EnclaveError) in
      core.changes &+= 1
      do throws(EnclaveError) { return try body(shards, &core) } catch {
        // A change that failed half way may have left the arena unusable.
        if core.isBroken { after = .destroyed }
        throw error
      }
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
    } _: { shards, core throws(EnclaveError) in
      do throws(EnclaveError) { try freeze(&core) } catch {
        if core.isBroken { countAsWiped(shards) }
        throw error
      }
      return .frozen
    }
  }

  private func freeze(_ core: inout ArenaCore) throws(EnclaveError) {
    if core.isDestroyed { throw .destroyed }
    if gate.isFrozen { return }
    do throws(SystemFailure) {
      switch mechanism {
      case .key:
        let key = gate.key ?? 0
        gate.key = try KeyPool.freeze(key, isExclusive: options.keySharing == .never) {
          other throws(SystemFailure) in try core.retag(from: key, to: other)
        }
      case .cipher, .none: try core.protectAll()
      case .pages: break
      }
    } catch { throw .system(error) }
    gate.setFrozen()
    core.page?.writer.event(.arenaFrozen, arena: id)
  }

  func seal() throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    guard mechanism == .key || hasCipherGate else { throw .sealNeedsKeyGate }
    do throws(SystemFailure) { try Probe.seals() } catch { throw .unsupported(.seals, error) }
    try freeze()
    try change { _ in
      false
    } _: { shards, core throws(EnclaveError) in
      if core.isDestroyed { throw .destroyed }
      if core.isSealed { return .frozen }
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
      return .frozen
    }
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
        } _: { shards, core throws(EnclaveError) in
          try wipeAndUnmap(shards, &core)
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

  private func wipeAndUnmap(
    _ shards: Shards, _ core: inout ArenaCore
  ) throws(EnclaveError) {
    var failure: SystemFailure?
    core.isDestroyed = true
    core.isBroken = true  // whatever fails from here on, the arena is unusable
    if options.isHeldByAddress { core.markAddressesAsDestroyed() }
    if hasCipherGate {
      cipher.destroyKeyForGood()
      ScratchMemory.releaseAll(of: id)
    }
    for index in 0..<core.chunks.count where core.chunks[index].isMapped {
      // After a wipe, its pages may carry another key or be read-only.
      do throws(SystemFailure) {
        try core.wipe(chunk: index, isBestEffort: gate.isWiped)
      } catch {
        failure = failure ?? error
        continue
      }
      failure = core.removeChunk(index) ?? failure
    }
    countAsWiped(shards)
    if let failure { throw .system(failure) }
    // No address finds these secrets any more, and C checks a handle's address first, so the memory
    // is freed with the arena.
    if options.isHeldByAddress {
      for index in 0..<shardCount { shards[index].handles = 0 }
    }
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
    } _: { shards, core throws(EnclaveError) in
      core.isDestroyed = true
      gate.setWiped()
      failure = core.wipeReachable()
      countAsWiped(shards)
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
    } _: { shards, core throws(EnclaveError) in
      if core.isDestroyed { throw .destroyed }
      for index in 0..<core.slabs.count {
        unsafe try check(core.slabs[index].slab, shards, core, &found)
        if hasCipherGate { unsafe Self.addLive(core.slabs[index].slab, to: &live) }
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

  /// Wipes every chunk as far as possible, without a lock: the process is ending. Returns what
  /// could not be wiped.
  func wipeNow() -> EmergencyWipe.Failure? {
    guard gate.isOwn else { return nil }
    return unsafe header.pointee.core.pointee.wipeReachable()
  }
}

extension ArenaCore {
  /// Overwrites everything reachable with zeros. Pages that somebody else has unmapped or protected
  /// are skipped one by one; they must not end the process.
  func wipeReachable() -> EmergencyWipe.Failure? {
    if arena.hasCipherGate {
      // First, so that windows that close or open from now on leave nothing behind.
      arena.gate.setWiped()
      arena.gate.runBarrier()
      arena.cipher.destroyKey()
      ScratchMemory.wipe(of: arena.id)
    }
    var failure: EmergencyWipe.Failure?
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try wipe(chunk: index, isBestEffort: true) } catch {
        var left = 0
        let chunk = chunks[index]
        for offset in stride(from: 0, to: chunk.carvedBytes, by: Page.size) {
          let page = unsafe chunk.mapping.data + offset
          do throws(SystemFailure) {
            unsafe try setProtection(.readWrite, at: page, byteCount: Page.size)
            withAllKeysOpen { unsafe EnclaveSystem.wipe(page, byteCount: Page.size) }
          } catch { left += Page.size }
        }
        if left > 0 {
          failure = EmergencyWipe.Failure(
            arena: "\(arena.name)", byteCount: left + (failure?.byteCount ?? 0),
            reason: failure?.reason ?? error)
        }
      }
    }
    return failure
  }

  /// Overwrites with zeros everything in a chunk that was ever used.
  func wipe(chunk index: Int, isBestEffort: Bool = false) throws(SystemFailure) {
    let chunk = chunks[index]
    // Sealed ciphertext cannot be overwritten; its key is destroyed.
    guard chunk.carvedBytes > 0, !(chunk.isSealed && mechanism == .cipher) else { return }
    if mechanism == .pages || (mechanism == .none || mechanism == .cipher) && arena.gate.isFrozen
      || isBestEffort && !chunk.isSealed
    {
      unsafe try setProtection(.readWrite, at: chunk.mapping.data, byteCount: chunk.carvedBytes)
    }
    if isBestEffort {
      return withAllKeysOpen {
        unsafe EnclaveSystem.wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
      }
    }
    let found = arena.gate.openKey(writing: true)
    unsafe EnclaveSystem.wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
    arena.gate.closeKey(found)
  }

  /// Moves all pages to another key. Moves them back if that fails.
  mutating func retag(from old: Int, to new: Int) throws(SystemFailure) {
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try chunks[index].mapping.tag(key: new) } catch {
        for done in 0..<index where chunks[done].isMapped {
          if (try? chunks[done].mapping.tag(key: old)) == nil { return try abandon(error) }
        }
        throw error
      }
    }
  }

  /// Makes all pages read-only. Makes them writable again if that fails.
  mutating func protectAll() throws(SystemFailure) {
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try chunks[index].mapping.freeze() } catch {
        for done in 0..<index where chunks[done].isMapped {
          let isWritable = unsafe closeWithRetry(
            chunks[done].mapping.data, chunks[done].mapping.byteCount, to: .readWrite)
          if !isWritable { return try abandon(error) }
        }
        throw error
      }
    }
  }

  /// Wipes an arena that was changed halfway, and neither completed nor restored. Otherwise windows
  /// to it would fault, or its pages would stay under a key that another arena gets.
  private mutating func abandon(_ failure: SystemFailure) throws(SystemFailure) {
    isDestroyed = true
    isBroken = true
    arena.gate.setWiped()
    wipeReachable()?.printToStandardError()
    throw failure
  }
}
