// Bookkeeping of slabs and slots. All of it lies outside the secret pages.

import EnclaveStats
import EnclaveSystem

/// Bookkeeping of one slot: half a cache line. Changed under the shard's lock, unless said
/// otherwise. `SecretHandle(live:slot:)` reads the generation, size, label and slack without it, so
/// they are loaded and stored atomically.
struct Slot: BitwiseCopyable {
  /// Incremented by each allocation and each free, so it is odd while a secret lives here; a handle
  /// with another generation is stale. 31 bits; the highest bit says that somebody is freeing the
  /// secret.
  var generation: UInt32 = 0
  var byteCount: UInt32 = 0
  var label: UInt16 = 0
  /// In a free slot, the next free slot of the slab. In a live slot, the bytes left over by
  /// alignment: before the secret in a slab, behind it in isolated pages.
  var nextFree: UInt16 = 0
  /// The secret's record on the stats page.
  var record = PageRecord.none
  /// Total opens << 24 | open now, if windows are counted per slot. Changed by any thread, with
  /// atomic additions.
  var windows: UInt64 = 0
  /// The published generation.
  var listedGeneration: UInt32 = 0
  /// Opens of the slot, modulo 2^32, that its record must not count again: those before this secret
  /// was allocated, and those that the record already shows.
  var listedOpens: UInt32 = 0

  /// Opening a window adds this to `windows`; closing one subtracts 1.
  static let windowOpened: UInt64 = 1 << 24 | 1
  static let openNow: UInt64 = 0xff_ffff

  /// The total opens in `windows`, modulo 2^32.
  @inline(__always)
  static func opens(_ windows: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: windows >> 24) }

  /// The number of opens since `earlier`. Negative if windows that `earlier` counts were undone
  /// because they failed to open.
  @inline(__always)
  static func opensSince(_ earlier: UInt32, _ windows: UInt64) -> Int {
    let difference = opens(windows) &- earlier
    return difference > UInt32.max - UInt32(openNow)
      ? Int(Int32(bitPattern: difference)) : Int(difference)
  }

  /// Called when a record stops showing a secret, or will start again from 0: takes the opens that
  /// it shows out of `listedOpens`, so that they are counted again. `listed` is
  /// `StatsPageWriter.listedWindows`.
  static func uncountListedOpens(
    _ slot: UnsafeMutablePointer<Slot>, _ listed: UnsafeMutablePointer<UInt64>
  ) {
    guard unsafe slot.pointee.record != PageRecord.none,
      unsafe slot.pointee.listedGeneration == unclaimed(generation(of: slot))
    else { return }
    unsafe slot.pointee.listedOpens &-= opens(listed[Int(slot.pointee.record)])
  }

  /// A slot's generation, for whoever does not have the slot to itself: claiming takes no lock, so
  /// the shard's lock is not enough.
  @inline(__always)
  static func generation(of slot: UnsafeMutablePointer<Slot>) -> UInt32 {
    unsafe loadAcquire(&slot.pointee.generation)
  }

  /// A secret lives in the slot, though somebody may be freeing it.
  static func isOccupied(_ generation: UInt32) -> Bool { generation & 1 == 1 }

  /// A secret lives in the slot and nobody is freeing it.
  @inline(__always)
  static func isLive(_ generation: UInt32) -> Bool { generation & (claimed | 1) == 1 }

  private static let claimed: UInt32 = 1 << 31

  static func unclaimed(_ generation: UInt32) -> UInt32 { generation & ~claimed }

  /// The generation that follows.
  @inline(__always)
  static func next(_ generation: UInt32) -> UInt32 { (generation &+ 1) & ~claimed }

  /// Claims the right to free the secret. Returns false if somebody else has it or the slot is
  /// free. No lock.
  @inline(__always)
  static func claim(_ slot: UnsafeMutablePointer<Slot>, _ generation: UInt32) -> Bool {
    unsafe isLive(generation)
      && exchange(&slot.pointee.generation, from: generation, to: generation | claimed)
  }
}

