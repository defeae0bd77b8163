// The fields of the header, the process record and the calls.

extension HeaderWord {
  package static let record = "header"

  package var field: StatsPageField {
    switch self {
    case .magic: .init(.identity, "`ENCLAVE` and 1; stored last")
    case .version: .init(.identity, "major << 32 + minor")
    case .byteCount: .gauge(.bytes, .sum, "of the whole file")
    case .publisherID: .init(.identity, "random", document: "process.publisherId")
    case .pid: .init(.identity, "in the publisher's pid namespace")
    case .startTime: .init(.identity, "/proc/PID/stat field 22, clock ticks")
    case .bootID: .init(.identity, "FNV-1a of /proc/sys/kernel/random/boot_id")
    case .uid: .init(.identity, "effective user id")
    case .createdBootMs: .time("CLOCK_BOOTTIME when the page was made")
    case .createdRealMs: .time("CLOCK_REALTIME of the same instant", document: "process.startedAt")
    case .tickMs: .gauge(.milliseconds, .largest, "how often counts are written")
    case .pageBytes: .gauge(.bytes, .largest, "of a page of memory")
    case .arenaCapacity, .labelCapacity, .chunkCapacity, .secretCapacity, .eventCapacity,
      .vaultCapacity, .mapCapacity:
      .init(.identity, "records")
    case .arenaBytes, .labelBytes, .chunkBytes, .secretBytes, .eventBytes, .vaultBytes, .mapBytes,
      .callBytes:
      .init(.identity, "of one record")
    case .nameLength: .init(.identity, "bytes")
    case .name: .init(.text, "8 words", document: "process.name")
    case .sizeClasses:
      .init(.identity, "16 pairs: payload bytes; slab bytes + slots a slab << 32")
    }
  }
}

extension ProcessWord {
  package static let record = "process"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .state: .init(.code, "PublisherStateCode")
    case .heartbeatBootMs: .time("CLOCK_BOOTTIME of the last tick")
    case .heartbeatRealMs:
      .time(
        "CLOCK_REALTIME of the same instant", document: "process.heartbeatAt",
        metric: "publisher_heartbeat_timestamp_seconds", merging: .smallest)
    case .memlockSoft:
      .gauge(
        .bytes, .smallest, "RLIMIT_MEMLOCK", document: "memlock.softLimitBytes",
        metric: "memlock_soft_limit_bytes")
    case .memlockHard:
      .gauge(
        .bytes, .smallest, "RLIMIT_MEMLOCK", document: "memlock.hardLimitBytes",
        metric: "memlock_hard_limit_bytes")
    case .lockedBytes:
      .gauge(.bytes, .sum, "VmLck as the publisher reads it", document: "memlock.lockedBytes")
    case .arenas: .gauge(.none, .sum, "live, listed or not")
    case .arenasUnlisted:
      .gauge(
        .none, .sum, "without a record", document: "arenasUnlisted", metric: "publisher_unlisted")
    case .labelsUnlisted: .gauge(.none, .sum, "without a record", document: "labelsUnlisted")
    case .chunksUnlisted:
      .gauge(
        .none, .sum, "without a record", document: "chunksUnlisted", metric: "publisher_unlisted")
    case .events: .counter(.none, "ever written", document: "eventCount")
    case .addresses: .init(.code, "AddressCode", document: "process.addresses")
    case .dumpable: .init(.code, "1 yes, 2 no", document: "process.dumpable")
    case .emergencyWipe: .init(.code, "EmergencyWipeCode", document: "process.emergencyWipe")
    case .arenasDestroyed: .counter(document: "arenasDestroyed")
    case .retiredMappings:
      .gauge(
        .none, .sum, "address ranges of sealed arenas that are gone", document: "retiredMappings")
    case .retiredBytes: .gauge(.bytes, .sum, "of those ranges", document: "retiredBytes")
    case .vaultsUnlisted:
      .gauge(
        .none, .sum, "without a record", document: "vaultsUnlisted", metric: "publisher_unlisted")
    case .scratchBytes:
      .gauge(.bytes, .sum, "locked beside arenas: keys and open secrets of cipher gates")
    case .endedBySignal:
      .init(.identity, "the signal whose handler wiped; 0: none", document: "process.endedBySignal")
    }
  }
}

extension CallWord {
  package static let record = "call"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .count: .counter(document: "count")
    case .failures: .counter(document: "failures")
    case .lastErrno: .init(.identity, "of the last failure", document: "lastErrno")
    }
  }
}
