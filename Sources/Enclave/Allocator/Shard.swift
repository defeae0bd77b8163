// A part of an arena that has its own slabs, free slots and counts under its own lock, so that
// threads that use different shards do not meet. A thread allocates in the shard of its number; a
// secret is freed in the shard that its slab belongs to.

import EnclaveStats
import EnclaveSystem

/// What a shard counts. An arena's totals are the sum over its shards.
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
  /// Secrets that went with their arena.
  var wipedWithArena: UInt64 = 0

  var secrets: Int { Int(allocations &- frees &- wipedWithArena) }
}

/// An arena's shards, each in cache lines of its own (two: processors fetch them in pairs), with the
/// shard's tables behind it.
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
  /// Slabs with a free slot: one list for each size class, then one for each number of pages of
  /// isolated slabs (1 to 16), then one for larger ones.
  let heads: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  let liveByClass: UnsafeMutablePointer<UInt32>
  let slotsByClass: UnsafeMutablePointer<UInt32>
  var labels = ShardLabels()
  var totals = ShardTotals()
  /// Raised by what the page tells and no other count shows.
  var changes: UInt64 = 0
  /// A slab has news for the page.
  var hasNews = false
  /// Handles that are out: what keeps the arena's memory alive once the Arena object is gone.
  var handles = 0
  /// The Arena object is gone.
  var isOrphan = false
  var page: ShardPublication?

  static let isolatedLists = 16
  private static let largeList = SizeClass.all.count + isolatedLists
  static let listCount = largeList + 1

  /// Of the three tables.
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

  /// As the page tells it: live | free << 32.
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

  /// An empty slab of pages of its own for so many: of small ones as many, of large ones at most an
  /// eighth more, the smallest of the first few.
  private func isolatedSlab(_ pages: Int) -> UnsafeMutablePointer<Slab>? {
    let first = unsafe heads[Self.isolatedList(pages)]
    if pages <= Self.isolatedLists { return unsafe first }
    var best: UnsafeMutablePointer<Slab>?
    var bestPages = pages + pages / 8 + 1
    var next = unsafe first
    for _ in 0..<Self.looks {
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

  private static let looks = 64

  // (Mutating: a shard that is passed by value is copied.)
  mutating func push(_ slab: UnsafeMutablePointer<Slab>) {
    guard let head = unsafe head(of: slab) else { return }
    unsafe slab.pointee.previous = nil
    unsafe slab.pointee.next = unsafe head.pointee
    unsafe head.pointee?.pointee.previous = unsafe slab
    unsafe head.pointee = unsafe slab
  }

  /// Takes an empty slab off its list: its pages go.
  mutating func drop(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe remove(slab)
    if unsafe !slab.pointee.isIsolated {
      unsafe slotsByClass[Int(slab.pointee.sizeClass)] -= UInt32(slab.pointee.slotCount)
    }
  }

  /// A new slab of slabs.
  mutating func add(_ slab: UnsafeMutablePointer<Slab>) {
    unsafe push(slab)
    unsafe slotsByClass[Int(slab.pointee.sizeClass)] += UInt32(slab.pointee.slotCount)
  }

  /// Has the core know of every slab that is empty.
  func noteIdle() {
    for sizeClass in 0..<SizeClass.all.count {
      guard let slab = unsafe spareSlab(sizeClass), unsafe !slab.pointee.isIdle else { continue }
      arena.withCore { unsafe $0.markIdle(slab) }
    }
  }

  /// The slab that is empty and the only one of its size class with free slots.
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

  /// What an allocation asks for.
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

    /// Slots are aligned to 16; more takes slack before the data.
    var slotBytes: Int { byteCount + (alignment > 16 ? alignment - 16 : 0) }
    /// At least one byte: an address belongs to the page that it lies in.
    var dataBytes: Int { (max(byteCount, 1) + alignment - 1) & ~(alignment - 1) }
    var pageBytes: Int { max((dataBytes + Page.size - 1) & ~(Page.size - 1), Page.size) }

    func isSlab(_ layout: Arena.Layout) -> Bool {
      switch layout {
      case .slab: slotBytes <= SizeClass.largest
      case .isolated: false
      }
    }
  }

  /// Whether a request can be met without growing.
  func hasRoom(for request: Request) -> Bool {
    if request.isSlab(layout) {
      return unsafe heads[SizeClass.index(for: request.slotBytes)] != nil
    }
    return unsafe isolatedSlab(request.pageBytes / Page.size) != nil
  }

  /// nil when there is no room: the arena has to grow. `fresh` is a slab of pages of its own that was
  /// just mapped for this request.
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
    unsafe entry.pointee.byteCount = UInt32(request.byteCount)
    unsafe entry.pointee.label = label
    // Nobody has a window to it yet; but a stale handle may be counting itself in and out.
    let windows = unsafe loadRelaxed(&entry.pointee.windows) & ~Slot.openNow
    if windows != 0 { unsafe addRelaxed(0 &- windows, to: &entry.pointee.windows) }
    unsafe entry.pointee.nextFree = UInt16(truncatingIfNeeded: slack)
    if let cipherSlots = unsafe slab.pointee.cipherSlots {
      unsafe CipherSlot(at: cipherSlots + Int(slot) * CipherSlot.byteCount).begin()
    }
    // Last: `SecretHandle.live` looks at it without a lock.
    unsafe publish(Slot.next(entry.pointee.generation), to: &entry.pointee.generation)
    handles += 1
    totals.bytesInUse += request.byteCount
    totals.allocations &+= 1
    let secrets = totals.secrets
    if secrets > totals.peakSecrets { totals.peakSecrets = secrets }
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.allocated(label, byteCount: request.byteCount)
    unsafe noteNews(slab)
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
    // Data against the trailing guard: one byte more than alignment allows for is a fault.
    let place = Slab.Place(byteCount: request.byteCount, dataBytes: request.dataBytes)
    // What the last secret of the same size left needs no window.
    if unsafe slab.pointee.prepared == place { return unsafe slab }
    do {
      unsafe try arena.withLibraryWindow(slab, shard: &self) {
        unsafe arena.canaries.clearIsolated(slab)
        unsafe slab.pointee.prepared = place
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

  /// What is left to do once the shard's lock is free again.
  enum Aftermath {
    case nothing
    /// More is spare than is kept.
    case trim
    /// Pages of its own that are not kept.
    case unmap
  }

  /// Takes a wiped slot back.
  mutating func finishFree(
    _ handle: SecretHandle, isFrozen: Bool, isDamaged: Bool
  ) -> Aftermath {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    unsafe noteNews(slab)
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
      // What a frozen arena holds does not change: the slot is wiped and stays empty.
      unsafe slab.pointee.retired += 1
      totals.retiredSlots += 1
      if sizeClass != Slab.isolatedClass { unsafe slotsByClass[Int(sizeClass)] -= 1 }
      return .nothing
    }
    unsafe slot.pointee.nextFree = unsafe slab.pointee.freeHead
    unsafe slab.pointee.freeHead = handle.slot
    if sizeClass == Slab.isolatedClass { return unsafe keepIsolated(slab) }
    var aftermath = Aftermath.nothing
    if wasFull {
      unsafe push(slab)
      // The empty slab that was kept is not the only one with free slots any more.
      if let kept = unsafe slab.pointee.next, unsafe kept.pointee.next == nil,
        unsafe kept.pointee.isEmpty
      {
        aftermath = unsafe giveUp(kept)
      }
    }
    if unsafe slab.pointee.live == 0 { aftermath = unsafe becameEmpty(slab) }
    return aftermath
  }

  /// The last run of its class with free slots stays; another one goes.
  private mutating func becameEmpty(_ slab: UnsafeMutablePointer<Slab>) -> Aftermath {
    guard unsafe slab.pointee.isEmpty else { return .nothing }
    if unsafe slab.pointee.next != nil || slab.pointee.previous != nil {
      return unsafe giveUp(slab)
    }
    guard arena.marksIdle else { return .nothing }
    return arena.withCore { core in
      unsafe core.markIdle(slab)
      return core.hasExcess ? .trim : .nothing
    }
  }

  /// An empty slab's pages go back to their chunk, as zeros.
  private mutating func giveUp(_ slab: UnsafeMutablePointer<Slab>) -> Aftermath {
    let arena = self.arena
    do throws(EnclaveError) {
      unsafe try arena.withLibraryWindow(slab, shard: &self) {
        unsafe wipe(slab.pointee.base, byteCount: slab.pointee.byteCount)
      }
    } catch {
      // It stays what it is.
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

  /// Pages of its own are kept for the next secret of as many, within what may be spare; older ones
  /// go for them.
  private mutating func keepIsolated(_ slab: UnsafeMutablePointer<Slab>) -> Aftermath {
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

  /// A live secret has another size now, and its slot another generation.
  mutating func resized(_ handle: SecretHandle, from oldCount: Int) {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    unsafe noteNews(slab)
    unsafe slot.pointee.byteCount = handle.byteCount
    unsafe publish(handle.generation, to: &slot.pointee.generation)
    let growth = Int(handle.byteCount) - oldCount
    totals.bytesInUse += growth
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.resized(handle.label, by: growth)
    changes &+= 1
  }
}
