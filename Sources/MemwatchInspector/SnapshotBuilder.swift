// From the words of a page and the text of /proc to a snapshot.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

extension ProcessProbe {
  static let none = ProcessProbe()
}

struct SnapshotBuilder {
  var sampledAt: UInt64
  var image: StatsPageImage?
  var isFresh = false
  var pid: Int32?
  var probe = ProcessProbe.none
  var mapCount: Int?
  var state = PublisherState.live
  var audit: Audit?
  /// Where the table of secrets did not change.
  var secrets: [SecretSnapshot]?
  var stateDetail: String?

  init(sampledAt: UInt64) { self.sampledAt = sampledAt }

  /// What of VmLck should be the arenas'. Secret memory (memfd_secret) is locked by its nature; some
  /// kernels count it there (6.18 does), some do not (6.12): then it is left out.
  var claimedLocked: UInt64 {
    let arenas = image?.arenas ?? []
    func sum(_ records: [StatsPageRecord<ArenaWord>]) -> UInt64 {
      saturatingSum(records.map { number($0[.bytesLocked]) ?? 0 })
    }
    let all = sum(arenas)
    guard let locked = probe.lockedBytes, locked < all else { return all }
    return sum(arenas.filter { $0[.backing] != BackingCode.secret.rawValue })
  }

  var claimsMoreThanLocked: Bool {
    guard state == .live || state == .stopped, let locked = probe.lockedBytes else { return false }
    return locked < claimedLocked
  }

  /// What /proc tells of the whole process.
  var processFindings: [Finding] {
    var findings: [Finding] = []
    if let tracer = probe.tracer, tracer != 0 {
      findings.append(
        Finding(
          severity: .warning, kind: .debugger, claim: "nothing of this",
          kernel: "TracerPid \(tracer)",
          cause: "a debugger or strace is attached", fix: "it can read every secret: end it"))
    }
    if let locked = probe.lockedBytes, locked > claimedLocked {
      findings.append(
        Finding(
          severity: .note, kind: .otherLocks, claim: "\(bytes(claimedLocked)) locked by arenas",
          kernel: "VmLck \(bytes(locked))",
          cause: "\(bytes(locked - claimedLocked)) are locked by other code of the process",
          fix: "they count against the same limit: raise it by as much"))
    }
    return findings
  }

  // MARK: - Words

  private func number(_ word: UInt64) -> UInt64? { word == StatsPageFormat.unknown ? nil : word }

  private func word<Code: RawRepresentable<UInt64>>(
    _ value: UInt64, _ names: (Code) -> String
  ) -> String? {
    if value == 0 || value == StatsPageFormat.unknown { return nil }
    return Code(rawValue: value).map(names) ?? "?\(value)"
  }

  /// Milliseconds since boot on the publisher's clock, to milliseconds since 1970.
  private func time(_ bootMs: UInt64) -> UInt64? {
    guard bootMs != StatsPageFormat.unknown, bootMs != 0, let image else { return nil }
    var boot = image.header[.createdBootMs]
    var real = image.header[.createdRealMs]
    // Two readings of the clocks differ by a millisecond now and then: the first pair keeps times
    // still. Only when somebody has set the clock since does the latest pair count.
    let (beatBoot, beatReal) = (image.process[.heartbeatBootMs], image.process[.heartbeatRealMs])
    if max(beatReal &- real, beatBoot &- boot) &- min(beatReal &- real, beatBoot &- boot) > 2000 {
      (boot, real) = (beatBoot, beatReal)
    }
    guard boot != 0, real != StatsPageFormat.unknown, boot != StatsPageFormat.unknown else {
      return nil
    }
    let (difference, overflow) = Int64(truncatingIfNeeded: boot)
      .subtractingReportingOverflow(Int64(truncatingIfNeeded: bootMs))
    guard !overflow else { return nil }
    let (result, over) = Int64(truncatingIfNeeded: real).subtractingReportingOverflow(difference)
    return over || result < 0 ? nil : UInt64(result)
  }

