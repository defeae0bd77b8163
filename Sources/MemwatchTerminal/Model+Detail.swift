// Details of the selected arena, the reason for its state and the fix first. Pure.

import MemwatchInspector

/// A line of the detail pane.
package struct Detail: Equatable, Sendable {
  package var title: String
  package var text: String
  package var role = Role.normal
}

private func size(_ size: ByteCount?) -> String { size.text }
private func count(_ number: UInt64?) -> String { number.map { grouped($0) } ?? "n/a" }

extension Model {
  func details(of arena: ArenaSnapshot) -> [Detail] {
    guard let snapshot else { return [] }
    var lines = reasons(of: arena, in: snapshot)
    lines.append(gate(of: arena))
    lines.append(room(of: arena, in: snapshot))
    lines += vault(of: arena, in: snapshot)
    func rate(_ value: Double?) -> String { value.map { grouped(wholeNumber($0)) + "/s" } ?? "n/a" }
    let rates = rates[arena.id]
    lines.append(
      Detail(
        title: "Rates",
        text: "opened \(rate(rates?.opens))   allocated \(rate(rates?.allocations))   "
          + "freed \(rate(rates?.frees))   failed locks \(count(arena.failedLocks))   "
          + "longest open \(arena.longestOpenMs.map { duration($0) } ?? "n/a")"))
    return lines + since(of: arena, in: snapshot)
  }

  /// With rarely changing facts, for the full-screen view.
  func allDetails(of arena: ArenaSnapshot) -> [Detail] {
    let time = arena.createdAt.map { clock($0, withDate: true) } ?? "n/a"
    return details(of: arena) + [
      Detail(
        title: "Locked",
        text: "\(arena.lockState.text) (\(arena.lockPolicy.text)): "
          + "\(size(arena.bytesLocked)) of \(size(arena.bytesMapped)) in "
          + "\(count(arena.chunkCount)) \(arena.chunkCount == 1 ? "chunk" : "chunks"), idle \(size(arena.idleBytes)), peak "
          + "\(size(arena.peakBytesLocked))"),
      Detail(
        title: "Secrets",
        text: "\(count(arena.secretCount)), peak \(count(arena.peakSecretCount))   in use "
          + "\(size(arena.bytesInUse)), peak \(size(arena.peakBytesInUse))   capacity "
          + "\(size(arena.capacityBytes))"),
      Detail(
        title: "Open",
        text: "\(arena.protectionState.text), \(count(arena.openWindows)) windows now, "
          + "\(count(arena.abandonedWindows)) of ended threads   opened "
          + "\(count(arena.opens)), for writing \(count(arena.opensForWriting))   pages that stay "
          + "open \(count(arena.stuckOpenPages))"
          + (arena.isOpenByDesign ? "   by design: only its program closes it" : "")),
      Detail(
        title: "Failed",
        text: "allocations \(count(arena.failedAllocations))   locks \(count(arena.failedLocks))   "
          + "opens \(count(arena.failedOpens))   corruptions \(count(arena.corruptions))"),
      Detail(
        title: "Made",
        text: "\(time)   layout \(arena.layout.text)   backing \(arena.backing.text)   "
          + "seal \(arena.sealState.text)"),
    ]
  }

  /// The reason for the state, and the fix for now and for good.
  private func reasons(of arena: ArenaSnapshot, in snapshot: Snapshot) -> [Detail] {
    var lines: [Detail] = []
    let lock = arena.lock
    if let name = lock.errnoName {
      let at = lock.at.map { " at \(clock($0))" } ?? ""
      lines.append(
        Detail(
          title: "Why",
          text: "\(lock.failedCall?.text ?? "a call") failed with \(name)\(at): "
            + "\(size(lock.bytesInUseThen)) of \(size(lock.limitThen)) in use; "
            + "\(size(lock.bytesMissing)) missing now", role: .bad))
    }
    for problem in snapshot.problems where problem.arenaID == arena.id {
      let isWarning = problem.severity == .warning || problem.severity == .note
      if problem.kind != .notLocked || lock.errnoName == nil {
        lines.append(
          Detail(
            title: lines.isEmpty ? "Why" : "", text: problem.text,
            role: isWarning ? .warning : .bad))
      }
      if let fix = problem.fix, !lines.contains(where: { $0.text == fix }) {
        lines.append(Detail(title: "Now", text: fix, role: .strong))
      }
      if let keep = problem.keep, !lines.contains(where: { $0.text == keep }) {
        lines.append(Detail(title: "Kept", text: keep, role: .strong))
      }
    }
    guard lines.isEmpty else { return lines }
    return [
      Detail(
        title: "Lock",
        text: "\(arena.lockState.text) (\(arena.lockPolicy.text)): "
          + "\(size(arena.bytesLocked)) of \(size(arena.bytesMapped)) in "
          + "\(count(arena.chunkCount)) \(arena.chunkCount == 1 ? "chunk" : "chunks"); idle \(size(arena.idleBytes)), peak "
          + "\(size(arena.peakBytesLocked))")
    ]
  }

