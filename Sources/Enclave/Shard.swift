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

/// What the page needs of a shard.
@safe
struct ShardPublication {
  let pageWriter: Unmanaged<StatsPageWriter>
  let secrets: TableWriter<SecretWord>
  /// Records that are free, kept here: taken from the page and given back in batches.
  var spare = RawList<UInt32>(capacity: 2 * ShardPublication.batch)
  static let batch = 64
  /// What is listed one by one: the slab, and the slot.
  var listed = RawList<ListedSecret>()
  var unlistedSecrets: UInt64 = 0
  /// Windows that were opened when the listed secrets were last looked at.
  var seenOpens: UInt64 = 0
  var serial: UInt64
  let shard: Int
  let clock: UnsafeRawPointer

  init(_ writer: StatsPageWriter, shard: Int) {
    unsafe pageWriter = unsafe .passUnretained(writer)
    secrets = writer.table(SecretWord.self)
    serial = UInt64(shard) << 48
    self.shard = shard
    unsafe clock = unsafe writer.clockWord
  }

  /// Milliseconds since boot, as of the last tick.
  var now: UInt64 { unsafe loadRelaxed(clock) }

  /// Writers live as long as the process.
  var writer: StatsPageWriter { unsafe pageWriter.takeUnretainedValue() }

  mutating func takeRecord() -> UInt32? {
    if spare.isEmpty {
      var taken = spare
      writer.takeSecrets(Self.batch, shard: shard) { taken.append($0) }
      spare = taken
    }
    return spare.popLast()
  }

  mutating func giveBack(_ record: UInt32) {
    spare.append(record)
    if spare.count >= 2 * Self.batch { giveBack(leaving: Self.batch) }
  }

  mutating func giveBack(leaving count: Int) {
    while spare.count > count, let record = spare.popLast() { writer.giveBackSecret(record) }
  }
}

@safe
struct ListedSecret: BitwiseCopyable {
  var slab: UnsafeMutablePointer<Slab>
  var slot: UInt16
  var count: UInt64
}

/// An arena's shards, each in cache lines of its own (two: processors fetch them in pairs).
@safe
struct Shards: BitwiseCopyable {
  private static let stride = (MemoryLayout<Shard>.stride + 127) & ~127
  private let base: UnsafeMutableRawPointer

  init(count: Int) {
    unsafe base = .allocate(byteCount: count * Self.stride, alignment: 128)
  }

  func deallocate() { unsafe base.deallocate() }

  func pointer(at index: Int) -> UnsafeMutablePointer<Shard> {
    unsafe (base + index * Self.stride).assumingMemoryBound(to: Shard.self)
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
  /// isolated slabs (1 to 16).
  let heads: UnsafeMutablePointer<UnsafeMutablePointer<Slab>?>
  let liveByClass: UnsafeMutablePointer<UInt32>
  let slotsByClass: UnsafeMutablePointer<UInt32>
  var labels = ShardLabels()
  var totals = ShardTotals()
  /// Raised by what the page tells and no other count shows.
  var changes: UInt64 = 0
  /// Handles that are out: what keeps the arena's memory alive once the Arena object is gone.
  var handles = 0
  /// The Arena object is gone.
  var isOrphan = false
  var page: ShardPublication?

  static let isolatedLists = 16
  static let listCount = SizeClass.all.count + isolatedLists

  init(arena: ArenaReference, index: UInt8) {
    self.arena = arena
    layout = arena.options.layout
    self.index = index
    unsafe heads = .allocate(capacity: Self.listCount)
    unsafe heads.initialize(repeating: nil, count: Self.listCount)
    unsafe liveByClass = .allocate(capacity: SizeClass.all.count)
    unsafe liveByClass.initialize(repeating: 0, count: SizeClass.all.count)
    unsafe slotsByClass = .allocate(capacity: SizeClass.all.count)
    unsafe slotsByClass.initialize(repeating: 0, count: SizeClass.all.count)
  }

  func deallocate() {
    unsafe heads.deallocate()
    unsafe liveByClass.deallocate()
    unsafe slotsByClass.deallocate()
    labels.deallocate()
  }

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
    let pages = unsafe slab.pointee.byteCount / Page.size
    return unsafe pages <= Self.isolatedLists ? heads + SizeClass.all.count + pages - 1 : nil
  }

