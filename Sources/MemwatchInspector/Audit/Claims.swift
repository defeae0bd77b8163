// What a page claims of the mappings of its process.

import EnclaveStats

/// The claims of one arena, as words of the page.
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
  /// What changes when the arena is used: a window may have been open in between.
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
  /// The page lists all of its chunks, with their addresses.
  let isWhole: Bool

  var isClosed: Bool { activity.openWindows == 0 && activity.stuckOpenPages == 0 }
  /// Its contents can only be read.
  var isFrozen: Bool { seal == .frozen || seal == .sealed }

  /// What two readings must have in common to be compared with what was read in between.
  func isSame(as other: ArenaClaim) -> Bool {
    gate == other.gate && key == other.key && seal == other.seal && fork == other.fork
      && dump == other.dump && backing == other.backing
  }
}

extension ArenaClaim {
  /// Everything that a page claims; numbers that make no sense are left out.
  static func all(in image: StatsPageImage) -> [ArenaClaim] {
    var chunks = Dictionary(grouping: image.chunks) { $0[.arenaID] }
    let apart = ClaimedChunk.apart(image.chunks.compactMap(ClaimedChunk.init))
    return image.arenas.map { record in
      // The first of those that say to be the same one has them.
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
  /// Those that lie behind each other. Chunks do not overlap: a page that says so would only have
  /// every mapping looked at for each of them.
  static func apart(_ all: [Self]) -> Set<Self> {
    var end: UInt64 = 0
    return Set(
      all.sorted { $0.data.lowerBound < $1.data.lowerBound }.filter { chunk in
        defer { end = max(end, chunk.data.upperBound) }
        return chunk.data.lowerBound >= end
      })
  }

  init?(_ record: StatsPageRecord<ChunkWord>) {
    let (address, count, guards) = (record[.address], record[.dataBytes], record[.guardBytes])
    // User addresses end below 2^56, and one chunk is less than 2^40.
    guard address != StatsPageFormat.unknown, address < 1 << 56, count > 0, count < 1 << 40,
      guards <= 1 << 24, guards <= address
    else { return nil }
    data = address..<address + count
    guardBytes = guards
    isLocked = record[.lockState] == LockStateCode.locked.rawValue
  }
}
