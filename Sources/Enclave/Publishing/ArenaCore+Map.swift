// The maps of an arena's chunks on the stats page: what each page contains. Written at ticks, so
// that no operation pays for it.

import EnclaveStats
import EnclaveSystem

/// How far the published maps of an arena's chunks are up to date.
struct MapProgress: BitwiseCopyable {
  /// The next chunk to examine.
  var cursor = 0
  /// How many chunks were not examined since the arena changed.
  var left = 0

  /// The number of pages of an arena that a tick examines at most (8 MiB): some 0.2 ms. The rest
  /// waits for the next tick.
  static let pagesPerTick = 2048
  /// The number of pages that are examined while all shards are locked.
  static let pagesAtOnce = 64
}

extension ArenaReference {
  /// Publishes the maps of chunks that may have changed.
  func refreshMaps() {
    let isDue = withCore { core -> Bool in
      guard core.page != nil else { return false }
      if core.page!.hasChanged { core.page!.mapProgress.left = core.chunks.count }
      return core.page!.mapProgress.left > 0
    }
    guard isDue else { return }
    var pages = 0
    while pages < MapProgress.pagesPerTick {
      let looked = refreshSomeMaps()
      guard looked > 0 else { return }
      pages += looked
    }
  }

  /// Handles the next few chunks, and returns how many pages were examined. The shards are locked
  /// only while the contents are read, not while looking for windows.
  private func refreshSomeMaps() -> Int {
    for index in 0..<shardCount { unsafe lock(shardWord(index)) }
    return withCore { core in
      // The arena may have been taken off the page meanwhile.
      let (drafts, pages) = core.page == nil ? ([], 0) : core.draftMaps()
      for index in 0..<shardCount { unsafe unlock(shardWord(index)) }
      if core.page != nil { core.publishMaps(drafts) }
      return pages
    }
  }
}

/// The map entries of a slab, before windows are looked up.
@safe
private struct Draft {
  let chunk: Int
  let firstPage: Int
  let slab: UnsafeMutablePointer<Slab>
  var contents: PageContents
}

extension ArenaCore {
  /// The contents of the next few chunks, and their number of pages. The caller holds all locks.
  fileprivate mutating func draftMaps() -> (drafts: [Draft], pages: Int) {
    guard page != nil, chunks.count > 0 else { return ([], 0) }
    var drafts: [Draft] = []
    var pages = 0
    while page!.mapProgress.left > 0, pages < MapProgress.pagesAtOnce {
      let index = page!.mapProgress.cursor % chunks.count
      page!.mapProgress.cursor = index + 1
      page!.mapProgress.left -= 1
      pages += 1
      let chunk = chunks[index]
      guard chunk.isMapped, !chunk.isBeingRemoved, chunk.record != PageRecord.none else { continue }
      let end = chunk.isIsolated ? Page.size : chunk.carvedBytes
      var at = 0
      while at < min(end, PageContents.capacity * Page.size) {
        var step = Page.size
        if let owner = unsafe pageOwner(of: chunk.mapping.data + at), unsafe owner != Slab.destroyed
        {
          let slab = unsafe owner.assumingMemoryBound(to: Slab.self)
          unsafe drafts.append(
            Draft(
              chunk: index, firstPage: at / Page.size, slab: slab, contents: contents(of: slab)))
          step = unsafe max(step, slab.pointee.byteCount)
        }
        at += step
        pages += step / Page.size
      }
      // A chunk without slabs.
      if drafts.last?.chunk != index { write(map: .init(repeating: 0), of: index) }
    }
    return (drafts, pages)
  }

  private func contents(of slab: UnsafeMutablePointer<Slab>) -> PageContents {
    var contents = PageContents()
    contents.live = unsafe isDestroyed ? 0 : Int(slab.pointee.live)
    let sizeClass = unsafe slab.pointee.sizeClass
    contents.kind = sizeClass == Slab.isolatedClass ? PageContents.whole : Int(sizeClass) + 1
    contents.isStuck = unsafe slab.pointee.stuck != .closed
    contents.isOpen = unsafe slab.pointee.readers + slab.pointee.writers > 0
    return contents
  }

  /// Looks up windows where slabs do not count them, and writes the maps. The caller holds the
  /// core's lock, so that slabs stay.
  fileprivate mutating func publishMaps(_ drafts: [Draft]) {
    // A page gate counts windows per slab. Otherwise the slots count them; skip them if no window
    // is open.
    let looksAtSlots = mechanism != .pages && arena.gate.windows.open > 0
    var map = Map(repeating: 0)
    for (index, draft) in drafts.enumerated() {
      var contents = draft.contents
      if looksAtSlots, contents.live > 0, unsafe Self.hasWindow(draft.slab) {
        contents.isOpen = true
      }
      let pages = unsafe max(1, draft.slab.pointee.byteCount / Page.size)
      let isWhole = contents.kind == PageContents.whole
      for page in draft.firstPage..<draft.firstPage + (isWhole ? 1 : pages)
      where page < PageContents.capacity {
        map[page / 4] |= contents.bits << UInt64(page % 4 * 16)
        contents.isContinuation = true
      }
      if index + 1 == drafts.count || drafts[index + 1].chunk != draft.chunk {
        write(map: map, of: draft.chunk)
        map = Map(repeating: 0)
      }
    }
  }

  private typealias Map = InlineArray<16, UInt64>

  private static func hasWindow(_ slab: UnsafeMutablePointer<Slab>) -> Bool {
    let slots = unsafe Slab.slots(of: slab)
    for slot in unsafe 0..<Int(slab.pointee.slotCount)
    where unsafe loadRelaxed(&slots[slot].windows) & Slot.openNow > 0 { return true }
    return false
  }

  private func write(map: Map, of index: Int) {
    let chunk = unsafe chunks.pointer(at: index)
    guard let page else { return }
    var sum: UInt64 = 1
    for word in map.indices {
      sum = (sum ^ map[word]) &* 0x9e37_79b9_7f4a_7c15
      sum ^= sum >> 29
    }
    guard unsafe sum != chunk.pointee.mapSum else { return }
    unsafe chunk.pointee.mapSum = sum
    let record = unsafe page.maps[Int(chunk.pointee.record)]
    record.begin()
    record.set(.arenaID, arena.id)
    for word in map.indices { record.set(MapWord.pages.rawValue + word, map[word]) }
    record.end()
  }
}
