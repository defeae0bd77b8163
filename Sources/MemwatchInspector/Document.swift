// A snapshot as a document. Assets/memwatch-2.schema.json describes it: each number's unit, each
// word's list. One name means one thing in all documents. Text for people is in members that end
// with `message` or `advice`.

extension Snapshot {
  /// The whole snapshot. Bytes, milliseconds, counts; times are milliseconds since 1970. null means
  /// unknown.
  package var document: Value {
    Value.document(
      .snapshot,
      [
        ("sampledAt", Value(sampledAt)),
        ("ageMs", Value(lastSeenAt.map { saturatingSum([sampledAt.since($0), ageMs]) })),
        ("complete", .bool(complete)),
        ("process", process.document),
        ("restart", restart.map(\.document) ?? .null),
        ("audit", audit?.document ?? .null),
        ("memlock", memlock.document),
        ("maps", maps.document),
        ("problems", .list(problems.map(\.document))),
        ("arenas", .list(arenas.map { document(of: $0) })),
        ("arenasUnlisted", Value(arenasUnlisted)),
        ("arenasDestroyed", Value(arenasDestroyed)),
        ("retiredMappings", Value(retiredMappings)), ("retiredBytes", Value(retiredBytes)),
        ("labelsUnlisted", Value(labelsUnlisted)),
        ("chunksUnlisted", Value(chunksUnlisted)),
        ("secretsListed", Value(secrets.count)),
        ("secretsUnlisted", Value(secretsUnlisted)),
        ("vaults", .list(vaults.map(\.document))),
        ("vaultsUnlisted", Value(vaultsUnlisted)),
        ("calls", .list(calls.map(\.document))),
        ("events", .list(events.map(\.document))),
        ("eventCount", Value(eventCount)),
      ]
    ).listingUnrecognizedCodes
  }

  func document(of arena: ArenaSnapshot) -> Value {
    arena.document(condition(of: arena), audit?.verdict(of: arena.id))
  }

  var secretsUnlisted: UInt64? {
    let counts = arenas.compactMap(\.unlistedSecrets)
    return counts.count == arenas.count ? saturatingSum(counts) : nil
  }
}

/// An errno as number and name.
private func errnoMembers(_ name: String, _ errno: Int32?) -> [(String, Value)] {
  [(name, Value(errno)), (name + "Name", Value(errno.map { errnoName($0) }))]
}

extension ProcessSnapshot {
  fileprivate var document: Value {
    .object([
      ("pid", Value(pid)), ("publisherPid", Value(publisherPid)),
      ("publisherId", .text(publisherID)), ("name", Value(name)), ("user", Value(user)),
      ("uid", Value(uid)), ("state", .text(state.rawValue)), ("message", Value(stateDetail)),
      ("endedInOrder", Value(endedInOrder)),
      ("startedAt", Value(startedAt)), ("heartbeatAt", Value(heartbeatAt)),
      ("dumpable", Value(isDumpable)), ("addresses", Value(addresses)),
      ("debuggerPid", Value(debugger)), ("emergencyWipe", Value(emergencyWipe)),
      ("wipe", Value(wipe)), ("endedBySignal", Value(endedBySignal)),
      ("page", Value(path)),
    ])
  }
}

extension Restart {
  fileprivate var document: Value {
    .object([("fromPid", Value(fromPid)), ("toPid", Value(toPid)), ("at", Value(at))])
  }
}

extension Binds {
  fileprivate var isBinding: Bool? {
    switch self {
    case .yes: true
    case .no: false
    case .unknown: nil
    }
  }
}

extension Memlock {
  fileprivate var document: Value {
    .object([
      ("softLimitBytes", Value(soft)), ("hardLimitBytes", Value(hard)),
      ("softUnlimited", .bool(softIsUnlimited)), ("hardUnlimited", .bool(hardIsUnlimited)),
      ("binds", Value(binds.isBinding)), ("lockedBytes", Value(locked)),
      ("lockedByArenasBytes", Value(lockedByArenas)),
      ("lockedByOthersBytes", Value(lockedByOthers)),
      ("headroomBytes", Value(headroom)), ("nextChunkBytes", Value(nextChunk)),
      ("nextChunkFits", Value(nextChunkFits)),
      ("peakLockedByArenasBytes", Value(peakLockedByArenas)),
    ])
  }
}

