// The fields of the records in tables.

extension ArenaWord {
  package static let record = "arena"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .id: .init(.identity, "0: the record is not in use", document: "id")
    case .state: .init(.identity, "1 live")
    case .layout: .init(.code, document: "layout")
    case .gate: .init(.code, document: "gate")
    case .keyNumber: .init(.identity, "of the protection key", document: "keyNumber")
    case .backing: .init(.code, document: "backing")
    case .lockPolicy: .init(.code, document: "lockPolicy")
    case .lockState: lockStateField
    case .lockErrno: .init(.identity, "of a lock that failed", document: "lock.errno")
    case .lockFailedCall: .init(.identity, "the call's number", document: "lock.failedCall")
    case .lockBytesMissing:
      .gauge(
        .bytes, .sum, "mapped and not locked", document: "lock.bytesMissing",
        metric: "arena_lock_missing_bytes")
    case .lockFailedAtMs: .time(document: "lock.at")
    case .lockBytesInUse:
      .gauge(.bytes, .sum, "VmLck when the lock failed", document: "lock.bytesInUseThen")
    case .protectionState: .init(.code, document: "protectionState")
    case .openWindows:
      .gauge(document: "openWindows", metric: "arena_open_windows", statistic: "openWindows")
    case .sealState: .init(.code, document: "sealState")
    case .forkProtection: .init(.code, document: "forkProtection")
    case .dumpProtection: .init(.code, document: "dumpProtection")
    case .secretCount:
      .gauge(
        .none, .sum, "live secrets", document: "secretCount", metric: "arena_secrets",
        statistic: "secretCount")
    case .bytesInUse:
      .gauge(
        .bytes, .sum, "that secrets take", document: "bytesInUse", metric: "arena_used_bytes",
        statistic: "bytesInUse")
    case .bytesLocked:
      .gauge(
        .bytes, document: "bytesLocked", metric: "arena_locked_bytes", statistic: "bytesLocked")
    case .bytesMapped:
      .gauge(
        .bytes, .sum, "without guard pages", document: "bytesMapped",
        metric: "arena_mapped_bytes", statistic: "bytesMapped")
    case .chunkCount: .gauge(document: "chunkCount")
    case .mapsUsed: .gauge(.none, .sum, "mappings, of vm.max_map_count", document: "mapsUsed")
    case .guardPages: .gauge(document: "guardPages")
    case .allocations: .counter(document: "allocations", metric: "arena_allocations_total")
    case .frees: .counter(document: "frees", metric: "arena_frees_total")
    case .opens: .counter(.none, "windows", document: "opens", metric: "arena_opens_total")
    case .opensForWriting:
      .counter(
        .none, "of those windows", document: "opensForWriting", metric: "arena_opens_total")
    case .failedAllocations:
      .counter(
        document: "failedAllocations", metric: "arena_failures_total",
        statistic: "failedAllocations")
    case .failedLocks:
      .counter(
        document: "failedLocks", metric: "arena_failures_total", statistic: "failedLocks")
    case .failedOpens:
      .counter(
        document: "failedOpens", metric: "arena_failures_total", statistic: "failedOpens")
    case .peakSecretCount: .peak(document: "peakSecretCount")
    case .peakBytesInUse: .peak(.bytes, document: "peakBytesInUse")
    case .peakBytesLocked: .peak(.bytes, document: "peakBytesLocked")
    case .nextChunkBytes:
      .gauge(.bytes, .largest, "unknown where it grows no more", document: "nextChunkBytes")
    case .capacityBytes: .gauge(.bytes, .sum, "a limit", document: "capacityBytes")
    case .createdAtMs: .time(document: "createdAt")
    case .stuckOpenPages:
      .gauge(
        .none, .sum, "that could not be closed again", document: "stuckOpenPages",
        metric: "arena_stuck_open_pages", statistic: "stuckOpenPages")
    case .corruptions:
      .counter(
        .none, "canaries found changed", document: "corruptions",
        metric: "arena_corruptions_total", statistic: "corruptions")
    case .longestOpenMs:
      .peak(.milliseconds, "as ticks have seen it", document: "longestOpenMs")
    case .unlistedSecrets:
      .gauge(.none, .sum, "without a record", document: "unlistedSecrets")
    case .encryptedCount:
      .gauge(
        .none, .sum, "secrets that rest encrypted", document: "encryptedCount",
        metric: "arena_encrypted_secrets")
    case .openSinceMs:
      .time(
        "windows are open, and none was opened since; 0 from older libraries",
        document: "openSince", metric: "arena_open_window_seconds", merging: .largest)
    case .nameLength: .init(.identity, "bytes")
    case .name: .init(.text, "8 words", document: "name")
    case .lockLimitSoft:
      .gauge(.bytes, .smallest, "when the lock failed", document: "lock.limitThenBytes")
    case .separatePages:
      .gauge(
        .none, .sum, "under a page gate: pages of slabs that are mappings of their own",
        document: "separatePages", statistic: "separatePages")
    case .mergedPages:
      .gauge(
        .none, .sum, "… and of chunks in one piece; both are 0 from older libraries",
        document: "mergedPages", statistic: "mergedPages")
    case .idleBytes:
      .gauge(
        .bytes, .sum, "mapped, and of chunks that hold no secret; 0 from older libraries",
        document: "idleBytes", metric: "arena_idle_bytes", statistic: "idleBytes")
    case .abandonedWindows:
      .gauge(
        .none, .sum, "open windows whose threads have ended; 0 from older libraries",
        document: "abandonedWindows", statistic: "abandonedWindows")
    case .sizeClasses: .gauge(.none, .sum, "16 words: live + free << 32", document: "sizes")
    }
  }

  private var lockStateField: StatsPageField {
    var field = StatsPageField(.code, document: "lockState")
    (field.metric, field.merging) = ("arena_lock_state", .sum)
    return field
  }
}

