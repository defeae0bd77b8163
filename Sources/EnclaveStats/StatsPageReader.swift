// The reader. Anyone who runs as the publisher's user may have written the page: the reader uses
// pread(2) into private memory, checks sizes before use, and bounds every retry.

package import EnclaveSystem

/// Why a file could not be read as a page.
package enum StatsPageReadFailure: Error, Equatable, Sendable {
  case file(FileFailure)
  /// Not a stats page, or truncated, or inconsistent; with the reason.
  case corrupt(String)
  /// A page of another major version.
  case incompatible(major: UInt64, minor: UInt64)
}

/// The words of one record.
package struct StatsPageRecord<Word: RecordWord>: Equatable, Sendable {
  package var words: [UInt64]

  package init(words: [UInt64]) { self.words = words }

  package subscript(_ word: Word) -> UInt64 { self[word.rawValue] }
  package subscript(index: Int) -> UInt64 {
    index < words.count ? words[index] : StatsPageFormat.unknown
  }

  /// The bytes of a text of 64 bytes at most.
  package func text(at word: Word, length: UInt64) -> [UInt8] {
    let count = Int(min(length, UInt64(StatsPageFormat.textBytes)))
    return (0..<count).map { index in
      UInt8(truncatingIfNeeded: self[word.rawValue + index / 8] >> (8 * UInt64(index % 8)))
    }
  }
}

/// The result of reading a page once.
package struct StatsPageImage: Equatable, Sendable {
  package var header: StatsPageRecord<HeaderWord>
  package var layout: StatsPageLayout
  package var process: StatsPageRecord<ProcessWord>
  package var calls: [StatsPageRecord<CallWord>] = []
  package var arenas: [StatsPageRecord<ArenaWord>] = []
  package var labels: [StatsPageRecord<LabelWord>] = []
  package var chunks: [StatsPageRecord<ChunkWord>] = []
  package var secrets: [StatsPageRecord<SecretWord>] = []
  /// The map of each chunk in `chunks`; nil: unknown. Empty if not requested.
  package var maps: [StatsPageRecord<MapWord>?] = []
  /// Changes when the secrets may have changed.
  package var secretsVersion: UInt64 = 0
  package var events: [StatsPageRecord<EventWord>] = []
  package var vaults: [StatsPageRecord<VaultWord>] = []
  /// False if a record kept changing during reading: it is then as of an earlier reading, or
  /// missing.
  package var isComplete = true
  /// A record's sequence stayed odd: its writer stopped in the middle of an update.
  package var isStuck = false

  package var publisherID: UInt64 { header[.publisherID] }
}

/// Tables that are read only on demand, because they may be large.
package struct StatsPageDetail: OptionSet, Sendable {
  package let rawValue: Int
  package init(rawValue: Int) { self.rawValue = rawValue }

  package static let secrets = StatsPageDetail(rawValue: 1)
  package static let maps = StatsPageDetail(rawValue: 2)
  package static let labels = StatsPageDetail(rawValue: 4)
  package static let all: StatsPageDetail = [.secrets, .maps, .labels]

  fileprivate func excludes(_ table: StatsPageTable) -> Bool {
    switch table {
    case .secrets: !contains(.secrets)
    case .maps: !contains(.maps)
    case .labels: !contains(.labels)
    default: false
    }
  }
}

