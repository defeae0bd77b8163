// What an arena writes into the stats page. Nothing here is reached unless the process publishes.

import EnclaveStats
import EnclaveSystem

/// An arena's places on the page.
@safe
struct ArenaPage {
  let pageWriter: Unmanaged<PageWriter>
  let arenas: TableWriter<ArenaWord>
  let labels: TableWriter<LabelWord>
  let chunks: TableWriter<ChunkWord>
  let secrets: TableWriter<SecretWord>
  /// nil: the table of arenas is full.
  let record: UInt32?
  var publishesAddresses: Bool
  /// Addresses go when the process is not dumpable any more.
  let followsDumpable: Bool
  var unlistedSecrets: UInt64 = 0
  /// Numbers the secrets in the order in which they were listed.
  var lastSerial: UInt64 = 0
  var unlistedChunks: UInt64 = 0

  /// Writers live as long as the process.
  var writer: PageWriter { unsafe pageWriter.takeUnretainedValue() }

  init(_ writer: PageWriter, publishesAddresses: Bool, followsDumpable: Bool) {
    unsafe pageWriter = unsafe .passUnretained(writer)
    arenas = writer.table(ArenaWord.self)
    labels = writer.table(LabelWord.self)
    chunks = writer.table(ChunkWord.self)
    secrets = writer.table(SecretWord.self)
    record = writer.take(.arenas)
    self.publishesAddresses = publishesAddresses
    self.followsDumpable = followsDumpable
  }
}

extension ArenaCore {
  // MARK: - Start and stop

  /// Writes everything about this arena into a page, and keeps it there from now on.
  mutating func attach(
    _ writer: PageWriter, publishesAddresses: Bool, followsDumpable: Bool
  ) {
    page = ArenaPage(
      writer, publishesAddresses: publishesAddresses, followsDumpable: followsDumpable)
    publishArena()
    for index in 0..<labels.entries.count { publishLabel(UInt16(index), isNew: true) }
    for index in 0..<chunks.count where chunks[index].isMapped {
      publishChunk(UInt32(index), event: nil)
    }
    for index in 0..<runs.count {
      let run = unsafe runs.place(index)
      unsafe run.pointee.listings?.deallocate()
      unsafe run.pointee.listings = unsafe makeListings(Int(run.pointee.slotCount))
      guard unsafe run.pointee.live > 0 else { continue }
      var isFree = unsafe [Bool](repeating: false, count: Int(run.pointee.slotCount))
      var slot = unsafe run.pointee.freeHead
      while slot != Run.endOfList {
        isFree[Int(slot)] = true
        slot = unsafe run.pointee.slots[Int(slot)].nextFree
      }
      for slot in unsafe 0..<run.pointee.slotCount where !isFree[Int(slot)] {
        unsafe list(run, slotIndex: slot)
      }
    }
    publishTotals()
  }

  /// Takes this arena's records off the page.
  mutating func detach() {
    guard let page else { return }
    self.page = nil
    for index in 0..<runs.count {
      let run = unsafe runs.place(index)
      if let listings = unsafe run.pointee.listings {
        for slot in unsafe 0..<Int(run.pointee.slotCount)
        where unsafe listings[slot].record != Listing.none {
          unsafe page.secrets[Int(listings[slot].record)].clear(words: SecretWord.allCases.count)
          unsafe page.writer.giveBack(.secrets, listings[slot].record)
        }
        unsafe listings.deallocate()
        unsafe run.pointee.listings = nil
      }
    }
    for index in 0..<labels.entries.count {
      let entry = unsafe labels.entries.place(index)
      if unsafe entry.pointee.record != Listing.none {
        unsafe page.labels[Int(entry.pointee.record)].clear(words: LabelWord.allCases.count)
        unsafe page.writer.giveBack(.labels, entry.pointee.record)
        unsafe entry.pointee.record = Listing.none
      } else {
        page.writer.forgetUnlisted(.labels)
      }
    }
    for index in 0..<chunks.count where chunks[index].record != Listing.none {
      page.chunks[Int(chunks[index].record)].clear(words: ChunkWord.allCases.count)
      page.writer.giveBack(.chunks, chunks[index].record)
      unsafe chunks.place(index).pointee.record = Listing.none
    }
    for _ in 0..<page.unlistedChunks { page.writer.forgetUnlisted(.chunks) }
    if let record = page.record {
      page.arenas[Int(record)].clear(words: PageTable.arenas.recordBytes / 8)
      page.writer.giveBack(.arenas, record)
    } else {
      page.writer.forgetUnlisted(.arenas)
    }
  }

