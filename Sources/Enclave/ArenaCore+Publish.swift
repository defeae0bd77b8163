// What an arena writes into the stats page. Nothing here is reached unless the process publishes.
//
// Secrets are listed and taken off the list as they come and go, under their shard's lock; chunks,
// events and new labels when they happen. Counts, windows and states are kept in ordinary memory
// anyway, and written by the publisher's thread at each tick: so that an operation pays nothing for
// them, and shards stay apart.

import EnclaveStats
import EnclaveSystem

/// An arena's places on the page.
@safe
struct ArenaPublication {
  let pageWriter: Unmanaged<StatsPageWriter>
  let arenas: TableWriter<ArenaWord>
  let labels: TableWriter<LabelWord>
  let chunks: TableWriter<ChunkWord>
  let maps: TableWriter<MapWord>
  /// nil: the table of arenas is full.
  let record: UInt32?
  var publishesAddresses: Bool
  /// Addresses go when the process is not dumpable any more.
  let followsDumpable: Bool
  var unlistedChunks: UInt64 = 0
  /// The counts of changes and windows when the record was written last.
  var written: SIMD4<UInt64>?
  var hasChanged = true
  var peakSecrets = 0
  var peakBytesInUse = 0
  /// A window that is open at every tick: its thread's number of opens then, and since when.
  var openSince: UInt64?
  var opensWhenOpen: UInt64 = 0
  var longestOpenMs: UInt64 = 0
  var mapping = MapProgress()

  /// Writers live as long as the process.
  var writer: StatsPageWriter { unsafe pageWriter.takeUnretainedValue() }

  init(_ writer: StatsPageWriter, publishesAddresses: Bool, followsDumpable: Bool) {
    unsafe pageWriter = unsafe .passUnretained(writer)
    arenas = writer.table(ArenaWord.self)
    labels = writer.table(LabelWord.self)
    chunks = writer.table(ChunkWord.self)
    maps = writer.table(MapWord.self)
    record = writer.take(.arenas)
    self.publishesAddresses = publishesAddresses
    self.followsDumpable = followsDumpable
  }
}

/// The sum over an arena's shards, gates and core.
struct Totals {
  var secrets = 0
  var bytesInUse = 0
  var allocations: UInt64 = 0
  var frees: UInt64 = 0
  var failedAllocations: UInt64 = 0
  var failedOpens: UInt64 = 0
  var corruptions: UInt64 = 0
  var stuckPages = 0
  var retiredSlots = 0
  var peakSecrets = 0
  var peakBytesInUse = 0
  var changes: UInt64 = 0
  var unlistedSecrets: UInt64 = 0

  mutating func add(_ shard: Shard) {
    secrets += shard.totals.secrets
    bytesInUse += shard.totals.bytesInUse
    allocations &+= shard.totals.allocations
    frees &+= shard.totals.frees
    failedAllocations &+= shard.totals.failedAllocations
    failedOpens &+= shard.totals.failedOpens
    corruptions &+= shard.totals.corruptions
    stuckPages += shard.totals.stuckPages
    retiredSlots += shard.totals.retiredSlots
    peakSecrets = max(peakSecrets, shard.totals.peakSecrets)
    peakBytesInUse = max(peakBytesInUse, shard.totals.peakBytesInUse)
    changes &+= shard.changes &+ shard.totals.allocations &+ shard.totals.frees
    unlistedSecrets += shard.page?.unlistedSecrets ?? 0
  }

