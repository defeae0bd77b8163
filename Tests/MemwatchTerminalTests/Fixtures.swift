// Shared by the screen's tests: a snapshot, drawing and typing.

import EnclaveStats
import EnclaveSystem
import MemwatchTerminal

@testable import MemwatchInspector

func sample(arenas count: Int = 3, at time: Timestamp = 1_795_236_404_000) -> Snapshot {
  var snapshot = Snapshot(
    process: ProcessSnapshot(
      pid: 4127, publisherPid: 4127, publisherID: "00000000000000aa", name: SafeText("tls-gateway"),
      uid: 1000, user: SafeText("keysvc"), state: .live, path: SafeText("/dev/shm/x.page")),
    sampledAt: time, complete: true)
  snapshot.process.debugger = 0
  snapshot.process.isDumpable = true
  snapshot.memlock = Memlock(
    soft: 8 << 20, hard: 8 << 20, binds: .yes, locked: 6 << 20, lockedByArenas: 4 << 20,
    lockedByOthers: 2 << 20, headroom: 2 << 20, nextChunk: 256 << 10, nextChunkFits: true,
    peakLockedByArenas: 5 << 20)
  snapshot.maps = Maps(inUse: 412, limit: 65530, byArenas: 30, headroom: 65118)
  let names = ["tls-keys", "session-tokens", "scratch"]
  snapshot.arenas = (0..<count).map { index in
    var arena = ArenaSnapshot(
      id: UInt64(index + 1),
      name: SafeText(index < 3 ? names[index] : "arena-\(index)"))
    arena.layout = .known(.slab)
    arena.gate = .pages
    arena.lockPolicy = .known(.preferred)
    arena.lockState = .known(index == 1 ? .partial : .locked)
    arena.protectionState = .known(.closed)
    arena.sealState = .known(.open)
    arena.openWindows = 0
    arena.secretCount = UInt64(index * 1000 + 6)
    arena.bytesInUse = 1536
    arena.bytesLocked = 48 << 10
    arena.bytesMapped = index == 1 ? 64 << 10 : 48 << 10
    arena.chunkCount = 3
    arena.guardPages = 6
    arena.mapsUsed = 9
    arena.forkProtection = .known(.zeros)
    arena.dumpProtection = .known(.excluded)
    arena.opens = 5
    arena.allocations = 10
    arena.frees = 4
    arena.failedLocks = index == 1 ? 1 : 0
    let names = ["oauth refresh", "http session", "Sessions.swift:118"]
    arena.labels = names.enumerated().map { number, name in
      LabelSnapshot(
        label: SafeText(name), origin: .known(number < 2 ? .label : .callSite),
        live: UInt64(index * 1000 + 2 * number + 1), bytes: ByteCount(48 << number),
        allocations: 100,
        frees: 50, opens: UInt64(number * 10), openNow: number == 1 ? 1 : 0,
        lastOpenedAt: number == 0 ? nil : time - 29_000, minimumSize: 16,
        maximumSize: ByteCount(16 << number), index: UInt64(number * 2))
    }
    arena.sizes = [SizeRoom(payload: 32, live: 6, freeSlots: 79, freeSlotsAfterGrowth: 43_599)]
    arena.chunks = chunks(of: index)
    if index == 1 {
      arena.lock = LockDetail(
        errno: 12, failedCall: .known(.lockChunk), bytesMissing: 16 << 10,
        at: 1_795_236_400_000, bytesInUseThen: 8 << 20, limitThen: 8 << 20)
    }
    return arena
  }
  snapshot.secrets = (0..<UInt64(min(count, 3)) * 3).map { (number: UInt64) -> SecretSnapshot in
    let isOld = number % 3 == 0
    return SecretSnapshot(
      arenaID: number / 3 + 1, serial: number, labelIndex: number % 3 * 2, byteCount: 16,
      allocatedAt: time - 22_320_000, opens: number % 3,
      lastOpenedAt: isOld ? nil : time - 29_000,
      openNow: number % 3 == 1 ? 1 : 0)
  }
  snapshot.events = (UInt64(1)...5).map { (number: UInt64) -> EventSnapshot in
    EventSnapshot(
      serial: number, kind: .known(number == 3 ? .lockFailed : .chunkMapped),
      arenaID: number % 3 + 1, at: time - 60_000 + number * 1000,
      call: number == 3 ? .known(.lockChunk) : nil, errno: number == 3 ? 12 : nil, bytes: 16384)
  }
  snapshot.eventCount = 12
  if count > 1 {
    snapshot.problems = [
      Problem(
        severity: .problem, kind: .notLocked, arenaID: 2,
        text: "session-tokens: 16 KiB of 64 KiB not locked: can be swapped out",
        fix: "prlimit --pid 4127 --memlock=16777216:16777216",
        keep: "LimitMEMLOCK=16M in tls-gateway.service")
    ]
  }
  return snapshot
}

