// The map of an arena: its chunks as rows of pages, and the pages of one chunk. Pure.

import MemwatchInspector

/// The letter for a page: lower case if no secret lives in it.
private struct Letter {
  let live: Character
  let free: Character
  let word: String

  init(_ chunk: ChunkSnapshot, isSealed: Bool) {
    if chunk.isLocked {
      (live, free, word) = isSealed ? ("S", "s", "sealed") : ("L", "l", "locked")
    } else if chunk.isLockOff {
      (live, free, word) = ("N", "n", "off")
    } else if chunk.isUnlocked {
      (live, free, word) = ("U", "u", "unlocked")
    } else {
      (live, free, word) = ("?", "?", chunk.lockState.text)
    }
  }

  func letter(for pages: PagesSnapshot) -> Character {
    if pages.isOpen || pages.isStuck { return "O" }
    if pages.use == .odd { return "?" }
    return pages.live > 0 ? live : free
  }
}

/// One row of the map: a chunk, or part of one.
private struct MapRow {
  let id: String
  let chunk: ChunkSnapshot
  let first: Int
  let count: Int
  let pageCount: Int
  /// The pages that begin in this row; nil: unknown.
  let pages: [PagesSnapshot]?

  static let width = 32

  var isFirst: Bool { first == 0 }
  var isLast: Bool { first + count == pageCount }
  var live: UInt64? { pages.map { PageCounts($0).secrets } }
  var address: UInt64? {
    chunk.address.map { $0 &+ UInt64(first) &* pageByteCount }
  }

  /// The rows of an arena. A chunk with a single secret, or larger than a slab chunk, gets one row.
  static func all(of arena: ArenaSnapshot) -> [MapRow] {
    arena.chunks.enumerated().flatMap { index, chunk in
      let id = chunk.address.map { String($0, radix: 16) } ?? "\(index)"
      let pageCount = Int(clamping: (chunk.dataBytes?.count ?? 0) / pageByteCount)
      let isWhole = chunk.pages?.first?.use == .whole || pageCount > 2 * width
      let step = isWhole ? max(1, pageCount) : width
      return stride(from: 0, to: max(1, pageCount), by: step).map { first in
        let count = min(step, pageCount - first)
        return MapRow(
          id: first == 0 ? id : "\(id)+\(first)", chunk: chunk, first: first, count: count,
          pageCount: pageCount,
          pages: chunk.pages?.filter { $0.first >= first && $0.first < first + count })
      }
    }
  }

  func letters(_ letter: Letter) -> String {
    var text = ""
    if let all = chunk.pages, all.first?.use != .whole, count <= Self.width {
      for page in first..<first + count {
        let there = all.last { $0.first <= page }
        text.append(there.map { letter.letter(for: $0) } ?? "?")
      }
    } else {
      let one = chunk.pages?.first.map { letter.letter(for: $0) } ?? letter.live
      // Long chunks show both ends and the page count.
      text =
        count <= Self.width
        ? String(repeating: one, count: count)
        : String(repeating: one, count: 8) + " \(grouped(count)) pages "
          + String(repeating: one, count: 8)
    }
    let edge = (chunk.guardBytes ?? 0) > 0 ? "G" : ""
    return (isFirst ? edge : " ") + text + (isLast ? edge : "")
  }

  /// The row's contents in one line.
  var summary: String {
    let range =
      count == pageCount
      ? counted(pageCount, "page") : "pages \(first)-\(first + count - 1) of \(grouped(pageCount))"
    guard let pages else { return "\(range); their use was not recorded" }
    let counts = PageCounts(pages)
    let parts = [
      counts.holding == 0
        ? "no secret in them"
        : "\(grouped(counts.secrets)) live in \(grouped(counts.holding)) of them",
      counts.open == 0 ? nil : "\(grouped(counts.open)) open",
      counts.stuck == 0 ? nil : "\(grouped(counts.stuck)) could not be closed",
    ]
    return "\(range): " + parts.compactMap { $0 }.joined(separator: ", ")
  }

