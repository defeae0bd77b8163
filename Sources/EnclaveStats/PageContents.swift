// The map of a chunk: the contents of each of its pages.

/// The contents of one page of a chunk: 16 bits of `MapWord.pages`, the first page in the lowest
/// bits.
///
/// Pages that are opened together have equal entries; all but the first are marked as
/// continuations. The pages of an isolated chunk hold one secret: the entry of its first page
/// covers all.
package struct PageContents: Equatable, Sendable {
  /// The live secrets here; 255 means that many or more.
  package var live = 0
  /// How it is used: 0 unused, 1 to 16 slots of that size class in the header, 31 one secret.
  package var kind = 0
  /// A window is open here.
  package var isOpen = false
  /// The page could not be closed.
  package var isStuck = false
  package var isContinuation = false

  package static let whole = 31
  /// The maximum number of pages in a slab chunk.
  package static let capacity = 64

  package init() {}

  package init(bits: UInt64) {
    live = Int(bits & 0xff)
    kind = Int(bits >> 8 & 0x1f)
    isOpen = bits >> 13 & 1 == 1
    isStuck = bits >> 14 & 1 == 1
    isContinuation = bits >> 15 & 1 == 1
  }

  package var bits: UInt64 {
    UInt64(min(live, 255)) | UInt64(kind & 0x1f) << 8 | (isOpen ? 1 << 13 : 0)
      | (isStuck ? 1 << 14 : 0) | (isContinuation ? 1 << 15 : 0)
  }
}

extension StatsPageRecord<MapWord> {
  /// The contents of a page, 0 to 63.
  package func contents(ofPage page: Int) -> PageContents {
    let word = self[MapWord.pages.rawValue + page / 4]
    return PageContents(bits: word >> UInt64(page % 4 * 16) & 0xffff)
  }
}
