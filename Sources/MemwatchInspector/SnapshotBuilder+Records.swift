// Decodes the records of the stats page, one function per kind.

import EnclaveStats
import EnclaveSystem

extension SnapshotBuilder {
  // MARK: - Words

  func number(_ word: UInt64) -> UInt64? { word == StatsPageFormat.unknown ? nil : word }

  func size(_ word: UInt64) -> ByteCount? { number(word).map { ByteCount($0) } }

  /// nil if unknown.
  func code<Code: NamedCode>(_ value: UInt64) -> Reported<Code>? {
    value == 0 ? nil : number(value).map { Reported(number: $0) }
  }

  func realTime(_ word: UInt64) -> Timestamp? { number(word).map { Timestamp(realMs: $0) } }

  /// A pair of readings of the publisher's clocks, in milliseconds.
  struct Clock: Equatable {
    var boot: UInt64
    var real: UInt64
  }

  /// The pair that times are converted with; nil: unknown.
  var clock: Clock? {
    guard let image else { return nil }
    var boot = image.header[.createdBootMs]
    var real = image.header[.createdRealMs]
    // Pairs of clock readings jitter by a millisecond, so the first pair is used to keep times
    // stable. The latest pair is used only if the clock was set since.
    let (beatBoot, beatReal) = (image.process[.heartbeatBootMs], image.process[.heartbeatRealMs])
    if max(beatReal &- real, beatBoot &- boot) &- min(beatReal &- real, beatBoot &- boot) > 2000 {
      (boot, real) = (beatBoot, beatReal)
    }
    guard boot != 0, real != StatsPageFormat.unknown, boot != StatsPageFormat.unknown else {
      return nil
    }
    return Clock(boot: boot, real: real)
  }

  /// Converts milliseconds since boot on the publisher's clock to wall-clock time.
  func time(_ bootMs: UInt64) -> Timestamp? {
    guard bootMs != StatsPageFormat.unknown, bootMs != 0, let clock else { return nil }
    let (difference, overflow) = Int64(truncatingIfNeeded: clock.boot)
      .subtractingReportingOverflow(Int64(truncatingIfNeeded: bootMs))
    guard !overflow else { return nil }
    let (result, over) = Int64(truncatingIfNeeded: clock.real)
      .subtractingReportingOverflow(difference)
    return over || result < 0 ? nil : Timestamp(realMs: UInt64(result))
  }

  func gate(_ record: StatsPageRecord<ArenaWord>) -> ReportedGate? {
    guard let value = number(record[.gate]), value != 0 else { return nil }
    return switch GateCode(rawValue: value) {
    case .key: .key(number(record[.keyNumber]))
    case .pages: .pages
    case .cipher: .cipher
    case GateCode.none?: .ungated
    case nil: .unknown(value)
    }
  }

  func errno(_ word: UInt64) -> Int32? {
    number(word).flatMap { Int32(exactly: $0) }.flatMap { $0 == 0 ? nil : $0 }
  }