/// Pages that are opened and closed together, cut into slots of one size. A slab's address is
/// stable while the arena's metadata lives, because handles point to it. A slab whose pages were
/// released is reused for the next slab of its class; its slots' generations keep stale handles
/// stale.
@safe
struct Slab: BitwiseCopyable {
  static let isolatedClass: UInt8 = 0xff
  static let endOfList = UInt16.max

  // The first cache line: everything that allocating and freeing access.
  /// First, because the thread sanitizer attributes a change of any field to the first byte: fields
  /// that are read without the shard's lock come later.
  var next: UnsafeMutablePointer<Slab>?
  /// Not 0 once windows are counted per slot: from when the process first publishes, or C first
  /// allocates.
  private var countsWindows: UInt64
  let arena: ArenaReference
  var base: UnsafeMutableRawPointer
  /// The state of ciphertexts (`CipherSlot`), under a cipher gate.
  let cipherSlots: UnsafeMutableRawPointer?
  var slotBytes = 0
  var shard: UInt8 = 0
  let sizeClass: UInt8
  let slotCount: UInt16
  // Guarded by the shard's lock.
  var freeHead: UInt16 = 0
  var live: UInt16 = 0
  /// Slots of a frozen arena that are wiped and not reused.
  var retired: UInt16 = 0
  /// Secrets were added, freed or changed since the last publication.
  var hasUnpublishedChanges = false
  /// It holds no secret, and its chunk counts it as idle.
  var isIdle = false
  /// Pages that could not be closed again: how far they are open.
  var stuck: Protection = .closed

  // The second cache line: rarely accessed.
  /// In the list of slabs with a free slot.
  var previous: UnsafeMutablePointer<Slab>?
  var byteCount = 0
  var chunk: UInt32 = 0
  /// 2^32 / slotBytes, rounded up: finds the slot of an offset by multiplication. 0 if there is one
  /// slot.
  var reciprocal: UInt32 = 0
  /// Open windows under a page gate.
  var readers: UInt32 = 0
  var writers: UInt32 = 0
  /// Slots whose secrets have a record on the stats page, a bit each (a bit per 128 slots on large
  /// pages), and how many secrets have none.
  var listed: InlineArray<2, UInt64> = [0, 0]
  var unlisted: UInt16 = 0
  /// In an isolated slab, where the secret lies that its canaries were written for. The canaries
  /// stay when the secret is wiped, so allocating another secret of the same size opens no pages.
  var preparedPlacement: Placement?

  /// Where an isolated secret lies: its size, and the distance of its start from the end.
  struct Placement: Equatable, BitwiseCopyable {
    private var bytes: UInt32
    private var data: UInt32

    init(byteCount: Int, dataBytes: Int) {
      (bytes, data) = (UInt32(byteCount), UInt32(dataBytes))
    }

    var byteCount: Int { Int(bytes) }
    var dataBytes: Int { Int(data) }
  }

  init(
    _ shape: Shape, arena: ArenaReference, cipherSlots: UnsafeMutableRawPointer?,
    countsWindows: Bool
  ) {
    self.arena = arena
    unsafe self.cipherSlots = unsafe cipherSlots
    self.countsWindows = countsWindows ? 1 : 0
    sizeClass = shape.sizeClass
    slotCount = UInt16(shape.slotCount)
    unsafe base = unsafe shape.base
    setPages(shape)
  }

  /// Gives the slab pages: its first ones, or others when it is reused.
  mutating func setPages(_ shape: Shape) {
    unsafe base = unsafe shape.base
    byteCount = shape.byteCount
    slotBytes = shape.slotBytes
    shard = shape.shard
    chunk = UInt32(shape.chunk)
    reciprocal = shape.reciprocal
    unsafe (next, freeHead, preparedPlacement) = (nil, 0, nil)
  }