  var slots: String {
    guard let pages else { return "n/a" }
    if pages.first?.use == .whole { return "none: the chunk belongs to one secret" }
    var slotCounts: [UInt64: (live: UInt64, slots: UInt64)] = [:]
    for page in pages {
      guard let payload = page.payload, let slots = page.slots else { continue }
      let counts = slotCounts[payload] ?? (0, 0)
      slotCounts[payload] = (
        saturatingSum([counts.live, page.live]), saturatingSum([counts.slots, slots])
      )
    }
    let texts = slotCounts.sorted { $0.key < $1.key }.map {
      "\(bytes($0.key)): \(grouped($0.value.live)) of \(grouped($0.value.slots)) live"
    }
    return texts.isEmpty ? "none yet" : texts.joined(separator: "; ")
  }
}

extension Model {
  private var arenaOfMap: ArenaSnapshot? {
    snapshot?.arenas.first { $0.id == selectedArena }
  }

  /// Whether the map shows one chunk's pages.
  package var isPageByPage: Bool {
    guard view == .map, let chunkOfMap, let arena = arenaOfMap else { return false }
    return MapRow.all(of: arena).contains { $0.id == chunkOfMap && $0.pages != nil }
  }

  /// The map of an arena, or the pages of one of its rows.
  func map(of arena: ArenaSnapshot, in snapshot: Snapshot) -> ListModel {
    let mapRows = MapRow.all(of: arena)
    if let chunkOfMap, let open = mapRows.first(where: { $0.id == chunkOfMap }),
      let pages = open.pages
    {
      return list(pages, of: open, arena)
    }
    let isSealed = arena.isSealed
    let findings = (snapshot.audit?.findings ?? []).filter { $0.arenaID == arena.id }
    let kernel =
      snapshot.audit?.verdict(of: arena.id).map {
        $0 == .differs
          ? "the arena differs: " + findings.map(\.kernel).joined(separator: "; ")
          : "the arena's mappings agree with its claims"
      } ?? "n/a"
    let open =
      "\(arena.protectionState.text): "
      + (arena.openWindows.map { counted(Int(clamping: $0), "window") } ?? "n/a")
      + ((arena.stuckOpenPages ?? 0) > 0
        ? ", \(grouped(arena.stuckOpenPages!)) pages stay open" : "")
    let rows = mapRows.map { mapRow in
      let chunk = mapRow.chunk
      let isBad = chunk.isUnlocked || (mapRow.pages ?? []).contains(where: \.isStuck)
      var row = ListModel.Row(
        id: mapRow.id,
        cells: [
          .init(mapRow.letters(Letter(chunk, isSealed: isSealed)), Double(mapRow.count)),
          .init(mapRow.live.map { grouped($0) } ?? "n/a", mapRow.live.map { Double($0) }),
          .init(
            mapRow.address.map { "0x" + String($0, radix: 16) } ?? "not published",
            mapRow.address.map { Double($0) }),
          .init(
            chunk.dataBytes == nil ? "n/a" : bytes(UInt64(mapRow.count) * pageByteCount),
            Double(mapRow.count)),
          .init(chunk.lockState.text), .init(chunk.kind.text),
          .init(
            chunk.guardBytes.map { bytes($0) } ?? "n/a", chunk.guardBytes.map { Double($0) }),
          .init(mapRow.slots), .init(mapRow.summary),
        ], isMarked: isBad, role: isBad ? .bad : .normal)
      row.details = [
        ("Letters", "O open now  L locked  S sealed  U unlocked  N not requested  G guard"),
        ("", "lower case: no live secret in that page" + (mapRow.pages == nil ? " (unknown)" : "")),
        ("Here", mapRow.summary),
        ("Slots", mapRow.slots),
        ("Lock", chunk.lockState.text + (chunk.errno.map { ": \(errnoName($0))" } ?? "")),
        ("Open", "\(open) (all chunks)"),
        ("Kernel", kernel),
      ]
      return row
    }
    let count = UInt64(arena.chunks.count)
    let unlisted = arena.chunkCount.map { $0 > count ? $0 - count : 0 } ?? 0
    return ListModel(
      title: "arenas > \(arena.name) > map",
      note: counted(arena.chunks.count, "chunk")
        + (unlisted > 0 ? ", \(grouped(unlisted)) not listed" : ""),
      columns: [
        .init(title: "PAGES", width: 34), .init(title: "LIVE", width: 6, isNumber: true),
        .init(title: "ADDRESS", width: 15, dropsAt: 2),
        .init(title: "SIZE", width: 9, isNumber: true, dropsAt: 3),
        .init(title: "LOCK", width: 8), .init(title: "KIND", width: 8, dropsAt: 1),
        .init(title: "GUARDS", width: 8, isNumber: true, dropsAt: 1, isWide: true),
        .init(title: "SLOTS", width: 28, dropsAt: 1, isWide: true),
        .init(title: "CONTENTS", width: 30, dropsAt: 1, isWide: true, fillsWidth: true),
      ], rows: .init(rows), empty: "nothing is mapped yet",
      unlisted: Optional(unlisted).unlistedText("chunk", "only counted"))
  }

