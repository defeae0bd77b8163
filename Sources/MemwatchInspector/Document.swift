// A snapshot as a tree of names and values, from which JSON, text and differences are made.

/// A value in a document.
package indirect enum Value: Equatable, Sendable {
  case null
  case bool(Bool)
  case number(UInt64)
  case text(String)
  case list([Value])
  case object([(String, Value)])

  package static func == (a: Value, b: Value) -> Bool {
    switch (a, b) {
    case (.null, .null): true
    case (.bool(let x), .bool(let y)): x == y
    case (.number(let x), .number(let y)): x == y
    case (.text(let x), .text(let y)): x == y
    case (.list(let x), .list(let y)): x == y
    case (.object(let x), .object(let y)):
      x.count == y.count && zip(x, y).allSatisfy { $0.0 == $1.0 && $0.1 == $1.1 }
    default: false
    }
  }

  package init(_ number: (some BinaryInteger)?) {
    self = number.map { .number(UInt64(clamping: $0)) } ?? .null
  }
  init(_ text: String?) { self = text.map { .text($0) } ?? .null }
  package init(_ time: Timestamp?) { self = time.map { .number($0.realMs) } ?? .null }
  init(_ size: ByteCount?) { self = size.map { .number($0.count) } ?? .null }
  init(_ word: (some TextConvertible)?) { self = word.map { .text($0.text) } ?? .null }
  init(_ text: SafeText) { self = .text(text.string) }
  init(_ flag: Bool?) { self = flag.map { .bool($0) } ?? .null }

  /// The leaves and their paths (`arenas[0].name`), in order.
  package var leaves: [(path: String, value: Value)] { leaves { _ in nil } }

  /// The leaves, with list items named by a closure instead of an index.
  func leaves(naming name: (Value) -> String?) -> [(path: String, value: Value)] {
    var all: [(String, Value)] = []
    func walk(_ value: Value, _ path: String) {
      switch value {
      case .object(let members):
        for (name, member) in members { walk(member, path.isEmpty ? name : path + "." + name) }
      case .list(let items):
        if items.isEmpty { all.append((path, value)) }
        var taken: Set<String> = []
        for (index, item) in items.enumerated() {
          var own = name(item) ?? "\(index)"
          if !taken.insert(own).inserted { own += "#\(index)" }
          walk(item, "\(path)[\(own)]")
        }
      default: all.append((path, value))
      }
    }
    walk(self, "")
    return all
  }
}

extension Snapshot {
  package static let schema = "memwatch/1"

  /// The whole snapshot. Base units: bytes, milliseconds, counts. Times are milliseconds since
  /// 1970. null means unknown.
  package var document: Value {
    .object([
      ("schema", .text(Self.schema)),
      ("sampledAt", Value(sampledAt)),
      ("ageMs", Value(lastSeenAt.map { saturatingSum([sampledAt.since($0), ageMs]) })),
      ("complete", .bool(complete)),
      ("process", process.document),
      ("restart", restart.map(\.document) ?? .null),
      ("audit", audit?.document ?? .null),
      ("memlock", memlock.document),
      ("maps", maps.document),
      ("problems", .list(problems.map(\.document))),
      (
        "arenas",
        .list(arenas.map { document(of: $0) })
      ),
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
    ])
  }

  func document(of arena: ArenaSnapshot) -> Value {
    arena.document(condition(of: arena), audit?.verdict(of: arena.id))
  }

  var secretsUnlisted: UInt64? {
    let counts = arenas.compactMap(\.unlistedSecrets)
    return counts.count == arenas.count ? saturatingSum(counts) : nil
  }
}

