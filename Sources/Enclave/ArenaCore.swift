// The arena's insides: a structure in raw memory that the Arena object and the secrets' handles
// point to, so that a handle is trivial and no reference count moves on the hot path.
//
// Theory of operation
//
//   chunk   one mapping: guard page | data pages | guard page. Locked, kept out of dumps and
//           forks as a whole. Slab chunks start at 4 pages and double up to 64; an isolated
//           secret has a chunk to itself, and leaves it to the next of as many pages.
//   run     1, 2 or 4 pages of a slab chunk that belong to one size class (or all of an isolated
//           chunk): the unit that a page gate opens and closes.
//   slot    one secret's place in a run:  | payload … zeros | canary, 16 bytes |
//           A free slot is zero and has its canary already, so that allocating opens nothing.
//
// What is known about slots (12 bytes each), runs and chunks lies in ordinary memory, outside of
// the secret pages: an overflow cannot reach it, and reading it opens nothing.
//
// Each size class has a list of runs with free slots; a run has a list of its free slots. Both are
// LIFO: the slot that is warm in the cache is used next. Allocate and free are O(1), but for the
// growth by a chunk.
//
// Locking: one spin word an arena. Whoever calls a method of ArenaCore holds it; it is taken
// outside of the methods (`withCore`), because `self` is exclusive inside of them and the compiler
// may keep fields of it in registers.

import EnclaveStats
import EnclaveSystem

/// What is known about one slot.
struct Slot: BitwiseCopyable {
  /// Raised by each free: a handle with another generation is stale.
  var generation: UInt32 = 0
  var byteCount: UInt32 = 0
  var label: UInt16 = 0
  /// The next free slot of the run.
  var nextFree: UInt16 = 0
}

/// What a listed secret's record on the page says that cannot be derived from elsewhere.
struct Listing: BitwiseCopyable {
  static let none = UInt32.max
  var record: UInt32 = Listing.none
  var openNow: UInt32 = 0
  var opens: UInt64 = 0
}

@safe
struct Chunk: BitwiseCopyable {
  var mapping: GuardedMapping
  var isMapped = true
  var isLocked = false
  var isIsolated: Bool
  var lockErrno: Int32 = 0
  var carvedBytes = 0
  var record: UInt32 = Listing.none
}

@safe
struct Run: BitwiseCopyable {
  static let none = UInt32.max
  static let isolatedClass: UInt8 = 0xff
  static let endOfList = UInt16.max

  var base: UnsafeMutableRawPointer
  var byteCount: Int
  var slots: UnsafeMutablePointer<Slot>
  var listings: UnsafeMutablePointer<Listing>?
  var chunk: UInt32
  var slotBytes: Int
  var slotCount: UInt16
  var sizeClass: UInt8
  /// Pages that could not be closed again: how far they are open.
  var stuck: Protection = .closed
  var freeHead: UInt16 = 0
  var live: UInt16 = 0
  var next = Run.none
  var previous = Run.none
  var readers: UInt32 = 0
  var writers: UInt32 = 0

  var isFull: Bool { live == slotCount }
  var isIsolated: Bool { sizeClass == Run.isolatedClass }
  /// How far the pages must be open for the windows there are.
  var needed: Protection { writers > 0 ? .readWrite : readers > 0 ? .read : .closed }
}

/// Where a secret is.
@safe
struct Place: BitwiseCopyable {
  var address: UnsafeMutableRawPointer
  var run: UInt32
  var slot: UInt16
  var generation: UInt32
  var byteCount: Int
}

struct Totals: BitwiseCopyable {
  var secrets = 0
  var bytesInUse = 0
  var bytesMapped = 0
  var bytesLocked = 0
  var chunks = 0
  var allocations: UInt64 = 0
  var frees: UInt64 = 0
  var opens: UInt64 = 0
  var opensForWriting: UInt64 = 0
  var failedAllocations: UInt64 = 0
  var failedLocks: UInt64 = 0
  var failedOpens: UInt64 = 0
  var corruptions: UInt64 = 0
  var peakSecrets = 0
  var peakBytesInUse = 0
  var peakBytesLocked = 0
  var stuckPages = 0
  var openReads = 0
  var openWrites = 0
  var openWindows: Int { openReads + openWrites }
}