extension Maps {
  fileprivate var document: Value {
    .object([
      ("mapsInUse", Value(inUse)), ("mapsLimit", Value(limit)), ("mapsByArenas", Value(byArenas)),
      ("mapsFree", Value(headroom)),
    ])
  }
}

extension Problem {
  fileprivate var document: Value {
    .object([
      ("severity", .text(severity.rawValue)), ("kind", .text(kind.rawValue)),
      ("arenaId", Value(arenaID)), ("message", .text(text)), ("advice", Value(fix)),
      ("permanentAdvice", Value(keep)),
    ])
  }
}

extension Audit.Scope {
  fileprivate var wordInDocuments: String {
    switch self {
    case .arenas: "arenas"
    case .totals: "totals"
    case .none: "none"
    }
  }
}

extension Audit {
  package var document: Value {
    .object([
      ("at", Value(at)), ("durationMs", Value(durationMs)),
      ("scope", .text(scope.wordInDocuments)),
      ("obstacles", .list((obstacles ?? []).map { .text($0.rawValue) })),
      ("message", Value(reason)), ("regionCount", Value(regions)),
      ("findings", .list(findings.map(\.document))),
      ("answers", .list(answers.map(\.document))),
    ])
  }
}

extension Finding {
  fileprivate var document: Value {
    .object([
      ("severity", .text(severity.rawValue)), ("kind", .text(kind.rawValue)),
      ("arenaId", Value(arenaID)), ("affectedBytes", Value(affectedBytes)),
      ("pids", .list((pids ?? []).map { Value($0) })),
      ("claimMessage", .text(claim)), ("kernelMessage", .text(kernel)),
      ("causeMessage", .text(cause)), ("advice", .text(fix)),
    ])
  }
}

extension ArenaCondition {
  fileprivate var wordInDocuments: String {
    switch self {
    case .problem: "problem"
    case .differs: "differs"
    case .warning: "warning"
    case .ok: "ok"
    case .gone: "gone"
    case .stopped: "stopped"
    case .detached: "detached"
    case .unknown: "unknown"
    }
  }
}

extension ArenaSnapshot {
  fileprivate func document(_ condition: ArenaCondition, _ audit: AuditVerdict?) -> Value {
    let description: [(String, Value)] = [
      ("id", Value(id)), ("name", Value(name)), ("state", .text(condition.wordInDocuments)),
      ("verdict", Value(audit?.rawValue)),
      ("layout", Value(layout)), ("gate", Value(gate)), ("keyNumber", Value(gate?.keyNumber)),
      ("keySharedWith", Value(keySharedWith)), ("backing", Value(backing)),
      ("lockPolicy", Value(lockPolicy)), ("lockState", Value(lockState)),
      ("lock", lock.document),
      ("protectionState", Value(protectionState)), ("openWindows", Value(openWindows)),
      ("abandonedWindows", Value(abandonedWindows)),
      ("sealState", Value(sealState)), ("forkProtection", Value(forkProtection)),
      ("dumpProtection", Value(dumpProtection)),
    ]
    let counts: [(String, Value)] = [
      ("secretCount", Value(secretCount)),
      ("bytesInUse", Value(bytesInUse)), ("bytesLocked", Value(bytesLocked)),
      ("bytesMapped", Value(bytesMapped)), ("idleBytes", Value(idleBytes)),
      ("chunkCount", Value(chunkCount)),
      ("mapsUsed", Value(mapsUsed)), ("separatePages", Value(separatePages)),
      ("mergedPages", Value(mergedPages)), ("guardPages", Value(guardPages)),
      ("allocations", Value(allocations)), ("frees", Value(frees)), ("opens", Value(opens)),
      ("opensForWriting", Value(opensForWriting)),
      ("failedAllocations", Value(failedAllocations)), ("failedLocks", Value(failedLocks)),
      ("failedOpens", Value(failedOpens)), ("peakSecretCount", Value(peakSecretCount)),
      ("peakBytesInUse", Value(peakBytesInUse)), ("peakBytesLocked", Value(peakBytesLocked)),
      ("nextChunkBytes", Value(nextChunkBytes)), ("capacityBytes", Value(capacityBytes)),
      ("createdAt", Value(createdAt)), ("stuckOpenPages", Value(stuckOpenPages)),
      ("corruptions", Value(corruptions)), ("longestOpenMs", Value(longestOpenMs)),
      ("openSince", Value(openSince)),
      ("encryptedCount", Value(encryptedCount)), ("unlistedSecrets", Value(unlistedSecrets)),
    ]
    return .object(
      description + counts + [
        ("sizes", .list(sizes.map(\.document))),
        ("chunks", .list(chunks.map(\.document))),
        ("labels", .list(labels.map(\.document))),
      ])
  }
}

