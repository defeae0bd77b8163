// What an arena publishes on the stats page. Nothing here runs unless the process publishes.
//
// Chunks, events and new labels are written when they happen. Secrets, counts, windows and states
// are kept in ordinary memory anyway; the publisher's thread writes them at each tick, so that
// operations pay nothing for them and shards do not contend.

import EnclaveStats
import EnclaveSystem

/// An arena's records on the page, and what was last published.
@safe
struct ArenaPublication {
  let pageWriter: Unmanaged<StatsPageWriter>
  let arenas: TableWriter<ArenaWord>
  let labels: TableWriter<LabelWord>
  let chunks: TableWriter<ChunkWord>
  let maps: TableWriter<MapWord>
  /// nil if the table of arenas is full.
  let record: UInt32?
  var publishesAddresses: Bool
  /// Whether addresses are withheld once the process is not dumpable any more.
  let followsDumpable: Bool
  var unlistedChunks: UInt64 = 0
  /// The counts of changes and windows that were last published.
  var lastWritten: SIMD4<UInt64>?
  /// Windows opened in total, and open now, when secrets were last published.
  var listedWindows = SIMD2<UInt64>()
  /// Whether these counts had changed then.
  var windowsHadChanged = false
  /// Whether the published counts changed at the last tick.
  var changedLastTick = true
  /// Whether they changed at this tick or the one before: labels and listed secrets follow a moment after
  /// the counts.
  var hasChanged = true
  var peakSecrets = 0
  var peakBytesInUse = 0
  /// Since when the same windows are open, and the number of opens at that time.
  var openSince: UInt64?
  var opensWhenOpen: UInt64 = 0
  var longestOpenMs: UInt64 = 0
  var mapProgress = MapProgress()

  /// The writer lives until its arenas are detached.
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

/// An arena's counts: the sum over its shards, plus what no shard counts.
struct ArenaTotals {
  var shards = ShardTotals()
  var changes: UInt64 = 0
  /// A sum over shards; the number of a single shard may be negative.
  var unlistedSecrets = 0

  mutating func add(_ shard: Shard) {
    shards.add(shard.totals)
    changes &+= shard.changes &+ shard.totals.allocations &+ shard.totals.frees
    unlistedSecrets += shard.page?.unlistedSecrets ?? 0
  }

  /// Adds what could not be counted in a shard.
  mutating func add(_ gate: GateState) {
    let missed = gate.missedOpens
    shards.failedOpens &+= missed
    changes &+= missed
  }
}

extension ShardTotals {
  /// A test checks that every count is added.
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