/// A chunk of 64 pages, an isolated chunk, and a chunk that could not be locked.
private func chunks(of arena: Int) -> [ChunkSnapshot] {
  func chunk(_ number: Int, pages: Int, _ all: [PagesSnapshot]) -> ChunkSnapshot {
    ChunkSnapshot(
      address: arena == 2 ? nil : 0x7f00_0000_0000 + UInt64(number) << 20,
      dataBytes: ByteCount(UInt64(pages) * 4096), guardBytes: 4096, lockState: .known(.locked),
      kind: .known(.slab),
      pages: arena == 0 ? nil : all)
  }
  func pages(
    _ first: Int, _ count: Int, _ live: UInt64, open: Bool = false, stuck: Bool = false
  ) -> PagesSnapshot {
    PagesSnapshot(
      first: first, count: count, use: .slots, payload: count == 1 ? 32 : 4096,
      slots: count == 1 ? 85 : 3, live: live, isOpen: open, isStuck: stuck)
  }
  func unused(_ first: Int, _ count: Int) -> PagesSnapshot {
    PagesSnapshot(first: first, count: count, use: .unused, live: 0, isOpen: false, isStuck: false)
  }
  let mixed = [
    pages(0, 1, 85), pages(1, 1, 0), pages(2, 4, 3), pages(6, 1, 2, open: true),
    pages(7, 1, 1, stuck: arena == 1), unused(8, 56),
  ]
  let whole = PagesSnapshot(
    first: 0, count: 40, use: .whole, live: 1, isOpen: false, isStuck: false)
  var all = [
    chunk(1, pages: 64, mixed), chunk(2, pages: 40, [whole]),
    chunk(3, pages: 4, [pages(0, 1, 9), unused(1, 3)]),
  ]
  all[1].kind = .known(.isolated)
  if arena == 1 { (all[2].lockState, all[2].errno) = (.known(.unlocked), 12) }
  return all
}

func model(_ snapshot: Snapshot?) -> Model {
  var model = Model(intervalMs: 1000)
  if let snapshot { model.update(snapshot) }
  // Tests rely on the order in which arenas are published.
  while model.isSorted { press(&model, "s") }
  _ = model.handle(.resize, now: now)
  model.output = ["line one", "line two"]
  return model
}

let now: Timestamp = 1_795_236_404_300

func draw(_ model: Model, _ width: Int, _ height: Int, unicode: Bool = false) -> Grid {
  Renderer.render(model, width: width, height: height, style: Style(unicode: unicode), now: now)
    .grid
}

/// The verdict's row: below the header and, if they fit, the tabs.
func verdictRow(_ grid: Grid) -> Int { grid.height >= 10 ? 2 : 1 }

/// The row with a list's titles.
func titlesRow(_ grid: Grid) -> Int {
  (0..<grid.height).first { grid.line($0).contains("ARENA") } ?? 0
}

/// Types a text. A newline is the enter key.
func press(_ model: inout Model, _ keys: String) {
  for key in keys { _ = model.handle(key == "\n" ? .enter : .character(key), now: now) }
}

let allKeys: [Key] =
  [
    .up, .down, .left, .right, .pageUp, .pageDown, .home, .end, .enter, .escape, .backspace, .tab,
    .backTab, .help, .redraw, .resize,
  ] + [.click(row: 0, column: 0), .click(row: 1, column: 30), .click(row: 12, column: 9)]
  + (1..<127).map { .character(Character(Unicode.Scalar(UInt8($0)))) } + [
    .character("é"), .character("鍵"),
  ]
