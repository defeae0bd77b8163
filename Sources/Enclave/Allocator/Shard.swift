// A part of an arena with its own slabs, free slots, counts and lock, so that threads on different
// shards do not contend. A thread allocates in the shard selected by its number; a secret is freed
// in the shard that its slab belongs to.

import EnclaveStats
import EnclaveSystem

/// A shard's counts. An arena's totals are the sum over its shards.
struct ShardTotals: BitwiseCopyable {
  var bytesInUse = 0
  var allocations: UInt64 = 0
  var frees: UInt64 = 0
  var failedAllocations: UInt64 = 0
  var failedOpens: UInt64 = 0
  var corruptions: UInt64 = 0
  var peakSecrets = 0
  var peakBytesInUse = 0
  var stuckPages = 0
  var retiredSlots = 0
  /// Secrets that were wiped because their arena was destroyed.
  var wipedWithArena: UInt64 = 0

  var secrets: Int { Int(allocations &- frees &- wipedWithArena) }
}

/// An arena's shards, each in separate pairs of cache lines (processors fetch lines in pairs),
/// followed by its tables.
@safe
struct Shards: BitwiseCopyable {
  private static let shardBytes = (MemoryLayout<Shard>.stride + 127) & ~127
  private static let stride = shardBytes + (Shard.tableBytes + 127) & ~127
  private let base: UnsafeMutableRawPointer

  static func byteCount(_ count: Int) -> Int { count * stride }

  init(at base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  func pointer(at index: Int) -> UnsafeMutablePointer<Shard> {
    unsafe (base + index * Self.stride).assumingMemoryBound(to: Shard.self)
  }

  func tables(_ index: Int) -> UnsafeMutableRawPointer {
    unsafe base + index * Self.stride + Self.shardBytes
  }

  subscript(index: Int) -> Shard {
    unsafeAddress { unsafe UnsafePointer(pointer(at: index)) }
    nonmutating unsafeMutableAddress { unsafe pointer(at: index) }
  }
}

@safe
struct Shard {
  let arena: ArenaReference
  let layout: Arena.Layout
  let index: UInt8
  /// Slabs with a free slot: a list per size class, then a list per number of pages of isolated
  /// slabs (1 to 16), then one list for larger isolated slabs.
  let heads: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  let liveByClass: UnsafeMutablePointer<UInt32>
  let slotsByClass: UnsafeMutablePointer<UInt32>
  var labels = ShardLabels()
  var totals = ShardTotals()
  /// Counts changes that must be published but change no other count.
  var changes: UInt64 = 0
  /// A slab has changes that are not yet published.
  var hasUnpublishedChanges = false
  /// Live handles; they keep the arena's memory alive once the Arena object is released.
  var handles = 0
  /// The Arena object was released.
  var isObjectReleased = false
  var page: ShardPublication?

  static let isolatedLists = 16
  private static let largeList = SizeClass.all.count + isolatedLists
  static let listCount = largeList + 1

  /// The size of the three tables.
  static let tableBytes = listCount * 8 + SizeClass.all.count * 8

  init(arena: ArenaReference, index: UInt8, tables: UnsafeMutableRawPointer) {
    self.arena = arena
    layout = arena.options.layout
    self.index = index
    let classes = SizeClass.all.count
    unsafe heads = tables.bindMemory(
      to: UnsafeMutablePointer<Slab>?.self, capacity: Self.listCount)
    unsafe heads.initialize(repeating: nil, count: Self.listCount)
    unsafe liveByClass = (tables + Self.listCount * 8).bindMemory(
      to: UInt32.self, capacity: 2 * classes)
    unsafe liveByClass.initialize(repeating: 0, count: 2 * classes)
    unsafe slotsByClass = unsafe liveByClass + classes
  }

  func deallocate() { labels.deallocate() }

  /// As on the stats page: live | free << 32.
  func sizeClass(_ index: Int) -> UInt64 {
    unsafe UInt64(liveByClass[index]) | UInt64(slotsByClass[index] - liveByClass[index]) << 32
  }

  // MARK: - Lists of slabs

  private func head(
    of slab: UnsafeMutablePointer<Slab>
  ) -> UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>? {
    if unsafe slab.pointee.sizeClass != Slab.isolatedClass {
      return unsafe heads + Int(slab.pointee.sizeClass)
    }
    return unsafe heads + Self.isolatedList(slab.pointee.byteCount / Page.size)
  }

  private static func isolatedList(_ pages: Int) -> Int {
    pages <= isolatedLists ? SizeClass.all.count + pages - 1 : largeList
  }

