// Windows that stay open, and those that nobody can close any more.

import EnclaveSystem

extension Inspector {
  /// Adds a warning for each arena with a window open longer than the limit, unless it is open by
  /// design; at once if the window's thread has ended.
  func watchWindows(_ snapshot: inout Snapshot) {
    let now = ProcessFacts.bootMilliseconds
    var open: [UInt64: (opens: UInt64, since: UInt64)] = [:]
    for arena in snapshot.arenas where (arena.openWindows ?? 0) > 0 && !arena.isOpenByDesign {
      guard let opens = arena.opens else { continue }
      // Combine what this process observed with what the publisher reports.
      let before = openSince[arena.id].flatMap { $0.opens == opens ? $0 : nil }
      let told = arena.openSince.map { told in
        now - min(now, snapshot.sampledAt.since(told))
      }
      if let since = [before?.since, told].compactMap({ $0 }).min() {
        open[arena.id] = (opens, since)
        let ms = now - since
        let abandoned = arena.abandonedWindows ?? 0
        if abandoned > 0 {
          let isOne = abandoned == 1
          snapshot.add(
            Problem(
              severity: .warning, kind: .openTooLong, arenaID: arena.id,
              text: "\(arena.name): \(counted(Int(clamping: abandoned), "window")) left open by "
                + (isOne ? "a thread that has ended" : "threads that have ended")
                + "; destroying the arena closes \(isOne ? "it" : "them")"))
        }
        if ms >= openLimitMs, arena.openWindows! > abandoned {
          snapshot.add(
            Problem(
              severity: .warning, kind: .openTooLong, arenaID: arena.id,
              text: "\(arena.name): open for \(ms / 1000) s without a new window; any bug in "
                + "that thread can read what is open"))
        }
      } else {
        open[arena.id] = (opens, now)
      }
    }
    openSince = open
  }
}
