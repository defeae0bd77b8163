// The claims of a stats page about its process's mappings.

import EnclaveStats

/// The claims about one arena.
struct ArenaClaim: Equatable {
  struct ClaimedChunk: Hashable {
    let data: Range<UInt64>
    let guardBytes: UInt64
    let isLocked: Bool

    var guards: [Range<UInt64>] {
      guardBytes == 0
        ? []
        : [
          data.lowerBound - guardBytes..<data.lowerBound,
          data.upperBound..<data.upperBound + guardBytes,
        ]
    }
  }
  /// Counts that change when the arena is used; if they differ, a window may have been open in
  /// between.
  struct Activity: Equatable {
    let opens, allocations, frees, openWindows, stuckOpenPages: UInt64
  }
  let id: UInt64
  let name: SafeText
  let gate: GateCode?
  let key: UInt64
  let seal: SealCode?
  let fork: ForkCode?
  let dump: DumpCode?
  let backing: BackingCode?
  let lockedBytes: UInt64
  let mappedBytes: UInt64
  let activity: Activity
  var chunks: Set<ClaimedChunk> = []
  /// Whether the page lists all of its chunks with addresses.
  let isWhole: Bool

  var isClosed: Bool { activity.openWindows == 0 && activity.stuckOpenPages == 0 }
  /// Its contents can only be read.
  var isFrozen: Bool { seal == .frozen || seal == .sealed }

  /// Whether two readings agree, so that both describe the time in between.
  func isSame(as other: ArenaClaim) -> Bool {
    gate == other.gate && key == other.key && seal == other.seal && fork == other.fork
      && dump == other.dump && backing == other.backing
  }
}

extension ArenaClaim {
  /// All claims of a page; implausible numbers are left out.
  static func all(in image: StatsPageImage) -> [ArenaClaim] {
    var chunks = Dictionary(grouping: image.chunks) { $0[.arenaID] }
    let apart = ClaimedChunk.nonOverlapping(image.chunks.compactMap(ClaimedChunk.init))
    return image.arenas.map { record in
      // If several arenas claim the same id, the first gets the chunks.
      let listed = chunks.removeValue(forKey: record[.id]) ?? []
      let usable = listed.compactMap(ClaimedChunk.init).filter { apart.contains($0) }
      return ArenaClaim(
        id: record[.id], name: record.safeText(at: .name, length: record[.nameLength]),
        gate: GateCode(rawValue: record[.gate]), key: record[.keyNumber],
        seal: SealCode(rawValue: record[.sealState]),
        fork: ForkCode(rawValue: record[.forkProtection]),
        dump: DumpCode(rawValue: record[.dumpProtection]),
        backing: BackingCode(rawValue: record[.backing]),
        lockedBytes: record[.bytesLocked] == StatsPageFormat.unknown ? 0 : record[.bytesLocked],
        mappedBytes: record[.bytesMapped] == StatsPageFormat.unknown ? 0 : record[.bytesMapped],
        activity: Activity(
          opens: record[.opens], allocations: record[.allocations], frees: record[.frees],
          openWindows: record[.openWindows], stuckOpenPages: record[.stuckOpenPages]),
        chunks: Set(usable),
        isWhole: usable.count == listed.count && UInt64(listed.count) == record[.chunkCount])
    }
  }
}

extension ArenaClaim.ClaimedChunk {
  /// Keeps chunks that do not overlap. Genuine chunks never do; a hostile page could use overlaps
  /// to make every mapping be compared with every chunk.
  static func nonOverlapping(_ all: [Self]) -> Set<Self> {
    var end: UInt64 = 0
    return Set(
      all.sorted { $0.data.lowerBound < $1.data.lowerBound }.filter { chunk in
        defer { end = max(end, chunk.data.upperBound) }
        return chunk.data.lowerBound >= end
      })
  }

  init?(_ record: StatsPageRecord<ChunkWord>) {
    let (address, count, guards) = (record[.address], record[.dataBytes], record[.guardBytes])
    // User addresses end below 2^56, and a chunk is smaller than 2^40 bytes.
    guard address != StatsPageFormat.unknown, address < 1 << 56, count > 0, count < 1 << 40,
      guards <= 1 << 24, guards <= address
    else { return nil }
    data = address..<address + count
    guardBytes = guards
    isLocked = record[.lockState] == LockStateCode.locked.rawValue
  }
}
