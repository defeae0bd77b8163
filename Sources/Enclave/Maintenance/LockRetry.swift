// Retries locks that failed.

import EnclaveStats
import EnclaveSystem

/// Locks chunks of arenas with `lock: .preferred` that mlock(2) refused, once RLIMIT_MEMLOCK was
/// raised (prlimit(2)) or other memory was unlocked.
///
/// Uses a thread of its own, whether or not the process publishes. The thread starts with the first
/// chunk that cannot be locked, checks once a second, and ends when everything is locked. A forked
/// child has no such thread, because its parent's arenas are not its own.
enum LockRetry {
  static let intervalMs: UInt32 = 1000

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  /// The process that has the thread; 0: none.
  nonisolated(unsafe) private static var process: Int32 = 0

  private static func withWord<R>(_ body: () -> R) -> R {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    return body()
  }

  /// Starts the thread if an arena has a chunk that should be locked. Called without locks. If no
  /// thread can be created, the failure is counted, and the next such chunk tries again.
  static func start() {
    let isFirst = withWord {
      let isFirst = unsafe process != ProcessFacts.pid
      unsafe process = ProcessFacts.pid
      return isFirst
    }
    guard isFirst else { return }
    if Registry.hasAdopted { KeptStatus.keep() }
    do throws(SystemFailure) {
      try perform(.startThread) {
        unsafe StatsPageCalls.startTicker(
          named: "enclave-locks", everyMs: intervalMs, context: nil
        ) { _ in asLibrary { LockRetry.tick() ? 1 : 0 } }
      }
    } catch { withWord { unsafe process = 0 } }
  }

  /// Returning false ends the thread.
  private static func tick() -> Bool {
    // An adopted program that filters its system calls does not expect a thread that is not filtered.
    if Registry.hasAdopted {
      KeptStatus.keep()
      if SystemCallFilter.isMissingHere() {
        withWord { unsafe process = 0 }
        return false
      }
    }
    if let soft = (try? ProcessFacts.memlockLimit())?.soft {
      if soft == .max {
        retry(headroom: .max)
      } else if let locked = ProcessFacts.lockedBytes() {
        retry(headroom: soft > locked ? soft - locked : 0)
      }
    }
    // Under the lock: a chunk that is added after this check finds no thread and starts one.
    return withWord {
      var isNeeded = false
      Registry.forEachArena { if $0.hasUnlockedChunks { isNeeded = true } }
      if !isNeeded { unsafe process = 0 }
      return isNeeded
    }
  }

  private static func retry(headroom: UInt64) {
    var headroom = MemoryGroup.tooSmall(for: headroom).map { min($0.room, headroom) } ?? headroom
    Registry.forEachArena { headroom = $0.retryLocks(headroom: headroom) }
  }
}

extension ArenaReference {
  /// Whether a chunk should be locked but is not.
  var hasUnlockedChunks: Bool {
    options.lock == .preferred && withCore { !$0.isDestroyed && $0.bytesLocked < $0.bytesMapped }
  }

  /// Locks chunks that could not be locked before, using at most `headroom` bytes of
  /// RLIMIT_MEMLOCK, and returns what is left of it. Call it without locks: it takes the arena's
  /// locks for one piece of a chunk at a time, so that nobody waits for mlock(2) of a large chunk.
  func retryLocks(headroom: UInt64) -> UInt64 {
    guard hasUnlockedChunks else { return headroom }
    var headroom = headroom
    var isMore = true
    while isMore {
      isMore = withEverything { _, core in
        // mlock(2) needs readable pages, which are then closed again, so no window may be open.
        // (Locking on fault does not: adopted programs hold windows open forever.) Freezing changes
        // pages without these locks.
        let windows = gate.windows
        if core.isDestroyed || core.isFrozenOrFreezing != gate.isFrozen
          || mechanism == .pages && !options.isLockedOnFault
            && windows.open + windows.wiping > 0
        {
          return false
        }
        return core.lockPiece(&headroom)
      }
    }
    return headroom
  }
}

extension ArenaCore {
  /// How much is locked at once: a slab chunk, or part of a larger one.
  private static let pieceBytes = Chunk.largestPages * Page.size

  /// Locks the next piece of an unlocked chunk that fits into the headroom. Returns false if there
  /// is none, or if the kernel refused. The caller holds all locks, and under a page gate no window
  /// is open.
  fileprivate mutating func lockPiece(_ headroom: inout UInt64) -> Bool {
    for index in 0..<chunks.count where chunks[index].isMapped && !chunks[index].isLocked {
      let chunk = unsafe chunks.pointer(at: index)
      let (mapping, done) = unsafe (chunk.pointee.mapping, chunk.pointee.lockedBytes)
      // All of a chunk or nothing: half a chunk would be charged to the limit without protecting
      // anything.
      guard UInt64(mapping.byteCount - done) <= headroom else { continue }
      let byteCount = min(Self.pieceBytes, mapping.byteCount - done)
      guard unsafe lock(mapping.data + done, byteCount, ofChunk: index) else {
        headroom += UInt64(done)
        unsafe chunk.pointee.lockedBytes = 0
        if done > 0 { _ = try? mapping.unlock() }
        return false
      }
      headroom -= UInt64(byteCount)
      unsafe chunk.pointee.lockedBytes += byteCount
      if done + byteCount == mapping.byteCount { recordLocked(index) }
      return true
    }
    return false
  }

  /// mlock(2) of a part of a chunk, which is opened for that.
  private mutating func lock(
    _ address: UnsafeMutableRawPointer, _ byteCount: Int, ofChunk index: Int
  ) -> Bool {
    if options.isLockedOnFault {
      return unsafe (try? lockPages(address, byteCount: byteCount, onFault: true)) != nil
    }
    let isPages = mechanism == .pages
    if isPages, unsafe (try? setProtection(.read, at: address, byteCount: byteCount)) == nil {
      // The call may have opened the first of several mappings.
      unsafe close(address, byteCount, ofChunk: index)
      return false
    }
    // Open for writing: mlock(2) faults private pages in like a write, under the thread's own key.
    let found = arena.gate.openKey(writing: true)
    let isLocked = unsafe (try? lockPages(address, byteCount: byteCount)) != nil
    arena.gate.closeKey(found)
    if isPages, isLocked { unsafe lockPagesOnFault(address, byteCount: byteCount) }
    if isPages { unsafe close(address, byteCount, ofChunk: index) }
    return isLocked
  }

  private func close(_ address: UnsafeMutableRawPointer, _ byteCount: Int, ofChunk index: Int) {
    if unsafe closeWithRetry(address, byteCount) { return }
    for number in 0..<slabs.count where unsafe slabs[number].slab.pointee.chunk == UInt32(index) {
      unsafe arena.markStuck(
        slabs[number].slab,
        shard: &arena.header.pointee.shards[Int(slabs[number].slab.pointee.shard)])
    }
  }

  private mutating func recordLocked(_ index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    let byteCount = unsafe chunk.pointee.mapping.byteCount
    unsafe chunk.pointee.isLocked = true
    unsafe chunk.pointee.lockErrno = 0
    bytesLocked += byteCount
    peakBytesLocked = max(peakBytesLocked, bytesLocked)
    changes &+= 1
    page?.writer.event(.lockRestored, arena: arena.id, bytes: UInt64(byteCount))
    republishChunk(index)
  }
}