  func arena(_ record: StatsPageRecord<ArenaWord>) -> ArenaSnapshot {
    var arena = ArenaSnapshot(
      id: record[.id],
      name: record.safeText(at: .name, length: record[.nameLength]))
    arena.layout = code(record[.layout])
    arena.gate = gate(record)
    arena.backing = code(record[.backing])
    arena.lockPolicy = code(record[.lockPolicy])
    arena.lockState = code(record[.lockState])
    arena.lock = LockDetail(
      errno: errno(record[.lockErrno]),
      failedCall: number(record[.lockFailedCall]).map { Reported(number: $0) },
      bytesMissing: size(record[.lockBytesMissing]), at: time(record[.lockFailedAtMs]),
      bytesInUseThen: size(record[.lockBytesInUse]),
      limitThen: size(record[.lockLimitSoft]))
    arena.protectionState = code(record[.protectionState])
    arena.openWindows = number(record[.openWindows])
    arena.abandonedWindows = number(record[.abandonedWindows])
    arena.sealState = code(record[.sealState])
    arena.forkProtection = code(record[.forkProtection])
    arena.dumpProtection = code(record[.dumpProtection])
    arena.secretCount = number(record[.secretCount])
    arena.bytesInUse = size(record[.bytesInUse])
    arena.bytesLocked = size(record[.bytesLocked])
    arena.bytesMapped = size(record[.bytesMapped])
    arena.idleBytes = size(record[.idleBytes])
    arena.chunkCount = number(record[.chunkCount])
    arena.mapsUsed = number(record[.mapsUsed])
    let (separate, merged) = (number(record[.separatePages]), number(record[.mergedPages]))
    // Older libraries leave both at 0.
    if record[.gate] == GateCode.pages.rawValue, let separate, let merged,
      separate | merged > 0 || arena.bytesMapped == 0
    {
      (arena.separatePages, arena.mergedPages) = (separate, merged)
    }
    arena.guardPages = number(record[.guardPages])
    arena.allocations = number(record[.allocations])
    arena.frees = number(record[.frees])
    arena.opens = number(record[.opens])
    arena.opensForWriting = number(record[.opensForWriting])
    arena.failedAllocations = number(record[.failedAllocations])
    arena.failedLocks = number(record[.failedLocks])
    arena.failedOpens = number(record[.failedOpens])
    arena.peakSecretCount = number(record[.peakSecretCount])
    arena.peakBytesInUse = size(record[.peakBytesInUse])
    arena.peakBytesLocked = size(record[.peakBytesLocked])
    arena.nextChunkBytes = size(record[.nextChunkBytes])
    let capacity = record[.capacityBytes]
    arena.capacityBytes = capacity == StatsPageFormat.unlimited ? nil : size(capacity)
    arena.createdAt = time(record[.createdAtMs])
    arena.stuckOpenPages = number(record[.stuckOpenPages])
    arena.corruptions = number(record[.corruptions])
    arena.longestOpenMs = number(record[.longestOpenMs])
    arena.openSince = time(record[.openSinceMs])
    arena.encryptedCount = number(record[.encryptedCount])
    arena.unlistedSecrets = number(record[.unlistedSecrets])
    for sizeClass in 0..<StatsPageFormat.sizeClassCount {
      let word = record[ArenaWord.sizeClasses.rawValue + sizeClass]
      let header = HeaderWord.sizeClasses.rawValue + sizeClass * 2
      guard word & 0xffff_ffff != 0, word != StatsPageFormat.unknown,
        let payload = Int(exactly: image!.header[header])
      else { continue }
      arena.sizes.append(
        SizeRoom(
          payload: payload, live: Int(word & 0xffff_ffff), freeSlots: Int(word >> 32)))
    }
    return arena
  }

  func label(_ record: StatsPageRecord<LabelWord>) -> LabelSnapshot {
    LabelSnapshot(
      label: record.safeText(at: .text, length: record[.textLength]),
      origin: code(record[.origin]),
      live: number(record[.live]), bytes: size(record[.bytes]),
      allocations: number(record[.allocations]), frees: number(record[.frees]),
      opens: number(record[.opens]), openNow: number(record[.openNow]),
      lastOpenedAt: time(record[.lastOpenedAtMs]), minimumSize: size(record[.minimumSize]),
      maximumSize: record[.maximumSize] == 0 ? nil : size(record[.maximumSize]),
      index: record[.index])
  }

  func secret(_ record: StatsPageRecord<SecretWord>) -> SecretSnapshot {
    SecretSnapshot(
      arenaID: record[.owner] & 0xffff_ffff, serial: record[.serial],
      labelIndex: record[.owner] >> 32, byteCount: ByteCount(record[.size]),
      allocatedAt: time(record[.allocatedAtMs]), opens: record[.opens],
      lastOpenedAt: time(record[.lastOpenedAtMs]), openNow: record[.openNow])
  }

  func vault(_ record: StatsPageRecord<VaultWord>, _ name: SafeText?) -> VaultSnapshot {
    VaultSnapshot(
      arenaID: record[.arenaID], name: name,
      cipher: code(record[.cipher]), epoch: number(record[.epoch]),
      entries: number(record[.entries]),
      bytes: size(record[.bytes]), entriesOfOldEpoch: number(record[.entriesOfOldEpoch]),
      encryptions: number(record[.encryptions]), decryptions: number(record[.decryptions]),
      failures: number(record[.failures]), rotations: number(record[.rotations]),
      failedRotations: number(record[.failedRotations]),
      lastRotatedAt: time(record[.lastRotatedAtMs]), streams: number(record[.streams]),
      streamChunks: number(record[.streamChunks]), streamBytes: size(record[.streamBytes]))
  }

  func event(_ record: StatsPageRecord<EventWord>) -> EventSnapshot {
    EventSnapshot(
      serial: record[.serial],
      kind: code(record[.kind]) ?? .unknown(0),
      arenaID: record[.arenaID] == 0 ? nil : number(record[.arenaID]), at: time(record[.atMs]),
      call: number(record[.call]).map { Reported(number: $0) }, errno: errno(record[.errno]),
      bytes: size(record[.bytes]))
  }
}
