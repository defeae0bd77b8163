// Windows, allocation and free: what takes which lock when.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Allocate

  func allocate(
    _ request: Shard.Request, key: LabelKey
  ) throws(EnclaveError) -> SecretHandle {
    // Before any lock: another thread of the parent may have held it when the child was made.
    guard gate.isOwn else { throw .inheritedByFork }
    let mine = GateState.thread & (shardCount - 1)
    do {
      if let handle = unsafe try allocateWithoutGrowing(request, key, mine) { return handle }
      return try asLibrary { () throws(EnclaveError) in
        try allocateGrowing(request, key, mine)
      }
    } catch {
      withShard(mine) { $0.failed(error) }
      throw error
    }
  }

  /// nil when the shard has no room.
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
      try Metadata.expectRoom()
      let found = try withCore { core throws(SystemFailure) in
        let (label, isNew) = try core.labels.find(key)
        if isNew { core.publishNewLabel(label) }
        return label
      }
      try shard.labels.add(key, found)
      return found
    } catch { throw .system(error) }
  }

  /// Whether the arena can be allocated from. (While it is being changed it still can: the change
  /// waits for the shards. The caller holds a shard's lock, so the change is done, or has to wait.)
  private func checkAllocatable() throws(EnclaveError) {
    switch gate.access {
    case .open: return
    case .changing: try withCore { core throws(EnclaveError) in try core.expectGrowth() }
    case .frozen: throw .frozen
    case .destroyed: throw .destroyed
    }
  }

  // MARK: - The library's own window

  /// How far pages are open while nobody has a window.
  var closed: Protection {
    switch mechanism {
    case .pages: .closed
    case .key: .readWrite
    case .cipher, .none: gate.isFrozen ? .read : .readWrite
    }
  }

  /// Whether windows open and close pages. (A switch: `==` on an enumeration was not inlined.)
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

  /// Whether writing needs pages to be opened.
  @inline(__always)
  var isClosedByPages: Bool {
    switch mechanism {
    case .pages: true
    case .key: false
    case .cipher, .none: gate.isFrozen
    }
  }

  /// Opens a slab for the library itself. The caller holds the shard's lock.
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

  /// Opens a slab's pages as far as one more window needs it. The caller holds the shard's lock.
  func openPages(
    _ slab: UnsafeMutablePointer<Slab>, writing: Bool, shard: inout Shard
  ) throws(EnclaveError) {
    let wanted: Protection = writing ? .readWrite : .read
    if unsafe slab.pointee.needed(closed).rawValue < wanted.rawValue {
      do {
        unsafe try setProtection(wanted, at: slab.pointee.base, byteCount: slab.pointee.byteCount)
      } catch {
        unsafe undoOpening(slab, shard: &shard)
        throw ArenaCore.mapLimit(or: error)
      }
    }
    if writing { unsafe slab.pointee.writers += 1 } else { unsafe slab.pointee.readers += 1 }
  }

  /// mprotect(2) that fails may have opened the first of several maps.
  private func undoOpening(_ slab: UnsafeMutablePointer<Slab>, shard: inout Shard) {
    guard unsafe slab.pointee.pageCount > 1, unsafe slab.pointee.stuck == .closed else { return }
    let before = unsafe slab.pointee.needed(closed)
    if unsafe !closeAgain(slab.pointee.base, slab.pointee.byteCount, to: before) {
      unsafe markStuck(slab, shard: &shard)
    }
  }

  /// Closes a slab's pages as far as the windows that are left allow.
  func closePages(_ slab: UnsafeMutablePointer<Slab>, writing: Bool, shard: inout Shard) {
    let before = unsafe slab.pointee.needed(closed)
    if writing { unsafe slab.pointee.writers -= 1 } else { unsafe slab.pointee.readers -= 1 }
    let after = unsafe slab.pointee.needed(closed)
    guard before != after else { return }
    if unsafe closeAgain(slab.pointee.base, slab.pointee.byteCount, to: after) {
      if unsafe slab.pointee.stuck != .closed {
        unsafe shard.totals.stuckPages -= slab.pointee.byteCount / Page.size
        unsafe slab.pointee.stuck = .closed
        shard.changes &+= 1
      }
    } else {
      unsafe markStuck(slab, shard: &shard)
    }
  }

  func markStuck(_ slab: UnsafeMutablePointer<Slab>, shard: inout Shard) {
    if unsafe slab.pointee.stuck == .closed {
      unsafe shard.totals.stuckPages += slab.pointee.byteCount / Page.size
    }
    unsafe slab.pointee.stuck = .readWrite
    shard.changes &+= 1
    unsafe shard.page?.writer.event(.closeFailed, arena: id, bytes: UInt64(slab.pointee.byteCount))
  }

  // MARK: - Entering

  /// What is rare when a window is opened. Returns when it is to be tried again. No lock, no
  /// malloc(3): it may be a signal handler that opens.
  @inline(never)
  func wait(for entry: Int32, label: UInt16) throws(EnclaveError) {
    switch GateState.Entry(rawValue: entry) {
    case .open, nil: return
    case .noCounters:
      do { try gate.makeCounters(label: label) } catch { throw .system(error) }
    case .changing:
      // What this thread was doing when it was interrupted may be what the change waits for, or the
      // change itself.
      if isInterruptedHere { throw .busy }
      // And what the change waits for may wait for a lock of malloc(3)'s that it was in: so there is
      // an end to waiting.
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

  /// What is rare when a free begins, which is never a signal handler's.
  @inline(never)
  func waitToWipe(for entry: Int32) throws(EnclaveError) {
    guard GateState.Entry(rawValue: entry) == .changing else {
      return try wait(for: entry, label: 0)
    }
    var tries: UInt32 = 0
    while gate.access == .changing { ProcessFacts.backOff(&tries) }
  }

  /// Whether this code runs in a signal handler that interrupted the library in this thread: nothing
  /// can be waited for then.
  var isInterruptedHere: Bool { holdsLocks || gate.isWipingHere }

  /// A window that could not be opened, for the counts. Waits for no lock.
  @inline(never)
  func openFailed(_ handle: SecretHandle, _ error: EnclaveError) {
    guard gate.isOwn else { return }
    let word = unsafe shardWord(Int(handle.slab.pointee.shard))
    guard !isInterruptedHere, unsafe tryLock(word) else { return gate.missOpen() }
    defer { unsafe unlock(word) }
    let shard = unsafe header.pointee.shards.pointer(at: Int(handle.slab.pointee.shard))
    unsafe shard.pointee.totals.failedOpens &+= 1
    unsafe shard.pointee.changes &+= 1
    unsafe shard.pointee.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
  }

  // MARK: - Free

  /// Wipes a secret and takes its slot back. A handle of Swift is nobody else's; what C holds may
  /// be freed by two threads at once, and one of them must win before either wipes.
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
        // It is wiped already; the handle goes. (An address may come twice.)
        guard unsafe isUnique || Slot.claim(slot, handle.generation) else {
          violated(.doubleFree, handle, offset: nil)
          return
        }
        unsafe dropHandle(Int(slab.pointee.shard))
        return
      }
      try waitToWipe(for: entry)
    }
    let shardIndex = unsafe Int(slab.pointee.shard)
    let isMine =
      unsafe isUnique
      ? slot.pointee.generation == handle.generation : Slot.claim(slot, handle.generation)
    guard isMine else {
      gate.leaveWipe()
      violated(.doubleFree, handle, offset: nil)
      return
    }
    if !isUnique, let error = unsafe refusal(of: handle, slot) {
      gate.leaveWipe()
      violated(.freedWhileOpen, handle, offset: nil)
      throw error
    }
    let isFrozen = gate.isFrozen
    // Sealed ciphertext cannot be written over: its nonce and tag are forgotten, its key goes with the
    // arena. (Nobody seals meanwhile: that waits for this.)
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
            // The contents are still there, so the slot is not used again: destroying the arena
            // wipes it, or says that it cannot.
            shard.totals.failedOpens &+= 1
            shard.changes &+= 1
            shard.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
            throw error
          }
        }
      } catch {
        gate.leaveWipe()
        dropHandle(shardIndex)
        throw error
      }
    }
    let found = gate.openKey(writing: true)
    let damage = isKept ? nil : canaries.wipeContents(of: handle)
    gate.closeKey(found)
    let (aftermath, isOrphan) = withShard(shardIndex) { shard in
      if opensPages { unsafe closePages(slab, writing: true, shard: &shard) }
      let aftermath = shard.finishFree(handle, isFrozen: isFrozen, isDamaged: damage != nil)
      // What is still to be reported keeps its handle: the arena must be there for that.
      if damage != nil { shard.handles += 1 }
      return (aftermath, shard.isOrphan && damage == nil)
    }
    switch aftermath {
    case .nothing: break
    case .trim: asLibrary { _ = trim() }
    case .unmap: asLibrary { unsafe dropIsolatedSlab(slab) }
    }
    // The last that is touched of the arena, where nothing else keeps it: who drops it waits for that.
    gate.leaveWipe()
    if isOrphan { releaseOrphan() }
    guard let damage else { return }
    violated(damage < 0 ? .underflow : .overflow, handle, offset: damage)
    dropHandle(shardIndex)
  }

  func violated(_ kind: Violation.Kind, _ handle: SecretHandle, offset: Int?) {
    // A signal's wipe takes canaries and contents alike, and waits for no lock.
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
  /// Whether another shard's free slots would help.
  var isExhaustion: Bool {
    switch self {
    case .lockLimit, .memoryGroupLimit, .mapLimit, .capacity: true
    case .system(let failure): failure.call == .lockChunk || failure.errno == 12  // ENOMEM
    default: false
    }
  }
}
