// Windows, allocation and free: what takes which lock when.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Allocate

  func allocate(
    _ request: Lane.Request, key: LabelKey
  ) throws(EnclaveError) -> Place {
    // Before any lock: another thread of the parent may have held it when the child was made.
    guard gate.isOwn else { throw .inheritedByFork }
    let mine = Gate.thread & (laneCount - 1)
    do {
      return try withLane(mine) { lane throws(EnclaveError) in
        try checkAllocatable()
        return try allocate(request, key, &lane)
      }
    } catch {
      if error.isExhaustion {
        // What this lane lacks may lie free in another.
        for index in 0..<laneCount where index != mine {
          let place = try withLane(index) { lane throws(EnclaveError) -> Place? in
            guard gate.access == .open, lane.hasRoom(for: request) else { return nil }
            return try allocate(request, key, &lane)
          }
          if let place { return place }
        }
      }
      withLane(mine) { $0.failed(error) }
      throw error
    }
  }

  private func allocate(
    _ request: Lane.Request, _ key: LabelKey, _ lane: inout Lane
  ) throws(EnclaveError) -> Place {
    var label = lane.labels.find(key)
    if label == nil {
      let found = withCore { core in
        let (label, isNew) = core.labels.find(key)
        if isNew { core.publishNewLabel(label) }
        return label
      }
      lane.labels.add(key, found)
      label = found
    }
    return unsafe try lane.allocate(request, label: label.unsafelyUnwrapped)
  }

  /// Whether the arena can be allocated from. (While it is being changed it still can: the change
  /// waits for the lanes.)
  private func checkAllocatable() throws(EnclaveError) {
    if gate.accessCode == 0 { return }
    switch gate.access {
    case .open, .changing: return
    case .frozen: throw .frozen
    case .destroyed: throw .destroyed
    }
  }

  func addSlabRun(
    _ sizeClass: Int, lane: inout Lane
  ) throws(EnclaveError) -> UnsafeMutablePointer<Run> {
    let index = lane.index
    let run = unsafe try withCore { core throws(EnclaveError) in
      unsafe try core.carveRun(sizeClass, lane: index)
    }
    let payload = SizeClass.all[sizeClass].payload
    do {
      // Canaries are written once, while the run is new; a wipe stops short of them.
      unsafe try withLibraryWindow(run, lane: &lane) {
        for slot in unsafe 0..<Int(run.pointee.slotCount) {
          unsafe canaries.write(behind: run.pointee.base + slot * run.pointee.slotBytes + payload)
        }
      }
    } catch {
      // Another lane may have carved behind it: then its pages stay with the arena, unused.
      withCore { core in
        if core.runs.count > 0, unsafe core.runs[core.runs.count - 1].run == run {
          unsafe core.uncarve(run)
        }
      }
      throw error
    }
    return unsafe run
  }

  func addIsolatedRun(
    _ byteCount: Int, lane: inout Lane
  ) throws(EnclaveError) -> UnsafeMutablePointer<Run> {
    let index = lane.index
    return unsafe try withCore { core throws(EnclaveError) in
      unsafe try core.makeIsolatedRun(byteCount, lane: index)
    }
  }

  // MARK: - The library's own window

  /// How far pages are open while nobody has a window.
  var closed: Protection {
    switch mechanism {
    case .pages: .closed
    case .key: .readWrite
    case .none: gate.isFrozen ? .read : .readWrite
    }
  }

  /// Whether windows open and close pages. (A switch: `==` on an enumeration was not inlined.)
  @inline(__always)
  var hasPageGate: Bool {
    switch mechanism {
    case .pages: true
    case .key, .none: false
    }
  }

  /// Whether writing needs pages to be opened.
  @inline(__always)
  var isClosedByPages: Bool {
    switch mechanism {
    case .pages: true
    case .key: false
    case .none: gate.isFrozen
    }
  }

  /// Opens a run for the library itself. The caller holds the lane's lock.
  func withLibraryWindow(
    _ run: UnsafeMutablePointer<Run>, lane: inout Lane, _ body: () -> Void
  ) throws(EnclaveError) {
    if hasPageGate { unsafe try openPages(run, writing: true, lane: &lane) }
    let found = gate.openKey(writing: true)
    body()
    gate.closeKey(found)
    if hasPageGate { unsafe closePages(run, writing: true, lane: &lane) }
  }

  // MARK: - Windows under a page gate

  /// Opens a run's pages as far as one more window needs it. The caller holds the lane's lock.
  func openPages(
    _ run: UnsafeMutablePointer<Run>, writing: Bool, lane: inout Lane
  ) throws(EnclaveError) {
    let wanted: Protection = writing ? .readWrite : .read
    if unsafe run.pointee.needed(closed).rawValue < wanted.rawValue {
      do {
        unsafe try setProtection(wanted, at: run.pointee.base, byteCount: run.pointee.byteCount)
      } catch {
        throw ArenaCore.mapLimit(or: error)
      }
    }
    if writing { unsafe run.pointee.writers += 1 } else { unsafe run.pointee.readers += 1 }
  }

  /// Closes a run's pages as far as the windows that are left allow.
  func closePages(_ run: UnsafeMutablePointer<Run>, writing: Bool, lane: inout Lane) {
    let before = unsafe run.pointee.needed(closed)
    if writing { unsafe run.pointee.writers -= 1 } else { unsafe run.pointee.readers -= 1 }
    let after = unsafe run.pointee.needed(closed)
    guard before != after else { return }
    if unsafe closeAgain(run.pointee.base, run.pointee.byteCount, to: after) {
      if unsafe run.pointee.stuck != .closed {
        unsafe lane.totals.stuckPages -= run.pointee.byteCount / Page.size
        unsafe run.pointee.stuck = .closed
        lane.changes &+= 1
      }
    } else {
      unsafe markStuck(run, lane: &lane)
    }
  }

  func markStuck(_ run: UnsafeMutablePointer<Run>, lane: inout Lane) {
    if unsafe run.pointee.stuck == .closed {
      unsafe lane.totals.stuckPages += run.pointee.byteCount / Page.size
    }
    unsafe run.pointee.stuck = .readWrite
    lane.changes &+= 1
    unsafe lane.page?.writer.event(.closeFailed, arena: id, bytes: UInt64(run.pointee.byteCount))
  }

  // MARK: - Entering

  /// What is rare when a window is opened. Returns when it is to be tried again. No lock, no
  /// malloc(3): it may be a signal handler that opens.
  @inline(never)
  func wait(for entry: Int32, label: UInt16) throws(EnclaveError) {
    switch Gate.Entry(rawValue: entry) {
    case .open, nil: return
    case .noShard:
      do { try gate.makeShard(label: label) } catch { throw .system(error) }
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
    guard Gate.Entry(rawValue: entry) == .changing else { return try wait(for: entry, label: 0) }
    var tries: UInt32 = 0
    while gate.access == .changing { ProcessFacts.backOff(&tries) }
  }

  /// Whether this code runs in a signal handler that interrupted the library in this thread: nothing
  /// can be waited for then.
  var isInterruptedHere: Bool { holdsLocks || gate.isWipingHere }

  /// A window that could not be opened, for the counts. Waits for no lock.
  @inline(never)
  func openFailed(_ place: Place, _ error: EnclaveError) {
    guard gate.isOwn else { return }
    let word = unsafe laneWord(Int(place.run.pointee.lane))
    guard !isInterruptedHere, unsafe tryLock(word) else { return gate.missOpen() }
    defer { unsafe unlock(word) }
    let lane = unsafe header.pointee.lanes.place(Int(place.run.pointee.lane))
    unsafe lane.pointee.totals.failedOpens &+= 1
    unsafe lane.pointee.changes &+= 1
    unsafe lane.pointee.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
  }

  // MARK: - Free

  /// Wipes a secret and takes its slot back. A handle of Swift is nobody else's; what C holds may
  /// be freed by two threads at once, and one of them must win before either wipes.
  func free(_ place: Place, isUnique: Bool = true) throws(EnclaveError) {
    let run = unsafe place.run
    let slot = unsafe Run.slots(of: run) + Int(place.slot)
    unsafe prefetch(slot)
    unsafe prefetch(run)
    unsafe prefetch(UnsafeRawPointer(run) + 64)
    unsafe prefetch(place.address)
    unsafe prefetch(place.address + Int(place.byteCount))
    while true {
      let entry = gate.enterWipe()
      if entry == 0 { break }
      if entry == Gate.Entry.destroyed.rawValue {
        // It is wiped already; the handle goes. (An address may come twice.)
        guard unsafe isUnique || Slot.claim(slot, place.generation) else {
          violated(.doubleFree, place, offset: nil)
          return
        }
        unsafe dropHandle(Int(run.pointee.lane))
        return
      }
      try waitToWipe(for: entry)
    }
    let laneIndex = unsafe Int(run.pointee.lane)
    let isMine =
      unsafe isUnique
      ? slot.pointee.generation == place.generation : Slot.claim(slot, place.generation)
    guard isMine else {
      gate.leaveWipe()
      violated(.doubleFree, place, offset: nil)
      return
    }
    if !isUnique, let error = unsafe refusal(of: place, slot) {
      gate.leaveWipe()
      violated(.freedWhileOpen, place, offset: nil)
      throw error
    }
    let isFrozen = gate.isFrozen
    let opensPages = isClosedByPages
    if opensPages {
      do throws(EnclaveError) {
        try withLane(laneIndex) { lane throws(EnclaveError) in
          do throws(EnclaveError) {
            unsafe try openPages(run, writing: true, lane: &lane)
          } catch {
            // The contents are still there, so the slot is not used again: destroying the arena
            // wipes it, or says that it cannot.
            lane.totals.failedOpens &+= 1
            lane.changes &+= 1
            lane.page?.writer.event(.openFailed, arena: id, failure: error.systemFailure)
            throw error
          }
        }
      } catch {
        gate.leaveWipe()
        dropHandle(laneIndex)
        throw error
      }
    }
    let found = gate.openKey(writing: true)
    let damage = canaries.wipeContents(of: place)
    gate.closeKey(found)
    let (isLarge, isOrphan) = withLane(laneIndex) { lane in
      if opensPages { unsafe closePages(run, writing: true, lane: &lane) }
      let isLarge = lane.finishFree(place, isFrozen: isFrozen, isDamaged: damage != nil)
      // What is still to be reported keeps its handle: the arena must be there for that.
      if damage != nil { lane.handles += 1 }
      return (isLarge, lane.isOrphan && damage == nil)
    }
    if isLarge { withCore { unsafe $0.dropIsolatedRun(run) } }
    // The last that is touched of the arena, where nothing else keeps it: who drops it waits for that.
    gate.leaveWipe()
    if isOrphan { releaseOrphan() }
    guard let damage else { return }
    violated(damage < 0 ? .underflow : .overflow, place, offset: damage)
    dropHandle(laneIndex)
  }

  func violated(_ kind: Violation.Kind, _ place: Place, offset: Int?) {
    // A signal's wipe takes canaries and contents alike, and waits for no lock.
    if gate.isWiped { return }
    let label = withCore { core in
      core.page?.writer.event(.corruption, arena: id, bytes: UInt64(place.byteCount))
      return core.labels.entries[Int(place.label)].text
    }
    ViolationHandler.report(
      Violation(
        kind: kind, arena: "\(name)", label: String(decoding: label, as: UTF8.self),
        byteCount: Int(place.byteCount), offset: offset))
  }
}

extension EnclaveError {
  /// Whether another lane's free slots would help.
  var isExhaustion: Bool {
    switch self {
    case .lockLimit, .mapLimit, .capacity: true
    case .system(let failure): failure.call == .lockChunk || failure.call == .reserveChunk
    default: false
    }
  }
}
