// What is known about memory: chunks, slabs and slots. All of it lies outside of the secret pages.

import EnclaveStats
import EnclaveSystem

/// What is known about one slot: half a cache line.
struct Slot: BitwiseCopyable {
  /// Raised by each allocation and each free, so odd while a secret lives here: a handle with
  /// another generation is stale. 31 bits; the highest says that somebody is freeing it.
  var generation: UInt32 = 0
  var byteCount: UInt32 = 0
  var label: UInt16 = 0
  /// The next free slot of the slab; of a live secret, the bytes that alignment left over: before
  /// it in a slab, behind it in pages of its own.
  var nextFree: UInt16 = 0
  /// Where the secret is listed on the page.
  var record = PageRecord.none
  /// Opens << 24 | open now, where windows are counted by slot. Changed by any thread, by atomic
  /// additions.
  var windows: UInt64 = 0
  /// The generation and the windows that the page tells of.
  var listedGeneration: UInt32 = 0
  var listedWindows: UInt32 = 0

  /// A window that is opened adds this to `windows`, one that is closed takes 1 away.
  static let windowOpened: UInt64 = 1 << 24 | 1
  static let openNow: UInt64 = 0xff_ffff

  /// A secret lives here, though somebody may be freeing it.
  var isOccupied: Bool { generation & 1 == 1 }

  /// Nobody is freeing it, and it is not free.
  var isLive: Bool { Self.isLive(generation) }

  @inline(__always)
  static func isLive(_ generation: UInt32) -> Bool { generation & (claimed | 1) == 1 }

  private static let claimed: UInt32 = 1 << 31

  static func unclaimed(_ generation: UInt32) -> UInt32 { generation & ~claimed }

  /// The generation after one.
  @inline(__always)
  static func next(_ generation: UInt32) -> UInt32 { (generation &+ 1) & ~claimed }

  /// Takes the right to free it; false when somebody else has it, or it is free. No lock.
  @inline(__always)
  static func claim(_ slot: UnsafeMutablePointer<Slot>, _ generation: UInt32) -> Bool {
    unsafe isLive(generation)
      && exchange(&slot.pointee.generation, from: generation, to: generation | claimed)
  }
}

/// Pages that are opened and closed together, cut into slots of one size. A slab keeps its place in
/// memory as long as the arena's metadata lives: handles point to it. One whose pages went serves as
/// the next run of its class, and its slots' generations keep stale handles stale.
@safe
struct Slab: BitwiseCopyable {
  static let isolatedClass: UInt8 = 0xff
  static let endOfList = UInt16.max

  // The first cache line: all that allocating and freeing look at.
  /// First, because the thread sanitizer counts a change of any field as one of the first byte:
  /// what is read without the shard's lock stands behind it.
  var next: UnsafeMutablePointer<Slab>?
  /// Not 0 once windows are counted by slot: from when the process publishes, or C frees, for the
  /// first time.
  private var countsWindows: UInt64
  let arena: ArenaReference
  var base: UnsafeMutableRawPointer
  /// What is known of ciphertexts (`CipherSlot`), under a cipher gate.
  let cipherSlots: UnsafeMutableRawPointer?
  var slotBytes: Int
  var shard: UInt8
  let sizeClass: UInt8
  let slotCount: UInt16
  // What the shard's lock covers.
  var freeHead: UInt16 = 0
  var live: UInt16 = 0
  /// Slots of a frozen arena that are wiped and not used again.
  var retired: UInt16 = 0
  /// Secrets came, went or changed since the page told of them.
  var hasNews = false
  /// It holds no secret, and its chunk counts it so.
  var isIdle = false
  /// Pages that could not be closed again: how far they are open.
  var stuck: Protection = .closed

  // The second: what is looked at now and then.
  /// In the list of slabs with a free slot.
  var previous: UnsafeMutablePointer<Slab>?
  var byteCount: Int
  var chunk: UInt32
  /// 2^32 / slotBytes, rounded up: which slot an offset lies in, by a multiplication. 0 where there
  /// is one slot.
  var reciprocal: UInt32
  /// Windows under a page gate.
  var readers: UInt32 = 0
  var writers: UInt32 = 0
  /// Slots whose secrets the page has a record of, a bit each (for each 128th, where pages are large); and how
  /// many secrets it had none for.
  var listed: InlineArray<2, UInt64> = [0, 0]
  var unlisted: UInt16 = 0
  /// Of an isolated one: where the secret lies that its canaries were written for. They stay when the
  /// secret is wiped, so that the next one of the same size opens no pages when it is allocated.
  var prepared: Place?