  private func gate(of arena: ArenaSnapshot) -> Detail {
    let dump = arena.isLeftOutOfDumps ? "no" : arena.dumpProtection.text
    let shared = arena.keySharedWith.map { $0 == 0 ? "" : ", shared with \($0)" } ?? ""
    let split =
      arena.separatePages.map { "   separate \($0)   merged \(count(arena.mergedPages))" } ?? ""
    return Detail(
      title: "Gate",
      text: "\(arena.gate.text)\(shared)   guards \(count(arena.guardPages))   dump \(dump)   "
        + "fork \(arena.forkProtection.text)   maps \(count(arena.mapsUsed))\(split)")
  }

  /// Room left: free slots, then chunks.
  private func room(of arena: ArenaSnapshot, in snapshot: Snapshot) -> Detail {
    let next = arena.nextChunkBytes
    let headroom = snapshot.memlock.headroom
    let fits: String =
      if arena.isLockOff || snapshot.memlock.binds == .no {
        "fits, no limit applies"
      } else if let next, let headroom { next <= headroom ? "fits" : "WILL NOT FIT" } else {
        "n/a"
      }
    let sizes = arena.sizes.map { "\($0.payload) B: \(grouped($0.freeSlots)) free" }
    let chunk = next.map { "a \(bytes($0)) chunk: \(fits)" } ?? "a chunk: n/a"
    return Detail(
      title: "Room",
      text: (sizes + [sizes.isEmpty ? chunk : "then \(chunk)"]).joined(separator: "   "))
  }

  private func vault(of arena: ArenaSnapshot, in snapshot: Snapshot) -> [Detail] {
    guard let vault = snapshot.vaults.first(where: { $0.arenaID == arena.id }) else { return [] }
    let waiting =
      (vault.entriesOfOldEpoch ?? 0) == 0
      ? "" : " (\(count(vault.entriesOfOldEpoch)) under the old key)"
    let streams =
      (vault.streams ?? 0) == 0
      ? "" : "   streams \(count(vault.streams)), \(size(vault.streamBytes))"
    return [
      Detail(
        title: "Vault",
        text: "\(vault.cipher.text)   epoch \(count(vault.epoch))   encrypted "
          + "\(count(vault.entries)), \(size(vault.bytes))\(waiting)   decrypted "
          + "\(count(vault.decryptions))   failures \(count(vault.failures))\(streams)",
        role: (vault.failures ?? 0) > 0 ? .bad : .normal)
    ]
  }

  private func since(of arena: ArenaSnapshot, in snapshot: Snapshot) -> [Detail] {
    if let mark, let then = mark.arenas.first(where: { $0.id == arena.id }) {
      func change(_ now: UInt64?, _ then: UInt64?, _ show: (UInt64) -> String) -> String {
        guard let now, let then else { return "n/a" }
        return now >= then ? "+\(show(now - then))" : "-\(show(then - now))"
      }
      return [
        Detail(
          title: "Since",
          text: "mark \(clock(mark.sampledAt))   secrets "
            + change(arena.secretCount, then.secretCount) { grouped($0) } + "   in use "
            + change(arena.bytesInUse?.count, then.bytesInUse?.count) { bytes($0) } + "   locked "
            + change(arena.bytesLocked?.count, then.bytesLocked?.count) { bytes($0) })
      ]
    }
    guard let restart = snapshot.restart else { return [] }
    let ago = snapshot.sampledAt.since(restart.at) / 1000
    return [
      Detail(
        title: "Since",
        text: "restarted \(ago) s ago, \(restart.fromPid.map { "\($0)" } ?? "?") -> "
          + "\(restart.toPid.map { "\($0)" } ?? "?"); rates restart")
    ]
  }
}

extension Detail {
  /// The title padded to eight columns, then the text.
  var line: String {
    title.padding(8) + text
  }
}

extension String {
  fileprivate func padding(_ width: Int) -> String {
    self + String(repeating: " ", count: Swift.max(0, width - columns))
  }
}

extension [Detail] {
  /// Wraps each text to the screen's width; continuation lines have no title.
  func wrapped(_ width: Int) -> [Detail] {
    flatMap { detail -> [Detail] in
      let lines = detail.text.wrapped(Swift.max(12, width - 8))
      return lines.enumerated().map { index, line in
        Detail(
          title: index == 0 ? detail.title : "",
          text: index == 0 ? line : String(line.drop { $0 == " " }), role: detail.role)
      }
    }
  }
}
