// The rules that derive problems and findings from a snapshot.

import EnclaveStats
import EnclaveSystem

extension SnapshotBuilder {
  /// Findings about the whole process, from /proc.
  var processFindings: [Finding] {
    var findings: [Finding] = []
    if let tracer = probe.tracer, tracer != 0 {
      findings.append(
        Finding(
          severity: .warning, kind: .debugger, claim: "nothing about this",
          kernel: "TracerPid \(tracer)",
          cause: "a debugger or strace is attached", fix: "detach it: it can read every secret",
          pids: [tracer]))
    }
    if let locked = probe.lockedBytes.map({ ByteCount($0) }), locked > claimedLocked {
      findings.append(
        Finding(
          severity: .note, kind: .otherLocks, claim: "\(bytes(claimedLocked)) locked by arenas",
          kernel: "VmLck \(bytes(locked))",
          cause: "\(bytes(locked - claimedLocked)) are locked by other code in the process",
          fix: "it counts against the same limit: raise the limit by as much",
          affectedBytes: locked - claimedLocked))
    }
    return findings
  }

  func processProblems(_ snapshot: Snapshot) -> [Problem] {
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
      add(.problem, "\(name) stopped mid-update: the record it was writing cannot be read")
    case .detached: add(.problem, "\(name) is detached from its page\(detail)")
    case .unlinked: add(.warning, "the page of \(name) is unlinked\(detail)")
    case .exited: add(.problem, "\(name) exited\(detail); this is its last page")
    case .exec: add(.problem, "\(name) now runs another program\(detail); this is its last page")
    case .replaced: add(.problem, "\(name) was replaced\(detail)")
    case .incompatible: add(.problem, "the page of \(name) is incompatible\(detail)")
    case .notPermitted: add(.problem, "the page of \(name) cannot be read\(detail)")
    case .corrupt: add(.problem, "the page of \(name) is corrupt\(detail)")
    }
    if let tracer = probe.tracer, tracer != 0 {
      problems.append(
        Problem(
          severity: .warning, kind: .debugger,
          text: "a debugger is attached (pid \(tracer)): it can read every secret"))
    }
    problems += deniedCalls(snapshot)
    if isFresh, image?.isComplete == false, state == .live || state == .stopped {
      problems.append(
        Problem(
          severity: .note, kind: .incomplete,
          text: "some records changed while they were read: their previous values are shown"))
    }
    return problems
  }

  /// Calls that a filter of system calls refuses (seccomp(2)): of itself, the kernel answers none of
  /// these with EPERM. `@system-service` of systemd 252 has none of them.
  private func deniedCalls(_ snapshot: Snapshot) -> [Problem] {
    let lost: [(call: SystemCall, what: String, filter: String)] = [
      (
        .allocateKey, "arenas get no protection keys, and close for all threads or not at all",
        "@pkey"
      ),
      (.sealChunk, "arenas cannot be sealed", "mseal"),
      (.mapSecretMemory, "arenas cannot use memory that the kernel cannot access", "memfd_secret"),
    ]
    return lost.compactMap { call, what, filter in
      let isDenied = snapshot.calls.contains {
        $0.call == .known(call) && $0.failures > 0 && $0.lastErrno == 1
      }
      guard isDenied else { return nil }
      return Problem(
        severity: .warning, kind: .callFailed,
        text:
          "a system call filter denies \(call.function) to \(snapshot.process.name): \(what)",
        fix:
          "SystemCallFilter=\(filter) in its unit (systemctl edit), or allow it in its container's profile"
      )
    }
  }

  func arenaProblems(_ snapshot: Snapshot) -> [Problem] {
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
      if arena.isNotFullyLocked {
        let missing = bytes(arena.lock.bytesMissing ?? 0)
        // An empty arena has nothing to leak yet; its next secret would.
        let isEmpty = arena.secretCount == 0
        problems.append(
          Problem(
            severity: isEmpty ? .warning : .problem, kind: .notLocked, arenaID: arena.id,
            text: "\(arena.name): \(missing) of \(bytes(arena.bytesMapped ?? 0)) not locked: "
              + (isEmpty
                ? "holds no secret now; the next one can be swapped out" : "can be swapped out"),
            fix: fix, keep: keep))
      } else if let total = memlock.room(snapshot.arenas),
        let next = arena.nextChunk(over: total)
      {
        problems.append(
          Problem(
            severity: .warning, kind: .nextChunkWillFail, arenaID: arena.id,
            text: "\(arena.name): the next chunk (\(bytes(next))) will not fit in the "
              + memlock.text(ofRoom: total), fix: fix, keep: keep))
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
            text: "\(arena.name): something wrote past a secret, \(corruptions) times"))
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

  func auditProblems(_ snapshot: Snapshot) -> [Problem] {
    let names = Dictionary(snapshot.arenas.map { ($0.id, $0.name) }) { first, _ in first }
    return (audit?.findings ?? []).filter { $0.kind != .debugger }.map { finding in
      let name = finding.arenaID.flatMap { names[$0] }.map { "\($0): " } ?? ""
      return Problem(
        severity: finding.severity, kind: .finding, arenaID: finding.arenaID,
        text: "\(name)the page says \(finding.claim), the kernel says \(finding.kernel)",
        fix: finding.fix)
    }
  }
}

extension ArenaSnapshot {
  /// The size of the next chunk, if it exceeds what can still be locked.
  func nextChunk(over headroom: ByteCount?) -> ByteCount? {
    guard lockPolicy != .off, let headroom, let next = nextChunkBytes, headroom < next else {
      return nil
    }
    return next
  }
}