  // MARK: - The arena's record

  private func publishArena() {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.id, id)
    record.set(.state, 1)
    record.set(.layout, (options.layout == .slab ? LayoutCode.slab : .isolated).rawValue)
    record.set(.gate, options.gate.code.rawValue)
    record.set(.keyNumber, PageFormat.unknown)
    record.set(.backing, BackingCode.anonymous.rawValue)
    record.set(.lockPolicy, options.lock.code.rawValue)
    record.set(.sealState, SealCode.open.rawValue)
    record.set(.dumpProtection, DumpCode.excluded.rawValue)
    record.set(.capacityBytes, options.capacity.map(UInt64.init) ?? PageFormat.unlimited)
    record.set(.createdAtMs, createdAtMs)
    record.set(.longestOpenMs, PageFormat.unknown)
    record.set(.encryptedCount, PageFormat.unknown)
    let text = unsafe name.bytes
    record.set(.nameLength, UInt64(text.count))
    unsafe record.setText(ArenaWord.name.rawValue, text)
    record.end()
  }

  var lockState: LockStateCode {
    if options.lock == .off { return .off }
    if totals.bytesLocked == totals.bytesMapped { return .locked }
    return totals.bytesLocked == 0 ? .unlocked : .partial
  }

  var protectionState: ProtectionCode {
    if !options.gate.closesPages { return .readWrite }
    if totals.openWrites > 0 || totals.stuckPages > 0 { return .readWrite }
    return totals.openReads > 0 ? .read : .closed
  }

  /// What every operation may change: the record's moving words.
  func publishTotals(sizeClass: UInt8 = Run.isolatedClass) {
    guard let page, let index = page.record else { return }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.secretCount, UInt64(totals.secrets))
    record.set(.bytesInUse, UInt64(totals.bytesInUse))
    record.set(.allocations, totals.allocations)
    record.set(.frees, totals.frees)
    record.set(.peakSecretCount, UInt64(totals.peakSecrets))
    record.set(.peakBytesInUse, UInt64(totals.peakBytesInUse))
    record.set(.unlistedSecrets, page.unlistedSecrets)
    if sizeClass != Run.isolatedClass {
      publishSizeClass(record, Int(sizeClass))
      record.end()
      return
    }
    for sizeClass in 0..<SizeClass.all.count { publishSizeClass(record, sizeClass) }
    record.set(.failedAllocations, totals.failedAllocations)
    record.set(.failedLocks, totals.failedLocks)
    record.set(.failedOpens, totals.failedOpens)
    record.set(.stuckOpenPages, UInt64(totals.stuckPages))
    record.set(.corruptions, totals.corruptions)
    record.set(.protectionState, protectionState.rawValue)
    record.set(.openWindows, UInt64(totals.openWindows))
    record.set(.opens, totals.opens)
    record.set(.opensForWriting, totals.opensForWriting)
    record.set(.forkProtection, forkProtection.map { UInt64($0.rawValue) } ?? 0)
    record.set(.lockState, lockState.rawValue)
    let failure = totals.bytesLocked < totals.bytesMapped ? lockFailure : nil
    let unknown = PageFormat.unknown
    record.set(.lockErrno, failure.map { UInt64($0.errno) } ?? unknown)
    record.set(
      .lockFailedCall, failure == nil ? unknown : UInt64(SystemCall.lockChunk.rawValue))
    record.set(
      .lockBytesMissing,
      options.lock == .off ? unknown : UInt64(totals.bytesMapped - totals.bytesLocked))
    record.set(.lockFailedAtMs, failure?.atMs ?? unknown)
    record.set(.lockBytesInUse, failure?.bytesInUse ?? unknown)
    record.set(.lockLimitSoft, failure?.soft ?? unknown)
    record.set(.bytesLocked, UInt64(totals.bytesLocked))
    record.set(.bytesMapped, UInt64(totals.bytesMapped))
    record.set(.peakBytesLocked, UInt64(totals.peakBytesLocked))
    record.set(.chunkCount, UInt64(totals.chunks))
    record.set(.mapsUsed, UInt64(totals.chunks * 3))
    record.set(.guardPages, UInt64(totals.chunks * 2))
    record.set(.nextChunkBytes, UInt64(options.layout == .slab ? nextChunkBytes : Page.size))
    record.end()
  }

  @inline(__always)
  private func publishSizeClass(_ record: RecordWriter<ArenaWord>, _ index: Int) {
    unsafe record.set(
      ArenaWord.sizeClasses.rawValue + index,
      UInt64(liveByClass[index]) | UInt64(freeByClass[index]) << 32)
  }

  // MARK: - Labels

  mutating func publishLabel(_ label: UInt16, isNew: Bool) {
    guard let page else { return }
    let entry = unsafe labels.entries.place(Int(label))
    if isNew {
      guard let index = page.writer.take(.labels) else { return }
      unsafe entry.pointee.record = index
      let record = page.labels[Int(index)]
      record.begin()
      record.set(.arenaID, id)
      record.set(.index, UInt64(label))
      let key = unsafe entry.pointee.key
      record.set(.line, key.line == 0 ? PageFormat.unknown : UInt64(key.line))
      record.set(.origin, (key.line == 0 ? OriginCode.label : .callSite).rawValue)
      unsafe record.set(.createdAtMs, entry.pointee.createdAtMs)
      let text = unsafe entry.pointee.text
      record.set(.textLength, UInt64(text.count))
      unsafe text.withUnsafeBufferPointer { unsafe record.setText(LabelWord.text.rawValue, $0) }
      record.end()
    }
    guard unsafe entry.pointee.record != Listing.none else { return }
    let record = unsafe page.labels[Int(entry.pointee.record)]
    record.begin()
    unsafe record.set(.live, entry.pointee.live)
    unsafe record.set(.bytes, entry.pointee.bytes)
    unsafe record.set(.allocations, entry.pointee.allocations)
    unsafe record.set(.frees, entry.pointee.frees)
    unsafe record.set(.opens, entry.pointee.opens)
    unsafe record.set(.openNow, entry.pointee.openNow)
    unsafe record.set(.lastOpenedAtMs, entry.pointee.lastOpenedAtMs)
    let isEmpty = unsafe entry.pointee.minimumSize == .max
    unsafe record.set(.minimumSize, isEmpty ? PageFormat.unknown : entry.pointee.minimumSize)
    unsafe record.set(.maximumSize, isEmpty ? PageFormat.unknown : entry.pointee.maximumSize)
    record.end()
  }

  // MARK: - Secrets

  private mutating func list(_ run: UnsafeMutablePointer<Run>, slotIndex: UInt16) {
    guard page != nil, let listings = unsafe run.pointee.listings else { return }
    let slot = unsafe run.pointee.slots[Int(slotIndex)]
    guard let index = page!.writer.take(.secrets) else {
      page!.unlistedSecrets += 1
      return
    }
    unsafe listings[Int(slotIndex)] = Listing(record: index)
    let record = page!.secrets[Int(index)]
    record.begin()
    record.set(.owner, (id & 0xffff_ffff) | UInt64(slot.label) << 32)
    page!.lastSerial += 1
    record.set(.serial, page!.lastSerial)
    record.set(.size, UInt64(slot.byteCount))
    record.set(.allocatedAtMs, page!.writer.now)
    record.set(.lastOpenedAtMs, PageFormat.unknown)
    record.end()
  }

  mutating func publishAllocation(
    run: UnsafeMutablePointer<Run>, slotIndex: UInt16, label: UInt16
  ) {
    unsafe list(run, slotIndex: slotIndex)
    publishLabel(label, isNew: false)
    unsafe publishTotals(sizeClass: run.pointee.sizeClass)
  }

  mutating func publishFree(
    _ run: UnsafeMutablePointer<Run>, slotIndex: UInt16, label: UInt16
  ) {
    if let listings = unsafe run.pointee.listings, let page {
      let index = unsafe listings[Int(slotIndex)].record
      if index != Listing.none {
        page.secrets[Int(index)].clear(words: SecretWord.allCases.count)
        page.writer.giveBack(.secrets, index)
        unsafe listings[Int(slotIndex)].record = Listing.none
      } else {
        self.page!.unlistedSecrets -= 1
        page.writer.forgetUnlisted(.secrets)
      }
    }
    publishLabel(label, isNew: false)
    publishTotals()
  }

  mutating func publishWindow(
    _ run: UnsafeMutablePointer<Run>, _ place: Place, opened: Bool
  ) {
    guard let page, let index = page.record else { return }
    let now = page.writer.now
    let label = unsafe run.pointee.slots[Int(place.slot)].label
    let entry = unsafe labels.entries.place(Int(label))
    if opened {
      unsafe entry.pointee.opens &+= 1
      unsafe entry.pointee.openNow += 1
    } else if unsafe entry.pointee.openNow > 0 {
      unsafe entry.pointee.openNow -= 1
    }
    unsafe entry.pointee.lastOpenedAtMs = now
    publishLabel(label, isNew: false)
    if let listings = unsafe run.pointee.listings {
      let listing = unsafe listings + Int(place.slot)
      if opened {
        unsafe listing.pointee.opens &+= 1
        unsafe listing.pointee.openNow += 1
      } else if unsafe listing.pointee.openNow > 0 {
        unsafe listing.pointee.openNow -= 1
      }
      if unsafe listing.pointee.record != Listing.none {
        let record = unsafe page.secrets[Int(listing.pointee.record)]
        record.begin()
        unsafe record.set(.opens, listing.pointee.opens)
        record.set(.lastOpenedAtMs, now)
        unsafe record.set(.openNow, UInt64(listing.pointee.openNow))
        record.end()
      }
    }
    let record = page.arenas[Int(index)]
    record.begin()
    record.set(.protectionState, protectionState.rawValue)
    record.set(.openWindows, UInt64(totals.openWindows))
    record.set(.opens, totals.opens)
    record.set(.opensForWriting, totals.opensForWriting)
    record.set(.stuckOpenPages, UInt64(totals.stuckPages))
    record.end()
  }

  // MARK: - Chunks

  mutating func publishChunk(_ index: UInt32, event: EventCode?) {
    guard page != nil else { return }
    let chunk = unsafe chunks.place(Int(index))
    if let event {
      unsafe page!.writer.event(event, arena: id, bytes: UInt64(chunk.pointee.mapping.byteCount))
    }
    if unsafe !chunk.pointee.isMapped {
      if unsafe chunk.pointee.record != Listing.none {
        unsafe page!.chunks[Int(chunk.pointee.record)].clear(words: ChunkWord.allCases.count)
        unsafe page!.writer.giveBack(.chunks, chunk.pointee.record)
        unsafe chunk.pointee.record = Listing.none
      } else {
        page!.unlistedChunks -= 1
        page!.writer.forgetUnlisted(.chunks)
      }
      publishTotals()
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
      publishTotals()
      return
    }
    unsafe chunk.pointee.record = record
    unsafe writeChunk(chunk.pointee)
    publishTotals()
  }

  /// A chunk's state changed, its place did not.
  func republishChunk(_ chunk: Chunk) {
    guard page != nil else { return }
    writeChunk(chunk)
    publishTotals()
  }

  private func writeChunk(_ chunk: Chunk) {
    guard let page, chunk.record != Listing.none else { return }
    let record = page.chunks[Int(chunk.record)]
    record.begin()
    record.set(.arenaID, id)
    unsafe record.set(
      .address,
      page.publishesAddresses
        ? UInt64(UInt(bitPattern: chunk.mapping.data)) : PageFormat.unknown)
    record.set(.dataBytes, UInt64(chunk.mapping.byteCount))
    record.set(.guardBytes, UInt64(Page.size))
    let state: LockStateCode =
      chunk.isLocked ? .locked : options.lock == .off ? .off : .unlocked
    record.set(.lockState, state.rawValue)
    record.set(
      .lockErrno,
      chunk.isLocked || options.lock == .off
        ? PageFormat.unknown : UInt64(chunk.lockErrno))
    record.set(.kind, chunk.isIsolated ? 2 : 1)
    record.end()
  }

  /// Takes the addresses off the page: the process is not dumpable any more.
  mutating func withholdAddresses() {
    guard page != nil else { return }
    page!.publishesAddresses = false
    for index in 0..<chunks.count where chunks[index].isMapped { writeChunk(chunks[index]) }
  }
}