  /// Which pages a slab has, and how they are cut into slots.
  @safe
  struct Shape {
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    let chunk: Int
    let slotBytes: Int
    let slotCount: Int
    let sizeClass: UInt8
    let shard: UInt8

    var reciprocal: UInt32 {
      slotCount == 1 ? 0 : UInt32(((1 << 32) + slotBytes - 1) / slotBytes)
    }
  }

  /// The slot that contains an offset. Exact for offsets below 64 KiB; slabs are smaller.
  func slot(at offset: Int) -> Int {
    (Int(truncatingIfNeeded: UInt32(truncatingIfNeeded: offset)) &* Int(reciprocal)) >> 32
  }

  /// Whether its pages may be released: it holds no secret, none was retired in a frozen arena, and
  /// its pages are closed.
  var isEmpty: Bool { live == 0 && retired == 0 && stuck == .closed }
  var pageCount: Int { byteCount / Page.size }

  var isFull: Bool { live + retired == slotCount }
  var isIsolated: Bool { sizeClass == Slab.isolatedClass }

  /// Allocates a slab and its slots in one block: a slot's address follows from the slab's, so a
  /// free can prefetch everything it needs at once.
  static func allocate(slotCount: Int) throws(SystemFailure) -> UnsafeMutablePointer<Slab> {
    let byteCount = slotsOffset + slotCount * MemoryLayout<Slot>.stride
    return unsafe try Metadata.allocate(byteCount: byteCount, alignment: 64)
      .assumingMemoryBound(to: Slab.self)
  }

  /// Two cache lines, so that no slot spans two lines.
  private static let slotsOffset = 128

  private static let countsWindowsOffset = MemoryLayout<Slab>.offset(of: \.countsWindows)!

  /// Whether windows are counted per slot; for callers without a lock.
  @inline(__always)
  static func countsWindows(of slab: UnsafeMutablePointer<Slab>) -> Bool {
    unsafe loadRelaxed(UnsafeRawPointer(slab) + 8) != 0
  }

  /// Starts counting windows. A window that is already open is not counted, and remembers that.
  static func startCountingWindows(of slab: UnsafeMutablePointer<Slab>) {
    precondition(
      countsWindowsOffset == 8 && MemoryLayout<Slab>.size <= slotsOffset
        && MemoryLayout<Slot>.stride == 32)
    unsafe storeRelease(1, at: UnsafeMutableRawPointer(slab) + 8)
  }

  /// The state of ciphertexts, in an arena with a cipher gate.
  @inline(__always)
  static func cipherSlots(of slab: UnsafeMutablePointer<Slab>) -> UnsafeMutableRawPointer {
    unsafe slab.pointee.cipherSlots.unsafelyUnwrapped
  }

  @inline(__always)
  static func slots(of slab: UnsafeMutablePointer<Slab>) -> UnsafeMutablePointer<Slot> {
    unsafe (UnsafeMutableRawPointer(slab) + slotsOffset)
      .assumingMemoryBound(to: Slot.self)
  }

  /// The first byte of a live secret. (Takes the pointer, because taking the value would copy it.)
  @inline(__always)
  static func dataStart(
    of slab: UnsafeMutablePointer<Slab>, _ slot: Int
  ) -> UnsafeMutableRawPointer {
    let entry = unsafe slots(of: slab) + slot
    let slack = unsafe Int(loadField(&entry.pointee.nextFree))
    let offset =
      unsafe slab.pointee.isIsolated
      ? slab.pointee.byteCount - slack - Int(loadField(&entry.pointee.byteCount))
      : slot * slab.pointee.slotBytes + slack
    return unsafe slab.pointee.base + offset
  }

  /// How far the pages must be open for the current windows.
  func needed(_ closed: Protection) -> Protection {
    if writers > 0 { return .readWrite }
    return readers > 0 && closed == .closed ? .read : closed
  }
}

@safe
struct SlabReference: BitwiseCopyable {
  let slab: UnsafeMutablePointer<Slab>
}