  /// What no shard could count.
  mutating func add(_ gate: GateState) {
    let missed = gate.missedOpens
    failedOpens &+= missed
    changes &+= missed
  }
}

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
        if unsafe slab.pointee.listings == nil {
          unsafe Slab.setListings(ArenaCore.makeListings(Int(slab.pointee.slotCount)), of: slab)
        }
        for slot in unsafe 0..<slab.pointee.slotCount
        where unsafe slab.pointee.slots[Int(slot)].isLive {
          unsafe shards[Int(slab.pointee.shard)].list(slab, slot)
        }
      }
    }
    refresh()
  }

  /// Takes this arena's records off the page.
  func detach() {
    withEverything { shards, core in
      guard core.page != nil else { return }
      for index in 0..<shardCount {
        guard var page = shards[index].page else { continue }
        shards[index].page = nil
        for entry in 0..<page.listed.count {
          let (slab, slot) = unsafe (page.listed[entry].slab, Int(page.listed[entry].slot))
          let record = unsafe slab.pointee.listings![slot].record
          page.secrets[Int(record)].unlist()
          page.writer.giveBackSecret(record)
          unsafe slab.pointee.listings![slot].record = PublishedSecret.none
        }
        page.giveBack(leaving: 0)
        page.spare.deallocate()
        page.listed.deallocate()
      }
      core.detach()
    }
  }

  // MARK: - Each tick

  /// Whether the arena has a record of its own.
  var isListed: Bool { withCore { $0.page?.record != nil } }

  /// Writes what has changed.
  func refresh() {
    var totals = Totals()
    totals.add(gate)
    let opens = withCore { _ in gate.windows.opens }
    for index in 0..<shardCount {
      withShard(index) { shard in
        shard.refreshListed(opens: opens)
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
  var totals: Totals {
    var totals = Totals()
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
      if unsafe entry.pointee.record != PublishedSecret.none {
        unsafe page.labels[Int(entry.pointee.record)].clear(words: LabelWord.allCases.count)
        unsafe page.writer.giveBack(.labels, entry.pointee.record)
        unsafe entry.pointee.record = PublishedSecret.none
      } else {
        page.writer.forgetUnlisted(.labels)
      }
    }
    for index in 0..<chunks.count where chunks[index].record != PublishedSecret.none {
      unlistChunk(index, page)
    }
    for _ in 0..<page.unlistedChunks { page.writer.forgetUnlisted(.chunks) }
    if let record = page.record {
      page.arenas[Int(record)].clear(words: StatsPageTable.arenas.recordBytes / 8)
      page.writer.giveBack(.arenas, record)
    } else {
      page.writer.forgetUnlisted(.arenas)
    }
  }

  // MARK: - The arena's record

  func publishArena() {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.id, arena.id)
    record.set(.state, 1)
    record.set(.layout, (options.layout == .slab ? LayoutCode.slab : .isolated).rawValue)
    record.set(.gate, mechanism.code.rawValue)
    record.set(.backing, (options.backing == .secret ? BackingCode.secret : .anonymous).rawValue)
    record.set(.lockPolicy, options.lock.code.rawValue)
    record.set(.dumpProtection, DumpCode.excluded.rawValue)
    record.set(.capacityBytes, options.capacity.map(UInt64.init) ?? StatsPageFormat.unlimited)
    unsafe record.set(.createdAtMs, arena.header.pointee.createdAtMs)
    record.set(.encryptedCount, StatsPageFormat.unknown)
    let text = unsafe arena.name.bytes
    record.set(.nameLength, UInt64(text.count))
    unsafe record.setText(ArenaWord.name.rawValue, text)
    record.end()
  }

  var lockState: LockStateCode {
    if options.lock == .off && options.backing != .secret { return .off }
    if bytesLocked == bytesMapped { return .locked }
    return bytesLocked == 0 ? .unlocked : .partial
  }

  private func protectionState(_ totals: Totals, _ windows: GateState.Windows) -> ProtectionCode {
    if mechanism == .none { return arena.gate.isFrozen ? .read : .readWrite }
    if windows.writes > 0 || totals.stuckPages > 0 { return .readWrite }
    return windows.reads > 0 ? .read : .closed
  }

  mutating func publishTotals(_ totals: Totals, _ windows: GateState.Windows) {
    page!.peakSecrets = max(page!.peakSecrets, totals.secrets, totals.peakSecrets)
    page!.peakBytesInUse = max(page!.peakBytesInUse, totals.bytesInUse, totals.peakBytesInUse)
    noteHeld(windows)
    let written = SIMD4(
      totals.changes &+ changes, windows.opens, UInt64(windows.reads), UInt64(windows.writes))
    page!.hasChanged = written != page!.written
    page!.written = written
    guard let page, let index = page.record, page.hasChanged || page.openSince != nil else {
      return
    }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.keyNumber, arena.gate.key.map(UInt64.init) ?? StatsPageFormat.unknown)
    record.set(
      .sealState, (isSealed ? SealCode.sealed : arena.gate.isFrozen ? .frozen : .open).rawValue)
    record.set(.secretCount, UInt64(totals.secrets))
    record.set(.bytesInUse, UInt64(totals.bytesInUse))
    record.set(.allocations, totals.allocations)
    record.set(.frees, totals.frees)
    record.set(.peakSecretCount, UInt64(page.peakSecrets))
    record.set(.peakBytesInUse, UInt64(page.peakBytesInUse))
    record.set(.unlistedSecrets, totals.unlistedSecrets)
    record.set(.failedAllocations, totals.failedAllocations)
    record.set(.failedLocks, failedLocks)
    record.set(.failedOpens, totals.failedOpens)
    record.set(.stuckOpenPages, UInt64(totals.stuckPages))
    record.set(.corruptions, totals.corruptions)
    record.set(.protectionState, protectionState(totals, windows).rawValue)
    record.set(.openWindows, UInt64(windows.open))
    record.set(.opens, windows.opens)
    record.set(.opensForWriting, windows.opensForWriting)
    record.set(.longestOpenMs, page.longestOpenMs)
    record.set(.forkProtection, forkProtection.map { UInt64($0.rawValue) } ?? 0)
    record.set(.lockState, lockState.rawValue)
    let failure = bytesLocked < bytesMapped ? lockFailure : nil
    let unknown = StatsPageFormat.unknown
    record.set(.lockErrno, failure.map { UInt64($0.errno) } ?? unknown)
    record.set(
      .lockFailedCall, failure == nil ? unknown : UInt64(SystemCall.lockChunk.rawValue))
    record.set(
      .lockBytesMissing, lockState == .off ? unknown : UInt64(bytesMapped - bytesLocked))
    record.set(.lockFailedAtMs, failure?.atMs ?? unknown)
    record.set(.lockBytesInUse, failure?.bytesInUse ?? unknown)
    record.set(.lockLimitSoft, failure?.soft ?? unknown)
    record.set(.bytesLocked, UInt64(bytesLocked))
    record.set(.bytesMapped, UInt64(bytesMapped))
    record.set(.peakBytesLocked, UInt64(peakBytesLocked))
    record.set(.chunkCount, UInt64(chunkCount))
    record.set(.mapsUsed, UInt64(chunkCount * 3))
    record.set(.guardPages, UInt64(chunkCount * 2))
    // A frozen arena does not grow any more.
    record.set(
      .nextChunkBytes,
      arena.gate.isFrozen
        ? unknown : UInt64(options.layout == .slab ? nextChunkBytes : Page.size))
    record.end()
  }

  /// A window that is seen open at two ticks with none opened between is the same one: so the ticker
  /// tells how long windows are held, and no window asks a clock.
  private mutating func noteHeld(_ windows: GateState.Windows) {
    let now = page!.writer.now
    if windows.open == 0 || page!.openSince == nil || windows.opens != page!.opensWhenOpen {
      page!.openSince = windows.open == 0 ? nil : now
      page!.opensWhenOpen = windows.opens
    }
    if let since = page!.openSince {
      page!.longestOpenMs = max(page!.longestOpenMs, now &- since)
    }
  }

  /// What is locked is compared with VmLck: it does not wait for a tick.
  private func publishLocked() {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.lockState, lockState.rawValue)
    record.set(.bytesLocked, UInt64(bytesLocked))
    record.set(.bytesMapped, UInt64(bytesMapped))
    record.set(.chunkCount, UInt64(chunkCount))
    record.set(.forkProtection, forkProtection.map { UInt64($0.rawValue) } ?? 0)
    record.end()
  }

  func publishSizeClasses(_ classes: [UInt64]) {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    for sizeClass in 0..<classes.count {
      record.set(ArenaWord.sizeClasses.rawValue + sizeClass, classes[sizeClass])
    }
    record.end()
  }

  // MARK: - Labels

  func publishNewLabel(_ label: UInt16) {
    guard let page, let index = page.writer.take(.labels) else { return }
    let entry = unsafe labels.entries.pointer(at: Int(label))
    unsafe entry.pointee.record = index
    let record = page.labels[Int(index)]
    record.begin()
    record.set(.arenaID, arena.id)
    record.set(.index, UInt64(label))
    let key = unsafe entry.pointee.key
    record.set(.line, key.line == 0 ? StatsPageFormat.unknown : UInt64(key.line))
    record.set(.origin, (key.line == 0 ? OriginCode.label : .callSite).rawValue)
    unsafe record.set(.createdAtMs, entry.pointee.createdAtMs)
    let text = unsafe entry.pointee.text
    record.set(.textLength, UInt64(text.count))
    unsafe text.withUnsafeBufferPointer { unsafe record.setText(LabelWord.text.rawValue, $0) }
    unsafe writeCounts(record, entry.pointee)
    record.end()
  }

  private func writeCounts(_ record: RecordWriter<LabelWord>, _ entry: LabelEntry) {
    let counts = entry.counts
    record.set(.live, counts.allocations &- counts.frees)
    record.set(.bytes, counts.bytes)
    record.set(.allocations, counts.allocations)
    record.set(.frees, counts.frees)
    record.set(.opens, entry.opens)
    record.set(.openNow, entry.openNow)
    record.set(.lastOpenedAtMs, entry.lastOpenedAtMs)
    let isEmpty = counts.minimumSize == .max
    record.set(.minimumSize, isEmpty ? StatsPageFormat.unknown : counts.minimumSize)
    record.set(.maximumSize, isEmpty ? StatsPageFormat.unknown : counts.maximumSize)
  }

  func publishLabels(_ sums: [LabelCounts]) {
    guard let page else { return }
    for label in 0..<sums.count {
      let entry = unsafe labels.entries.pointer(at: label)
      let (opens, openNow) = arena.gate.label(UInt16(label))
      guard
        unsafe sums[label] != entry.pointee.counts || opens != entry.pointee.opens
          || openNow != entry.pointee.openNow
      else { continue }
      unsafe entry.pointee.counts = sums[label]
      if unsafe opens != entry.pointee.opens {
        unsafe entry.pointee.lastOpenedAtMs = page.writer.now
      }
      unsafe entry.pointee.opens = opens
      unsafe entry.pointee.openNow = openNow
      guard unsafe entry.pointee.record != PublishedSecret.none else { continue }
      let record = unsafe page.labels[Int(entry.pointee.record)]
      record.begin()
      unsafe writeCounts(record, entry.pointee)
      record.end()
    }
  }

  // MARK: - Chunks

  mutating func publishChunk(_ index: Int, event: EventCode?) {
    guard page != nil else { return }
    defer { publishLocked() }
    let chunk = unsafe chunks.pointer(at: index)
    if let event {
      unsafe page!.writer.event(
        event, arena: arena.id, bytes: UInt64(chunk.pointee.mapping.byteCount))
    }
    if unsafe !chunk.pointee.isMapped {
      if unsafe chunk.pointee.record != PublishedSecret.none {
        unlistChunk(index, page!)
      } else {
        page!.unlistedChunks -= 1
        page!.writer.forgetUnlisted(.chunks)
      }
      return
    }
    // Asked at each change of the chunks; the ticker takes the other arenas' addresses away.
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

  private func unlistChunk(_ index: Int, _ page: ArenaPublication) {
    let chunk = unsafe chunks.pointer(at: index)
    let record = unsafe chunk.pointee.record
    page.chunks[Int(record)].clear(words: ChunkWord.allCases.count)
    page.maps[Int(record)].clear(words: StatsPageTable.maps.recordBytes / 8)
    page.writer.giveBack(.chunks, record)
    unsafe chunk.pointee.record = PublishedSecret.none
    unsafe chunk.pointee.mapSum = nil
  }

  /// A chunk's state changed, its place did not.
  func republishChunk(_ index: Int) {
    let chunk = chunks[index]
    guard let page, chunk.record != PublishedSecret.none else { return }
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

extension GateKind {
  var code: GateCode {
    switch self {
    case .key: .key
    case .pages: .pages
    case .none: .none
    }
  }
}
