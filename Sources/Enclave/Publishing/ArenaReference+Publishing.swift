// How an arena is put on the stats page, updated at each tick, and taken off.

import EnclaveStats
import EnclaveSystem

extension ArenaReference {
  // MARK: - Start and stop

  /// Publishes everything about this arena on a page, and keeps it up to date.
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
        unsafe Slab.startCountingWindows(of: slab)
        unsafe shards[Int(slab.pointee.shard)].publishBeginning(of: slab)
      }
    }
    refresh()
  }

  /// Removes this arena's records from the page.
  func detach() {
    withEverything { shards, core in
      guard core.page != nil else { return }
      for index in 0..<shardCount {
        shards[index].hasUnpublishedChanges = false
      }
      for index in 0..<core.slabs.count {
        let slab = unsafe core.slabs[index].slab
        unsafe shards[Int(slab.pointee.shard)].unpublishSecrets(of: slab)
      }
      for index in 0..<shardCount { shards[index].page = nil }
      core.detach()
    }
  }

  // MARK: - Each tick

  /// Whether the arena has its own record.
  var isListed: Bool { withCore { $0.page?.record != nil } }

  /// Publishes what has changed.
  func refresh() {
    unsafe lockInProcess(refreshWord)
    defer { unsafe unlock(refreshWord) }
    var totals = ArenaTotals()
    totals.add(gate)
    refreshSecrets()
    for index in 0..<shardCount {
      withShard(index) { shard in
        shard.reportIdleSlabs()
        totals.add(shard)
      }
    }
    withCore { core in
      guard core.page != nil else { return }
      core.publishTotals(totals, gate.windows)
    }
    refreshMaps()
    // Labels: collect each shard's counts, one shard at a time, then publish the sums.
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

  /// How many slabs are examined while the locks of a shard and the core are held: tens of
  /// microseconds.
  private static let slabsAtOnce = 8

  /// Publishes changes of secrets and of their windows.
  private func refreshSecrets() {
    var hasUnpublishedChanges = false
    for index in 0..<shardCount {
      withShard(index) { shard in
        hasUnpublishedChanges = hasUnpublishedChanges || shard.hasUnpublishedChanges
        shard.hasUnpublishedChanges = false
      }
    }
    // Only slabs that exist now; a slab added later is marked as changed and published next time.
    let (slabCount, windowsChanged) = withCore { core in
      guard core.page != nil else { return (0, false) }
      let windows = gate.windows
      // If no window was opened, windows can only have been closed.
      let seen = SIMD2(windows.opens, UInt64(windows.open))
      let windowsChanged = seen != core.page!.listedWindows
      defer { (core.page!.listedWindows, core.page!.windowsHadChanged) = (seen, windowsChanged) }
      // A window is counted in the gate and then in its slot, so look again at the next tick.
      return (core.slabs.count, windowsChanged || core.page!.windowsHadChanged)
    }
    guard hasUnpublishedChanges || windowsChanged else { return }
    let isComplete = publishSecrets(slabCount, windows: windowsChanged, isLast: false)
    // A second pass: records freed by the first one serve secrets that found none.
    if !isComplete { _ = publishSecrets(slabCount, windows: false, isLast: true) }
  }

  /// Returns false if a secret found no free record.
  private func publishSecrets(_ slabCount: Int, windows: Bool, isLast: Bool) -> Bool {
    var isComplete = true
    for first in stride(from: 0, to: slabCount, by: Self.slabsAtOnce) {
      let group = first..<min(first + Self.slabsAtOnce, slabCount)
      var left = withCore { core in
        group.reduce(into: UInt8(0)) { shards, slab in
          unsafe shards |= 1 << core.slabs[slab].slab.pointee.shard
        }
      }
      while left != 0 {
        let index = left.trailingZeroBitCount
        left &= left - 1
        withShard(index) { shard in
          guard shard.page != nil else { return }
          // The core's lock too, because an empty slab may move to another shard (and is then
          // marked there).
          withCore { core in
            for slab in group {
              let slab = unsafe core.slabs[slab].slab
              guard unsafe slab.pointee.shard == shard.index else { continue }
              if unsafe slab.pointee.hasUnpublishedChanges {
                isComplete = unsafe shard.publishSecrets(of: slab, isLast: isLast) && isComplete
              } else if windows {
                unsafe shard.publishWindows(of: slab)
              }
            }
          }
        }
      }
    }
    return isComplete
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

  /// The current counts.
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
        unsafe page.writer.release(.labels, entry.pointee.record)
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
      page.writer.release(.arenas, record)
    } else {
      page.writer.decrementUnlisted(.arenas)
    }
  }
}
