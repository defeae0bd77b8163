// What lies in the pages of an arena's chunks, for the stats page: written at ticks, so that no
// operation pays for it.

import EnclaveStats
import EnclaveSystem

/// How far the maps of an arena's chunks are up to date.
struct MapProgress: BitwiseCopyable {
  /// The next chunk to be looked at.
  var cursor = 0
  /// Chunks that were not looked at since the arena changed.
  var left = 0

  /// A tick looks at no more pages of an arena than this (8 MiB): some 0.2 ms. What is left waits
  /// for the next.
  static let pagesATick = 2048
  /// All lanes are locked for so many pages at a time.
  static let pagesAtOnce = 64
}

extension ArenaReference {
  /// Writes the maps of chunks that may have changed.
  func refreshMaps() {
    let isDue = withCore { core -> Bool in
      guard core.page != nil else { return false }
      if core.page!.hasChanged { core.page!.mapping.left = core.chunks.count }
      return core.page!.mapping.left > 0
    }
    guard isDue else { return }
    var pages = 0
    while pages < MapProgress.pagesATick {
      let looked = withEverything { _, core in core.refreshMaps() }
      guard looked > 0 else { return }
      pages += looked
    }
  }
}

extension ArenaCore {
  /// The next few chunks; returns how many pages were looked at. The caller holds all locks.
  fileprivate mutating func refreshMaps() -> Int {
    guard page != nil, chunks.count > 0 else { return 0 }
    // Under a page gate the runs know who is in; else the slots do, and only while somebody is.
    let looksAtSlots = mechanism != .pages && arena.gate.windows.open > 0
    var pages = 0
    while page!.mapping.left > 0, pages < MapProgress.pagesAtOnce {
      let index = page!.mapping.cursor % chunks.count
      page!.mapping.cursor = index + 1
      page!.mapping.left -= 1
      pages += refreshMap(of: index, looksAtSlots: looksAtSlots)
    }
    return pages
  }

  private func refreshMap(of index: Int, looksAtSlots: Bool) -> Int {
    let chunk = unsafe chunks.place(index)
    guard let page, unsafe chunk.pointee.isMapped, unsafe chunk.pointee.record != Listing.none
    else { return 1 }
    var words = InlineArray<16, UInt64>(repeating: 0)
    let count =
      unsafe chunk.pointee.isIsolated
      ? 1 : min(chunk.pointee.carvedBytes / Page.size, PageContents.capacity)
    var at = 0
    while at < count {
      guard
        let owner = unsafe pageOwner(of: chunk.pointee.mapping.data + at * Page.size)
      else {
        at += 1
        continue
      }
      let run = unsafe owner.assumingMemoryBound(to: Run.self)
      var contents = unsafe Self.contents(of: run, looksAtSlots: looksAtSlots)
      if isDestroyed { contents.live = 0 }
      for _ in unsafe 0..<max(1, run.pointee.byteCount / Page.size) where at < count {
        words[at / 4] |= contents.bits << UInt64(at % 4 * 16)
        contents.isContinuation = true
        at += 1
      }
    }
    var sum: UInt64 = 1
    for word in words.indices {
      sum = (sum ^ words[word]) &* 0x9e37_79b9_7f4a_7c15
      sum ^= sum >> 29
    }
    guard unsafe sum != chunk.pointee.mapSum else { return max(1, count) }
    unsafe chunk.pointee.mapSum = sum
    let record = unsafe page.maps[Int(chunk.pointee.record)]
    record.begin()
    record.set(.arenaID, arena.id)
    for word in words.indices { record.set(MapWord.pages.rawValue + word, words[word]) }
    record.end()
    return max(1, count)
  }

  private static func contents(
    of run: UnsafeMutablePointer<Run>, looksAtSlots: Bool
  ) -> PageContents {
    var contents = PageContents()
    contents.live = unsafe Int(run.pointee.live)
    let sizeClass = unsafe run.pointee.sizeClass
    contents.kind = sizeClass == Run.isolatedClass ? PageContents.whole : Int(sizeClass) + 1
    contents.isStuck = unsafe run.pointee.stuck != .closed
    contents.isOpen = unsafe run.pointee.readers + run.pointee.writers > 0
    if looksAtSlots, contents.live > 0, let listings = unsafe Run.listings(of: run) {
      for slot in unsafe 0..<Int(run.pointee.slotCount)
      where unsafe loadRelaxed(&listings[slot].count) & 0xff_ffff > 0 {
        contents.isOpen = true
        break
      }
    }
    return contents
  }
}
