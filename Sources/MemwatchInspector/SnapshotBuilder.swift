// Builds a snapshot from the records of a stats page and the text of /proc.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

extension ProcessProbe {
  static let none = ProcessProbe()
}

struct SnapshotBuilder {
  var sampledAt: Timestamp
  var image: StatsPageImage?
  var isFresh = false
  var pid: Int32?
  var probe = ProcessProbe.none
  var mapCount: Int?
  var state = PublisherState.live
  var audit: Audit?
  /// The secrets, if their table has not changed.
  var secrets: [SecretSnapshot]?
  /// False: chunks are left out of the snapshot.
  var hasChunks = true
  var knownArenas = KnownArenas()
  var stateDetail: String?
  var endedInOrder: Bool?

  /// The arenas of the sample before, for records that have not changed since.
  struct KnownArenas {
    fileprivate var clock: Clock?
    fileprivate var arenas: [UInt64: (record: StatsPageRecord<ArenaWord>, arena: ArenaSnapshot)] =
      [:]
  }

  init(sampledAt: Timestamp) { self.sampledAt = sampledAt }

  /// Decodes the arenas whose records have changed.
  private mutating func arenas(_ image: StatsPageImage) -> [ArenaSnapshot] {
    let clock = clock
    let old = knownArenas.clock == clock ? knownArenas.arenas : [:]
    knownArenas = KnownArenas(clock: clock)
    return image.arenas.map { record in
      let id = record[.id]
      let known = old[id].flatMap { $0.record == record ? $0.arena : nil } ?? arena(record)
      knownArenas.arenas[id] = (record, known)
      return known
    }.sorted { $0.id < $1.id }
  }

  mutating func snapshot(publisher: Publisher, restart: Restart?) -> Snapshot {
    var snapshot = Snapshot(
      process: process(publisher), sampledAt: sampledAt,
      complete: isFresh && (image?.isComplete ?? false))
    snapshot.restart = restart
    snapshot.audit = audit
    guard let image else {
      snapshot.problems = processProblems(snapshot)
      return snapshot
    }
    snapshot.arenas = arenas(image)
    var owners: [UInt64: UInt64] = [:]
    for record in image.arenas { owners[record[.keyNumber], default: 0] += 1 }
    let keys = Dictionary(image.arenas.map { ($0[.id], $0[.keyNumber]) }) { first, _ in first }
    let labels = Dictionary(grouping: image.labels) { $0[.arenaID] }
    let chunks = Dictionary(
      grouping: (hasChunks ? image.chunks : []).enumerated().map {
        (chunk: $1, map: $0 < image.maps.count ? image.maps[$0] : nil)
      }, by: { $0.chunk[.arenaID] })
    // If several arenas claim the same id, only the first gets its labels and chunks; otherwise a
    // hostile page could multiply records.
    var seen: Set<UInt64> = []
    for index in snapshot.arenas.indices where seen.insert(snapshot.arenas[index].id).inserted {
      let id = snapshot.arenas[index].id
      if let key = keys[id], number(key) != nil {
        snapshot.arenas[index].keySharedWith = owners[key].map { $0 - 1 }
      }
      snapshot.arenas[index].labels = (labels[id] ?? []).sorted { $0[.index] < $1[.index] }
        .map(label)
      snapshot.arenas[index].chunks = (chunks[id] ?? []).map { chunk($0.chunk, $0.map, image) }
        .sorted { ($0.address ?? 0) < ($1.address ?? 0) }
    }
    snapshot.arenasUnlisted = number(image.process[.arenasUnlisted])
    snapshot.labelsUnlisted = number(image.process[.labelsUnlisted])
    snapshot.chunksUnlisted = number(image.process[.chunksUnlisted])
    snapshot.arenasDestroyed = number(image.process[.arenasDestroyed])
    snapshot.retiredMappings = number(image.process[.retiredMappings])
    snapshot.retiredBytes = size(image.process[.retiredBytes])
    // The ticker writes the process record, so the events may be newer.
    snapshot.eventCount = number(image.process[.events]).map {
      max($0, image.events.last?[.serial] ?? 0)
    }
    snapshot.secrets =
      secrets
      ?? image.secrets.map(secret).sorted { ($0.arenaID, $0.serial) < ($1.arenaID, $1.serial) }
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name) }) { first, _ in first }
    snapshot.vaults = image.vaults.map { vault($0, names[$0[.arenaID]]) }
    snapshot.vaultsUnlisted = number(image.process[.vaultsUnlisted])
    for vault in snapshot.vaults {
      guard let index = snapshot.arenas.firstIndex(where: { $0.id == vault.arenaID }) else {
        continue
      }
      snapshot.arenas[index].encryptedCount = vault.entries
    }
    snapshot.events = image.events.map(event)
    snapshot.calls = SystemCall.allCases.compactMap { call in
      guard image.calls.indices.contains(Int(call.rawValue)) else { return nil }
      let record = image.calls[Int(call.rawValue)]
      let failures = record[.failures]
      guard record[.count] > 0, record[.count] != StatsPageFormat.unknown else {
        return nil
      }
      return CallSnapshot(
        call: .known(call), count: record[.count],
        failures: failures, lastErrno: failures == 0 ? nil : errno(record[.lastErrno]))
    }
    snapshot.memlock = memlock(snapshot.arenas)
    snapshot.maps = maps(snapshot.arenas)
    addFreeSlotsAfterGrowth(&snapshot)
    snapshot.problems =
      processProblems(snapshot) + arenaProblems(snapshot) + auditProblems(snapshot)
    snapshot.problems.sort { $0.severity < $1.severity }
    return snapshot
  }

  func process(_ publisher: Publisher) -> ProcessSnapshot {
    let image = self.image
    let header = image?.header
    let nameLength = header?[.nameLength] ?? 0
    return ProcessSnapshot(
      pid: pid, publisherPid: publisher.publisherPid, publisherID: hex(publisher.id),
      name: header.map { $0.safeText(at: .name, length: nameLength) }
        ?? publisher.name,
      uid: publisher.uid, user: Users.name(publisher.uid), state: state,
      stateDetail: stateDetail, endedInOrder: endedInOrder,
      startedAt: header.flatMap { realTime($0[.createdRealMs]) },
      isDumpable: image.flatMap {
        switch $0.process[.dumpable] {
        case 1: true
        case 2: false
        default: nil
        }
      },
      addresses: image.flatMap { code($0.process[.addresses]) },
      debugger: probe.tracer,
      emergencyWipe: image.flatMap {
        EmergencyWipeCode(rawValue: $0.process[.emergencyWipe]).map { $0 != .absent }
      },
      wipe: image.flatMap {
        let word = $0.process[.emergencyWipe]
        return word <= EmergencyWipeCode.absent.rawValue ? nil : code(word)
      },
      endedBySignal: image.flatMap {
        $0.process[.endedBySignal] == 0 ? nil : number($0.process[.endedBySignal])
      },
      heartbeatAt: image.flatMap { realTime($0.process[.heartbeatRealMs]) },
      path: SafeText(publisher.path))
  }
}