/// The last lock that failed.
struct LockFailure: BitwiseCopyable {
  var errno: Int32
  var atMs: UInt64
  var bytesInUse: UInt64?
  var soft: UInt64?
}

/// What of an arena is read without its lock, in front of the core in the same block of memory:
/// the lock, and what never changes.
@safe
struct ArenaHeader {
  static let bytes = 128

  let lockWord: UnsafeMutablePointer<UInt32>
  let forkGeneration: UInt64
  let name: StaticString
  let canaries: Canaries
}

extension UnsafeMutablePointer<ArenaCore> {
  var header: ArenaHeader {
    let start = unsafe UnsafeRawPointer(self) - ArenaHeader.bytes
    return unsafe start.assumingMemoryBound(to: ArenaHeader.self).pointee
  }

  /// Makes the block: header and core.
  static func make(_ header: ArenaHeader, _ core: ArenaCore) -> UnsafeMutablePointer<ArenaCore> {
    precondition(MemoryLayout<ArenaHeader>.size <= ArenaHeader.bytes)
    let block = UnsafeMutableRawPointer.allocate(
      byteCount: ArenaHeader.bytes + MemoryLayout<ArenaCore>.size, alignment: 64)
    unsafe block.bindMemory(to: ArenaHeader.self, capacity: 1).initialize(to: header)
    let place = unsafe (block + ArenaHeader.bytes).bindMemory(to: ArenaCore.self, capacity: 1)
    unsafe place.initialize(to: core)
    return unsafe place
  }

  /// Frees the block; the metadata is freed already.
  func free() {
    unsafe header.lockWord.deallocate()
    unsafe deinitialize(count: 1)
    unsafe (UnsafeMutableRawPointer(self) - ArenaHeader.bytes).deallocate()
  }
}

@safe
struct ArenaCore {
  let id: UInt64
  let name: StaticString
  let options: Arena.Options
  let createdAtMs: UInt64
  let canaries: Canaries

  var isDestroyed = false
  /// Handles of live secrets, and 1 for the Arena object. The core is freed when it falls to 0.
  var references = 1
  /// Secrets being wiped outside of the lock.
  var wiping = 0

  var chunks = RawList<Chunk>()
  var runs = RawList<Run>()
  /// Runs with a free slot: one list for each size class, then one for each number of pages of
  /// isolated runs (1 to 16).
  let heads: UnsafeMutablePointer<UInt32>
  var carving = Run.none  // the slab chunk that runs are cut from
  var deadRuns = RawList<UInt32>()
  var deadChunks = RawList<UInt32>()
  var liveByClass: UnsafeMutablePointer<UInt32>
  var freeByClass: UnsafeMutablePointer<UInt32>
  var slabBytes = 0
  var forkProtection: ForkProtection?

  var labels = LabelTable()
  var totals = Totals()
  var lockFailure: LockFailure?
  var page: ArenaPage?

  static let isolatedLists = 16
  static let listCount = SizeClass.all.count + isolatedLists
  static let firstChunkPages = 4
  static let largestChunkPages = 64

  init(
    id: UInt64, name: StaticString, options: Arena.Options,
    canaries: Canaries
  ) {
    self.id = id
    self.name = name
    self.options = options
    self.canaries = canaries
    createdAtMs = ProcessFacts.bootMilliseconds
    unsafe heads = .allocate(capacity: Self.listCount)
    unsafe heads.initialize(repeating: Run.none, count: Self.listCount)
    unsafe liveByClass = .allocate(capacity: SizeClass.all.count)
    unsafe liveByClass.initialize(repeating: 0, count: SizeClass.all.count)
    unsafe freeByClass = .allocate(capacity: SizeClass.all.count)
    unsafe freeByClass.initialize(repeating: 0, count: SizeClass.all.count)
  }

  /// Frees the metadata. The chunks are gone already.
  mutating func deallocate() {
    for index in 0..<runs.count {
      unsafe runs[index].slots.deallocate()
      unsafe runs[index].listings?.deallocate()
    }
    chunks.deallocate()
    runs.deallocate()
    deadRuns.deallocate()
    deadChunks.deallocate()
    labels.deallocate()
    unsafe heads.deallocate()
    unsafe liveByClass.deallocate()
    unsafe freeByClass.deallocate()
  }

