// The writer: records, their sequences, and which records are in use.
//
// A record has one writer at a time: the holder of the lock of the object that the record
// describes. The writer makes the sequence odd, stores the words that changed, and makes it even
// again, with plain stores (relaxed, a release fence after the first, and release ordering for the
// last; Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012). The
// sequences are kept in private memory: the writer never reads back what another process may have
// written to the page.

package import EnclaveSystem

/// Writes one record.
@safe
package struct RecordWriter<Word: RecordWord> {
  @usableFromInline package let base: UnsafeMutableRawPointer
  @usableFromInline package let sequence: UnsafeMutablePointer<UInt64>
  @usableFromInline package let stamp: UnsafeMutableRawPointer?
  @usableFromInline package let stampTag: UInt64

  @usableFromInline
  package init(
    base: UnsafeMutableRawPointer, sequence: UnsafeMutablePointer<UInt64>,
    stamp: UnsafeMutableRawPointer?, stampTag: UInt64
  ) {
    unsafe self.base = base
    unsafe self.sequence = sequence
    unsafe self.stamp = stamp
    self.stampTag = stampTag
  }

  @inlinable @inline(__always)
  package func begin() {
    unsafe sequence.pointee &+= 1
    unsafe storeRelaxed(sequence.pointee, at: base)
    fenceRelease()
  }

  @inlinable @inline(__always)
  package func set(_ word: Int, _ value: UInt64) {
    assert(unsafe sequence.pointee & 1 == 1, "a word is written outside begin() and end()")
    unsafe storeRelaxed(value, at: base + word &* 8)
  }

  /// Sets the stamp of the record's block to a unique value: the sequence and the record's number.
  /// So several arenas can share a block without a read-modify-write, and a reader that sees an old
  /// stamp has missed nothing.
  @inlinable @inline(__always)
  package func end() {
    unsafe sequence.pointee &+= 1
    unsafe storeRelease(sequence.pointee, at: base)
    if let stamp = unsafe stamp {
      unsafe storeRelease((sequence.pointee &* 64) &+ stampTag, at: stamp)
    }
  }

  /// Sets every word to 0 (not in use), under the sequence.
  package func clear(words: Int) {
    begin()
    for word in 1..<words { set(word, 0) }
    end()
  }

  /// Stores at most 64 bytes of text.
  package func setText(_ word: Int, _ text: UnsafeBufferPointer<UInt8>) {
    for index in 0..<(StatsPageFormat.textBytes / 8) {
      var value: UInt64 = 0
      for byte in 0..<8 where index * 8 + byte < text.count {
        unsafe value |= UInt64(text[index * 8 + byte]) << (8 * UInt64(byte))
      }
      set(word + index, value)
    }
  }
}

extension RecordWriter {
  @inlinable @inline(__always)
  package func set(_ word: Word, _ value: UInt64) { set(word.rawValue, value) }
}

extension RecordWriter where Word == SecretWord {
  // Whole records in one call, since only this module knows the word numbers.

  package func list(owner: UInt64, serial: UInt64, size: UInt64, now: UInt64) {
    begin()
    set(.owner, owner)
    set(.serial, serial)
    set(.size, size)
    set(.allocatedAtMs, now)
    set(.opens, 0)
    set(.lastOpenedAtMs, StatsPageFormat.unknown)
    set(.openNow, 0)
    end()
  }

  /// Marks the time of the last opening as unknown.
  package func clearLastOpened() {
    begin()
    set(.lastOpenedAtMs, StatsPageFormat.unknown)
    end()
  }

  /// Marks the record as unused. The other words are overwritten by the next user.
  package func unlist() {
    begin()
    set(.owner, 0)
    end()
  }
}

/// Access to one table's records without the writer object, for hot paths.
@safe
package struct TableWriter<Word: TableWord> {
  @usableFromInline package let base: UnsafeMutableRawPointer
  @usableFromInline package let sequences: UnsafeMutablePointer<UInt64>
  @usableFromInline package let stamps: UnsafeMutableRawPointer?
  @usableFromInline package let recordBytes: Int

  @inlinable @inline(__always)
  package subscript(index: Int) -> RecordWriter<Word> {
    unsafe RecordWriter(
      base: base + index &* recordBytes, sequence: sequences + index,
      stamp: stamps.map { unsafe $0 + (index >> 6) &* 8 }, stampTag: UInt64(index & 63))
  }
}

