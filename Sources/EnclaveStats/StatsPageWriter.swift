// The publishing side: records, their sequences, and which of them are in use.
//
// One record has one writer at a time: whoever holds the lock of what it describes. A writer
// raises the sequence to an odd value, stores the words that changed, and raises it to an even one,
// with plain stores (relaxed, a release fence after the first, a release at the last; Boehm, "Can
// seqlocks get along with programming language memory models?", MSPC 2012). The sequences are kept
// in private memory: what another process may have written into the page is never read back.

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

  /// The stamp of the record's block becomes a value that no other update of that block writes:
  /// the sequence and the record's number. So several arenas may share a block without a
  /// read-modify-write, and a reader that sees an old stamp has missed nothing.
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
  // Whole records in one call: the words' numbers are known in this module alone.

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

  /// Not in use any more. The owner tells; the other words are written with the next.
  package func unlist() {
    begin()
    set(.owner, 0)
    end()
  }
}

/// The records of one table, reached without the page's object: what a hot path keeps.
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

/// A published page's memory: hands out records and takes them back.
///
/// Threads: `take` and `giveBack` lock; a record belongs to whoever took it.
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
  /// Milliseconds since boot, advanced by the ticker: what records are stamped with, so that no
  /// operation calls a clock.
  @usableFromInline package let clock: UnsafeMutablePointer<UInt64>

  private static let processSequence = 0
  private static let callSequences = 1

  /// No less than a writer takes: a sequence for each record, and a free list that doubles as it grows.
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
    unsafe secretsLeft = .allocate(capacity: 8)  // a line of its own
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
    for index in (0..<UInt32(layout.capacity(.secrets))).reversed() {
      unsafe freeSecrets.pointee[region(index)].append(index)
    }
  }

  /// The page's time: what `now` reads, for who must not touch this object on its way.
  package var clockWord: UnsafeRawPointer { unsafe UnsafeRawPointer(clock) }

  /// Frees the private memory of a page that nobody writes to any more: its arenas have let go of it,
  /// and it is unmapped. About 130 KB for a page of usual size.
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

  /// A free record of the table, or nil (which is counted as one more that is not listed).
  package func take(_ table: StatsPageTable) -> UInt32? {
    unsafe lock(spin)
    defer { unsafe unlock(spin) }
    if let index = unsafe free.pointee[table.rawValue].popLast() { return index }
    unsafe unlisted.pointee[table.rawValue] += 1
    return nil
  }

  /// Up to `count` free records for secrets, given one by one: shards keep some, so that threads do
  /// not meet here. Each shard has a region that it takes from first, so that the stamps of two
  /// shards' records are not in one cache line. Where all are taken, that is one load.
  package func takeSecrets(_ count: Int, shard: Int, _ each: (UInt32) -> Void) {
    guard unsafe loadRelaxed(secretsLeft) > 0 else { return }
    unsafe lock(spin)
    var left = count
    for offset in 0..<Self.regions {
      let region = (shard + offset) % Self.regions
      while left > 0, let index = unsafe freeSecrets.pointee[region].popLast() {
        each(index)
        left -= 1
      }
    }
    countSecrets(-(count - left))
    unsafe unlock(spin)
  }

  package func giveBackSecret(_ index: UInt32) {
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

  package func giveBack(_ table: StatsPageTable, _ index: UInt32) {
    unsafe lock(spin)
    unsafe free.pointee[table.rawValue].append(index)
    unsafe unlock(spin)
  }

  /// Something that had no record is gone.
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

  /// Writes an event into the ring. Any thread; takes a lock of its own.
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

  /// What the ticker tells about the process.
  package struct Heartbeat {
    package var state: PublisherStateCode
    package var memlock: ProcessFacts.Limit?
    package var lockedBytes: UInt64?
    package var arenas: Int
    package var arenasDestroyed: UInt64
    package var addresses: AddressCode
    package var isDumpable: Bool?
    /// What sealed arenas that are gone leave behind: address ranges.
    package var retiredMappings: UInt64
    package var retiredBytes: UInt64
    /// Vaults that have no record.
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

  /// Where a signal's wipe leaves its status, and the signal.
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