  // MARK: - Lists of runs

  private func head(of run: Run) -> UnsafeMutablePointer<UInt32>? {
    if !run.isIsolated { return unsafe heads + Int(run.sizeClass) }
    let pages = run.byteCount / Page.size
    return unsafe pages <= Self.isolatedLists ? heads + SizeClass.all.count + pages - 1 : nil
  }

  private mutating func pushRun(_ index: UInt32) {
    let run = unsafe runs.place(Int(index))
    guard let head = unsafe head(of: run.pointee) else { return }
    unsafe run.pointee.previous = Run.none
    unsafe run.pointee.next = unsafe head.pointee
    if unsafe head.pointee != Run.none {
      unsafe runs.place(Int(head.pointee)).pointee.previous = index
    }
    unsafe head.pointee = index
  }

  private mutating func removeRun(_ index: UInt32) {
    let run = unsafe runs.place(Int(index))
    guard let head = unsafe head(of: run.pointee) else { return }
    let (previous, next) = unsafe (run.pointee.previous, run.pointee.next)
    if previous != Run.none {
      unsafe runs.place(Int(previous)).pointee.next = next
    } else if unsafe head.pointee == index {
      unsafe head.pointee = next
    }
    if next != Run.none { unsafe runs.place(Int(next)).pointee.previous = previous }
    unsafe run.pointee.next = Run.none
    unsafe run.pointee.previous = Run.none
  }

  // MARK: - Allocate

  mutating func allocate(
    byteCount: Int, alignment: Int, label: UInt16
  ) throws(EnclaveError) -> Place {
    do {
      let place = try takePlace(byteCount: byteCount, alignment: alignment)
      let run = unsafe runs.place(Int(place.run))
      let slot = unsafe run.pointee.slots + Int(place.slot)
      unsafe slot.pointee.byteCount = UInt32(byteCount)
      unsafe slot.pointee.label = label
      references += 1
      totals.secrets += 1
      totals.bytesInUse += byteCount
      totals.allocations &+= 1
      totals.peakSecrets = max(totals.peakSecrets, totals.secrets)
      totals.peakBytesInUse = max(totals.peakBytesInUse, totals.bytesInUse)
      if unsafe run.pointee.sizeClass != Run.isolatedClass {
        unsafe liveByClass[Int(run.pointee.sizeClass)] += 1
        unsafe freeByClass[Int(run.pointee.sizeClass)] -= 1
      }
      labels.allocated(label, byteCount: byteCount)
      if page != nil { unsafe publishAllocation(run: run, slotIndex: place.slot, label: label) }
      return place
    } catch {
      totals.failedAllocations &+= 1
      if let page {
        page.writer.event(.allocationFailed, arena: id, failure: error.systemFailure)
        publishTotals()
      }
      throw error
    }
  }

  private mutating func takePlace(
    byteCount: Int, alignment: Int
  ) throws(EnclaveError) -> Place {
    guard byteCount >= 0, byteCount <= 1 << 31, alignment > 0, alignment <= Page.size,
      alignment & (alignment - 1) == 0
    else { throw .invalidSize(byteCount: byteCount, alignment: alignment) }
    // Slots are aligned to 16; more takes slack before the data.
    let slotRequest = byteCount + (alignment > 16 ? alignment - 16 : 0)
    guard options.layout == .slab, slotRequest <= SizeClass.largest else {
      return try takeIsolatedPlace(byteCount: byteCount, alignment: alignment)
    }
    let sizeClass = SizeClass.index(for: slotRequest)
    if unsafe heads[sizeClass] == Run.none { try addSlabRun(sizeClass) }
    let runIndex = unsafe heads[sizeClass]
    let run = unsafe runs.place(Int(runIndex))
    let slot = unsafe popSlot(run)
    if unsafe run.pointee.isFull { removeRun(runIndex) }
    let start = unsafe run.pointee.base + Int(slot) * run.pointee.slotBytes
    let address = unsafe start.alignedUp(toMultipleOf: alignment)
    return unsafe Place(
      address: address, run: runIndex, slot: slot,
      generation: run.pointee.slots[Int(slot)].generation, byteCount: byteCount)
  }