  private func layoutName(_ code: LayoutCode) -> String { "\(code)" }
  private func gateName(_ code: GateCode, key: UInt64) -> String {
    switch code {
    case .key: number(key).map { "key \($0)" } ?? "key"
    case .pages: "pages"
    case .none: "none"
    }
  }
  private func protectionName(_ code: ProtectionCode) -> String {
    switch code {
    case .closed: "closed"
    case .read: "read"
    case .readWrite: "r-w"
    }
  }

  // MARK: - The snapshot

  func snapshot(publisher: Publisher, restart: Restart?) -> Snapshot {
    var snapshot = Snapshot(
      process: process(publisher), sampledAt: sampledAt,
      complete: isFresh && (image?.isComplete ?? false))
    snapshot.restart = restart
    snapshot.audit = audit
    guard let image else {
      snapshot.problems = processProblems(snapshot)
      return snapshot
    }
    snapshot.arenas = image.arenas.map(arena).sorted { $0.id < $1.id }
    var owners: [UInt64: UInt64] = [:]
    for record in image.arenas { owners[record[.keyNumber], default: 0] += 1 }
    let keys = Dictionary(image.arenas.map { ($0[.id], $0[.keyNumber]) }) { first, _ in first }
    let labels = Dictionary(grouping: image.labels) { $0[.arenaID] }
    let chunks = Dictionary(
      grouping: image.chunks.enumerated().map {
        (chunk: $1, map: $0 < image.maps.count ? image.maps[$0] : nil)
      }, by: { $0.chunk[.arenaID] })
    // Of arenas that say to be one and the same, the first has what belongs to it: else a page could
    // multiply its records by each other.
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
    snapshot.retiredBytes = number(image.process[.retiredBytes])
    // The process record is written by the ticker; an event may be ahead of it.
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
        function: call.function, purpose: call.purpose, count: record[.count],
        failures: failures, lastErrno: failures == 0 ? nil : errno(record[.lastErrno]))
    }
    snapshot.memlock = memlock(snapshot.arenas)
    snapshot.maps = maps(snapshot.arenas)
    addRoom(&snapshot)
    snapshot.problems =
      processProblems(snapshot) + arenaProblems(snapshot) + auditProblems(snapshot)
    snapshot.problems.sort { $0.severity < $1.severity }
    return snapshot
  }

  private func errno(_ word: UInt64) -> Int32? {
    number(word).flatMap { Int32(exactly: $0) }.flatMap { $0 == 0 ? nil : $0 }
  }

  private func process(_ publisher: Publisher) -> ProcessSnapshot {
    let image = self.image
    let header = image?.header
    let nameLength = header?[.nameLength] ?? 0
    return ProcessSnapshot(
      pid: pid, publisherPid: publisher.publisherPid, publisherID: hex(publisher.id),
      name: header.map { $0.safeText(at: .name, length: nameLength) }
        ?? publisher.name,
      uid: publisher.uid, user: Users.name(publisher.uid), state: state,
      stateDetail: stateDetail,
      startedAt: header.flatMap { number($0[.createdRealMs]) },
      isDumpable: image.flatMap {
        switch $0.process[.dumpable] {
        case 1: true
        case 2: false
        default: nil
        }
      },
      addresses: image.flatMap {
        word($0.process[.addresses]) { (code: AddressCode) in "\(code)" }
      },
      debugger: probe.tracer,
      emergencyWipe: image.flatMap {
        EmergencyWipeCode(rawValue: $0.process[.emergencyWipe]).map { $0 != .absent }
      },
      wipe: image.flatMap {
        let code = $0.process[.emergencyWipe]
        return code <= EmergencyWipeCode.absent.rawValue
          ? nil : word(code) { (code: EmergencyWipeCode) in "\(code)" }
      },
      endedBySignal: image.flatMap {
        $0.process[.endedBySignal] == 0 ? nil : number($0.process[.endedBySignal])
      },
      heartbeatAt: image.flatMap { number($0.process[.heartbeatRealMs]) },
      path: SafeText(publisher.path))
  }

  private func arena(_ record: StatsPageRecord<ArenaWord>) -> ArenaSnapshot {
    var arena = ArenaSnapshot(
      id: record[.id],
      name: record.safeText(at: .name, length: record[.nameLength]))
    arena.layout = word(record[.layout]) { (code: LayoutCode) in layoutName(code) }
    arena.gate = word(record[.gate]) { (code: GateCode) in
      gateName(code, key: record[.keyNumber])
    }
    arena.backing = word(record[.backing]) { (code: BackingCode) in "\(code)" }
    arena.lockPolicy = word(record[.lockPolicy]) { (code: LockPolicyCode) in "\(code)" }
    arena.lockState = word(record[.lockState]) { (code: LockStateCode) in "\(code)" }
    arena.lock = LockDetail(
      errno: errno(record[.lockErrno]),
      errnoName: errno(record[.lockErrno]).map(SystemFailure.name(ofErrno:)),
      failedCall: number(record[.lockFailedCall]).map { number in
        UInt32(exactly: number).flatMap(SystemCall.init)?.function ?? "?\(number)"
      },
      bytesMissing: number(record[.lockBytesMissing]), at: time(record[.lockFailedAtMs]),
      bytesInUseThen: number(record[.lockBytesInUse]),
      limitThen: number(record[.lockLimitSoft]))
    arena.protectionState = word(record[.protectionState]) { (code: ProtectionCode) in
      protectionName(code)
    }
    arena.openWindows = number(record[.openWindows])
    arena.sealState = word(record[.sealState]) { (code: SealCode) in "\(code)" }
    arena.forkProtection = word(record[.forkProtection]) { (code: ForkCode) in "\(code)" }
    arena.dumpProtection = word(record[.dumpProtection]) { (code: DumpCode) in "\(code)" }
    arena.secretCount = number(record[.secretCount])
    arena.bytesInUse = number(record[.bytesInUse])
    arena.bytesLocked = number(record[.bytesLocked])
    arena.bytesMapped = number(record[.bytesMapped])
    arena.chunkCount = number(record[.chunkCount])
    arena.mapsUsed = number(record[.mapsUsed])
    let (separate, merged) = (number(record[.separatePages]), number(record[.mergedPages]))
    // Older libraries leave both at 0, whatever is mapped.
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
    arena.peakBytesInUse = number(record[.peakBytesInUse])
    arena.peakBytesLocked = number(record[.peakBytesLocked])
    arena.nextChunkBytes = number(record[.nextChunkBytes])
    let capacity = record[.capacityBytes]
    arena.capacityBytes = capacity == StatsPageFormat.unlimited ? nil : number(capacity)
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

  private func label(_ record: StatsPageRecord<LabelWord>) -> LabelSnapshot {
    LabelSnapshot(
      label: record.safeText(at: .text, length: record[.textLength]),
      origin: word(record[.origin]) { (code: OriginCode) in
        code == .label ? "label" : "call-site"
      },
      live: number(record[.live]), bytes: number(record[.bytes]),
      allocations: number(record[.allocations]), frees: number(record[.frees]),
      opens: number(record[.opens]), openNow: number(record[.openNow]),
      lastOpenedAt: time(record[.lastOpenedAtMs]), minimumSize: number(record[.minimumSize]),
      maximumSize: record[.maximumSize] == 0 ? nil : number(record[.maximumSize]),
      index: record[.index])
  }

  private func chunk(
    _ record: StatsPageRecord<ChunkWord>, _ map: StatsPageRecord<MapWord>?, _ image: StatsPageImage
  ) -> ChunkSnapshot {
    ChunkSnapshot(
      address: number(record[.address]), dataBytes: number(record[.dataBytes]),
      guardBytes: number(record[.guardBytes]),
      lockState: word(record[.lockState]) { (code: LockStateCode) in "\(code)" },
      errno: errno(record[.lockErrno]),
      kind: record[.kind] == 1
        ? "slab" : record[.kind] == 2 ? "isolated" : "?\(record[.kind])",
      pages: map.map { pages(record, $0, image) })
  }

  private func pages(
    _ record: StatsPageRecord<ChunkWord>, _ map: StatsPageRecord<MapWord>, _ image: StatsPageImage
  ) -> [PagesSnapshot] {
    let pageBytes = max(image.header[.pageBytes], 512)
    let pageCount = number(record[.dataBytes]).map { Int(clamping: $0 / pageBytes) } ?? 0
    var all: [PagesSnapshot] = []
    for at in 0..<min(pageCount, StatsPageContents.capacity) {
      let contents = map.contents(ofPage: at)
      if contents.kind == StatsPageContents.whole, at == 0 {
        return [
          PagesSnapshot(
            first: 0, count: pageCount, use: .whole, live: UInt64(contents.live),
            isOpen: contents.isOpen, isStuck: contents.isStuck)
        ]
      }
      let isUnused = contents.kind == 0
      if at > 0, isUnused ? all[all.count - 1].use == .unused : contents.isContinuation {
        all[all.count - 1].count += 1
        continue
      }
      var pages = PagesSnapshot(
        first: at, count: 1, use: isUnused ? .unused : .odd, live: UInt64(contents.live),
        isOpen: contents.isOpen, isStuck: contents.isStuck)
      if (1...StatsPageFormat.sizeClassCount).contains(contents.kind) {
        let geometry = HeaderWord.sizeClasses.rawValue + (contents.kind - 1) * 2
        pages.use = .slots
        pages.payload = image.header[geometry]
        pages.slots = image.header[geometry + 1] >> 32
      }
      all.append(pages)
    }
    // More than a slab chunk has: nothing is told of them.
    if pageCount > StatsPageContents.capacity {
      all.append(
        PagesSnapshot(
          first: StatsPageContents.capacity, count: pageCount - StatsPageContents.capacity,
          use: .odd,
          live: 0, isOpen: false, isStuck: false))
    }
    return all
  }

  private func secret(_ record: StatsPageRecord<SecretWord>) -> SecretSnapshot {
    SecretSnapshot(
      arenaID: record[.owner] & 0xffff_ffff, serial: record[.serial],
      labelIndex: record[.owner] >> 32, byteCount: record[.size],
      allocatedAt: time(record[.allocatedAtMs]), opens: record[.opens],
      lastOpenedAt: time(record[.lastOpenedAtMs]), openNow: record[.openNow])
  }

  private func vault(_ record: StatsPageRecord<VaultWord>, _ name: SafeText?) -> VaultSnapshot {
    VaultSnapshot(
      arenaID: record[.arenaID], name: name,
      cipher: word(record[.cipher]) { (code: CipherCode) in
        switch code {
        case .aes256gcm: "AES-256-GCM"
        case .xchacha20poly1305: "XChaCha20-Poly1305"
        }
      }, epoch: number(record[.epoch]), entries: number(record[.entries]),
      bytes: number(record[.bytes]), entriesOfOldEpoch: number(record[.entriesOfOldEpoch]),
      encryptions: number(record[.encryptions]), decryptions: number(record[.decryptions]),
      failures: number(record[.failures]), rotations: number(record[.rotations]),
      failedRotations: number(record[.failedRotations]),
      lastRotatedAt: time(record[.lastRotatedAtMs]), streams: number(record[.streams]),
      streamChunks: number(record[.streamChunks]), streamBytes: number(record[.streamBytes]))
  }

  private func event(_ record: StatsPageRecord<EventWord>) -> EventSnapshot {
    EventSnapshot(
      serial: record[.serial],
      kind: word(record[.kind]) { (code: EventCode) in code.name } ?? "?0",
      arenaID: record[.arenaID] == 0 ? nil : number(record[.arenaID]), at: time(record[.atMs]),
      call: number(record[.call]).map { number in
        UInt32(exactly: number).flatMap(SystemCall.init)?.function ?? "?\(number)"
      }, errno: errno(record[.errno]), bytes: number(record[.bytes]))
  }

  // MARK: - Room

  private func memlock(_ arenas: [ArenaSnapshot]) -> Memlock {
    var memlock = Memlock()
    func limit(_ kernel: UInt64?, _ claimed: UInt64) -> (UInt64?, Bool) {
      if let kernel { return kernel == .max ? (nil, true) : (kernel, false) }
      if claimed == StatsPageFormat.unlimited { return (nil, true) }
      return (number(claimed).flatMap { $0 == 0 ? nil : $0 }, false)
    }
    let page = image!.process
    (memlock.soft, memlock.softIsUnlimited) = limit(probe.softLimit, page[.memlockSoft])
    (memlock.hard, memlock.hardIsUnlimited) = limit(probe.hardLimit, page[.memlockHard])
    memlock.binds = memlock.softIsUnlimited ? .no : probe.binds
    memlock.locked = probe.exists ? probe.lockedBytes : number(page[.lockedBytes])
    memlock.lockedByArenas = claimedLocked
    memlock.lockedByOthers = memlock.locked.flatMap {
      $0 >= memlock.lockedByArenas ? $0 - memlock.lockedByArenas : nil
    }
    if memlock.binds == .yes, let soft = memlock.soft, let locked = memlock.locked {
      memlock.headroom = soft > locked ? soft - locked : 0
    }
    memlock.peakLockedByArenas = saturatingSum(arenas.map { $0.peakBytesLocked ?? 0 })
    memlock.nextChunk = arenas.filter { $0.lockPolicy != "off" }.compactMap(\.nextChunkBytes).max()
    if let next = memlock.nextChunk {
      memlock.nextChunkFits =
        memlock.binds == .no ? true : memlock.headroom.map { $0 >= next }
    }
    return memlock
  }

  private func maps(_ arenas: [ArenaSnapshot]) -> Maps {
    var maps = Maps()
    maps.inUse = mapCount
    maps.limit = Inspected.mapLimit.text(limit: 64).flatMap { Int($0.prefix { $0.isNumber }) }
    maps.byArenas = Int(clamping: saturatingSum(arenas.map { $0.mapsUsed ?? 0 }))
    if let inUse = maps.inUse, let limit = maps.limit { maps.headroom = max(0, limit - inUse) }
    return maps
  }

  /// How many more secrets of the sizes in use fit once the headroom is spent on them.
  private func addRoom(_ snapshot: inout Snapshot) {
    guard let headroom = snapshot.memlock.headroom else { return }
    for arena in snapshot.arenas.indices {
      guard snapshot.arenas[arena].lockPolicy != "off" else { continue }
      var room = headroom
      if let capacity = snapshot.arenas[arena].capacityBytes {
        let mapped = snapshot.arenas[arena].bytesMapped ?? 0
        room = min(room, capacity > mapped ? capacity - mapped : 0)
      }
      for size in snapshot.arenas[arena].sizes.indices {
        let payload = snapshot.arenas[arena].sizes[size].payload
        guard let shape = runShape(payload), shape.runBytes > 0 else { continue }
        // Two odd words from a page may be any numbers.
        let (more, overflow) = (Int(clamping: room) / shape.runBytes)
          .multipliedReportingOverflow(by: shape.slots)
        guard !overflow, more < 1 << 60 else { continue }
        snapshot.arenas[arena].sizes[size].freeSlotsAfterGrowth =
          snapshot.arenas[arena].sizes[size].freeSlots + more
      }
    }
  }

  private func runShape(_ payload: Int) -> (runBytes: Int, slots: Int)? {
    guard let header = image?.header else { return nil }
    for sizeClass in 0..<StatsPageFormat.sizeClassCount {
      let index = HeaderWord.sizeClasses.rawValue + sizeClass * 2
      if header[index] == UInt64(payload) {
        let shape = header[index + 1]
        return (Int(shape & 0xffff_ffff), Int(shape >> 32 & 0xffff))
      }
    }
    return nil
  }

  // MARK: - Problems

  private func processProblems(_ snapshot: Snapshot) -> [Problem] {
    var problems: [Problem] = []
    let name = snapshot.process.name
    let detail = stateDetail.map { ": \($0)" } ?? ""
    func add(_ severity: Severity, _ text: String) {
      problems.append(Problem(severity: severity, kind: .processState, text: text))
    }
    switch state {
    case .live: break
    case .stopped: add(.warning, "\(name) is stopped\(detail)")
    case .midUpdate:
      add(.problem, "\(name) stopped in mid-update: what it was writing cannot be read")
    case .detached: add(.problem, "\(name) is detached from its page\(detail)")
    case .unlinked: add(.warning, "the page of \(name) is unlinked\(detail)")
    case .exited: add(.problem, "\(name) exited\(detail); this is its last page")
    case .exec: add(.problem, "\(name) is another program now\(detail); this is its last page")
    case .replaced: add(.problem, "\(name) was replaced\(detail)")
    case .incompatible: add(.problem, "the page of \(name) is incompatible\(detail)")
    case .notPermitted: add(.problem, "the page of \(name) may not be read\(detail)")
    case .corrupt: add(.problem, "the page of \(name) is corrupt\(detail)")
    }
    if let tracer = probe.tracer, tracer != 0 {
      problems.append(
        Problem(
          severity: .warning, kind: .debugger,
          text: "a debugger is attached (pid \(tracer)): it can read every secret"))
    }
    if isFresh, image?.isComplete == false, state == .live || state == .stopped {
      problems.append(
        Problem(
          severity: .note, kind: .incomplete,
          text: "some records changed while they were read: they are shown as they were before"))
    }
    return problems
  }

  private func arenaProblems(_ snapshot: Snapshot) -> [Problem] {
    var problems: [Problem] = []
    let memlock = snapshot.memlock
    let isFound =
      audit?.findings.contains {
        [.notLocked, .notMapped, .totals].contains($0.kind)
      } ?? false
    if claimsMoreThanLocked, !isFound, let locked = memlock.locked {
      problems.append(
        Problem(
          severity: .differs, kind: .lockedLessThanClaimed,
          text: "arenas claim \(bytes(memlock.lockedByArenas)) locked, the kernel counts "
            + "\(bytes(locked)): something unlocked memory behind the library's back"))
    }
    let (fix, keep) = lockFix(snapshot)
    for arena in snapshot.arenas {
      if arena.isLockedInPart {
        let missing = bytes(arena.lock.bytesMissing ?? 0)
        // What holds nothing cannot leak; the next secret would lie there.
        let isEmpty = arena.secretCount == 0
        problems.append(
          Problem(
            severity: isEmpty ? .warning : .problem, kind: .notLocked, arenaID: arena.id,
            text: "\(arena.name): \(missing) of \(bytes(arena.bytesMapped ?? 0)) not locked; "
              + (isEmpty
                ? "it holds no secret now, and the next one could reach swap"
                : "these pages can reach swap"),
            fix: fix, keep: keep))
      } else if let next = arena.nextChunk(over: memlock.headroom),
        let headroom = memlock.headroom
      {
        problems.append(
          Problem(
            severity: .warning, kind: .nextChunkWillFail, arenaID: arena.id,
            text: "\(arena.name): the next chunk (\(bytes(next))) will not fit in the "
              + "\(bytes(headroom)) that can still be locked", fix: fix, keep: keep))
      }
      if let stuck = arena.stuckOpenPages, stuck > 0 {
        problems.append(
          Problem(
            severity: .problem, kind: .stuckOpen, arenaID: arena.id,
            text: "\(arena.name): \(stuck) pages could not be closed again and stay open"))
      }
      if let corruptions = arena.corruptions, corruptions > 0 {
        problems.append(
          Problem(
            severity: .problem, kind: .corruption, arenaID: arena.id,
            text: "\(arena.name): something wrote beside a secret, \(corruptions) times"))
      }
      if let failed = arena.failedOpens, failed > 0 {
        problems.append(
          Problem(
            severity: .warning, kind: .callFailed, arenaID: arena.id,
            text: "\(arena.name): \(failed) windows could not be opened"))
      }
    }
    if let inUse = snapshot.maps.inUse, let limit = snapshot.maps.limit, limit > 0,
      inUse > limit / 10 * 9
    {
      problems.append(
        Problem(
          severity: .warning, kind: .mapsLow,
          text: "\(inUse) of \(limit) mappings are in use",
          fix: "sudo sysctl vm.max_map_count=\(limit * 2)"))
    }
    return problems
  }

  private func auditProblems(_ snapshot: Snapshot) -> [Problem] {
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name) }) { first, _ in first }
    return (audit?.findings ?? []).filter { $0.kind != .debugger }.map { finding in
      let name = finding.arenaID.flatMap { names[$0] }.map { "\($0): " } ?? ""
      return Problem(
        severity: finding.severity, kind: .finding, arenaID: finding.arenaID,
        text: "\(name)the page says \(finding.claim), the kernel says \(finding.kernel)",
        fix: finding.fix)
    }
  }

  /// What to type so that all that is missing can be locked, in this process and from now on: one
  /// limit for all arenas, because a second command would undo the first.
  private func lockFix(_ snapshot: Snapshot) -> (fix: String?, keep: String?) {
    let memlock = snapshot.memlock
    guard state == .live || state == .stopped, memlock.binds == .yes, let pid,
      let locked = memlock.locked
    else { return (nil, nil) }
    let unlocked = snapshot.arenas.filter { $0.isLockedInPart && $0.secretCount != 0 }
    // Every chunk must be locked; a next one fits where the largest does.
    let next = snapshot.arenas.compactMap { $0.nextChunk(over: memlock.headroom) }.max()
    let missing = saturatingSum(unlocked.map { $0.lock.bytesMissing ?? 0 } + [next ?? 0])
    guard missing > 0, missing < 1 << 49 else { return (nil, nil) }
    // The next power of two that holds what is locked, what is missing, and as much again.
    let (need, overflow) = locked.addingReportingOverflow(missing * 2)
    guard !overflow, need < 1 << 50 else { return (nil, nil) }
    var limit: UInt64 = 65536
    while limit < need { limit *= 2 }
    let fits = memlock.hardIsUnlimited || memlock.hard.map { limit <= $0 } ?? false
    let fix =
      fits
      ? "prlimit --pid \(pid) --memlock=\(limit):\(memlock.hard.map { "\($0)" } ?? "unlimited")"
      : "sudo prlimit --pid \(pid) --memlock=\(limit):\(limit)"
    let megabytes = "\(max(1, limit >> 20))M"
    let keep: String
    if let unit = probe.unit {
      keep = "LimitMEMLOCK=\(megabytes) in \(unit)"
    } else if probe.isInContainer {
      keep = "--ulimit memlock=\(limit):\(limit) for the container"
    } else {
      keep = "memlock in /etc/security/limits.d (in KiB: \(limit >> 10)), then log in again"
    }
    return (fix, keep)
  }
}