  /// Where an isolated secret lies: its size, and how far before the end it begins.
  struct Place: Equatable, BitwiseCopyable {
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
    unsafe base = unsafe shape.base
    byteCount = shape.byteCount
    slotBytes = shape.slotBytes
    shard = shape.shard
    sizeClass = shape.sizeClass
    slotCount = UInt16(shape.slotCount)
    chunk = UInt32(shape.chunk)
    reciprocal = shape.reciprocal
  }

  /// Serves once more, in other pages.
  mutating func reuse(_ shape: Shape) {
    unsafe base = unsafe shape.base
    byteCount = shape.byteCount
    slotBytes = shape.slotBytes
    shard = shape.shard
    chunk = UInt32(shape.chunk)
    reciprocal = shape.reciprocal
    unsafe (next, freeHead, prepared) = (nil, 0, nil)
  }

  /// Which pages a slab takes, and how it cuts them.
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

  /// The slot that an offset lies in. Exact for offsets below 64 KiB, and slabs are smaller.
  func slot(at offset: Int) -> Int {
    (Int(truncatingIfNeeded: UInt32(truncatingIfNeeded: offset)) &* Int(reciprocal)) >> 32
  }

  /// Whether its pages may serve another: it holds no secret, none was retired in a frozen arena, and
  /// its pages are closed.
  var isEmpty: Bool { live == 0 && retired == 0 && stuck == .closed }
  var pageCount: Int { byteCount / Page.size }

  var isFull: Bool { live + retired == slotCount }
  var isIsolated: Bool { sizeClass == Slab.isolatedClass }

  /// A slab and its slots in one block: where a slot is follows from the slab's address alone, so
  /// that a free can bring all that it needs into the cache at once.
  static func allocate(slotCount: Int) throws(SystemFailure) -> UnsafeMutablePointer<Slab> {
    let byteCount = slotsOffset + slotCount * MemoryLayout<Slot>.stride
    return unsafe try Metadata.allocate(byteCount: byteCount, alignment: 64)
      .assumingMemoryBound(to: Slab.self)
  }

  /// Two cache lines: no slot lies in two.
  private static let slotsOffset = 128

  private static let countsWindowsOffset = MemoryLayout<Slab>.offset(of: \.countsWindows)!

  /// Whether windows are counted by slot, for who has no lock.
  @inline(__always)
  static func countsWindows(of slab: UnsafeMutablePointer<Slab>) -> Bool {
    unsafe loadRelaxed(UnsafeRawPointer(slab) + 8) != 0
  }

  /// A window that is open already was not counted, and knows that.
  static func countWindows(of slab: UnsafeMutablePointer<Slab>) {
    precondition(
      countsWindowsOffset == 8 && MemoryLayout<Slab>.size <= slotsOffset
        && MemoryLayout<Slot>.stride == 32)
    unsafe storeRelease(1, at: UnsafeMutableRawPointer(slab) + 8)
  }

  /// Of an arena with a cipher gate.
  @inline(__always)
  static func cipherSlots(of slab: UnsafeMutablePointer<Slab>) -> UnsafeMutableRawPointer {
    unsafe slab.pointee.cipherSlots.unsafelyUnwrapped
  }

  @inline(__always)
  static func slots(of slab: UnsafeMutablePointer<Slab>) -> UnsafeMutablePointer<Slot> {
    unsafe (UnsafeMutableRawPointer(slab) + slotsOffset)
      .assumingMemoryBound(to: Slot.self)
  }

  /// The first byte of a live secret. (A function of the pointer: one of the value would copy it.)
  @inline(__always)
  static func dataStart(
    of slab: UnsafeMutablePointer<Slab>, _ slot: Int
  ) -> UnsafeMutableRawPointer {
    let entry = unsafe slots(of: slab) + slot
    let offset =
      unsafe slab.pointee.isIsolated
      ? slab.pointee.byteCount - Int(entry.pointee.nextFree) - Int(entry.pointee.byteCount)
      : slot * slab.pointee.slotBytes + Int(entry.pointee.nextFree)
    return unsafe slab.pointee.base + offset
  }

  /// How far the pages must be open for the windows there are.
  func needed(_ closed: Protection) -> Protection {
    if writers > 0 { return .readWrite }
    return readers > 0 && closed == .closed ? .read : closed
  }
}

@safe
struct SlabReference: BitwiseCopyable {
  let slab: UnsafeMutablePointer<Slab>
}