  private func popSlot(_ run: UnsafeMutablePointer<Run>) -> UInt16 {
    let slot = unsafe run.pointee.freeHead
    unsafe run.pointee.freeHead = unsafe run.pointee.slots[Int(slot)].nextFree
    unsafe run.pointee.live += 1
    return slot
  }

  private func pushSlot(_ run: UnsafeMutablePointer<Run>, _ slot: UInt16) {
    unsafe run.pointee.slots[Int(slot)].generation &+= 1
    unsafe run.pointee.slots[Int(slot)].nextFree = unsafe run.pointee.freeHead
    unsafe run.pointee.freeHead = slot
    unsafe run.pointee.live -= 1
  }

  // MARK: - Growth

  /// The data bytes of the next slab chunk.
  var nextChunkBytes: Int {
    let pages = slabBytes / Page.size
    return min(max(pages, Self.firstChunkPages), Self.largestChunkPages) * Page.size
  }

  private mutating func addSlabRun(_ sizeClass: Int) throws(EnclaveError) {
    let shape = SizeClass.all[sizeClass]
    let runBytes = shape.runPages * Page.size
    var chunkIndex = carving
    if chunkIndex == Run.none || !canCarve(chunkIndex, runBytes) {
      chunkIndex = try addSlabChunk(atLeast: runBytes)
      carving = chunkIndex
    }
    let chunk = unsafe chunks.place(Int(chunkIndex))
    let base = unsafe chunk.pointee.mapping.data + chunk.pointee.carvedBytes
    let slotCount = shape.slots(pageSize: Page.size)
    // Canaries are written once, while the run is new; a wipe stops short of them.
    unsafe try openPages(base, runBytes)
    for slot in 0..<slotCount {
      unsafe canaries.write(behind: base + slot * shape.slotBytes + shape.payload)
    }
    unsafe chunk.pointee.carvedBytes += runBytes
    let stuck = unsafe !closePages(base, runBytes)
    let index = unsafe addRun(
      base: base, byteCount: runBytes, chunk: chunkIndex, slotBytes: shape.slotBytes,
      slotCount: slotCount, sizeClass: UInt8(sizeClass))
    if stuck { unsafe markStuck(runs.place(Int(index))) }
    unsafe freeByClass[sizeClass] += UInt32(slotCount)
    pushRun(index)
  }

  private func canCarve(_ chunk: UInt32, _ byteCount: Int) -> Bool {
    let chunk = chunks[Int(chunk)]
    return chunk.isMapped && chunk.mapping.byteCount - chunk.carvedBytes >= byteCount
  }

  private mutating func addRun(
    base: UnsafeMutableRawPointer, byteCount: Int, chunk: UInt32, slotBytes: Int, slotCount: Int,
    sizeClass: UInt8
  ) -> UInt32 {
    // A run that died leaves its slots behind: their generations keep stale handles stale.
    if sizeClass == Run.isolatedClass, let index = deadRuns.popLast() {
      let run = unsafe runs.place(Int(index))
      unsafe run.pointee.base = unsafe base
      unsafe run.pointee.byteCount = byteCount
      unsafe run.pointee.slotBytes = slotBytes
      unsafe run.pointee.chunk = chunk
      unsafe run.pointee.stuck = .closed
      return index
    }
    let slots = UnsafeMutablePointer<Slot>.allocate(capacity: slotCount)
    unsafe slots.initialize(repeating: Slot(), count: slotCount)
    for slot in 0..<slotCount {
      unsafe slots[slot].nextFree = slot + 1 < slotCount ? UInt16(slot + 1) : Run.endOfList
    }
    var run = unsafe Run(
      base: base, byteCount: byteCount, slots: slots, listings: nil, chunk: chunk,
      slotBytes: slotBytes, slotCount: UInt16(slotCount), sizeClass: sizeClass)
    if page != nil { unsafe run.listings = unsafe makeListings(slotCount) }
    runs.append(run)
    return UInt32(runs.count - 1)
  }

  func makeListings(_ count: Int) -> UnsafeMutablePointer<Listing> {
    let listings = UnsafeMutablePointer<Listing>.allocate(capacity: count)
    unsafe listings.initialize(repeating: Listing(), count: count)
    return unsafe listings
  }