extension LockDetail {
  fileprivate var document: Value {
    .object(
      errnoMembers("errno", errno) + [
        ("failedCall", Value(failedCall)), ("failedFunction", Value(failedCall?.text)),
        ("bytesMissing", Value(bytesMissing)),
        ("at", Value(at)), ("bytesInUseThen", Value(bytesInUseThen)),
        ("limitThenBytes", Value(limitThen)),
      ])
  }
}

extension SizeRoom {
  fileprivate var document: Value {
    .object([
      ("payloadBytes", Value(payload)), ("live", Value(live)), ("freeSlots", Value(freeSlots)),
      ("freeSlotsAfterGrowth", Value(freeSlotsAfterGrowth)),
    ])
  }
}

extension ChunkSnapshot {
  fileprivate var document: Value {
    .object(
      [
        ("address", Value(address)), ("dataBytes", Value(dataBytes)),
        ("guardBytes", Value(guardBytes)), ("lockState", Value(lockState)),
      ] + errnoMembers("errno", errno) + [
        ("layout", Value(kind)), ("pages", pageCounts.map(\.document) ?? .null),
      ])
  }
}

extension PageCounts {
  fileprivate var document: Value {
    .object([
      ("holdingPages", Value(holding)), ("openPages", Value(open)), ("stuckPages", Value(stuck)),
      ("secretCount", Value(secrets)),
    ])
  }
}

extension LabelSnapshot {
  fileprivate var document: Value {
    .object([
      ("label", Value(label)), ("origin", Value(origin)), ("live", Value(live)),
      ("bytes", Value(bytes)), ("allocations", Value(allocations)),
      ("frees", Value(frees)), ("opens", Value(opens)),
      ("openNow", Value(openNow)), ("lastOpenedAt", Value(lastOpenedAt)),
      ("minimumBytes", Value(minimumSize)), ("maximumBytes", Value(maximumSize)),
    ])
  }
}

extension CallSnapshot {
  fileprivate var document: Value {
    .object(
      [
        ("call", Value(call)), ("function", .text(function)), ("message", .text(purpose)),
        ("count", Value(count)), ("failures", Value(failures)),
      ] + errnoMembers("lastErrno", lastErrno))
  }
}

extension VaultSnapshot {
  fileprivate var document: Value {
    .object([
      ("arenaId", Value(arenaID)), ("name", name.map { Value($0) } ?? .null),
      ("cipher", Value(cipher)), ("epoch", Value(epoch)), ("entries", Value(entries)),
      ("bytes", Value(bytes)), ("entriesOfOldEpoch", Value(entriesOfOldEpoch)),
      ("encryptions", Value(encryptions)), ("decryptions", Value(decryptions)),
      ("failures", Value(failures)), ("rotations", Value(rotations)),
      ("failedRotations", Value(failedRotations)), ("lastRotatedAt", Value(lastRotatedAt)),
      ("streams", Value(streams)), ("streamChunks", Value(streamChunks)),
      ("streamBytes", Value(streamBytes)),
    ])
  }
}

extension EventSnapshot {
  fileprivate var document: Value {
    .object(
      [
        ("serial", Value(serial)), ("kind", Value(kind)), ("arenaId", Value(arenaID)),
        ("at", Value(at)), ("call", Value(call)), ("function", Value(call?.text)),
      ] + errnoMembers("errno", errno) + [("bytes", Value(bytes))])
  }
}