extension ArenaSnapshot {
  /// A lock was asked for, and does not cover all of it.
  fileprivate var isLockedInPart: Bool { lockState == "partial" || lockState == "unlocked" }

  /// The bytes of the next chunk, where they are more than can still be locked.
  fileprivate func nextChunk(over headroom: UInt64?) -> UInt64? {
    guard lockPolicy != "off", let headroom, let next = nextChunkBytes, headroom < next else {
      return nil
    }
    return next
  }
}

/// A sum that stops at the largest number: what is added comes from another process.
package func saturatingSum(_ numbers: [UInt64]) -> UInt64 {
  numbers.reduce(0) { sum, number in
    let (total, overflow) = sum.addingReportingOverflow(number)
    return overflow ? .max : total
  }
}

/// A size for people: `48 KiB`, `2.2 MiB`; exact where it is whole.
package func bytes(_ count: UInt64) -> String {
  if count < 1024 { return "\(count) B" }
  var value = Double(count)
  for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
    value /= 1024
    if value < 1023.95 || unit == "PiB" {
      let tenths = Int((value * 10).rounded())
      if tenths >= 1000 { return "\(Int(value.rounded())) \(unit)" }
      return tenths % 10 == 0 ? "\(tenths / 10) \(unit)" : "\(tenths / 10).\(tenths % 10) \(unit)"
    }
  }
  return "\(count) B"
}