/// The memory of a published page: allocates and frees records.
///
/// Threads: `take` and `release` lock; a record belongs to its taker.
@safe
package final class StatsPageWriter: @unchecked Sendable {
  package let layout: StatsPageLayout
  private let base: UnsafeMutableRawPointer
  private let sequences: UnsafeMutablePointer<UInt64>
  private let spin: UnsafeMutablePointer<UInt32>
  private let eventSpin: UnsafeMutablePointer<UInt32>
  private let firstSequence: [Int]
  private let free: UnsafeMutablePointer<[[UInt32]]>
  private let nextEvent: UnsafeMutablePointer<UInt64>
  private let unlisted: UnsafeMutablePointer<[UInt64]>
  private let secretsLeft: UnsafeMutablePointer<UInt64>
  private let freeSecrets: UnsafeMutablePointer<[[UInt32]]>
  /// For each secret's record, the windows that it shows, in the format of `Slot.windows`. Only the
  /// shard that writes the record uses it.
  package let listedWindows: UnsafeMutablePointer<UInt64>
  /// Milliseconds since boot, advanced by the ticker. Records use this time, so that no operation
  /// reads a clock.
  @usableFromInline package let clock: UnsafeMutablePointer<UInt64>

  private static let processSequence = 0
  private static let callSequences = 1

  /// An upper bound of a writer's private memory: a sequence for each record, a free list that
  /// grows by doubling, and a word for each secret's record.
  package static func privateByteCount(_ layout: StatsPageLayout) -> Int {
    StatsPageTable.allCases.reduce(StatsPageFormat.callCapacity * 8) {
      $0 + layout.capacity($1) * 24
    }
  }

  package init(base: UnsafeMutableRawPointer, layout: StatsPageLayout) {
    unsafe self.base = base
    self.layout = layout
    var first: [Int] = []
    var total = Self.callSequences + StatsPageFormat.callCapacity
    for table in StatsPageTable.allCases {
      first.append(total)
      total += layout.capacity(table)
    }
    firstSequence = first
    unsafe sequences = .allocate(capacity: total)
    unsafe sequences.initialize(repeating: 0, count: total)
    unsafe spin = .allocate(capacity: 1)
    unsafe spin.initialize(to: 0)
    unsafe eventSpin = .allocate(capacity: 1)
    unsafe eventSpin.initialize(to: 0)
    unsafe nextEvent = .allocate(capacity: 1)
    unsafe nextEvent.initialize(to: 0)
    unsafe clock = .allocate(capacity: 1)
    unsafe clock.initialize(to: ProcessFacts.bootMilliseconds)
    unsafe secretsLeft = .allocate(capacity: 8)  // a cache line of its own
    unsafe secretsLeft.initialize(repeating: UInt64(layout.capacity(.secrets)), count: 8)
    unsafe unlisted = .allocate(capacity: 1)
    unsafe unlisted.initialize(to: Array(repeating: 0, count: StatsPageTable.allCases.count))
    unsafe free = .allocate(capacity: 1)
    unsafe free.initialize(
      to: StatsPageTable.allCases.map { table in
        table == .events || table == .secrets ? [] : (0..<UInt32(layout.capacity(table))).reversed()
      })
    unsafe freeSecrets = .allocate(capacity: 1)
    unsafe freeSecrets.initialize(to: Array(repeating: [], count: Self.regions))
    unsafe listedWindows = .allocate(capacity: layout.capacity(.secrets))
    unsafe listedWindows.initialize(repeating: 0, count: layout.capacity(.secrets))
    for index in (0..<UInt32(layout.capacity(.secrets))).reversed() {
      unsafe freeSecrets.pointee[region(index)].append(index)
    }
  }

  /// The clock word, for hot paths that must not retain the writer.
  package var clockWord: UnsafeRawPointer { unsafe UnsafeRawPointer(clock) }

  /// Frees the private memory, about 130 KB for a page of the usual size. No arena may use the page
  /// any more, and it must be unmapped.
  package func deallocate() {
    unsafe sequences.deallocate()
    unsafe spin.deallocate()
    unsafe eventSpin.deallocate()
    unsafe nextEvent.deallocate()
    unsafe clock.deallocate()
    unsafe secretsLeft.deallocate()
    unsafe unlisted.deinitialize(count: 1).deallocate()
    unsafe free.deinitialize(count: 1).deallocate()
    unsafe freeSecrets.deinitialize(count: 1).deallocate()
    unsafe listedWindows.deallocate()
  }

  package func table<Word: TableWord>(_ word: Word.Type) -> TableWriter<Word> {
    let table = Word.table
    return unsafe TableWriter(
      base: base + layout.offset(table, 0),
      sequences: sequences + firstSequence[table.rawValue],
      stamps: table.isStamped ? base + layout.stampOffsets[table.rawValue] : nil,
      recordBytes: table.recordBytes)
  }

  package var process: RecordWriter<ProcessWord> {
    unsafe RecordWriter(
      base: base + StatsPageFormat.processOffset, sequence: sequences + Self.processSequence,
      stamp: nil, stampTag: 0)
  }

  /// Takes a free record; if there is none, returns nil and counts the object as unlisted.
  package func take(_ table: StatsPageTable) -> UInt32? {
    unsafe lock(spin)
    defer { unsafe unlock(spin) }
    if let index = unsafe free.pointee[table.rawValue].popLast() { return index }
    unsafe unlisted.pointee[table.rawValue] += 1
    return nil
  }

  /// Takes a free record for a secret, or returns nil (after a single load). Each shard prefers a
  /// region of its own, so that its records lie together.
  package func takeSecret(shard: Int) -> UInt32? {
    guard unsafe loadRelaxed(secretsLeft) > 0 else { return nil }
    unsafe lock(spin)
    defer { unsafe unlock(spin) }
    for offset in 0..<Self.regions {
      let region = (shard + offset) % Self.regions
      if let index = unsafe freeSecrets.pointee[region].popLast() {
        countSecrets(-1)
        return index
      }
    }
    return nil
  }

  package func releaseSecret(_ index: UInt32) {
    unsafe lock(spin)
    unsafe freeSecrets.pointee[region(index)].append(index)
    countSecrets(1)
    unsafe unlock(spin)
  }

  private static let regions = 8
  private func region(_ index: UInt32) -> Int {
    Int(index) * Self.regions / max(1, layout.capacity(.secrets))
  }

  private func countSecrets(_ change: Int) {
    let left = unsafe UInt64(Int(loadRelaxed(secretsLeft)) + change)
    unsafe storeRelaxed(left, at: UnsafeMutableRawPointer(secretsLeft))
  }

  package func release(_ table: StatsPageTable, _ index: UInt32) {
    unsafe lock(spin)
    unsafe free.pointee[table.rawValue].append(index)
    unsafe unlock(spin)
  }

  /// Call this when an object without a record is removed.
  package func decrementUnlisted(_ table: StatsPageTable) {
    unsafe lock(spin)
    unsafe unlisted.pointee[table.rawValue] -= 1
    unsafe unlock(spin)
  }

  private func unlistedCount(_ table: StatsPageTable) -> UInt64 {
    unsafe lock(spin)
    defer { unsafe unlock(spin) }
    return unsafe unlisted.pointee[table.rawValue]
  }

  /// Milliseconds since boot, as of the last tick.
  @inlinable @inline(__always)
  package var now: UInt64 { unsafe loadRelaxed(clock) }

  /// Writes an event to the ring. Any thread; uses its own lock.
  package func event(
    _ kind: EventCode, arena: UInt64 = 0, failure: SystemFailure? = nil, bytes: UInt64? = nil
  ) {
    guard layout.capacity(.events) > 0 else { return }
    unsafe lock(eventSpin)
    // The ticker reads it without this lock.
    let serial = unsafe loadRelaxed(nextEvent) + 1
    unsafe storeRelaxed(serial, at: UnsafeMutableRawPointer(nextEvent))
    let index = Int((serial - 1) % UInt64(layout.capacity(.events)))
    let record = table(EventWord.self)[index]
    record.begin()
    record.set(.serial, serial)
    record.set(.kind, kind.rawValue)
    record.set(.arenaID, arena)
    record.set(.atMs, ProcessFacts.bootMilliseconds)
    record.set(.call, failure.map { UInt64($0.call.rawValue) } ?? StatsPageFormat.unknown)
    record.set(.errno, failure.map { UInt64($0.errno) } ?? StatsPageFormat.unknown)
    record.set(.bytes, bytes ?? failure?.byteCount.map(UInt64.init) ?? StatsPageFormat.unknown)
    record.end()
    unsafe unlock(eventSpin)
  }

  /// What the ticker publishes about the process.
  package struct Heartbeat {
    package var state: PublisherStateCode
    package var memlock: ProcessFacts.Limit?
    package var lockedBytes: UInt64?
    package var arenas: Int
    package var arenasDestroyed: UInt64
    package var addresses: AddressCode
    package var isDumpable: Bool?
    /// Address ranges that destroyed sealed arenas still occupy.
    package var retiredMappings: UInt64
    package var retiredBytes: UInt64
    /// Vaults without a record.
    package var vaultsUnlisted: UInt64

    package init(
      state: PublisherStateCode, memlock: ProcessFacts.Limit?, lockedBytes: UInt64?, arenas: Int,
      arenasDestroyed: UInt64, addresses: AddressCode, isDumpable: Bool?,
      retiredMappings: UInt64 = 0, retiredBytes: UInt64 = 0, vaultsUnlisted: UInt64 = 0
    ) {
      self.state = state
      self.memlock = memlock
      self.lockedBytes = lockedBytes
      self.arenas = arenas
      self.arenasDestroyed = arenasDestroyed
      self.addresses = addresses
      self.isDumpable = isDumpable
      self.retiredMappings = retiredMappings
      self.retiredBytes = retiredBytes
      self.vaultsUnlisted = vaultsUnlisted
    }
  }

  /// Advances the page's time.
  package func advanceClock() {
    unsafe storeRelaxed(ProcessFacts.bootMilliseconds, at: UnsafeMutableRawPointer(clock))
  }

  /// The words where a signal's wipe stores its status and the signal.
  package var wipeWords: (status: UnsafeMutableRawPointer, signal: UnsafeMutableRawPointer) {
    func word(_ word: ProcessWord) -> UnsafeMutableRawPointer {
      unsafe base + StatsPageFormat.processOffset + word.rawValue * 8
    }
    return unsafe (word(.emergencyWipe), word(.endedBySignal))
  }

  /// Rewrites the process record and the table of calls. One thread at a time.
  package func write(_ heartbeat: Heartbeat) {
    func limit(_ value: UInt64?) -> UInt64 {
      guard let value else { return StatsPageFormat.unknown }
      return value == UInt64.max ? StatsPageFormat.unlimited : value
    }
    let record = process
    record.begin()
    record.set(.state, heartbeat.state.rawValue)
    record.set(.heartbeatBootMs, ProcessFacts.bootMilliseconds)
    record.set(.heartbeatRealMs, ProcessFacts.realMilliseconds)
    record.set(.memlockSoft, limit(heartbeat.memlock?.soft))
    record.set(.memlockHard, limit(heartbeat.memlock?.hard))
    record.set(.lockedBytes, heartbeat.lockedBytes ?? StatsPageFormat.unknown)
    record.set(.arenas, UInt64(heartbeat.arenas))
    record.set(.arenasUnlisted, unlistedCount(.arenas))
    record.set(.labelsUnlisted, unlistedCount(.labels))
    record.set(.chunksUnlisted, unlistedCount(.chunks))
    unsafe record.set(.events, loadRelaxed(nextEvent))
    record.set(.addresses, heartbeat.addresses.rawValue)
    record.set(.dumpable, heartbeat.isDumpable.map { $0 ? 1 : 2 } ?? 0)
    record.set(.emergencyWipe, UInt64(WipeTable.status))
    record.set(.arenasDestroyed, heartbeat.arenasDestroyed)
    record.set(.retiredMappings, heartbeat.retiredMappings)
    record.set(.retiredBytes, heartbeat.retiredBytes)
    record.set(.vaultsUnlisted, heartbeat.vaultsUnlisted)
    record.set(.scratchBytes, UInt64(ScratchMemory.lockedBytes))
    record.end()

    for call in SystemCall.allCases {
      let number = Int(call.rawValue)
      let record = unsafe RecordWriter<CallWord>(
        base: base + StatsPageFormat.callsOffset + number * 32,
        sequence: sequences + Self.callSequences + number, stamp: nil, stampTag: 0)
      record.begin()
      record.set(.count, call.count)
      record.set(.failures, call.failureCount)
      record.set(.lastErrno, UInt64(max(0, call.lastErrno)))
      record.end()
    }
  }
}