  /// Adds a chunk of the next size, or a smaller one where that one cannot be locked.
  private mutating func addSlabChunk(atLeast least: Int) throws(EnclaveError) -> UInt32 {
    var byteCount = max(nextChunkBytes, least)
    if let capacity = options.capacity {
      while byteCount > least, totals.bytesMapped + byteCount > capacity { byteCount /= 2 }
      byteCount = max(byteCount, least)
    }
    let wanted = byteCount
    while true {
      do {
        let index = try addChunk(byteCount: byteCount, isIsolated: false, mayGoUnlocked: false)
        slabBytes += byteCount
        return index
      } catch {
        guard error.isLockFailure else { throw error }
        if byteCount / 2 >= max(least, Page.size) {
          byteCount = byteCount / 2 & ~(Page.size - 1)
          continue
        }
        noteLockFailure(error, byteCount: wanted)
        guard options.lock == .preferred else { throw explained(error, needed: least) }
        let index = try addChunk(byteCount: wanted, isIsolated: false, mayGoUnlocked: true)
        slabBytes += wanted
        return index
      }
    }
  }

  /// Maps a chunk and puts its protections on, in the order that the kernel allows: dump and fork
  /// advice, then the lock while it is readable, then closed.
  private mutating func addChunk(
    byteCount: Int, isIsolated: Bool, mayGoUnlocked: Bool
  ) throws(EnclaveError) -> UInt32 {
    if let capacity = options.capacity, totals.bytesMapped + byteCount > capacity {
      throw .capacity(inUse: totals.bytesMapped, limit: capacity)
    }
    var chunk: Chunk
    do {
      chunk = Chunk(mapping: try GuardedMapping(byteCount: byteCount), isIsolated: isIsolated)
    } catch { throw explained(.system(error), needed: byteCount) }
    do throws(SystemFailure) {
      try chunk.mapping.excludeFromDumps()
      let fork = try chunk.mapping.keepFromFork()
      // The weaker of what the chunks have: absent, where one could not be wiped.
      forkProtection = forkProtection == .absent ? .absent : fork
      if options.lock != .off, !mayGoUnlocked {
        try chunk.mapping.lock()
        chunk.isLocked = true
      }
      if mayGoUnlocked { chunk.lockErrno = lockFailure?.errno ?? 0 }
      if options.gate.closesPages { try chunk.mapping.close() }
    } catch {
      // Nothing was written yet; addresses that stay mapped are counted by the failed unmap.
      _ = try? chunk.mapping.unmap()
      // A failed lock is the caller's to explain: what it does next depends on the policy.
      if error.call == .lockChunk { throw .system(error) }
      throw explained(.system(error), needed: byteCount)
    }
    totals.chunks += 1
    totals.bytesMapped += byteCount
    if chunk.isLocked {
      totals.bytesLocked += byteCount
      totals.peakBytesLocked = max(totals.peakBytesLocked, totals.bytesLocked)
    }
    let index: UInt32
    if let dead = deadChunks.popLast() {
      chunks[Int(dead)] = chunk
      index = dead
    } else {
      chunks.append(chunk)
      index = UInt32(chunks.count - 1)
    }
    publishChunk(index, event: .chunkMapped)
    return index
  }

  private mutating func noteLockFailure(_ error: EnclaveError, byteCount: Int) {
    totals.failedLocks &+= 1
    let failure = error.systemFailure
    lockFailure = LockFailure(
      errno: failure?.errno ?? 0, atMs: ProcessFacts.bootMilliseconds,
      bytesInUse: ProcessFacts.lockedBytes(), soft: (try? ProcessFacts.memlockLimit())?.soft)
    page?.writer.event(.lockFailed, arena: id, failure: failure, bytes: UInt64(byteCount))
    if page != nil { publishTotals() }
  }

