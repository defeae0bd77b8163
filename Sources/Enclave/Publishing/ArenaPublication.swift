// What an arena writes into the stats page. Nothing here is reached unless the process publishes.
//
// Chunks, events and new labels are written when they happen. Secrets, counts, windows and states are
// kept in ordinary memory anyway, and written by the publisher's thread at each tick: so that an
// operation pays nothing for them, and shards stay apart.

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
  /// The counts of changes, windows and unlisted secrets when the record was written last.
  var written: SIMD8<UInt64>?
  /// Windows opened, and open, when secrets were written last.
  var listedWindows = SIMD2<UInt64>()
  /// They had changed then.
  var hasMoved = false
  /// They changed at the last tick.
  var isNew = true
  /// They changed at this tick, or at the one before: what a label counts comes a moment after
  /// what its arena counts.
  var hasChanged = true
  var peakSecrets = 0
  var peakBytesInUse = 0
  /// A window that is open at every tick: its thread's number of opens then, and since when.
  var openSince: UInt64?
  var opensWhenOpen: UInt64 = 0
  var longestOpenMs: UInt64 = 0
  var mapping = MapProgress()

  /// A writer lives until its arenas are detached.
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

/// An arena's counts: the sum over its shards, and what no shard counts.
struct ArenaTotals {
  var shards = ShardTotals()
  var changes: UInt64 = 0
  /// A sum over shards of numbers that may be below 0 for one of them.
  var unlistedSecrets = 0

  mutating func add(_ shard: Shard) {
    shards.add(shard.totals)
    changes &+= shard.changes &+ shard.totals.allocations &+ shard.totals.frees
    unlistedSecrets += shard.page?.unlistedSecrets ?? 0
  }

  /// What no shard could count.
  mutating func add(_ gate: GateState) {
    let missed = gate.missedOpens
    shards.failedOpens &+= missed
    changes &+= missed
  }
}

extension ShardTotals {
  /// A test adds up every count.
  mutating func add(_ other: ShardTotals) {
    bytesInUse += other.bytesInUse
    allocations &+= other.allocations
    frees &+= other.frees
    failedAllocations &+= other.failedAllocations
    failedOpens &+= other.failedOpens
    corruptions &+= other.corruptions
    peakSecrets = max(peakSecrets, other.peakSecrets)
    peakBytesInUse = max(peakBytesInUse, other.peakBytesInUse)
    stuckPages += other.stuckPages
    retiredSlots += other.retiredSlots
    wipedWithArena &+= other.wipedWithArena
  }
}

extension GateKind {
  var code: GateCode {
    switch self {
    case .key: .key
    case .pages: .pages
    case .cipher: .cipher
    case .none: .none
    }
  }
}
