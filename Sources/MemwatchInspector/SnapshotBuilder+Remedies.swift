// The commands that fix a problem.

extension SnapshotBuilder {
  /// The commands that let everything missing be locked, now and permanently. One limit covers all
  /// arenas, because a second command would undo the first.
  func lockFix(_ snapshot: Snapshot) -> (fix: String?, keep: String?) {
    let memlock = snapshot.memlock
    guard state == .live || state == .stopped, memlock.binds == .yes, let pid,
      let locked = memlock.locked
    else { return (nil, nil) }
    let unlocked = snapshot.arenas.filter { $0.isNotFullyLocked && $0.secretCount != 0 }
    // Every chunk must be lockable; if the largest next chunk fits, so do the others.
    let room = memlock.room(snapshot.arenas)
    let next = snapshot.arenas.compactMap { $0.nextChunk(over: room) }.max()
    let missing = saturatingSum(unlocked.map { $0.lock.bytesMissing ?? 0 } + [next ?? 0])
    guard missing > 0, missing < 1 << 49 else { return (nil, nil) }
    // The next power of two that holds what is locked and missing, with the same again as reserve.
    let (need, overflow) = locked.count.addingReportingOverflow(missing.count * 2)
    guard !overflow, need < 1 << 50 else { return (nil, nil) }
    var limit: UInt64 = 65536
    while limit < need { limit *= 2 }
    let fits = memlock.hardIsUnlimited || memlock.hard.map { limit <= $0.count } ?? false
    let fix =
      fits
      ? "prlimit --pid \(pid) --memlock=\(limit):\(memlock.hard.map { "\($0.count)" } ?? "unlimited")"
      : "sudo prlimit --pid \(pid) --memlock=\(limit):\(limit)"
    var keep = probe.limitSource.keep(limit, user: snapshot.process.user.string)
    if fits, memlock.soft != memlock.hard {
      keep += "; or the program raises its soft limit itself (setrlimit)"
    }
    return (fix, keep)
  }
}