  /// Names the limit behind a failure, where that can be seen.
  private func explained(_ error: EnclaveError, needed: Int) -> EnclaveError {
    guard case .system(let failure) = error else { return error }
    if failure.call == .lockChunk {
      guard let limit = try? ProcessFacts.memlockLimit() else { return error }
      let inUse = ProcessFacts.lockedBytes() ?? UInt64(totals.bytesLocked)
      guard limit.soft != .max, inUse + UInt64(needed) > limit.soft else { return error }
      return .lockLimit(soft: limit.soft, inUse: inUse, needed: UInt64(needed))
    }
    // ENOMEM is 12, EAGAIN is 11: what map calls answer at vm.max_map_count.
    if failure.errno == 12 || failure.errno == 11, let inUse = ProcessFacts.mapCount(),
      let limit = ProcessFacts.mapLimit(), inUse + 3 >= limit
    {
      return .mapLimit(inUse: inUse, limit: limit)
    }
    return error
  }

  // MARK: - Isolated secrets

  private mutating func takeIsolatedPlace(
    byteCount: Int, alignment: Int
  ) throws(EnclaveError) -> Place {
    let dataBytes = (byteCount + alignment - 1) & ~(alignment - 1)
    let pageBytes = max(Page.roundUp(dataBytes) ?? 0, Page.size)
    let pages = pageBytes / Page.size
    var runIndex = Run.none
    if pages <= Self.isolatedLists { runIndex = unsafe heads[SizeClass.all.count + pages - 1] }
    if runIndex == Run.none {
      runIndex = try addIsolatedRun(pageBytes)
    } else {
      removeRun(runIndex)
    }
    let run = unsafe runs.place(Int(runIndex))
    // Data against the trailing guard: one byte more than alignment allows for is a fault.
    let address = unsafe run.pointee.base + pageBytes - dataBytes
    do {
      unsafe try openPages(run.pointee.base, pageBytes)
    } catch {
      pushRun(runIndex)
      throw error
    }
    unsafe canaries.writeIsolated(run.pointee, address: address, byteCount: byteCount)
    if unsafe !closePages(run.pointee.base, pageBytes) { unsafe markStuck(run) }
    let slot = unsafe popSlot(run)
    return unsafe Place(
      address: address, run: runIndex, slot: slot,
      generation: run.pointee.slots[0].generation, byteCount: byteCount)
  }

  private mutating func addIsolatedRun(_ pageBytes: Int) throws(EnclaveError) -> UInt32 {
    let chunk: UInt32
    do {
      chunk = try addChunk(byteCount: pageBytes, isIsolated: true, mayGoUnlocked: false)
    } catch {
      guard error.isLockFailure else { throw error }
      noteLockFailure(error, byteCount: pageBytes)
      guard options.lock == .preferred else { throw explained(error, needed: pageBytes) }
      chunk = try addChunk(byteCount: pageBytes, isIsolated: true, mayGoUnlocked: true)
    }
    return unsafe addRun(
      base: chunks[Int(chunk)].mapping.data, byteCount: pageBytes, chunk: chunk,
      slotBytes: pageBytes, slotCount: 1, sizeClass: Run.isolatedClass)
  }

  // MARK: - Gate

  private func openPages(
    _ address: UnsafeMutableRawPointer, _ byteCount: Int
  ) throws(EnclaveError) {
    guard options.gate.closesPages else { return }
    do {
      unsafe try setProtection(.readWrite, at: address, byteCount: byteCount)
    } catch { throw explained(.system(error), needed: 0) }
  }

  /// Closes pages; tries twice. False when they stay open.
  private func closePages(_ address: UnsafeMutableRawPointer, _ byteCount: Int) -> Bool {
    guard options.gate.closesPages else { return true }
    for _ in 0..<2 {
      if unsafe (try? setProtection(.closed, at: address, byteCount: byteCount)) != nil {
        return true
      }
    }
    return false
  }

  private mutating func markStuck(_ run: UnsafeMutablePointer<Run>) {
    if unsafe run.pointee.stuck == .closed {
      unsafe totals.stuckPages += run.pointee.byteCount / Page.size
    }
    unsafe run.pointee.stuck = .readWrite
    unsafe page?.writer.event(.closeFailed, arena: id, bytes: UInt64(run.pointee.byteCount))
    if page != nil { publishTotals() }
  }

