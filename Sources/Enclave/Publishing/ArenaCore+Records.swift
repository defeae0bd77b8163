// The stats page records of an arena and of its labels.

import EnclaveStats
import EnclaveSystem

extension ArenaCore {
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
    if bytesLocked == 0 { return .unlocked }
    // Memory without secrets need not be locked.
    return bytesMapped - bytesLocked == idleUnlockedBytes ? .locked : .partial
  }

  /// 0 before the first chunk.
  private var forkCode: UInt64 {
    options.isInheritedByFork
      ? ForkCode.inherited.rawValue : forkProtection.map { UInt64($0.rawValue) } ?? 0
  }

  private var idleUnlockedBytes: Int {
    var sum = 0
    for index in 0..<chunks.count {
      let chunk = unsafe chunks.pointer(at: index)
      if unsafe chunk.pointee.isMapped && chunk.pointee.isSpare && !chunk.pointee.isLocked {
        sum += unsafe chunk.pointee.mapping.byteCount
      }
    }
    return sum
  }

  private func protectionState(_ totals: ArenaTotals, _ windows: GateState.Windows)
    -> ProtectionCode
  {
    if mechanism == .none { return arena.gate.isFrozen ? .read : .readWrite }
    if windows.writes > 0 || totals.shards.stuckPages > 0 { return .readWrite }
    if windows.reads > 0 { return .read }
    return mechanism == .cipher ? .encrypted : .closed
  }

  mutating func publishTotals(_ totals: ArenaTotals, _ windows: GateState.Windows) {
    page!.peakSecrets = max(page!.peakSecrets, totals.shards.secrets, totals.shards.peakSecrets)
    page!.peakBytesInUse = max(
      page!.peakBytesInUse, totals.shards.bytesInUse, totals.shards.peakBytesInUse)
    updateOpenTimes(windows)
    let written = SIMD4(
      totals.changes &+ changes, windows.opens, UInt64(windows.reads), UInt64(windows.writes))
    let isNew = written != page!.lastWritten
    page!.hasChanged = isNew || page!.changedLastTick
    (page!.lastWritten, page!.changedLastTick) = (written, isNew)
    guard let page, let index = page.record, page.hasChanged || page.openSince != nil else {
      return
    }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.keyNumber, arena.gate.key.map(UInt64.init) ?? StatsPageFormat.unknown)
    record.set(
      .sealState, (isSealed ? SealCode.sealed : arena.gate.isFrozen ? .frozen : .open).rawValue)
    record.set(.secretCount, UInt64(totals.shards.secrets))
    record.set(.bytesInUse, UInt64(totals.shards.bytesInUse))
    record.set(.allocations, totals.shards.allocations)
    record.set(.frees, totals.shards.frees)
    record.set(.peakSecretCount, UInt64(page.peakSecrets))
    record.set(.peakBytesInUse, UInt64(page.peakBytesInUse))
    record.set(.unlistedSecrets, UInt64(max(0, totals.unlistedSecrets)))
    record.set(.failedAllocations, totals.shards.failedAllocations)
    record.set(.failedLocks, failedLocks)
    record.set(.failedOpens, totals.shards.failedOpens)
    record.set(.stuckOpenPages, UInt64(totals.shards.stuckPages))
    record.set(.corruptions, totals.shards.corruptions)
    record.set(.protectionState, protectionState(totals, windows).rawValue)
    record.set(.openWindows, UInt64(windows.open))
    record.set(.abandonedWindows, UInt64(windows.abandoned))
    record.set(.opens, windows.opens)
    record.set(.opensForWriting, windows.opensForWriting)
    record.set(.longestOpenMs, page.longestOpenMs)
    record.set(.openSinceMs, page.openSince ?? StatsPageFormat.unknown)
    record.set(.forkProtection, forkCode)
    let lockState = lockState
    record.set(.lockState, lockState.rawValue)
    let failure = bytesLocked < bytesMapped && lockState != .locked ? lockFailure : nil
    let unknown = StatsPageFormat.unknown
    record.set(.lockErrno, failure.map { UInt64($0.errno) } ?? unknown)
    record.set(
      .lockFailedCall, failure == nil ? unknown : UInt64(SystemCall.lockChunk.rawValue))
    record.set(
      .lockBytesMissing,
      lockState == .off ? unknown : lockState == .locked ? 0 : UInt64(bytesMapped - bytesLocked))
    record.set(.lockFailedAtMs, failure?.atMs ?? unknown)
    record.set(.lockBytesInUse, failure?.bytesInUse ?? unknown)
    record.set(.lockLimitSoft, failure?.soft ?? unknown)
    record.set(.bytesLocked, UInt64(bytesLocked))
    record.set(.bytesMapped, UInt64(bytesMapped))
    record.set(.idleBytes, UInt64(isDestroyed ? 0 : spareBytes))
    record.set(.peakBytesLocked, UInt64(peakBytesLocked))
    record.set(.chunkCount, UInt64(chunkCount))
    record.set(.mapsUsed, UInt64(dataMaps + chunkCount * 2))
    record.set(.separatePages, mechanism == .pages ? UInt64(separatePages) : unknown)
    record.set(.mergedPages, mechanism == .pages ? UInt64(mergedPages) : unknown)
    record.set(.guardPages, UInt64(chunkCount * 2))
    // A frozen arena does not grow.
    record.set(
      .nextChunkBytes,
      arena.gate.isFrozen
        ? unknown : UInt64(options.layout == .slab ? nextChunkBytes : Page.size))
    record.end()
  }

  /// If windows are open at two ticks and none was opened in between, they are the same windows. So
  /// the ticker measures how long windows stay open, and no window reads a clock.
  private mutating func updateOpenTimes(_ windows: GateState.Windows) {
    let now = page!.writer.now
    if windows.open == 0 || page!.openSince == nil || windows.opens != page!.opensWhenOpen {
      page!.openSince = windows.open == 0 ? nil : now
      page!.opensWhenOpen = windows.opens
    }
    if let since = page!.openSince {
      page!.longestOpenMs = max(page!.longestOpenMs, now &- since)
    }
  }

  /// Published at once, not at a tick, because memwatch compares it with VmLck.
  func publishLocked() {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.lockState, lockState.rawValue)
    record.set(.bytesLocked, UInt64(bytesLocked))
    record.set(.bytesMapped, UInt64(bytesMapped))
    record.set(.chunkCount, UInt64(chunkCount))
    record.set(.forkProtection, forkCode)
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
      guard unsafe entry.pointee.record != PageRecord.none else { continue }
      let record = unsafe page.labels[Int(entry.pointee.record)]
      record.begin()
      unsafe writeCounts(record, entry.pointee)
      record.end()
    }
  }
}