/// Reads one page repeatedly, skipping blocks of records whose stamp has not changed.
package struct StatsPageReader: ~Copyable {
  package let file: OpenFile
  private let layout: StatsPageLayout
  package let header: StatsPageRecord<HeaderWord>
  private var stamps: [UInt64] = []
  /// The records of each table; empty until it is read for the first time.
  private var tables: [[[UInt64]]]
  private var process: [UInt64]
  private var calls: [[UInt64]]
  /// The last contents of blocks without a stamp, if all records were consistent: an identical
  /// block need not be verified or decoded again.
  private var lastBlocks: [Int: [UInt64]] = [:]
  /// The secrets in use as of the last change of their table.
  private var secrets: [StatsPageRecord<SecretWord>] = []
  private var secretsVersion: UInt64 = 0
  private var versionOfSecrets: UInt64?

  /// The time limit for retries in one reading.
  private let retryMilliseconds: UInt64

  /// Takes ownership of an open page and checks its header.
  package init(
    _ file: consuming OpenFile, retryMilliseconds: UInt64 = 40
  ) throws(StatsPageReadFailure) {
    let status: FileStatus
    do { status = try file.status() } catch { throw .file(error) }
    guard status.isRegular else { throw .corrupt("it is not a regular file") }
    guard status.size >= UInt64(StatsPageFormat.stampsOffset) else {
      throw .corrupt(
        "it has \(status.size) bytes; a page has at least \(StatsPageFormat.stampsOffset)")
    }
    let words = try Self.words(
      file, at: 0, count: StatsPageFormat.headerBytes / 8, what: "the header")
    let header = StatsPageRecord<HeaderWord>(words: words)
    func word(_ word: HeaderWord) -> UInt64 { header[word] }
    guard word(.magic) == StatsPageFormat.magic else {
      throw .corrupt("it has no magic number")
    }
    let (major, minor) = (word(.version) >> 32, word(.version) & 0xffff_ffff)
    guard major == StatsPageFormat.major else { throw .incompatible(major: major, minor: minor) }
    func numbers(_ first: HeaderWord) -> [Int]? {
      var all: [Int] = []
      for table in StatsPageTable.allCases {
        guard let number = Int(exactly: header[first.rawValue + table.rawValue]) else {
          return nil
        }
        all.append(number)
      }
      return all
    }
    guard let capacities = numbers(.arenaCapacity), let recordBytes = numbers(.arenaBytes),
      let layout = StatsPageLayout(capacities: capacities, recordBytes: recordBytes)
    else { throw .corrupt("its capacities or record sizes are out of range") }
    // A later minor version may have more tables behind the ones known here.
    let mayHaveMore = minor > StatsPageFormat.minor
    let byteCount = word(.byteCount)
    guard
      byteCount == UInt64(layout.byteCount)
        || mayHaveMore
          && (UInt64(layout.byteCount)...UInt64(StatsPageFormat.maximumBytes)).contains(byteCount)
    else {
      throw .corrupt("its header says \(byteCount) bytes and its capacities \(layout.byteCount)")
    }
    guard status.size == byteCount else {
      throw .corrupt("it has \(status.size) of \(byteCount) bytes: it is truncated")
    }
    guard word(.callBytes) == 32 else { throw .corrupt("its call records have an unexpected size") }
    self.file = file
    self.retryMilliseconds = retryMilliseconds
    self.layout = layout
    self.header = header
    process = Array(repeating: 0, count: StatsPageFormat.processBytes / 8)
    calls = []
    tables = StatsPageTable.allCases.map { _ in [] }
  }

  private static func words(
    _ file: borrowing OpenFile, at offset: Int, count: Int, what: String
  ) throws(StatsPageReadFailure) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: count)
    var got = 0
    var failure: FileFailure?
    unsafe words.withUnsafeMutableBytes { raw in
      do throws(FileFailure) { got = unsafe try file.read(into: raw, at: offset) } catch {
        failure = error
      }
    }
    if let failure { throw .file(failure) }
    guard got == count * 8 else {
      throw .corrupt("it ends within \(what): it was truncated while it was read")
    }
    return words
  }

  /// When the publisher last wrote, in milliseconds since 1970; nil: unknown. One small read.
  package var lastHeartbeat: UInt64? {
    lastProcess.map { $0[.heartbeatRealMs] }
      .flatMap { $0 == 0 || $0 == StatsPageFormat.unknown ? nil : $0 }
  }

  /// Whether the publisher marked the page as closed. One small read.
  package var hasClosed: Bool {
    lastProcess.map { $0[.state] == PublisherStateCode.closed.rawValue } ?? false
  }

  private var lastProcess: StatsPageRecord<ProcessWord>? {
    var budget = Budget(milliseconds: 10)
    let words = try? record(
      at: StatsPageFormat.processOffset, bytes: StatsPageFormat.processBytes, &budget)
    return words.map { StatsPageRecord<ProcessWord>(words: $0) }
  }

  /// Reads the changes since the last reading.
  ///
  /// - Parameter detail: the large tables to include.
  package mutating func read(_ detail: StatsPageDetail = .all) throws(StatsPageReadFailure)
    -> StatsPageImage
  {
    var budget = Budget(milliseconds: retryMilliseconds)
    var image = StatsPageImage(
      header: header, layout: layout, process: StatsPageRecord(words: process))

    let stampEnd = layout.offsets[0]
    let newStamps = try Self.words(
      file, at: StatsPageFormat.stampsOffset, count: (stampEnd - StatsPageFormat.stampsOffset) / 8,
      what: "the stamps")

    var seen = newStamps

    if let record = try record(
      at: StatsPageFormat.processOffset, bytes: StatsPageFormat.processBytes, &budget)
    {
      process = record
    }
    image.process = StatsPageRecord(words: process)
    calls = try block(
      at: StatsPageFormat.callsOffset, count: StatsPageFormat.callCapacity, bytes: 32, old: calls,
      isStamped: false, &budget)

    for table in StatsPageTable.allCases {
      let capacity = layout.capacity(table)
      let bytes = layout.recordBytes[table.rawValue]
      let firstStamp = (layout.stampOffsets[table.rawValue] - StatsPageFormat.stampsOffset) / 8
      var first = 0
      if detail.excludes(table) {
        // Changes in skipped tables are read when the table is requested again.
        let blocks = (capacity + StatsPageFormat.blockRecords - 1) / StatsPageFormat.blockRecords
        for stamp in firstStamp..<firstStamp + blocks {
          seen[stamp] = stamps.isEmpty ? ~newStamps[stamp] : stamps[stamp]
        }
        first = capacity
      } else if tables[table.rawValue].isEmpty {
        tables[table.rawValue] = Array(repeating: [], count: capacity)
      }
      while first < capacity {
        let count = min(StatsPageFormat.blockRecords, capacity - first)
        let stamp = firstStamp + first / StatsPageFormat.blockRecords
        let isUnchanged =
          table.isStamped && !stamps.isEmpty && stamps[stamp] == newStamps[stamp]
        if !isUnchanged {
          let failuresBefore = budget.failures
          let records = try block(
            at: layout.offset(table, first), count: count, bytes: bytes,
            old: Array(tables[table.rawValue][first..<(first + count)]),
            isStamped: table.isStamped, &budget)
          tables[table.rawValue].replaceSubrange(first..<(first + count), with: records)
          if table == .secrets { secretsVersion += 1 }
          // A block with an inconsistent record is read again next time.
          if table.isStamped, budget.failures > failuresBefore { seen[stamp] = ~seen[stamp] }
        }
        first += count
      }
    }
    stamps = seen
    image.calls = calls.map(StatsPageRecord.init(words:))
    func used<Word: TableWord>(_ word: Word) -> [StatsPageRecord<Word>] {
      tables[Word.table.rawValue].lazy
        .filter { $0.count > word.rawValue && $0[word.rawValue] != 0 }
        .map(StatsPageRecord.init(words:))
    }
    image.arenas = used(ArenaWord.id)
    if detail.contains(.labels) { image.labels = used(LabelWord.arenaID) }
    image.chunks = used(ChunkWord.arenaID)
    if detail.contains(.maps) { image.maps = mapsOfChunks }
    if detail.contains(.secrets), versionOfSecrets != secretsVersion {
      secrets = used(SecretWord.owner)
      versionOfSecrets = secretsVersion
    }
    image.secrets = detail.contains(.secrets) ? secrets : []
    image.secretsVersion = secretsVersion
    image.events = used(EventWord.serial).sorted { $0[.serial] < $1[.serial] }
    image.vaults = used(VaultWord.arenaID)
    image.isComplete = budget.failures == 0
    image.isStuck = budget.stuck > 0
    return image
  }

  /// The maps of the chunks in use, in their order.
  private var mapsOfChunks: [StatsPageRecord<MapWord>?] {
    let maps = tables[StatsPageTable.maps.rawValue]
    return tables[StatsPageTable.chunks.rawValue].enumerated().compactMap { index, chunk in
      let id = ChunkWord.arenaID.rawValue
      guard chunk.count > id, chunk[id] != 0 else { return nil }
      guard index < maps.count, maps[index].count > MapWord.arenaID.rawValue,
        maps[index][MapWord.arenaID.rawValue] == chunk[id]
      else { return .some(nil) }
      return StatsPageRecord(words: maps[index])
    }
  }

  private struct Budget {
    var deadline: UInt64
    var failures = 0
    var stuck = 0
    init(milliseconds: UInt64) {
      deadline = ProcessFacts.bootMilliseconds + milliseconds
    }
    var isSpent: Bool { ProcessFacts.bootMilliseconds >= deadline }
  }

  /// Reads a block twice. A record that is equal in both readings, with an even sequence, is
  /// consistent; the others are read individually.
  private mutating func block(
    at offset: Int, count: Int, bytes: Int, old: [[UInt64]], isStamped: Bool,
    _ budget: inout Budget
  ) throws(StatsPageReadFailure) -> [[UInt64]] {
    let words = bytes / 8
    let first = try Self.words(file, at: offset, count: count * words, what: "a table")
    if !isStamped, lastBlocks[offset] == first { return old }
    lastBlocks[offset] = nil
    let second = try Self.words(file, at: offset, count: count * words, what: "a table")
    var records: [[UInt64]] = []
    records.reserveCapacity(count)
    var areAllGood = true
    for index in 0..<count {
      let range = (index * words)..<((index + 1) * words)
      if first[range.lowerBound] & 1 == 0, first[range] == second[range] {
        // Most places of a large table are free, and take no memory here. (The second word of each
        // table's records tells whose it is.)
        let isFree = isStamped && second[range.lowerBound + 1] == 0
        records.append(isFree ? [] : Array(second[range]))
        continue
      }
      areAllGood = false
      if let record = try record(at: offset + index * bytes, bytes: bytes, &budget) {
        records.append(record)
      } else {
        records.append(index < old.count ? old[index] : [])
      }
    }
    if !isStamped, areAllGood { lastBlocks[offset] = second }
    return records
  }

  /// Reads sequence, record, sequence, until both sequences are equal and even. Returns nil if the
  /// retry budget is used up.
  private func record(
    at offset: Int, bytes: Int, _ budget: inout Budget
  ) throws(StatsPageReadFailure) -> [UInt64]? {
    // The budget is shared: a page where every record keeps changing takes no longer than one such
    // record.
    guard !budget.isSpent else {
      budget.failures += 1
      return nil
    }
    var lastOdd: UInt64?
    var isStuck = true
    for attempt in 0... {
      let before = try Self.words(file, at: offset, count: 1, what: "a record")[0]
      if before & 1 == 0 {
        let words = try Self.words(file, at: offset, count: bytes / 8, what: "a record")
        let after = try Self.words(file, at: offset, count: 1, what: "a record")[0]
        if before == after, words[0] == before { return words }
        isStuck = false
      } else {
        if let lastOdd, lastOdd != before { isStuck = false }
        lastOdd = before
      }
      if attempt >= 64, !isStuck { break }
      if budget.isSpent { break }
      if attempt >= 8 { ProcessFacts.pause(milliseconds: 1) }
    }
    budget.failures += 1
    if isStuck, lastOdd != nil { budget.stuck += 1 }
    return nil
  }
}
