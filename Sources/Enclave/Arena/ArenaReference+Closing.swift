// Freezing, sealing, destroying: what stops all windows first.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  /// Holds new windows back, and waits for the frees that are under way, while `body` runs with all
  /// locks; `windowsOpen`, and nothing has changed, when the windows that are open refuse it.
  ///
  /// `body` returns the access from now on; when anything throws, it is what it was before.
  private func change(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: (Shards, inout ArenaCore) throws(EnclaveError) -> GateState.Access
  ) throws(EnclaveError) {
    guard gate.isOwn else { throw .inheritedByFork }
    guard let windows = try attemptChange(unless: refuses, body) else { return }
    throw windowsError(windows)
  }

  /// The windows that refuse it; nil when it was done.
  private func attemptChange(
    unless refuses: (GateState.Windows) -> Bool,
    _ body: (Shards, inout ArenaCore) throws(EnclaveError) -> GateState.Access
  ) throws(EnclaveError) -> GateState.Windows? {
    unsafe lock(stateWord)
    defer { unsafe unlock(stateWord) }
    // A signal's wipe waits for no lock: what it sets, `destroyed`, stays, whatever comes of this.
    var before = gate.access
    while !gate.exchangeAccess(from: before, to: .changing) { before = gate.access }
    var after = before
    defer { _ = gate.exchangeAccess(from: .changing, to: after) }
    gate.order()
    let windows = gate.windows
    if refuses(windows) { return windows }
    var tries: UInt32 = 0
    while gate.windows.wiping > 0 { ProcessFacts.backOff(&tries) }
    after = try withEverything { shards, core throws(EnclaveError) in
      core.changes &+= 1
      do throws(EnclaveError) { return try body(shards, &core) } catch {
        // What failed half way may have left the arena unusable.
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
    // Nothing is allocated any more: what is idle would be for nothing.
    if gate.isOwn { asLibrary { _ = trim(all: true) } }
    try change { windows in
      // An arena that shares its key needs another, which windows that are open would not have.
      let needsKey = gate.key.map { KeyPool.isShared($0) } ?? false
      return windows.writes > 0 || needsKey && windows.reads > 0
    } _: { shards, core throws(EnclaveError) in
      try freeze(&core)
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
        // Nobody can write to it any more, a signal's wipe neither: that destroys the key.
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

  /// Wipes and unmaps everything, once no window is open; waits for that until `deadline`
  /// (milliseconds since boot).
  func destroy(until deadline: UInt64) throws(EnclaveError) {
    while true {
      do throws(EnclaveError) {
        try change { windows in
          // Nobody is left to use one that its thread has left open, nor to close it.
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
    leave()
  }

  /// Off the list and the page; the key is free for others.
  private func leave() {
    let key = withCore { core -> Int? in
      guard !core.hasLeft else { return nil }
      core.hasLeft = true
      return gate.key
    }
    if let key { KeyPool.giveBack(key) }
    Registry.remove(self)
  }

  private func wipeAndUnmap(
    _ shards: Shards, _ core: inout ArenaCore
  ) throws(EnclaveError) {
    var failure: SystemFailure?
    core.isDestroyed = true
    core.isBroken = true  // whatever fails now: it cannot be used any more
    if options.isHeldByAddress { core.markAddressesAsDestroyed() }
    if hasCipherGate {
      cipher.endKey()
      ScratchMemory.giveAll(of: id)
    }
    for index in 0..<core.chunks.count where core.chunks[index].isMapped {
      do throws(SystemFailure) { try core.wipe(chunk: index) } catch {
        failure = failure ?? error
        continue
      }
      failure = core.removeChunk(index) ?? failure
    }
    countAsWiped(shards)
    if let failure { throw .system(failure) }
    // Nobody can come back by an address, and a handle of C's is looked at no further than that: the
    // metadata goes with the arena.
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

  /// Wipes everything and leaves it mapped, whoever has a window: what they read is zeros. Nothing
  /// can be opened from now on.
  ///
  /// Returns what could not be wiped.
  func wipeAndKeep() -> EmergencyWipe.Failure? {
    var failure: EmergencyWipe.Failure?
    _ = try? change { _ in
      false
    } _: { shards, core throws(EnclaveError) in
      core.isDestroyed = true
      gate.setWiped()
      failure = core.wipeWhatCanBe()
      countAsWiped(shards)
      return .destroyed
    }
    return failure
  }

  /// The same for an arena that exit leaves out, by whoever knows that exit is done with it.
  package func wipeAtExit() {
    if gate.isOwn { wipeAndKeep()?.complain() }
  }

  // MARK: - The last reference

  /// The Arena object is gone: the handles that are left keep the memory.
  func orphan() {
    // A child leaves its parent's arenas alone; its copy of the metadata is not worth a risk.
    guard gate.isOwn else { return }
    withEverything { shards, _ in
      var handles = 0
      for index in 0..<shardCount {
        shards[index].isOrphan = true
        handles += shards[index].handles
      }
      unsafe addRelaxed(UInt64(handles) + 1, to: header.pointee.orphans)
    }
    releaseOrphan()
  }

  /// A handle goes, and with the last one of an arena whose object is gone, the arena. Counting the
  /// handle out and looking whether it is an orphan's is one step: `orphan` either counted this handle,
  /// or comes later and does not.
  func dropHandle(_ shard: Int) {
    let isOrphan = withShard(shard) { shard in
      // Those of a C arena all went when it was destroyed.
      guard shard.handles > 0 else { return false }
      shard.handles -= 1
      return shard.isOrphan
    }
    if isOrphan { releaseOrphan() }
  }

  /// One of them goes; the last one takes the arena with it.
  func releaseOrphan() {
    guard unsafe dropReference(header.pointee.orphans) == 0 else { return }
    // Nobody else has a handle. Chunks that could not be wiped or unmapped keep their place in
    // memory, closed; the metadata is not needed for that.
    if gate.access != .destroyed || withCore({ $0.bytesMapped > 0 }) {
      do throws(EnclaveError) { try destroy(until: 0) } catch {
        // A window that was jumped out of is still counted: then at least the contents go. The
        // metadata stays, for a window that is closed late.
        wipeNow()
        leave()
        return
      }
    }
    leave()
    release()
  }

  // MARK: - Checks

  /// Looks at every canary and every free slot; under a cipher gate also at every ciphertext. Returns
  /// what is wrong.
  ///
  /// No secret is being wiped meanwhile (its canaries would be half gone); windows may be open.
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
      if gate.isWiped { throw .destroyed }  // meanwhile, by a signal
      return gate.isFrozen ? .frozen : .open
    }
    // Without a lock, since that takes as long as to decrypt it all.
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
      let entry = unsafe Slab.slots(of: slab)[slot]
      let isLive = kind != .writeAfterFree
      let text = isLive ? core.labels.entries[Int(entry.label)].text : []
      found.append(
        Violation(
          kind: kind, arena: "\(name)",
          label: isLive ? String(decoding: text, as: UTF8.self) : nil,
          byteCount: isLive ? Int(entry.byteCount) : nil, offset: offset))
    }
    gate.closeKey(key)
    if mechanism == .pages { unsafe closePages(slab, writing: false, shard: &shards[shard]) }
  }

  /// Wipes every chunk without a lock, as well as it can be done: the process is ending. Returns what
  /// could not be wiped.
  @discardableResult
  func wipeNow() -> EmergencyWipe.Failure? {
    guard gate.isOwn else { return nil }
    return unsafe header.pointee.core.pointee.wipeWhatCanBe()
  }
}

extension ArenaCore {
  /// Zeros over everything that can be reached: what somebody else unmapped or protected meanwhile is
  /// left out, page by page, and must not end the process.
  func wipeWhatCanBe() -> EmergencyWipe.Failure? {
    if arena.hasCipherGate {
      // First: what a window closes or opens from now on is nothing.
      arena.gate.setWiped()
      arena.gate.order()
      arena.cipher.destroyKey()
      ScratchMemory.wipe(of: arena.id)
    }
    var failure: EmergencyWipe.Failure?
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try wipe(chunk: index, isDoubted: true) } catch {
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

  /// Zeros over everything that was ever used of a chunk.
  func wipe(chunk index: Int, isDoubted: Bool = false) throws(SystemFailure) {
    let chunk = chunks[index]
    // Sealed ciphertext stays; its key is gone.
    guard chunk.carvedBytes > 0, !(chunk.isSealed && mechanism == .cipher) else { return }
    if mechanism == .pages || (mechanism == .none || mechanism == .cipher) && arena.gate.isFrozen
      || isDoubted && !chunk.isSealed
    {
      unsafe try setProtection(.readWrite, at: chunk.mapping.data, byteCount: chunk.carvedBytes)
    }
    if isDoubted {
      return withAllKeysOpen {
        unsafe EnclaveSystem.wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
      }
    }
    let found = arena.gate.openKey(writing: true)
    unsafe EnclaveSystem.wipe(chunk.mapping.data, byteCount: chunk.carvedBytes)
    arena.gate.closeKey(found)
  }

  /// Moves all pages to another key; back again where that fails.
  func retag(from old: Int, to new: Int) throws(SystemFailure) {
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try chunks[index].mapping.tag(key: new) } catch {
        for done in 0..<index where chunks[done].isMapped {
          do throws(SystemFailure) { try chunks[done].mapping.tag(key: old) } catch {
            fatalError("Enclave: pages cannot go back to their key: \(error)")
          }
        }
        throw error
      }
    }
  }

  /// Makes all pages read-only; writable again where that fails.
  func protectAll() throws(SystemFailure) {
    for index in 0..<chunks.count where chunks[index].isMapped {
      do throws(SystemFailure) { try chunks[index].mapping.freeze() } catch {
        for done in 0..<index where chunks[done].isMapped {
          _ = unsafe closeAgain(
            chunks[done].mapping.data, chunks[done].mapping.byteCount, to: .readWrite)
        }
        throw error
      }
    }
  }
}