  func push(_ slab: UnsafeMutablePointer<Slab>) {
    guard let head = unsafe head(of: slab) else { return }
    unsafe slab.pointee.previous = nil
    unsafe slab.pointee.next = unsafe head.pointee
    unsafe head.pointee?.pointee.previous = unsafe slab
    unsafe head.pointee = unsafe slab
  }

  private func remove(_ slab: UnsafeMutablePointer<Slab>) {
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
    let pages = request.pageBytes / Page.size
    return unsafe pages <= Self.isolatedLists && heads[SizeClass.all.count + pages - 1] != nil
  }

  mutating func allocate(_ request: Request, label: UInt16) throws(EnclaveError) -> SecretHandle {
    let slab: UnsafeMutablePointer<Slab>
    let address: UnsafeMutableRawPointer
    let slot: UInt16
    let slack: Int
    if request.isSlab(layout) {
      let sizeClass = SizeClass.index(for: request.slotBytes)
      if unsafe heads[sizeClass] == nil {
        unsafe push(try arena.addSlab(sizeClass, shard: &self))
        unsafe slotsByClass[sizeClass] += UInt32(
          heads[sizeClass].unsafelyUnwrapped.pointee.slotCount)
      }
      unsafe slab = unsafe heads[sizeClass].unsafelyUnwrapped
      slot = unsafe pop(slab)
      if unsafe slab.pointee.isFull { unsafe remove(slab) }
      let start = unsafe slab.pointee.base + Int(slot) * slab.pointee.slotBytes
      unsafe address =
        unsafe request.alignment <= 16 ? start : start.alignedUp(toMultipleOf: request.alignment)
      slack = unsafe address - start
      unsafe liveByClass[sizeClass] += 1
    } else {
      unsafe slab = unsafe try takeIsolatedSlab(request)
      unsafe address = unsafe slab.pointee.base + slab.pointee.byteCount - request.dataBytes
      slack = request.dataBytes - request.byteCount
      slot = unsafe pop(slab)
    }
    let entry = unsafe Slab.slots(of: slab) + Int(slot)
    unsafe entry.pointee.generation = unsafe Slot.next(entry.pointee.generation)
    unsafe entry.pointee.byteCount = UInt32(request.byteCount)
    unsafe entry.pointee.label = label
    unsafe entry.pointee.nextFree = UInt16(truncatingIfNeeded: slack)
    handles += 1
    totals.bytesInUse += request.byteCount
    totals.allocations &+= 1
    let secrets = totals.secrets
    if secrets > totals.peakSecrets { totals.peakSecrets = secrets }
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.allocated(label, byteCount: request.byteCount)
    if let listings = unsafe slab.pointee.listings {
      // Nobody has a window to it yet.
      unsafe listings[Int(slot)].count = 0
      if page != nil { unsafe list(slab, slot) }
    }
    return unsafe SecretHandle(
      slab: slab, address: address, generation: entry.pointee.generation,
      byteCount: UInt32(request.byteCount), slot: slot, label: label)
  }

  private func pop(_ slab: UnsafeMutablePointer<Slab>) -> UInt16 {
    let slot = unsafe slab.pointee.freeHead
    unsafe slab.pointee.freeHead = unsafe slab.pointee.slots[Int(slot)].nextFree
    unsafe slab.pointee.live += 1
    return slot
  }