  /// Opens a run's pages as far as one more window needs it.
  private func openRun(
    _ run: UnsafeMutablePointer<Run>, writing: Bool
  ) throws(EnclaveError) {
    let wanted: Protection = writing ? .readWrite : .read
    if options.gate.closesPages, unsafe run.pointee.needed.rawValue < wanted.rawValue {
      do {
        unsafe try setProtection(wanted, at: run.pointee.base, byteCount: run.pointee.byteCount)
      } catch { throw explained(.system(error), needed: 0) }
    }
    if writing { unsafe run.pointee.writers += 1 } else { unsafe run.pointee.readers += 1 }
  }

  /// Closes a run's pages as far as the windows that are left allow.
  private mutating func closeRun(_ run: UnsafeMutablePointer<Run>, writing: Bool) {
    let before = unsafe run.pointee.needed
    if writing { unsafe run.pointee.writers -= 1 } else { unsafe run.pointee.readers -= 1 }
    let after = unsafe run.pointee.needed
    guard options.gate.closesPages, before != after else { return }
    for _ in 0..<2 {
      if unsafe (try? setProtection(after, at: run.pointee.base, byteCount: run.pointee.byteCount))
        != nil
      {
        if unsafe run.pointee.stuck != .closed {
          unsafe totals.stuckPages -= run.pointee.byteCount / Page.size
          unsafe run.pointee.stuck = .closed
        }
        return
      }
    }
    unsafe markStuck(run)
  }

  // MARK: - Windows

  private func slot(of place: Place) throws(EnclaveError) -> UnsafeMutablePointer<Run> {
    if isDestroyed { throw .destroyed }
    let run = unsafe runs.place(Int(place.run))
    guard unsafe run.pointee.slots[Int(place.slot)].generation == place.generation else {
      throw .destroyed
    }
    return unsafe run
  }

  mutating func open(_ place: Place, writing: Bool) throws(EnclaveError) {
    do {
      let run = unsafe try slot(of: place)
      unsafe try openRun(run, writing: writing)
      totals.opens &+= 1
      if writing {
        totals.opensForWriting &+= 1
        totals.openWrites += 1
      } else {
        totals.openReads += 1
      }
      if page != nil { unsafe publishWindow(run, place, opened: true) }
    } catch {
      totals.failedOpens &+= 1
      if let page {
        page.writer.event(.openFailed, arena: id, failure: error.systemFailure)
        publishTotals()
      }
      throw error
    }
  }

  mutating func close(_ place: Place, writing: Bool) {
    let run = unsafe runs.place(Int(place.run))
    unsafe closeRun(run, writing: writing)
    if writing { totals.openWrites -= 1 } else { totals.openReads -= 1 }
    if page != nil { unsafe publishWindow(run, place, opened: false) }
  }

  // MARK: - Free

  /// Opens a secret's pages for its wipe. False when the arena is destroyed: it is wiped already.
  mutating func beginFree(_ place: Place) throws(EnclaveError) -> Bool {
    if isDestroyed { return false }
    let run = unsafe runs.place(Int(place.run))
    do {
      unsafe try openRun(run, writing: true)
    } catch {
      // The contents are still there, so the slot is not used again: destroying the arena wipes
      // it, or says that it cannot.
      totals.failedOpens &+= 1
      if let page {
        page.writer.event(.openFailed, arena: id, failure: error.systemFailure)
        publishTotals()
      }
      throw error
    }
    wiping += 1
    return true
  }

  mutating func finishFree(_ place: Place, intact: Bool) {
    wiping -= 1
    let run = unsafe runs.place(Int(place.run))
    unsafe closeRun(run, writing: true)
    let label = unsafe run.pointee.slots[Int(place.slot)].label
    if !intact {
      totals.corruptions &+= 1
      page?.writer.event(.corruption, arena: id, bytes: UInt64(place.byteCount))
    }
    let wasFull = unsafe run.pointee.isFull
    unsafe pushSlot(run, place.slot)
    totals.secrets -= 1
    totals.bytesInUse -= place.byteCount
    totals.frees &+= 1
    labels.freed(label, byteCount: place.byteCount)
    if unsafe !run.pointee.isIsolated {
      unsafe liveByClass[Int(run.pointee.sizeClass)] -= 1
      unsafe freeByClass[Int(run.pointee.sizeClass)] += 1
    }
    if page != nil { unsafe publishFree(run, slotIndex: place.slot, label: label) }
    guard wasFull else { return }
    if unsafe run.pointee.isIsolated, unsafe run.pointee.byteCount / Page.size > Self.isolatedLists
    {
      // Large pages are given back rather than kept for another secret of just that size.
      let chunk = unsafe run.pointee.chunk
      if removeChunk(chunk) == nil { deadRuns.append(place.run) }
    } else {
      pushRun(place.run)
    }
  }

