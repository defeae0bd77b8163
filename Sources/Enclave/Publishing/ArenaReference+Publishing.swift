// An arena's start and end on the stats page, and what each tick writes of it.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Start and stop

  /// Writes everything about this arena into a page, and keeps it there from now on.
  func attach(_ writer: StatsPageWriter, publishesAddresses: Bool, followsDumpable: Bool) {
    withEverything { shards, core in
      core.page = ArenaPublication(
        writer, publishesAddresses: publishesAddresses, followsDumpable: followsDumpable)
      core.publishArena()
      for index in 0..<core.labels.entries.count { core.publishNewLabel(UInt16(index)) }
      for index in 0..<core.chunks.count where core.chunks[index].isMapped {
        core.publishChunk(index, event: nil)
      }
      for index in 0..<shardCount {
        shards[index].page = ShardPublication(writer, shard: index)
      }
      for index in 0..<core.slabs.count {
        let slab = unsafe core.slabs[index].slab
        unsafe Slab.countWindows(of: slab)
        unsafe shards[Int(slab.pointee.shard)].publishSecrets(of: slab)
      }
    }
    refresh()
  }

  /// Takes this arena's records off the page.
  func detach() {
    withEverything { shards, core in
      guard core.page != nil else { return }
      for index in 0..<shardCount {
        shards[index].hasNews = false
      }
      for index in 0..<core.slabs.count {
        let slab = unsafe core.slabs[index].slab
        unsafe shards[Int(slab.pointee.shard)].unpublishSecrets(of: slab)
      }
      for index in 0..<shardCount {
        shards[index].page?.end()
        shards[index].page = nil
      }
      core.detach()
    }
  }

  // MARK: - Each tick

  /// Whether the arena has a record of its own.
  var isListed: Bool { withCore { $0.page?.record != nil } }

  /// Writes what has changed.
  func refresh() {
    var totals = ArenaTotals()
    totals.add(gate)
    refreshSecrets()
    for index in 0..<shardCount {
      withShard(index) { shard in
        shard.noteIdle()
        totals.add(shard)
      }
    }
    withCore { core in
      guard core.page != nil else { return }
      core.publishTotals(totals, gate.windows)
    }
    refreshMaps()
    // Labels: the shards' counts, one shard at a time, then the sums.
    guard withCore({ $0.page?.hasChanged ?? false }) else { return }
    let count = withCore { $0.labels.entries.count }
    var sums = [LabelCounts](repeating: LabelCounts(), count: count)
    var classes = [UInt64](repeating: 0, count: SizeClass.all.count)
    for index in 0..<shardCount {
      withShard(index) { shard in
        for label in 0..<min(count, shard.labels.counts.count) {
          sums[label] = sums[label] + shard.labels.counts[label]
        }
        for sizeClass in 0..<classes.count {
          classes[sizeClass] &+=
            shard.sizeClass(sizeClass)
        }
      }
    }
    withCore { core in
      core.publishLabels(sums)
      core.publishSizeClasses(classes)
    }
  }

  /// How many slabs are looked at while a shard's lock is held: some microseconds.
  private static let slabsAtOnce = 8

  /// Writes what is new of secrets, and of windows to them.
  private func refreshSecrets() {
    let (slabCount, isMoved) = withCore { core in
      guard core.page != nil else { return (0, false) }
      let windows = gate.windows
      // Where as many were opened as before, fewer can be open, but not others.
      let seen = SIMD2(windows.opens, UInt64(windows.open))
      defer { core.page!.listedWindows = seen }
      return (core.slabs.count, seen != core.page!.listedWindows)
    }
    var hasNews = isMoved
    for index in 0..<shardCount {
      withShard(index) { shard in
        hasNews = hasNews || shard.hasNews
        shard.hasNews = false
      }
    }
    guard hasNews else { return }
    for index in 0..<shardCount {
      for first in stride(from: 0, to: slabCount, by: Self.slabsAtOnce) {
        withShard(index) { shard in
          guard shard.page != nil else { return }
          let slabs = withCore { core in
            InlineArray<8, SlabReference?> { first + $0 < slabCount ? core.slabs[first + $0] : nil }
          }
          for place in slabs.indices {
            // An empty one may become another shard's, which has news then.
            guard let slab = unsafe slabs[place]?.slab,
              unsafe slab.pointee.shard == shard.index
            else { continue }
            if unsafe slab.pointee.hasNews || isMoved && slab.pointee.listed > 0 {
              unsafe shard.publishSecrets(of: slab)
            }
          }
        }
      }
    }
  }

  func withholdAddresses() {
    withCore { core in
      guard core.page != nil else { return }
      core.page!.publishesAddresses = false
      for index in 0..<core.chunks.count where core.chunks[index].isMapped {
        core.republishChunk(index)
      }
    }
  }

  /// The counts of now.
  var totals: ArenaTotals {
    var totals = ArenaTotals()
    totals.add(gate)
    for index in 0..<shardCount { withShard(index) { totals.add($0) } }
    return totals
  }
}

extension ArenaCore {
  mutating func detach() {
    guard let page else { return }
    self.page = nil
    for index in 0..<labels.entries.count {
      let entry = unsafe labels.entries.pointer(at: index)
      if unsafe entry.pointee.record != PageRecord.none {
        unsafe page.labels[Int(entry.pointee.record)].clear(words: LabelWord.allCases.count)
        unsafe page.writer.giveBack(.labels, entry.pointee.record)
        unsafe entry.pointee.record = PageRecord.none
      } else {
        page.writer.decrementUnlisted(.labels)
      }
    }
    for index in 0..<chunks.count where chunks[index].record != PageRecord.none {
      unlistChunk(index, page)
    }
    for _ in 0..<page.unlistedChunks { page.writer.decrementUnlisted(.chunks) }
    if let record = page.record {
      page.arenas[Int(record)].clear(words: StatsPageTable.arenas.recordBytes / 8)
      page.writer.giveBack(.arenas, record)
    } else {
      page.writer.decrementUnlisted(.arenas)
    }
  }
}
