// Forked children that continue with their parent's arenas. For adopted programs and whole heaps,
// whose children need the data.
//
//     parent    prepare: frees finish, every lock is taken    fork(2)    parent: locks are released
//     child                                                              child: takes over the arenas
//
// A child does not inherit mlock(2), so it locks again; "on fault", because mlock would copy each
// page that the two processes share until one of them writes. What the child may not lock
// (RLIMIT_MEMLOCK is counted per process, and CAP_IPC_LOCK may be gone) is shown as unlocked and
// retried. If the parent publishes, the child does so too, in a page of its own, after one tick: by
// then a child that only executes another program has done so.
//
// Other arenas are zeros in the child, as always. Only the C library's fork(2) runs these handlers:
// after _Fork(3) or a raw clone(2) the child has unlocked copies, and every call throws
// `inheritedByFork`.

import EnclaveStats
import EnclaveSystem

package enum ForkInheritance {
  /// The arenas that the forking thread has locked, and their access before. Guarded by the
  /// registry's lock.
  nonisolated(unsafe) private static var held: [(arena: ArenaReference, access: GateState.Access)] =
    []

  /// In the parent, before the fork. Returns false if there is nothing to inherit.
  package static func prepare() -> Bool {
    // A signal handler that interrupted the library must not wait for locks; its child inherits
    // nothing.
    guard ForkWatch.current != 0, !holdsLocks, let arenas = Registry.beginFork() else {
      return false
    }
    unsafe held = arenas.map { ($0, $0.beginFork()) }
    return true
  }

  /// In the parent, after the fork, even if it failed.
  package static func parent() {
    for (arena, access) in unsafe held.reversed() { arena.endFork(access) }
    unsafe held = []
    Registry.endFork()
  }

  package static func child() {
    let inherited = unsafe held
    unsafe held = []
    GateState.inheritProcess()
    WipeTable.stopReporting()
    StatsPageCalls.unguardPage()
    let publishing: StatsPublisher.Options?
    do { publishing = try Registry.adoptInChild(inherited.map(\.arena)) } catch {
      // Without its own generation this is an ordinary child: every call throws.
      for (arena, access) in inherited.reversed() { arena.endFork(access) }
      return Registry.endFork()
    }
    let generation = ForkWatch.current
    for (arena, access) in inherited.reversed() {
      arena.inherit(generation: generation)
      arena.endFork(access)
    }
    Registry.endFork()
    let isLockMissing = inherited.contains { $0.arena.hasUnlockedChunks }
    // Before the child can change its root.
    if isLockMissing || publishing != nil { KeptStatus.keepInChild() }
    if isLockMissing { LockRetry.start() }
    guard let publishing else { return }
    // A failure is counted with its call; memwatch then does not see the process.
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
  /// How many ticks to try: a worker may just be changing its user, and its page would belong to
  /// the wrong one.
  private static var maximumTries: Int { 50 }

  /// Starts publishing as ENCLAVE_STATS=1 does, unless the child has done so itself. Returns
  /// whether there is nothing left to do.
  static func startPublishingInChild() -> Bool {
    let (options, isLast) = with { state -> (StatsPublisher.Options?, Bool) in
      if state.publication != nil { state.pendingOptions = nil }
      state.publishAttempts += 1
      return (state.pendingOptions, state.publishAttempts >= maximumTries)
    }
    guard let options, !SystemCallFilter.isMissingHere() else { return true }
    guard ProcessFacts.soleUser != nil, let number = try? startPublishing(options: options)
    else {
      return isLast
    }
    with { state in
      state.pendingOptions = nil
      guard state.publication?.number == number else { return }
      state.publication!.isKept = true
      state.publication!.isFromEnvironment = true
    }
    return true
  }
}

extension ArenaReference {
  /// How long to wait for frees in progress. A longer free must itself be waiting for this fork.
  private static var patienceMilliseconds: UInt64 { 1000 }

  /// Locks the arena until `endFork`, which takes the returned access.
  fileprivate func beginFork() -> GateState.Access {
    unsafe lock(stateWord)
    var before = gate.access
    while !gate.exchangeAccess(from: before, to: .changing) { before = gate.access }
    gate.runBarrier()
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

  /// In the child, with all locks held: makes the arena belong to this process.
  fileprivate func inherit(generation: UInt64) {
    gate.inherit(generation: generation)
    for index in 0..<shardCount { unsafe header.pointee.shards[index].dropPage() }
    unsafe header.pointee.core.pointee.inherit()
  }
}

extension Shard {
  /// The page is the parent's and not mapped here, so nothing may be written to it.
  fileprivate mutating func dropPage() {
    page = nil
    hasUnpublishedChanges = false
  }
}

extension ArenaCore {
  fileprivate mutating func inherit() {
    dropPage()
    // Chunks that other threads of the parent were mapping do not exist here.
    pendingChunks = 0
    pendingBytes = 0
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
      recordLockFailure(
        error,
        LockFailure(
          errno: error.errno, atMs: ProcessFacts.bootMilliseconds,
          bytesInUse: ProcessFacts.lockedBytes(), soft: (try? ProcessFacts.memlockLimit())?.soft),
        byteCount: mapping.byteCount)
    }
  }

  private mutating func dropPage() {
    guard let listed = unsafe page?.writer.listedWindows else { return }
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
        unsafe Slot.uncountListedOpens(slots + slot, listed)
        unsafe slots[slot].record = PageRecord.none
        unsafe slots[slot].listedGeneration = 0
      }
      unsafe slab.pointee.listed = [0, 0]
      unsafe slab.pointee.unlisted = 0
      unsafe slab.pointee.hasUnpublishedChanges = false
    }
  }
}