  private mutating func takeIsolatedSlab(
    _ request: Request
  ) throws(EnclaveError) -> UnsafeMutablePointer<Slab> {
    let arena = self.arena
    let pages = request.pageBytes / Page.size
    let slab: UnsafeMutablePointer<Slab>
    if pages <= Self.isolatedLists, let free = unsafe heads[SizeClass.all.count + pages - 1] {
      unsafe slab = unsafe free
      unsafe remove(slab)
    } else {
      unsafe slab = unsafe try arena.addIsolatedSlab(request.pageBytes, shard: &self)
    }
    // Data against the trailing guard: one byte more than alignment allows for is a fault.
    let address = unsafe slab.pointee.base + request.pageBytes - request.dataBytes
    do {
      unsafe try arena.withLibraryWindow(slab, shard: &self) {
        unsafe arena.canaries.writeIsolated(slab, address: address, byteCount: request.byteCount)
      }
    } catch {
      unsafe push(slab)
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

  /// Takes a wiped slot back. True: an isolated slab that is too large to be kept.
  mutating func finishFree(
    _ handle: SecretHandle, isFrozen: Bool, isDamaged: Bool
  ) -> Bool {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    if page != nil { unsafe unlist(slab, handle.slot) }
    let wasFull = unsafe slab.pointee.isFull
    unsafe slot.pointee.generation = Slot.next(handle.generation)
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
      return false
    }
    unsafe slot.pointee.nextFree = unsafe slab.pointee.freeHead
    unsafe slab.pointee.freeHead = handle.slot
    guard wasFull else { return false }
    if sizeClass == Slab.isolatedClass,
      unsafe slab.pointee.byteCount / Page.size > Self.isolatedLists
    {
      // Large pages are given back rather than kept for another secret of just that size.
      return true
    }
    unsafe push(slab)
    return false
  }

  /// A live secret has another size now, and its slot another generation.
  mutating func resized(_ handle: SecretHandle, from oldCount: Int) {
    let slab = unsafe handle.slab
    let slot = unsafe Slab.slots(of: slab) + Int(handle.slot)
    if page != nil { unsafe unlist(slab, handle.slot) }
    unsafe slot.pointee.byteCount = handle.byteCount
    unsafe slot.pointee.generation = handle.generation
    let growth = Int(handle.byteCount) - oldCount
    totals.bytesInUse += growth
    if totals.bytesInUse > totals.peakBytesInUse { totals.peakBytesInUse = totals.bytesInUse }
    labels.resized(handle.label, by: growth)
    changes &+= 1
    if page != nil { unsafe list(slab, handle.slot) }
  }

  // MARK: - Listing

  mutating func list(_ slab: UnsafeMutablePointer<Slab>, _ slotIndex: UInt16) {
    guard let listings = unsafe slab.pointee.listings else { return }
    let listing = unsafe listings + Int(slotIndex)
    guard let index = page!.takeRecord() else {
      page!.unlistedSecrets += 1
      return
    }
    let slot = unsafe Slab.slots(of: slab) + Int(slotIndex)
    unsafe listing.pointee.record = index
    unsafe listing.pointee.position = UInt32(page!.listed.count)
    unsafe page!.listed.append(ListedSecret(slab: slab, slot: slotIndex, count: 0))
    page!.serial &+= 1
    unsafe page!.secrets[Int(index)].list(
      owner: (arena.id & 0xffff_ffff) | UInt64(slot.pointee.label) << 32, serial: page!.serial,
      size: UInt64(slot.pointee.byteCount), now: page!.now)
  }

  private mutating func unlist(_ slab: UnsafeMutablePointer<Slab>, _ slotIndex: UInt16) {
    guard let listings = unsafe slab.pointee.listings else { return }
    let listing = unsafe listings + Int(slotIndex)
    let index = unsafe listing.pointee.record
    guard index != PublishedSecret.none else {
      page!.unlistedSecrets -= 1
      return
    }
    page!.secrets[Int(index)].unlist()
    page!.giveBack(index)
    unsafe listing.pointee.record = PublishedSecret.none
    // The last one takes its place.
    let position = unsafe Int(listing.pointee.position)
    guard let last = page!.listed.popLast(), position < page!.listed.count else { return }
    page!.listed[position] = last
    unsafe last.slab.pointee.listings![Int(last.slot)].position = UInt32(position)
  }

  /// Writes what windows changed since the last time.
  mutating func refreshListed(opens: UInt64) {
    guard page != nil, page!.seenOpens != opens else { return }
    page!.seenOpens = opens
    let now = page!.now
    for index in 0..<page!.listed.count {
      let entry = unsafe page!.listed.pointer(at: index)
      let listing = unsafe entry.pointee.slab.pointee.listings! + Int(entry.pointee.slot)
      let count = unsafe loadRelaxed(&listing.pointee.count)
      guard unsafe count != entry.pointee.count else { continue }
      let isNew = unsafe count >> 24 != entry.pointee.count >> 24
      unsafe entry.pointee.count = count
      let record = unsafe page!.secrets[Int(listing.pointee.record)]
      record.begin()
      record.set(.opens, count >> 24)
      record.set(.openNow, count & 0xff_ffff)
      if isNew { record.set(.lastOpenedAtMs, now) }
      record.end()
    }
  }
}
