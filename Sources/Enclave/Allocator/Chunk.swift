// One mapping of an arena, and which of its pages are in use.

import EnclaveSystem

/// A chunk of slabs has up to 64 pages. One bit per page says whether it belongs to a slab, another
/// whether that slab is known to be empty. If the two words are equal, the chunk holds no secret
/// and is spare:
///
///     used   1111 0011 1000 …   pages of slabs (1, 2 or 4 adjacent pages)
///     idle   0000 0011 0000 …   pages of empty slabs
///     room   where `used` has as many adjacent zeros as a slab has pages
@safe
struct Chunk: BitwiseCopyable {
  var mapping: GuardedMapping
  var isMapped = true
  /// Being unmapped without a lock: the addresses may belong to somebody else at any moment.
  var isBeingRemoved = false
  /// The entry for the signal's wipe; nil once the chunk is being removed.
  var wipeEntry: WipeEntry?
  var isLocked = false
  /// How much is locked of a chunk that is being locked after it was mapped.
  var lockedBytes = 0
  var isSealed = false
  var isIsolated: Bool
  var lockErrno: Int32 = 0
  /// How many bytes may hold secrets, or have held some.
  var carvedBytes = 0
  var used: UInt64 = 0
  var idle: UInt64 = 0
  /// Whether the chunk is counted in `spareBytes`.
  var isSpare = false
  /// Just mapped for a slab that is about to be carved: no other thread may take it as spare.
  var isAwaited = false
  /// Under a page gate: every this many pages (1, 2 or 4) are a separate mapping; 0: not separate.
  var unit = 0
  /// The list of chunks with room that it is on (see `roomList`); 0: none.
  var list = 0
  var next = Chunk.none
  var previous = Chunk.none
  var record: UInt32 = PageRecord.none
  /// A checksum of the page map that was published last.
  var mapSum: UInt64?

  static let none: Int32 = -1
  static let largestPages = 64

  var pageCount: Int { mapping.byteCount / Page.size }

  /// Whether pages are opened as whole mappings: an isolated chunk, or each unit of a slab chunk.
  var isSeparate: Bool { isIsolated || unit > 0 }

  private var free: UInt64 { ~used & (.max >> UInt64(Self.largestPages - pageCount)) }

  /// The first page of 1, 2 or 4 adjacent free pages whose start is a multiple of their number, so
  /// that they are whole units or lie within one. Nil if there are none.
  func room(for pages: Int) -> Int? {
    var starts = free
    if pages > 1 { starts &= starts >> 1 & 0x5555_5555_5555_5555 }
    if pages > 2 { starts &= starts >> 2 & 0x1111_1111_1111_1111 }
    return starts == 0 ? nil : starts.trailingZeroBitCount
  }

  /// The list that the chunk belongs on: 1, 2 or 3 if it has room for 1, 2 or 4 adjacent pages;
  /// plus 4 for units of 2 pages, or plus 8 for units of 4. 0: no list.
  var roomList: Int {
    if !isMapped || isIsolated || isSealed { return 0 }
    let room = room(for: 4) != nil ? 3 : room(for: 2) != nil ? 2 : room(for: 1) != nil ? 1 : 0
    return room == 0 ? 0 : Self.lists(unit) + room
  }

  static let listCount = 12

  /// The offset of the lists for chunks with units of this many pages.
  static func lists(_ unit: Int) -> Int { unit < 2 ? 0 : unit == 2 ? 4 : 8 }

  /// The pages of a slab, as bits.
  func bits(_ slab: UnsafeMutablePointer<Slab>) -> UInt64 {
    let first = unsafe (slab.pointee.base - mapping.data) / Page.size
    return unsafe ((1 << UInt64(slab.pointee.pageCount)) - 1) << UInt64(first)
  }
}