  /// An empty isolated slab for this many pages: an exact match for small sizes; for large ones at
  /// most an eighth larger, and the smallest among the first `searchLimit` slabs.
  private func isolatedSlab(_ pages: Int) -> UnsafeMutablePointer<Slab>? {
    let first = unsafe heads[Self.isolatedList(pages)]
    if pages <= Self.isolatedLists { return unsafe first }
    var best: UnsafeMutablePointer<Slab>?
    var bestPages = pages + pages / 8 + 1
    var next = unsafe first
    for _ in 0..<Self.searchLimit {
      guard let slab = unsafe next, bestPages > pages else { break }
      let has = unsafe slab.pointee.pageCount
      if has >= pages, has < bestPages {
        unsafe best = unsafe slab
        bestPages = has
      }
      unsafe next = unsafe slab.pointee.next
    }
    return unsafe best
  }

  private static let searchLimit = 64

  // Mutating, because a shard passed by value would be copied.
  mutating func push(_ slab: UnsafeMutablePointer<Slab>) {
    guard let head = unsafe head(of: slab) else { return }
    unsafe slab.pointee.previous = nil
    unsafe slab.pointee.next = unsafe head.pointee
    unsafe head.pointee?.pointee.previous = unsafe slab
    unsafe head.pointee = unsafe slab
  }

  /// Removes an empty slab whose pages are about to be released.
  mutating func drop(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe remove(slab)
    if unsafe !slab.pointee.isIsolated {
      unsafe slotsByClass[Int(slab.pointee.sizeClass)] -= UInt32(slab.pointee.slotCount)
    }
  }

  /// Adds a new slab for slots of its size class.
  mutating func add(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe push(slab)
    unsafe slotsByClass[Int(slab.pointee.sizeClass)] += UInt32(slab.pointee.slotCount)
  }

  /// Reports every empty slab to the core.
  func reportIdleSlabs() {
    for sizeClass in 0..<SizeClass.all.count {
      guard let slab = unsafe spareSlab(sizeClass), unsafe !slab.pointee.isIdle else { continue }
      arena.withCore { unsafe $0.markIdle(slab) }
    }
  }

  /// The only slab of its size class with free slots, if it is empty.
  func spareSlab(_ sizeClass: Int) -> UnsafeMutablePointer<Slab>? {
    guard let slab = unsafe heads[sizeClass], unsafe slab.pointee.isEmpty,
      unsafe slab.pointee.next == nil
    else { return nil }
    return unsafe slab
  }

  private mutating func remove(_ slab: UnsafeMutablePointer<Slab>) {
    guard let head = unsafe head(of: slab) else { return }
    let (previous, next) = unsafe (slab.pointee.previous, slab.pointee.next)
    if unsafe previous != nil {
      unsafe previous.unsafelyUnwrapped.pointee.next = unsafe next
    } else if unsafe head.pointee == slab {
      unsafe head.pointee = unsafe next
    }
    unsafe next?.pointee.previous = unsafe previous
    unsafe slab.pointee.next = nil
    unsafe slab.pointee.previous = nil
  }

  // MARK: - Allocate

  /// The size and alignment of an allocation.
  struct Request {
    let byteCount: Int
    let alignment: Int

    init(byteCount: Int, alignment: Int) throws(EnclaveError) {
      guard byteCount >= 0, byteCount <= 1 << 31, alignment > 0, alignment <= Page.size,
        alignment & (alignment - 1) == 0
      else { throw .invalidSize(byteCount: byteCount, alignment: alignment) }
      self.byteCount = byteCount
      self.alignment = alignment
    }

    /// Slots are aligned to 16; a larger alignment needs slack before the data.
    var slotBytes: Int { byteCount + (alignment > 16 ? alignment - 16 : 0) }
    /// At least one byte, because an address identifies the page it lies in.
    var dataBytes: Int { (max(byteCount, 1) + alignment - 1) & ~(alignment - 1) }
    var pageBytes: Int { max((dataBytes + Page.size - 1) & ~(Page.size - 1), Page.size) }

    func isSlab(_ layout: Arena.Layout) -> Bool {
      switch layout {
      case .slab: slotBytes <= SizeClass.largest
      case .isolated: false
      }
    }
  }

  /// Whether a request can be served without growing.
  func hasRoom(for request: Request) -> Bool {
    if request.isSlab(layout) {
      return unsafe heads[SizeClass.index(for: request.slotBytes)] != nil
    }
    return unsafe isolatedSlab(request.pageBytes / Page.size) != nil
  }