  // MARK: - Locking later

  /// Locks chunks that could not be locked before, as far as `headroom` bytes of RLIMIT_MEMLOCK
  /// allow; returns what is left of them. Only while no window is open: the pages must be readable
  /// for mlock(2), and are closed again.
  mutating func lockLater(headroom: UInt64) -> UInt64 {
    var headroom = headroom
    guard options.lock == .preferred, totals.bytesLocked < totals.bytesMapped, !isDestroyed,
      totals.openWindows == 0, wiping == 0
    else { return headroom }
    for index in 0..<chunks.count where chunks[index].isMapped && !chunks[index].isLocked {
      let chunk = unsafe chunks.place(index)
      let byteCount = unsafe chunk.pointee.mapping.byteCount
      guard UInt64(byteCount) <= headroom else { continue }
      do throws(EnclaveError) { unsafe try openPages(chunk.pointee.mapping.data, byteCount) } catch
      {
        return headroom
      }
      let isLocked = unsafe (try? chunk.pointee.mapping.lock()) != nil
      if unsafe !closePages(chunk.pointee.mapping.data, byteCount) {
        for run in 0..<runs.count where runs[run].chunk == UInt32(index) {
          unsafe markStuck(runs.place(run))
        }
      }
      guard isLocked else { return headroom }
      headroom -= UInt64(byteCount)
      unsafe chunk.pointee.isLocked = true
      unsafe chunk.pointee.lockErrno = 0
      totals.bytesLocked += byteCount
      totals.peakBytesLocked = max(totals.peakBytesLocked, totals.bytesLocked)
      page?.writer.event(.lockRestored, arena: id, bytes: UInt64(byteCount))
      unsafe republishChunk(chunk.pointee)
    }
    return headroom
  }

  // MARK: - Destroy

  /// Unmaps a chunk whose contents are wiped.
  private mutating func removeChunk(_ index: UInt32) -> SystemFailure? {
    let chunk = chunks[Int(index)]
    do {
      try chunk.mapping.unmap()
    } catch {
      page?.writer.event(.unmapFailed, arena: id, failure: error)
      return error
    }
    unsafe chunks.place(Int(index)).pointee.isMapped = false
    totals.chunks -= 1
    totals.bytesMapped -= chunk.mapping.byteCount
    if chunk.isLocked { totals.bytesLocked -= chunk.mapping.byteCount }
    publishChunk(index, event: .chunkUnmapped)
    deadChunks.append(index)
    return nil
  }

  /// Wipes and unmaps everything. What a failing call leaves behind stays closed and counted, and
  /// the next call tries it again.
  mutating func destroy() -> SystemFailure? {
    isDestroyed = true
    var failure: SystemFailure?
    for index in 0..<chunks.count where chunks[index].isMapped {
      let chunk = chunks[index]
      let used = chunk.isIsolated ? chunk.mapping.byteCount : chunk.carvedBytes
      if used > 0 {
        do {
          if options.gate.closesPages {
            unsafe try setProtection(.readWrite, at: chunk.mapping.data, byteCount: used)
          }
          unsafe wipe(chunk.mapping.data, byteCount: used)
        } catch {
          failure = failure ?? error
          continue
        }
      }
      failure = removeChunk(UInt32(index)) ?? failure
    }
    totals.secrets = 0
    totals.bytesInUse = 0
    totals.stuckPages = 0
    return failure
  }
}

extension EnclaveError {
  var systemFailure: SystemFailure? {
    switch self {
    case .system(let failure), .unsupported(_, let failure): failure
    default: nil
    }
  }

  var isLockFailure: Bool {
    switch self {
    case .system(let failure): failure.call == .lockChunk
    case .lockLimit: true
    default: false
    }
  }
}
