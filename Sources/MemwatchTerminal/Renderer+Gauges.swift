// Draws the memlock and map meters.

import MemwatchInspector

extension Renderer {
  /// The colour of a meter: yellow from three quarters, red when the next chunk does not fit.
  private func level(_ used: Double?, of whole: Double?, isFull: Bool) -> Role? {
    if isFull { return .meterBad }
    guard let used, let whole, whole > 0, used / whole >= 0.75 else { return nil }
    return .meterWarning
  }

  var memlockTail: String {
    guard let memlock = model.snapshot?.memlock else { return "" }
    let locked = memlock.locked.map { bytes($0) } ?? "n/a"
    let limit = memlock.softIsUnlimited ? "unlimited" : memlock.soft.map { bytes($0) } ?? "n/a"
    let room =
      switch memlock.binds {
      case .yes: "\(memlock.headroom.map { bytes($0) } ?? "n/a") free"
      case .no: "not enforced"
      case .unknown: "enforced: n/a"
      }
    let tail = "\(locked) of \(limit)   \(room)"
    let long = tail + (lockedChange ?? "   peak \(bytes(memlock.peakLockedByArenas))")
    return width < 60 ? "\(locked) of \(limit)" : width >= 100 ? long : tail
  }

  /// `   +0 B in 5 min`.
  private var lockedChange: String? {
    guard let span = model.changeSpanText, let now = model.snapshot?.memlock.locked,
      let then = model.base?.memlock.locked
    else { return nil }
    let change = now >= then ? "+\(bytes(now - then))" : "-\(bytes(then - now))"
    return "   \(change) in \(span)"
  }

  var mapsTail: String {
    guard let maps = model.snapshot?.maps else { return "" }
    let tail =
      "\(maps.inUse.map { grouped($0) } ?? "n/a") of \(maps.limit.map { grouped($0) } ?? "n/a")"
    return tail + (width >= 80 ? "   by arenas \(grouped(maps.byArenas))" : "")
  }

  /// Both meters have the same width.
  var barWidth: Int {
    let tail = width < 60 ? memlockTail.columns : max(memlockTail.columns, mapsTail.columns)
    return max(4, min(max(width * 42 / 100, 24), width - 10 - tail))
  }

  /// The colour of the memlock meter and of its legend; nil: with room.
  private func memlockLevel(_ memlock: Memlock) -> Role? {
    guard memlock.binds == .yes else { return nil }
    return level(
      memlock.locked.map { Double($0) }, of: memlock.soft.map { Double($0) },
      isFull: memlock.nextChunkFits == false)
  }

  mutating func drawMemlock(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let memlock = snapshot.memlock
    // Of the limit, even if it is not enforced: then more may be locked.
    let whole = [memlock.soft, memlock.locked].compactMap(\.self).max().map { max($0.count, 1) }
    let level = memlockLevel(memlock)
    grid.put("Memlock ", row: row, column: 0)
    drawBar(
      row: row, column: 8, width: barWidth,
      parts: [
        (memlock.lockedByArenas.count, style.arenas, level ?? .arenas),
        (memlock.lockedByOthers?.count ?? 0, style.others, level ?? .others),
      ], whole: whole)
    grid.put(memlockTail, row: row, column: 8 + barWidth + 2, limit: width - 10 - barWidth)
  }

  mutating func drawLegend(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let memlock = snapshot.memlock
    let room = snapshot.arenas.flatMap(\.sizes)
    let level = memlockLevel(memlock)
    var at = grid.put(style.arenas, row: row, column: 8, role: level ?? .arenas)
    at = grid.put(" arenas \(bytes(memlock.lockedByArenas))", row: row, column: at)
    at = grid.put("   ", row: row, column: at)
    at = grid.put(style.others, row: row, column: at, role: level ?? .others)
    at = grid.put(
      " other code \(memlock.lockedByOthers.map { bytes($0) } ?? "n/a")", row: row, column: at)
    let long = nextChunkText(snapshot)
    let next = [long, long.replacing(#/ growing arenas?/#, with: "")]
    let role: Role = memlock.nextChunkFits == false ? .bad : .normal
    at = grid.put("   ", row: row, column: at)
    if let next = next.first(where: { at + $0.columns <= width }) {
      at = grid.put(next, row: row, column: at, role: role)
    }
    let free = saturatingSum(room.map { UInt64(clamping: $0.freeSlots) })
    let slots = "   free slots \(free)"
    if at + slots.columns <= width { grid.put(slots, row: row, column: at) }
  }

  /// `next chunk: 4 of 5 growing arenas WILL NOT FIT`; counts only arenas that lock.
  private func nextChunkText(_ snapshot: Snapshot) -> String {
    let chunks = snapshot.arenas.filter { !$0.isLockOff && $0.isWritable }
      .compactMap(\.nextChunkBytes).filter { $0 > 0 }
    guard let room = snapshot.memlock.headroom, !chunks.isEmpty else {
      return snapshot.nextChunkText
    }
    let failing = chunks.count { $0 > room }
    return failing == 0
      ? "next chunk: fits in all \(counted(chunks.count, "growing arena"))"
      : "next chunk: \(failing) of \(counted(chunks.count, "growing arena")) WILL NOT FIT"
  }

  mutating func drawMaps(row: Int) {
    guard let snapshot = model.snapshot else { return }
    let maps = snapshot.maps
    let level = level(
      maps.inUse.map { Double($0) }, of: maps.limit.map { Double($0) },
      isFull: snapshot.problems.contains { $0.kind == .mapsLow })
    grid.put("Maps    ", row: row, column: 0)
    drawBar(
      row: row, column: 8, width: barWidth,
      parts: [(UInt64(clamping: maps.inUse ?? 0), style.arenas, level ?? .arenas)],
      whole: maps.limit.map { UInt64(clamping: $0) })
    grid.put(mapsTail, row: row, column: 8 + barWidth + 2)
  }

  mutating func drawBar(
    row: Int, column: Int, width barWidth: Int, parts: [(UInt64, String, Role)], whole: UInt64?
  ) {
    let inside = max(0, barWidth - 2)
    grid.put("[", row: row, column: column)
    grid.put("]", row: row, column: column + barWidth - 1)
    guard let whole, whole > 0 else {
      grid.put("n/a".fitted(inside), row: row, column: column + 1, role: .faint)
      return
    }
    var at = 0
    for (amount, mark, role) in parts where amount > 0 {
      let share = Double(amount) / Double(whole) * Double(inside)
      let cells = min(inside - at, max(1, wholeNumber(share)))
      guard cells > 0 else { break }
      grid.put(
        String(repeating: mark, count: cells), row: row, column: column + 1 + at, role: role)
      at += cells
    }
    if at < inside {
      grid.put(
        String(repeating: style.free, count: inside - at), row: row, column: column + 1 + at,
        role: .faint)
    }
  }
}
