// Allocating, opening windows and freeing, with the locks and the gate that each of them takes.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Allocate

  func allocate(
    _ request: Shard.Request, key: LabelKey
  ) throws(EnclaveError) -> SecretHandle {
    // Before any lock: in a forked child, another thread of the parent may have held it.
    guard gate.isOwn else { throw .inheritedByFork }
    let ownShard = GateState.thread & (shardCount - 1)
    do {
      if let handle = unsafe try allocateWithoutGrowing(request, key, ownShard) { return handle }
      return try asLibrary { () throws(EnclaveError) in
        try allocateGrowing(request, key, ownShard)
      }
    } catch {
      withShard(ownShard) { $0.failed(error) }
      throw error
    }
  }

  /// Returns nil if the shard has no room.
  func allocateWithoutGrowing(
    _ request: Shard.Request, _ key: LabelKey, _ index: Int,
    fresh: UnsafeMutablePointer<Slab>? = nil
  ) throws(EnclaveError) -> SecretHandle? {
    try withShard(index) { shard throws(EnclaveError) in
      if gate.accessCode != 0 { try checkAllocatable() }
      var label = shard.labels.find(key)
      if label == nil { label = try addLabel(key, &shard) }
      return unsafe try shard.allocate(request, label: label.unsafelyUnwrapped, fresh: fresh)
    }
  }

  @inline(never)
  private func addLabel(_ key: LabelKey, _ shard: inout Shard) throws(EnclaveError) -> UInt16 {
    do throws(SystemFailure) {
      try Metadata.requireRoom()
      let found = try withCore { core throws(SystemFailure) in
        let (label, isNew) = try core.labels.find(key)
        if isNew { core.publishNewLabel(label) }
        return label
      }
      try shard.labels.add(key, found)
      return found
    } catch { throw .system(error) }
  }

  /// Throws if the arena is frozen or destroyed. The caller holds a shard's lock, and freezing and
  /// destroying take the locks of all shards. So while the access is `changing`, the change has not
  /// begun or is already recorded in the core.
  private func checkAllocatable() throws(EnclaveError) {
    switch gate.access {
    case .open: return
    case .changing: try withCore { core throws(EnclaveError) in try core.requireGrowth() }
    case .frozen: throw .frozen
    case .destroyed: throw .destroyed
    }
  }

  // MARK: - The library's own window

  /// The protection of pages while no window is open.
  var idleProtection: Protection {
    switch mechanism {
    case .pages: .closed
    case .key: .readWrite
    case .cipher, .none: gate.isFrozen ? .read : .readWrite
    }
  }

  /// Whether windows open and close pages (mprotect(2)). (A switch, because `==` on an enumeration
  /// is not inlined.)
  @inline(__always)
  var hasPageGate: Bool {
    switch mechanism {
    case .pages: true
    case .key, .cipher, .none: false
    }
  }

  /// Whether windows decrypt and encrypt.
  @inline(__always)
  var hasCipherGate: Bool {
    switch mechanism {
    case .cipher: true
    case .key, .pages, .none: false
    }
  }

  /// Whether pages must be opened before they can be written.
  @inline(__always)
  var isClosedByPages: Bool {
    switch mechanism {
    case .pages: true
    case .key: false
    case .cipher, .none: gate.isFrozen
    }
  }

  /// Runs a body with a slab open for the library itself. The caller holds the shard's lock.
  func withLibraryWindow(
    _ slab: UnsafeMutablePointer<Slab>, shard: inout Shard, _ body: () -> Void
  ) throws(EnclaveError) {
    if hasPageGate { unsafe try openPages(slab, writing: true, shard: &shard) }
    let found = gate.openKey(writing: true)
    body()
    gate.closeKey(found)
    if hasPageGate { unsafe closePages(slab, writing: true, shard: &shard) }
  }

  // MARK: - Windows under a page gate

  /// Opens a slab's pages for one more window. The caller holds the shard's lock.
  func openPages(
    _ slab: UnsafeMutablePointer<Slab>, writing: Bool, shard: inout Shard
  ) throws(EnclaveError) {
    let wanted: Protection = writing ? .readWrite : .read
    if unsafe slab.pointee.needed(idleProtection).rawValue < wanted.rawValue {
      do {
        unsafe try setProtection(wanted, at: slab.pointee.base, byteCount: slab.pointee.byteCount)
      } catch {
        unsafe undoOpening(slab, shard: &shard)
        throw ArenaCore.mapLimit(or: error)
      }
    }
    if writing { unsafe slab.pointee.writers += 1 } else { unsafe slab.pointee.readers += 1 }
  }

  /// Closes the pages that a failed mprotect(2) may have opened: the first of several mappings.
  private func undoOpening(_ slab: UnsafeMutablePointer<Slab>, shard: inout Shard) {
    guard unsafe slab.pointee.pageCount > 1, unsafe slab.pointee.stuck == .closed else { return }
    let before = unsafe slab.pointee.needed(idleProtection)
    if unsafe !closeWithRetry(slab.pointee.base, slab.pointee.byteCount, to: before) {
      unsafe markStuck(slab, shard: &shard)
    }
  }

  /// Closes a slab's pages as far as the remaining windows allow.
  func closePages(_ slab: UnsafeMutablePointer<Slab>, writing: Bool, shard: inout Shard) {
    let before = unsafe slab.pointee.needed(idleProtection)
    if writing { unsafe slab.pointee.writers -= 1 } else { unsafe slab.pointee.readers -= 1 }
    let after = unsafe slab.pointee.needed(idleProtection)
    guard before != after else { return }
    if unsafe closeWithRetry(slab.pointee.base, slab.pointee.byteCount, to: after) {
      if unsafe slab.pointee.stuck != .closed {
        unsafe shard.totals.stuckPages -= slab.pointee.byteCount / Page.size
        unsafe slab.pointee.stuck = .closed
        shard.changes &+= 1
      }
    } else {
      unsafe markStuck(slab, shard: &shard)
    }
  }

  /// Records that a slab's pages could not be closed.
  func markStuck(_ slab: UnsafeMutablePointer<Slab>, shard: inout Shard) {
    if unsafe slab.pointee.stuck == .closed {
      unsafe shard.totals.stuckPages += slab.pointee.byteCount / Page.size
    }
    unsafe slab.pointee.stuck = .readWrite
    shard.changes &+= 1
    unsafe shard.page?.writer.event(.closeFailed, arena: id, bytes: UInt64(slab.pointee.byteCount))
  }

  // MARK: - Entering

  /// Handles the rare results of entering a window: throws, or returns when the caller should try
  /// again. Takes no lock and calls no malloc(3), because it may run in a signal handler.
  @inline(never)
  func retryOrThrow(after entry: Int32, label: UInt16) throws(EnclaveError) {
    switch GateState.Entry(rawValue: entry) {
    case .open, nil: return
    case .noCounters:
      do { try gate.makeCounters(label: label) } catch { throw .system(error) }
    case .changing:
      // The interrupted code of this thread may be what the change waits for, or the change itself.
      if isInterruptedHere { throw .busy }
      // The interrupted code may also hold a lock of malloc(3) that the change needs, so waiting is
      // limited.
      let end = ProcessFacts.bootMilliseconds + Self.patienceMilliseconds
      var tries: UInt32 = 0
      while gate.access == .changing {
        if ProcessFacts.bootMilliseconds > end { throw .busy }
        ProcessFacts.backOff(&tries)
      }
    case .forked: throw .inheritedByFork
    case .frozen: throw .frozen
    case .destroyed: throw .destroyed
    }
  }

  /// Far longer than freezing or checking takes.
  private static var patienceMilliseconds: UInt64 { 5000 }

  /// The same for entering a free, which never happens in a signal handler: waits without a limit.
  @inline(never)
  func retryFreeOrThrow(after entry: Int32) throws(EnclaveError) {
    guard GateState.Entry(rawValue: entry) == .changing else {
      return try retryOrThrow(after: entry, label: 0)
    }
    var tries: UInt32 = 0
    while gate.access == .changing { ProcessFacts.backOff(&tries) }
  }

  /// Whether this code runs in a signal handler that interrupted the library in this thread. Then
  /// it must not wait for anything.
  var isInterruptedHere: Bool { holdsLocks || gate.isWipingHere }

  /// Counts a window that could not be opened. Never waits for a lock.
  @inline(never)
  func recordFailedOpen(_ handle: SecretHandle, _ error: EnclaveError) {
    guard gate.isOwn else { return }
    let word = unsafe shardWord(Int(handle.slab.pointee.shard))
    guard !isInterruptedHere, unsafe tryLock(word) else { return gate.countMissedOpen() }
    defer { unsafe unlock(word) }
    let shard = unsafe header.pointee.shards.pointer(at: Int(handle.slab.pointee.shard))
    unsafe shard.pointee.totals.failedOpens &+= 1
    unsafe shard.pointee.changes &+= 1
    unsafe shard.pointee.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
  }

  // MARK: - Free

  /// Wipes a secret and frees its slot.
  ///
  /// - Parameter isUnique: whether nobody else can free this handle. That is so in Swift; in C two
  ///   threads may free one handle at once, and one of them must win before either wipes.
  func free(_ handle: SecretHandle, isUnique: Bool = true) throws(EnclaveError) {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    unsafe prefetch(slot)
    unsafe prefetch(slab)
    unsafe prefetch(UnsafeRawPointer(slab) + 64)
    unsafe prefetch(handle.address)
    unsafe prefetch(handle.address + Int(handle.byteCount))
    while true {
      let entry = gate.enterWipe()
      if entry == 0 { break }
      if entry == GateState.Entry.destroyed.rawValue {
        // Whoever destroyed the arena wipes it; only the handle is dropped. (C may free an address twice.)
        guard unsafe isUnique || Slot.claim(slot, handle.generation) else {
          reportViolation(.doubleFree, handle, offset: nil)
          return
        }
        unsafe dropHandle(Int(slab.pointee.shard))
        return
      }
      try retryFreeOrThrow(after: entry)
    }
    let shardIndex = unsafe Int(slab.pointee.shard)
    // Under a cipher gate readers wait for nobody: the claim, which they see before the first wiped
    // byte, tells them that the ciphertext was not tampered with.
    let isMine =
      unsafe isUnique && !hasCipherGate
      ? Slot.generation(of: slot) == handle.generation : Slot.claim(slot, handle.generation)
    guard isMine else {
      gate.leaveWipe()
      reportViolation(.doubleFree, handle, offset: nil)
      return
    }
    if !isUnique, let error = unsafe refusal(of: handle, slot) {
      gate.leaveWipe()
      reportViolation(.freedWhileOpen, handle, offset: nil)
      throw error
    }
    if hasCipherGate { fenceRelease() }
    let isFrozen = gate.isFrozen
    // Sealed ciphertext cannot be overwritten: its nonce and tag are cleared, and its key is
    // destroyed with the arena. (Sealing waits for this free, so the state cannot change
    // meanwhile.)
    let isKept =
      unsafe hasCipherGate && isFrozen
      && header.pointee.core.pointee.chunks[Int(slab.pointee.chunk)].isSealed
    let opensPages = isClosedByPages && !isKept
    if opensPages {
      do throws(EnclaveError) {
        try withShard(shardIndex) { shard throws(EnclaveError) in
          do throws(EnclaveError) {
            unsafe try openPages(slab, writing: true, shard: &shard)
          } catch {
            // The contents remain, so the slot is not reused. Destroying the arena wipes it, or
            // reports that it cannot.
            shard.totals.failedOpens &+= 1
            shard.changes &+= 1
            shard.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
            throw error
          }
        }
      } catch {
        // Nobody else frees it, so it counts as live.
        if isUnique { unsafe publish(handle.generation, to: &slot.pointee.generation) }
        gate.leaveWipe()
        dropHandle(shardIndex)
        throw error
      }
    }
    let found = gate.openKey(writing: true)
    let damage = isKept ? nil : canaries.wipeContents(of: handle)
    gate.closeKey(found)
    let (followUp, isObjectReleased) = withShard(shardIndex) { shard in
      if opensPages { unsafe closePages(slab, writing: true, shard: &shard) }
      let followUp = shard.finishFree(handle, isFrozen: isFrozen, isDamaged: damage != nil)
      // A violation still to be reported keeps its handle, and with it the arena.
      if damage != nil { shard.handles += 1 }
      return (followUp, shard.isObjectReleased && damage == nil)
    }
    switch followUp {
    case .nothing: break
    case .trim: asLibrary { _ = trim() }
    case .unmap: asLibrary { unsafe dropIsolatedSlab(slab) }
    }
    // Destroying the arena waits for this. If no handle is left, it is the last access to the
    // arena.
    gate.leaveWipe()
    if isObjectReleased { releaseRemainingHandle() }
    guard let damage else { return }
    reportViolation(damage < 0 ? .underflow : .overflow, handle, offset: damage)
    dropHandle(shardIndex)
  }

  /// Counts a violation on the stats page and passes it to the program's handler.
  func reportViolation(_ kind: Violation.Kind, _ handle: SecretHandle, offset: Int?) {
    // An emergency wipe overwrites canaries too; that is no violation.
    if gate.isWiped { return }
    let label = withCore { core in
      core.page?.writer.event(.corruption, arena: id, bytes: UInt64(handle.byteCount))
      return core.labels.entries[Int(handle.label)].text
    }
    ViolationHandler.report(
      Violation(
        kind: kind, arena: "\(name)", label: String(decoding: label, as: UTF8.self),
        byteCount: Int(handle.byteCount), offset: offset))
  }
}

extension EnclaveError {
  /// Whether free slots of another shard would help.
  var isExhaustion: Bool {
    switch self {
    case .lockLimit, .memoryGroupLimit, .mapLimit, .capacity: true
    case .system(let failure): failure.call == .lockChunk || failure.errno == 12  // ENOMEM
    default: false
    }
  }
}
