// Forked children that go on with their parent's arenas: adopted programs and whole heaps, of which the
// child's data is there and nowhere else.
//
//     parent    prepare: no free is under way, every lock is held     fork(2)     parent: locks go back
//     child                                                                       child: the arenas are its own
//
// mlock(2) is not inherited, so the child locks again; "on fault", because mlock would copy each page that
// the two share until one of them writes. What it may not lock any more (RLIMIT_MEMLOCK counts by process;
// CAP_IPC_LOCK may be gone) is shown as such, and tried again. Where the parent publishes, the child does so
// in a page of its own, after the time of a tick: by then one that only runs another program has done so.
//
// Other arenas are zeros in the child, as ever. fork(2) by the C library alone runs this: after _Fork(3) or
// a raw clone(2) the child has copies that are not locked, and every call there is `inheritedByFork`.

import EnclaveStats
import EnclaveSystem

package enum ForkInheritance {
  /// What the forking thread holds, under the registry's lock.
  nonisolated(unsafe) private static var held: [(arena: ArenaReference, access: GateState.Access)] =
    []

  /// In the parent, before. False where there is nothing to inherit.
  package static func prepare() -> Bool {
    // A signal handler that interrupted the library here can wait for nothing: its child inherits nothing.
    guard ForkWatch.current != 0, !holdsLocks, let arenas = Registry.beginFork() else {
      return false
    }
    unsafe held = arenas.map { ($0, $0.beginFork()) }
    return true
  }

  /// In the parent, after; also when there is no child.
  package static func parent() {
    for (arena, access) in unsafe held.reversed() { arena.endFork(access) }
    unsafe held = []
    Registry.endFork()
  }

  package static func child() {
    let inherited = unsafe held
    unsafe held = []
    GateState.inheritProcess()
    WipeTable.reportNowhere()
    StatsPageCalls.unguardPage()
    let publishing: StatsPublisher.Options?
    do { publishing = try Registry.succeed(with: inherited.map(\.arena)) } catch {
      // Without a generation of its own it is a child like any other: every call is an error.
      for (arena, access) in inherited.reversed() { arena.endFork(access) }
      return Registry.endFork()
    }
    let generation = ForkWatch.current
    for (arena, access) in inherited.reversed() {
      arena.inherit(generation: generation)
      arena.endFork(access)
    }
    Registry.endFork()
    if inherited.contains(where: { $0.arena.lacksLocks }) { LockRetry.start() }
    guard let publishing else { return }
    // A failure is counted with its call; the process is not seen then.
    _ = try? perform(.startThread) {
      unsafe StatsPageCalls.startTicker(
        named: "enclave-stats", everyMs: publishing.tickMilliseconds, context: nil
      ) { _ in
        asLibrary { Registry.startPublishingInChild() ? 0 : 1 }
      }
    }
  }
}

extension Registry {
  /// So many ticks are tried: a worker changes its user just now, say, and what it makes is another's.
  private static var mostTries: Int { 50 }

  /// As ENCLAVE_STATS=1 starts it; unless the child has done so. Whether there is nothing left to do.
  static func startPublishingInChild() -> Bool {
    let (options, isLast) = with { state -> (StatsPublisher.Options?, Bool) in
      if state.publication != nil { state.coming = nil }
      state.triesToPublish += 1
      return (state.coming, state.triesToPublish >= mostTries)
    }
    guard let options else { return true }
    guard ProcessFacts.settledUser != nil, let number = try? startPublishing(options: options)
    else {
      return isLast
    }
    with { state in
      state.coming = nil
      guard state.publication?.number == number else { return }
      state.publication!.isKept = true
      state.publication!.isFromEnvironment = true
    }
    return true
  }
}

extension ArenaReference {
  /// Waits so long for frees that are under way: longer means that one of them waits for this fork.
  private static var patienceMilliseconds: UInt64 { 1000 }

  /// Nothing of the arena changes until `endFork`, which gets what this returns.
  fileprivate func beginFork() -> GateState.Access {
    unsafe lock(stateWord)
    var before = gate.access
    while !gate.exchangeAccess(from: before, to: .changing) { before = gate.access }
    gate.order()
    let end = ProcessFacts.bootMilliseconds + Self.patienceMilliseconds
    var tries: UInt32 = 0
    while gate.windows.wiping > 0, !gate.isWipingHere, ProcessFacts.bootMilliseconds < end {
      ProcessFacts.backOff(&tries)
    }
    for index in 0..<shardCount { unsafe lock(shardWord(index)) }
    lockCore()
    return before
  }

  fileprivate func endFork(_ access: GateState.Access) {
    unlockCore()
    for index in 0..<shardCount { unsafe unlock(shardWord(index)) }
    _ = gate.exchangeAccess(from: .changing, to: access)
    unsafe unlock(stateWord)
  }

  /// In the child. The caller holds all locks.
  fileprivate func inherit(generation: UInt64) {
    gate.inherit(generation: generation)
    for index in 0..<shardCount { unsafe header.pointee.shards[index].leavePage() }
    unsafe header.pointee.core.pointee.inherit()
  }
}

extension Shard {
  /// The page is the parent's, and not there: nothing is written to it.
  fileprivate mutating func leavePage() {
    page = nil
    hasNews = false
  }
}

extension ArenaCore {
  fileprivate mutating func inherit() {
    leavePage()
    // What other threads of the parent had begun to map is nobody's here.
    growing = 0
    bytesComing = 0
    for index in 0..<chunks.count where chunks[index].isMapped {
      let chunk = unsafe chunks.pointer(at: index)
      unsafe chunk.pointee.isAwaited = false
      unsafe chunk.pointee.lockedBytes = 0
      if unsafe chunk.pointee.isLocked { lockAgain(index) }
    }
    changes &+= 1
  }

  private mutating func lockAgain(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    let mapping = unsafe chunk.pointee.mapping
    do throws(SystemFailure) { try mapping.lockOnFault() } catch {
      unsafe chunk.pointee.isLocked = false
      unsafe chunk.pointee.lockErrno = error.errno
      bytesLocked -= mapping.byteCount
      noteLockFailure(
        error,
        LockFailure(
          errno: error.errno, atMs: ProcessFacts.bootMilliseconds,
          bytesInUse: ProcessFacts.lockedBytes(), soft: (try? ProcessFacts.memlockLimit())?.soft),
        byteCount: mapping.byteCount)
    }
  }

  private mutating func leavePage() {
    guard page != nil else { return }
    page = nil
    for index in 0..<labels.entries.count {
      unsafe labels.entries.pointer(at: index).pointee.record = PageRecord.none
    }
    for index in 0..<chunks.count {
      unsafe chunks.pointer(at: index).pointee.record = PageRecord.none
      unsafe chunks.pointer(at: index).pointee.mapSum = nil
    }
    for index in 0..<slabs.count {
      let slab = unsafe slabs[index].slab
      let slots = unsafe Slab.slots(of: slab)
      for slot in unsafe 0..<Int(slab.pointee.slotCount) {
        unsafe slots[slot].record = PageRecord.none
        unsafe slots[slot].listedGeneration = 0
      }
      unsafe slab.pointee.listed = [0, 0]
      unsafe slab.pointee.unlisted = 0
      unsafe slab.pointee.hasNews = false
    }
  }
}