extension ProcessSnapshot {
  fileprivate var document: Value {
    .object([
      ("pid", Value(pid)), ("publisherPid", Value(publisherPid)),
      ("publisherId", .text(publisherID)), ("name", Value(name)), ("user", Value(user)),
      ("uid", Value(uid)), ("state", .text(state.rawValue)), ("stateDetail", Value(stateDetail)),
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

extension Memlock {
  fileprivate var document: Value {
    .object([
      ("softLimit", Value(soft)), ("hardLimit", Value(hard)),
      ("unlimited", .bool(softIsUnlimited)), ("hardUnlimited", .bool(hardIsUnlimited)),
      ("binds", .text(binds.rawValue)), ("locked", Value(locked)),
      ("lockedByArenas", Value(lockedByArenas)), ("lockedByOthers", Value(lockedByOthers)),
      ("headroom", Value(headroom)), ("nextChunk", Value(nextChunk)),
      ("nextChunkFits", Value(nextChunkFits)),
      ("peakLockedByArenas", Value(peakLockedByArenas)),
    ])
  }
}

extension Maps {
  fileprivate var document: Value {
    .object([
      ("inUse", Value(inUse)), ("limit", Value(limit)), ("byArenas", Value(byArenas)),
      ("headroom", Value(headroom)),
    ])
  }
}

extension Problem {
  fileprivate var document: Value {
    .object([
      ("severity", .text(severity.rawValue)), ("kind", .text(kind.rawValue)),
      ("arenaId", Value(arenaID)), ("text", .text(text)), ("fix", Value(fix)),
      ("keep", Value(keep)),
    ])
  }
}

extension Audit {
  package var document: Value {
    .object([
      ("at", Value(at)), ("durationMs", Value(durationMs)), ("scope", .text(scope.rawValue)),
      ("reason", Value(reason)), ("regions", Value(regions)),
      ("findings", .list(findings.map(\.document))),
    ])
  }
}

extension Finding {
  fileprivate var document: Value {
    .object([
      ("severity", .text(severity.rawValue)), ("kind", .text(kind.rawValue)),
      ("arenaId", Value(arenaID)), ("claim", .text(claim)), ("kernel", .text(kernel)),
      ("cause", .text(cause)), ("fix", .text(fix)),
    ])
  }
}

extension ArenaSnapshot {
  fileprivate func document(_ condition: ArenaCondition, _ audit: AuditVerdict?) -> Value {
    .object([
      ("id", Value(id)), ("name", Value(name)), ("state", .text(condition.rawValue)),
      ("audit", Value(audit?.rawValue)),
      ("layout", Value(layout)), ("gate", Value(gate)),
      ("keySharedWith", Value(keySharedWith)), ("backing", Value(backing)),
      ("lockPolicy", Value(lockPolicy)), ("lockState", Value(lockState)),
      (
        "lock",
        .object([
          ("errno", Value(lock.errno)), ("errnoName", Value(lock.errnoName)),
          ("failedCall", Value(lock.failedCall)), ("bytesMissing", Value(lock.bytesMissing)),
          ("at", Value(lock.at)), ("bytesInUseThen", Value(lock.bytesInUseThen)),
          ("limitThen", Value(lock.limitThen)),
        ])
      ),
      ("protectionState", Value(protectionState)), ("openWindows", Value(openWindows)),
      ("sealState", Value(sealState)), ("forkProtection", Value(forkProtection)),
      ("dumpProtection", Value(dumpProtection)), ("secretCount", Value(secretCount)),
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
      (
        "sizes",
        .list(
          sizes.map {
            .object([
              ("payload", Value($0.payload)), ("live", Value($0.live)),
              ("freeSlots", Value($0.freeSlots)),
              ("freeSlotsAfterGrowth", Value($0.freeSlotsAfterGrowth)),
            ])
          })
      ),
      (
        "chunks",
        .list(
          chunks.map {
            .object([
              ("address", Value($0.address)), ("dataBytes", Value($0.dataBytes)),
              ("guardBytes", Value($0.guardBytes)), ("lockState", Value($0.lockState)),
              ("errno", Value($0.errno)), ("kind", Value($0.kind)),
              ("pages", $0.pageCounts.map(\.document) ?? .null),
            ])
          })
      ),
      (
        "labels",
        .list(
          labels.map {
            .object([
              ("label", Value($0.label)), ("origin", Value($0.origin)), ("live", Value($0.live)),
              ("bytes", Value($0.bytes)), ("allocations", Value($0.allocations)),
              ("frees", Value($0.frees)), ("opens", Value($0.opens)),
              ("openNow", Value($0.openNow)), ("lastOpenedAt", Value($0.lastOpenedAt)),
              ("minimumSize", Value($0.minimumSize)), ("maximumSize", Value($0.maximumSize)),
            ])
          })
      ),
    ])
  }
}

extension PageCounts {
  fileprivate var document: Value {
    .object([
      ("holding", Value(holding)), ("open", Value(open)), ("stuck", Value(stuck)),
      ("secrets", Value(secrets)),
    ])
  }
}

extension CallSnapshot {
  fileprivate var document: Value {
    .object([
      ("function", .text(function)), ("purpose", .text(purpose)), ("count", Value(count)),
      ("failures", Value(failures)), ("lastErrno", Value(lastErrno)),
    ])
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
    .object([
      ("serial", Value(serial)), ("kind", Value(kind)), ("arenaId", Value(arenaID)),
      ("at", Value(at)), ("call", Value(call)), ("errno", Value(errno)), ("bytes", Value(bytes)),
    ])
  }
}