  /// Returns nil if there is no room and the arena has to grow. `fresh` is an isolated slab that
  /// was just mapped for this request.
  mutating func allocate(
    _ request: Request, label: UInt16, fresh: UnsafeMutablePointer<Slab>? = nil
  ) throws(EnclaveError) -> SecretHandle? {
    let slab: UnsafeMutablePointer<Slab>
    let address: UnsafeMutableRawPointer
    let slot: UInt16
    let slack: Int
    if request.isSlab(layout) {
      let sizeClass = SizeClass.index(for: request.slotBytes)
      guard let head = unsafe heads[sizeClass] else { return nil }
      unsafe slab = unsafe head
      if unsafe slab.pointee.isIdle { arena.withCore { unsafe $0.clearIdle(slab) } }
      slot = unsafe pop(slab)
      if unsafe slab.pointee.isFull { unsafe remove(slab) }
      let start = unsafe slab.pointee.base + Int(slot) * slab.pointee.slotBytes
      unsafe address =
        unsafe request.alignment <= 16 ? start : start.alignedUp(toMultipleOf: request.alignment)
      slack = unsafe address - start
      unsafe liveByClass[sizeClass] += 1
    } else {
      guard let taken = unsafe try takeIsolatedSlab(request, fresh) else { return nil }
      unsafe slab = unsafe taken
      unsafe address = unsafe slab.pointee.base + slab.pointee.byteCount - request.dataBytes
      slack = request.dataBytes - request.byteCount
      slot = unsafe pop(slab)
    }
    let entry = unsafe Slab.slots(of: slab) + Int(slot)
    unsafe storeField(UInt32(request.byteCount), to: &entry.pointee.byteCount)
    unsafe storeField(label, to: &entry.pointee.label)
    unsafe entry.pointee.listedOpens = unsafe Slot.opens(loadRelaxed(&entry.pointee.windows))
    unsafe storeField(UInt16(truncatingIfNeeded: slack), to: &entry.pointee.nextFree)
    if let cipherSlots = unsafe slab.pointee.cipherSlots {
      unsafe CipherSlot(at: cipherSlots + Int(slot) * CipherSlot.byteCount).begin()
    }
    // Last: `SecretHandle.live` reads it without a lock.
    unsafe publish(Slot.next(entry.pointee.generation), to: &entry.pointee.generation)
    handles += 1
    totals.bytesInUse += request.byteCount
    totals.allocations &+= 1
    let secrets = totals.secrets
    if secrets > totals.peakSecrets { totals.peakSecrets = secrets }
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.allocated(label, byteCount: request.byteCount)
    unsafe markChanged(slab)
    return unsafe SecretHandle(
      slab: slab, address: address, generation: entry.pointee.generation,
      byteCount: UInt32(request.byteCount), slot: slot, label: label)
  }

  private func pop(_ slab: UnsafeMutablePointer<Slab>) -> UInt16 {
    let slot = unsafe slab.pointee.freeHead
    unsafe slab.pointee.freeHead = unsafe Slab.slots(of: slab)[Int(slot)].nextFree
    unsafe slab.pointee.live += 1
    return slot
  }

