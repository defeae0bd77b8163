// The stats page records of an arena's chunks.

import EnclaveStats
import EnclaveSystem

extension ArenaCore {
  mutating func publishChunk(_ index: Int, event: EventCode?) {
    guard page != nil else { return }
    defer { publishLocked() }
    let chunk = unsafe chunks.pointer(at: index)
    if let event {
      unsafe page!.writer.event(
        event, arena: arena.id, bytes: UInt64(chunk.pointee.mapping.byteCount))
    }
    if unsafe !chunk.pointee.isMapped {
      if unsafe chunk.pointee.record != PageRecord.none {
        unlistChunk(index, page!)
      } else {
        page!.unlistedChunks -= 1
        page!.writer.decrementUnlisted(.chunks)
      }
      return
    }
    // Checked whenever a chunk changes; the ticker withholds the other arenas' addresses.
    if page!.publishesAddresses, page!.followsDumpable,
      (try? ProcessFacts.isDumpable()) != true
    {
      page!.publishesAddresses = false
    }
    guard let record = page!.writer.take(.chunks) else {
      page!.unlistedChunks += 1
      return
    }
    unsafe chunk.pointee.record = record
    republishChunk(index)
  }

  func unlistChunk(_ index: Int, _ page: ArenaPublication) {
    let chunk = unsafe chunks.pointer(at: index)
    let record = unsafe chunk.pointee.record
    page.chunks[Int(record)].clear(words: ChunkWord.allCases.count)
    page.maps[Int(record)].clear(words: StatsPageTable.maps.recordBytes / 8)
    page.writer.release(.chunks, record)
    unsafe chunk.pointee.record = PageRecord.none
    unsafe chunk.pointee.mapSum = nil
  }

  /// Updates the record of a chunk whose state changed.
  func republishChunk(_ index: Int) {
    let chunk = chunks[index]
    guard let page, chunk.record != PageRecord.none else { return }
    let record = page.chunks[Int(chunk.record)]
    record.begin()
    record.set(.arenaID, arena.id)
    unsafe record.set(
      .address,
      page.publishesAddresses
        ? UInt64(UInt(bitPattern: chunk.mapping.data)) : StatsPageFormat.unknown)
    record.set(.dataBytes, UInt64(chunk.mapping.byteCount))
    record.set(.guardBytes, UInt64(Page.size))
    let state: LockStateCode =
      chunk.isLocked ? .locked : lockState == .off ? .off : .unlocked
    record.set(.lockState, state.rawValue)
    record.set(
      .lockErrno, state != .unlocked ? StatsPageFormat.unknown : UInt64(chunk.lockErrno))
    record.set(.kind, chunk.isIsolated ? 2 : 1)
    record.end()
  }
}
