// The map of chunks: what lies in each of their pages.

/// What lies in one page of a chunk: 16 bits of `MapWord.pages`, the first page in the lowest ones.
///
/// Pages that are opened together say the same, and all but the first that they continue it. The
/// pages of an isolated chunk hold one secret: its first page tells of all.
package struct StatsPageContents: Equatable, Sendable {
  /// Secrets that live here; 255 is that many or more.
  package var live = 0
  /// What it is cut into: 0 nothing yet, 1 to 16 a size class of the header, 31 the whole.
  package var kind = 0
  /// A window lies here.
  package var isOpen = false
  /// It could not be closed again.
  package var isStuck = false
  package var isContinuation = false

  package static let whole = 31
  /// Pages of a slab chunk, at most.
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
  /// What lies in a page, 0 to 63.
  package func contents(ofPage page: Int) -> StatsPageContents {
    let word = self[MapWord.pages.rawValue + page / 4]
    return StatsPageContents(bits: word >> UInt64(page % 4 * 16) & 0xffff)
  }
}