  /// One row for each group of pages that are opened together.
  private func list(
    _ all: [PagesSnapshot], of mapRow: MapRow, _ arena: ArenaSnapshot
  ) -> ListModel {
    let isFixed = arena.isFrozen
    let letter = Letter(mapRow.chunk, isSealed: arena.isSealed)
    let rows = all.map { pages in
      let last = pages.first + pages.count - 1
      let range = pages.count == 1 ? "page \(pages.first)" : "pages \(pages.first)-\(last)"
      let holds =
        switch pages.use {
        case .unused: "nothing yet"
        case .whole: "one secret's"
        case .slots:
          "\(pages.slots.map { grouped($0) } ?? "?") slots of \(pages.payload.map { bytes($0) } ?? "?")"
        case .odd: "?"
        }
      let free = pages.slots.map { $0 > pages.live ? $0 - pages.live : 0 }
      let address = mapRow.chunk.address.map { $0 &+ UInt64(pages.first) &* pageByteCount }
      var row = ListModel.Row(
        id: "page \(pages.first)",
        cells: [
          .init("\(range): \(holds)", -Double(pages.first)),
          .init(letter.word),
          .init(grouped(pages.live), Double(pages.live)),
          .init(free.map { grouped($0) } ?? "-", free.map { Double($0) }),
          .init(
            pages.isStuck ? "STUCK" : pages.isOpen ? "open" : "-",
            pages.isStuck ? 2 : pages.isOpen ? 1 : 0),
          .init(
            address.map { "0x" + String($0, radix: 16) } ?? "not published",
            address.map { Double($0) }),
          .init(
            pages.payload.map { bytes($0) } ?? "-", pages.payload.map { Double($0) }),
          .init(pages.slots.map { grouped($0) } ?? "-", pages.slots.map { Double($0) }),
        ], isMarked: pages.isStuck, role: pages.isStuck ? .bad : .normal)
      row.details = [
        ("Here", "\(holds), \(counted(Int(clamping: pages.live), "live secret"))"),
        (
          "Open",
          pages.isStuck
            ? "could not be closed again: mprotect failed; every thread can access it"
            : pages.isOpen
              ? "a window is open here"
                + (arena.gate == .pages ? ": every thread can access these pages meanwhile" : "")
              : "no window"
        ),
        (
          "Free",
          isFixed && (free ?? 0) > 0
            ? "slots of a frozen arena are not reused"
            : "free slots are zero, each with its canary in place"
        ),
        ("", "Which page holds which secret is not published; neither are contents."),
      ]
      return row
    }
    return ListModel(
      title: "arenas > \(arena.name) > map > pages",
      note: "\(mapRow.chunk.kind.text) chunk, \(counted(mapRow.pageCount, "page"))",
      columns: [
        .init(title: "PAGES", width: 30), .init(title: "STATE", width: 8),
        .init(title: "LIVE", width: 5, isNumber: true),
        .init(title: "FREE", width: 5, isNumber: true, dropsAt: 2),
        .init(title: "OPEN", width: 5),
        .init(title: "ADDRESS", width: 15, dropsAt: 1),
        .init(title: "SLOT SIZE", width: 9, isNumber: true, dropsAt: 1, isWide: true),
        .init(title: "SLOTS", width: 6, isNumber: true, dropsAt: 1, isWide: true),
      ], rows: .init(rows), empty: "no pages")
  }
}
