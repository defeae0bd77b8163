// One mapping of an arena, and which of its pages are in use.

import EnclaveSystem

/// A chunk of slabs has up to 64 pages: a bit for each says whether it belongs to a slab, another
/// whether that slab is known to hold no secret. When the two words are equal, nothing of the chunk
/// is needed, and it is a spare one:
///
///     used   1111 0011 1000 …   pages of slabs (1, 2 or 4 in a row)
///     idle   0000 0011 0000 …   of slabs that are empty
///     room   lies where `used` has as many zeros in a row as a slab has pages
@safe
struct Chunk: BitwiseCopyable {
  var mapping: GuardedMapping
  var isMapped = true
  /// What a signal wipes; nil once the chunk is on its way out.
  var wipeEntry: WipeEntry?
  var isLocked = false
  /// How much of a chunk that is being locked later has its lock.
  var lockedBytes = 0
  var isSealed = false
  var isIsolated: Bool
  var lockErrno: Int32 = 0
  /// So many bytes may hold secrets, or held some.
  var carvedBytes = 0
  var used: UInt64 = 0
  var idle: UInt64 = 0
  /// Counted in `spareBytes`.
  var isSpare = false
  /// It was just mapped for a slab that is to be cut from it: nobody else takes it for a spare one.
  var isAwaited = false
  /// Under a page gate: every so many pages (1, 2 or 4) are a map of their own; 0 where none are.
  var unit = 0
  /// In which list of chunks with room it is: see `roomList`; 0 in none.
  var list = 0
  var next = Chunk.none
  var previous = Chunk.none
  var record: UInt32 = PageRecord.none
  /// Of the map that was written last.
  var mapSum: UInt64?

  static let none: Int32 = -1
  static let largestPages = 64

  var pageCount: Int { mapping.byteCount / Page.size }

  /// Pages are opened as whole maps: all of an isolated chunk, and each unit of one for slabs.
  var isSeparate: Bool { isIsolated || unit > 0 }

  private var free: UInt64 { ~used & (.max >> UInt64(Self.largestPages - pageCount)) }

  /// The first page of so many (1, 2 or 4) free ones in a row, which begin at a multiple of as many:
  /// so that they are whole units, or lie within one.
  func room(for pages: Int) -> Int? {
    var starts = free
    if pages > 1 { starts &= starts >> 1 & 0x5555_5555_5555_5555 }
    if pages > 2 { starts &= starts >> 2 & 0x1111_1111_1111_1111 }
    return starts == 0 ? nil : starts.trailingZeroBitCount
  }

  /// The list that it belongs in: 1, 2 or 3 where it has room for 1, 2 or 4 pages in a row; 4 more for
  /// units of 2 pages, 8 more for those of 4; 0 for none.
  var roomList: Int {
    if !isMapped || isIsolated || isSealed { return 0 }
    let room = room(for: 4) != nil ? 3 : room(for: 2) != nil ? 2 : room(for: 1) != nil ? 1 : 0
    return room == 0 ? 0 : Self.lists(unit) + room
  }

  static let listCount = 12

  /// Where the lists of chunks with such units begin.
  static func lists(_ unit: Int) -> Int { unit < 2 ? 0 : unit == 2 ? 4 : 8 }

  /// The pages of a slab, as bits.
  func bits(_ slab: UnsafeMutablePointer<Slab>) -> UInt64 {
    let first = unsafe (slab.pointee.base - mapping.data) / Page.size
    return unsafe ((1 << UInt64(slab.pointee.pageCount)) - 1) << UInt64(first)
  }
}