  private mutating func takeIsolatedSlab(
    _ request: Request, _ fresh: UnsafeMutablePointer<Slab>?
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab>? {
    let arena = self.arena
    let pages = request.pageBytes / Page.size
    let slab: UnsafeMutablePointer<Slab>
    if let fresh = unsafe fresh {
      unsafe slab = unsafe fresh
    } else if let free = unsafe isolatedSlab(pages) {
      unsafe slab = unsafe free
      unsafe remove(slab)
      arena.withCore { unsafe $0.clearIdle(slab) }
    } else {
      return nil
    }
    // The data ends at the trailing guard: an overflow beyond the alignment's slack faults.
    let place = Slab.Placement(byteCount: request.byteCount, dataBytes: request.dataBytes)
    // If the last secret had the same size, its canaries are still valid and no window is needed.
    if unsafe slab.pointee.preparedPlacement == place { return unsafe slab }
    do {
      unsafe try arena.withLibraryWindow(slab, shard: &self) {
        unsafe arena.canaries.clearIsolated(slab)
        unsafe slab.pointee.preparedPlacement = place
        unsafe arena.canaries.writeIsolated(slab)
      }
    } catch {
      if unsafe fresh == nil {
        unsafe push(slab)
        arena.withCore { unsafe $0.markIdle(slab) }
      }
      throw error
    }
    return unsafe slab
  }

  mutating func failed(_ error: EnclaveError) {
    totals.failedAllocations &+= 1
    changes &+= 1
    page?.writer.event(.allocationFailed, arena: arena.id, failure: error.systemFailure)
  }

  // MARK: - Free

  /// What remains to be done after the shard's lock is released.
  enum FollowUp {
    case nothing
    /// Spare memory exceeds the limit.
    case trim
    /// Isolated pages that are not kept.
    case unmap
  }

  /// Puts a wiped slot back on the free list.
  mutating func finishFree(
    _ handle: SecretHandle, isFrozen: Bool, isDamaged: Bool
  ) -> FollowUp {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    unsafe markChanged(slab)
    if let cipherSlots = unsafe slab.pointee.cipherSlots {
      unsafe CipherSlot(at: cipherSlots + Int(handle.slot) * CipherSlot.byteCount).end()
    }
    let wasFull = unsafe slab.pointee.isFull
    unsafe publish(Slot.next(handle.generation), to: &slot.pointee.generation)
    unsafe slab.pointee.live -= 1
    handles -= 1
    totals.bytesInUse -= Int(handle.byteCount)
    totals.frees &+= 1
    if isDamaged { totals.corruptions &+= 1 }
    labels.freed(handle.label, byteCount: Int(handle.byteCount))
    let sizeClass = unsafe slab.pointee.sizeClass
    if sizeClass != Slab.isolatedClass { unsafe liveByClass[Int(sizeClass)] -= 1 }
    if isFrozen {
      // A frozen arena does not change: the slot is wiped and stays unused.
      unsafe slab.pointee.retired += 1
      totals.retiredSlots += 1
      if sizeClass != Slab.isolatedClass { unsafe slotsByClass[Int(sizeClass)] -= 1 }
      return .nothing
    }
    unsafe storeField(slab.pointee.freeHead, to: &slot.pointee.nextFree)
    unsafe slab.pointee.freeHead = handle.slot
    if sizeClass == Slab.isolatedClass { return unsafe keepIsolated(slab) }
    var followUp = FollowUp.nothing
    if wasFull {
      unsafe push(slab)
      // The empty slab that was kept is no longer the only one with free slots.
      if let kept = unsafe slab.pointee.next, unsafe kept.pointee.next == nil,
        unsafe kept.pointee.isEmpty
      {
        followUp = unsafe releaseEmptySlab(kept)
      }
    }
    if unsafe slab.pointee.live == 0 { followUp = unsafe handleEmptySlab(slab) }
    return followUp
  }

  /// Keeps an empty slab if it is the last of its class with free slots; otherwise releases it.
  private mutating func handleEmptySlab(_ slab: UnsafeMutablePointer<Slab>) -> FollowUp {
    guard unsafe slab.pointee.isEmpty else { return .nothing }
    if unsafe slab.pointee.next != nil || slab.pointee.previous != nil {
      return unsafe releaseEmptySlab(slab)
    }
    guard arena.marksIdle else { return .nothing }
    return arena.withCore { core in
      unsafe core.markIdle(slab)
      return core.hasExcess ? .trim : .nothing
    }
  }

  /// Wipes an empty slab's pages and returns them to their chunk.
  private mutating func releaseEmptySlab(_ slab: UnsafeMutablePointer<Slab>) -> FollowUp {
    let arena = self.arena
    do throws(EnclaveError) {
      unsafe try arena.withLibraryWindow(slab, shard: &self) {
        unsafe wipe(slab.pointee.base, byteCount: slab.pointee.byteCount)
      }
    } catch {
      // The slab stays as it is.
      return .nothing
    }
    if unsafe slab.pointee.stuck != .closed {
      unsafe arena.canaries.write(all: slab)
      return .nothing
    }
    unsafe drop(slab)
    return arena.withCore { core in
      unsafe core.release(slab)
      return core.hasExcess ? .trim : .nothing
    }
  }

  /// Keeps isolated pages for the next secret with the same number of pages, within the limit of
  /// spare memory; older ones are unmapped instead.
  private mutating func keepIsolated(_ slab: UnsafeMutablePointer<Slab>) -> FollowUp {
    let hasExcess = arena.withCore { core -> Bool? in
      let isStuck = unsafe slab.pointee.stuck != .closed
      guard unsafe isStuck || core.mayKeep(slab) else { return nil }
      unsafe core.markIdle(slab)
      return !isStuck && core.hasExcess
    }
    guard let hasExcess else { return .unmap }
    unsafe push(slab)
    return hasExcess ? .trim : .nothing
  }

  /// Records a live secret's new size and its slot's new generation.
  mutating func resized(_ handle: SecretHandle, from oldCount: Int) {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    unsafe markChanged(slab)
    unsafe uncountListedOpens(slot)
    unsafe storeField(handle.byteCount, to: &slot.pointee.byteCount)
    unsafe publish(handle.generation, to: &slot.pointee.generation)
    let growth = Int(handle.byteCount) - oldCount
    totals.bytesInUse += growth
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.resized(handle.label, by: growth)
    changes &+= 1
  }
}