extension LabelWord {
  package static let record = "label"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .arenaID: .init(.identity, "0: the record is not in use")
    case .index: .init(.identity, "that secrets name")
    case .live: .gauge(.none, .sum, "secrets", document: "live")
    case .bytes: .gauge(.bytes, .sum, "of live secrets", document: "bytes")
    case .allocations: .counter(document: "allocations")
    case .frees: .counter(document: "frees")
    case .opens: .counter(.none, "windows", document: "opens")
    case .openNow: .gauge(.none, .sum, "windows", document: "openNow")
    case .lastOpenedAtMs: .time(document: "lastOpenedAt")
    case .minimumSize:
      .gauge(.bytes, .smallest, "of a secret", document: "minimumBytes")
    case .maximumSize: .gauge(.bytes, .largest, "of a secret", document: "maximumBytes")
    case .line: .init(.identity, "of a call site")
    case .origin: .init(.code, "1 given by the program, 2 call site", document: "origin")
    case .createdAtMs: .time()
    case .textLength: .init(.identity, "bytes")
    case .text: .init(.text, "8 words", document: "label")
    }
  }
}

extension ChunkWord {
  package static let record = "chunk"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .arenaID: .init(.identity, "0: the record is not in use")
    case .address: .init(.identity, "of the data", document: "address")
    case .dataBytes: .gauge(.bytes, document: "dataBytes")
    case .guardBytes: .gauge(.bytes, .sum, "on each side", document: "guardBytes")
    case .lockState: .init(.code, document: "lockState")
    case .lockErrno: .init(.identity, "of a lock that failed", document: "errno")
    case .kind: .init(.code, "1 slab, 2 isolated", document: "layout")
    }
  }
}

extension SecretWord {
  package static let record = "secret"

  /// The document contains only the number of these records, as "secretsListed".
  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .owner:
      .init(.identity, "arena id + label index << 32; 0: the record is not in use")
    case .serial: .init(.identity, "from 1 in each arena")
    case .size: .gauge(.bytes)
    case .allocatedAtMs: .time()
    case .opens: .counter(.none, "windows")
    case .lastOpenedAtMs: .time()
    case .openNow: .gauge(.none, .sum, "windows")
    }
  }
}

extension EventWord {
  package static let record = "event"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .serial: .init(.identity, "from 1; 0: the record is not in use", document: "serial")
    case .kind: .init(.code, document: "kind")
    case .arenaID: .init(.identity, "0: none", document: "arenaId")
    case .atMs: .time(document: "at")
    case .call: .init(.identity, "the call's number", document: "call")
    case .errno: .init(.identity, document: "errno")
    case .bytes: .gauge(.bytes, document: "bytes")
    }
  }
}

extension VaultWord {
  package static let record = "vault"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .arenaID:
      .init(
        .identity, "of the arena that holds its keys; 0: the record is not in use",
        document: "arenaId")
    case .cipher: .init(.code, document: "cipher")
    case .epoch: .init(.identity, "the number of the key", document: "epoch")
    case .entries: .gauge(document: "entries")
    case .bytes: .gauge(.bytes, .sum, "of plaintext", document: "bytes")
    case .entriesOfOldEpoch: .gauge(document: "entriesOfOldEpoch")
    case .encryptions: .counter(document: "encryptions")
    case .decryptions: .counter(document: "decryptions")
    case .failures: .counter(document: "failures")
    case .rotations: .counter(document: "rotations")
    case .lastRotatedAtMs: .time(document: "lastRotatedAt")
    case .failedRotations: .counter(document: "failedRotations")
    case .streams: .gauge(.none, .sum, "open now", document: "streams")
    case .streamChunks: .counter(document: "streamChunks")
    case .streamBytes: .counter(.bytes, "of plaintext", document: "streamBytes")
    }
  }
}

extension MapWord {
  package static let record = "map"

  package var field: StatsPageField {
    switch self {
    case .sequence: .sequence
    case .arenaID: .init(.identity, "0: the record is not in use")
    case .pages: .init(.identity, "16 words, four pages a word", document: "pages")
    }
  }
}
