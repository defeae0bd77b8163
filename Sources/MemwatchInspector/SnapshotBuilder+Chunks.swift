// Decodes chunks and the map of their pages.

import EnclaveStats

extension SnapshotBuilder {
  func chunk(
    _ record: StatsPageRecord<ChunkWord>, _ map: StatsPageRecord<MapWord>?, _ image: StatsPageImage
  ) -> ChunkSnapshot {
    ChunkSnapshot(
      address: number(record[.address]), dataBytes: size(record[.dataBytes]),
      guardBytes: size(record[.guardBytes]),
      lockState: code(record[.lockState]),
      errno: errno(record[.lockErrno]),
      kind: Reported(number: record[.kind]),
      pages: map.map { pages(record, $0, image) })
  }

  func pages(
    _ record: StatsPageRecord<ChunkWord>, _ map: StatsPageRecord<MapWord>, _ image: StatsPageImage
  ) -> [PagesSnapshot] {
    let pageBytes = max(image.header[.pageBytes], 512)
    let pageCount = number(record[.dataBytes]).map { Int(clamping: $0 / pageBytes) } ?? 0
    var all: [PagesSnapshot] = []
    for at in 0..<min(pageCount, PageContents.capacity) {
      let contents = map.contents(ofPage: at)
      if contents.kind == PageContents.whole, at == 0 {
        return [
          PagesSnapshot(
            first: 0, count: pageCount, use: .whole, live: UInt64(contents.live),
            isOpen: contents.isOpen, isStuck: contents.isStuck)
        ]
      }
      let isUnused = contents.kind == 0
      if at > 0, isUnused ? all[all.count - 1].use == .unused : contents.isContinuation {
        all[all.count - 1].count += 1
        continue
      }
      var pages = PagesSnapshot(
        first: at, count: 1, use: isUnused ? .unused : .odd, live: UInt64(contents.live),
        isOpen: contents.isOpen, isStuck: contents.isStuck)
      if (1...StatsPageFormat.sizeClassCount).contains(contents.kind) {
        let geometry = HeaderWord.sizeClasses.rawValue + (contents.kind - 1) * 2
        pages.use = .slots
        pages.payload = image.header[geometry]
        pages.slots = image.header[geometry + 1] >> 32
      }
      all.append(pages)
    }
    // Larger than any slab chunk: the map does not cover them.
    if pageCount > PageContents.capacity {
      all.append(
        PagesSnapshot(
          first: PageContents.capacity, count: pageCount - PageContents.capacity,
          use: .odd,
          live: 0, isOpen: false, isStuck: false))
    }
    return all
  }
}
