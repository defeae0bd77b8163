// Compares everything that is shown with the facts: a publisher in a random state, cell by cell on
// the screen, in the text, in the JSON and in /proc; then after one change at a time.

import Foundation
import Glibc
import TestSupport
import Testing

/// The state that the publisher was commanded to have.
struct Expected {
  var slot: String
  var name: String
  var layout: String
  var lock: String
  var gate: String
  var secrets = 0
  var bytes = 0
  var size: Int
}

@Suite(
  .serialized, .waitsForProcesses,
  .enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
struct TruthTests {
  struct World {
    var peer: Peer
    var arenas: [Expected]
    var limit: Int
  }

  /// Random names, sizes, counts, policies and limits.
  func world(_ scratch: Scratch) throws -> World {
    var generator = SeededGenerator(for: "everyCellIsCorrect")
    let names = ["bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "größe", "鍵"]
      .shuffled(using: &generator)
    let limit = Int.random(in: 24...60, using: &generator) * 16384
    let peer = try Peer(stats: scratch, prefix: withoutLockCapability(soft: limit, hard: limit))
    try peer.send("start")
    var arenas: [Expected] = []
    for index in 0..<Int.random(in: 3...6, using: &generator) {
      var arena = Expected(
        slot: "s\(index)", name: names[index],
        layout: Bool.random(using: &generator) ? "slab" : "isolated",
        lock: Bool.random(using: &generator) ? "preferred" : "off",
        gate: Bool.random(using: &generator) ? "pages" : "none",
        size: Int.random(in: 1...900, using: &generator))
      try peer.send("arena \(arena.slot) \(arena.name) \(arena.layout) \(arena.lock) \(arena.gate)")
      let count = Int.random(in: 1...(arena.layout == "slab" ? 900 : 9), using: &generator)
      try peer.send("alloc \(arena.slot) \(count) \(arena.size)")
      let freed = Int.random(in: 0..<count, using: &generator)
      try peer.send("free \(arena.slot) \(freed)")
      arena.secrets = count - freed
      arena.bytes = arena.secrets * arena.size
      arenas.append(arena)
    }
    return World(peer: peer, arenas: arenas, limit: limit)
  }

  func snapshot(_ world: World, _ scratch: Scratch) throws -> [String: Any] {
    let result = try memwatch("snapshot", "\(world.peer.pid)", "--format", "json", stats: scratch)
    guard result.status == 0 else { throw Failed(result.error) }
    return try json(result.output)
  }

  /// A snapshot with complete page maps, which are written at ticks.
  func settled(_ world: World, _ scratch: Scratch) throws -> [String: Any] {
    var found: [String: Any] = [:]
    try eventually("the maps are written") {
      found = try snapshot(world, scratch)
      return arenas(found).allSatisfy { arena in
        (arena["chunks"] as! [[String: Any]]).reduce(0) {
          $0 + (($1["pages"] as? [String: Any])?["secretCount"] as? Int ?? 0)
        } == arena["secretCount"] as! Int
      }
    }
    return found
  }

  func arenas(_ snapshot: [String: Any]) -> [[String: Any]] {
    snapshot["arenas"] as! [[String: Any]]
  }

  /// One character per column; U+200B follows a character that takes two.
  func columns(_ row: String) -> [Character] {
    row.flatMap { character -> [Character] in
      let scalar = character.unicodeScalars.first!.value
      let isWide = 0x2E80...0xA4CF ~= scalar || 0xAC00...0xD7A3 ~= scalar || scalar >= 0x1F300
      return isWide ? [character, "\u{200B}"] : [character]
    }
  }

  /// The cells of an arena's row, by column title. (Without recent changes and the strip of opens,
  /// which change by themselves.)
  func cells(_ screen: [String], _ name: String) throws -> [String: String] {
    guard let header = screen.first(where: { $0.hasPrefix("  ARENA") }).map(Array.init),
      let row = screen.first(where: { $0.dropFirst(2).hasPrefix(name + " ") }).map(columns)
    else { throw Failed("no row for \(name)\n" + screen.joined(separator: "\n")) }
    // Where titles start and end. Text is aligned with the start, numbers with the end.
    var places: [String: Range<Int>] = [:]
    var at = 0
    for title in [
      "ARENA", "STATE", "LOCK", "PROT", "OPEN", "SEAL", "GATE", "LAYOUT", "SECRETS", "IN USE",
      "LOCKED",
    ] {
      guard let start = (at..<header.count).first(where: { header[$0...].starts(with: title) })
      else { throw Failed("no \(title)\n" + screen.joined(separator: "\n")) }
      at = start + title.count
      places[title] = start..<at
    }
    func text(_ start: Int, _ end: Int) -> String {
      String(row[min(start, row.count)..<min(end, row.count)].filter { $0 != "\u{200B}" })
        .trimmingCharacters(in: .whitespaces)
    }
    func start(_ title: String) -> Int { places[title]!.lowerBound }
    func end(_ title: String) -> Int { places[title]!.upperBound }
    var found = [
      "ARENA": text(start("ARENA"), start("STATE")), "STATE": text(start("STATE"), start("LOCK")),
      "LOCK": text(start("LOCK"), start("PROT")), "SEAL": text(start("SEAL"), start("GATE")),
      "GATE": text(start("GATE"), start("LAYOUT")), "LOCKED": text(end("IN USE"), end("LOCKED")),
    ]
    for (words, number) in [("PROT", "OPEN"), ("LAYOUT", "SECRETS")] {
      let both = text(start(words), end(number)).split(separator: " ").map(String.init)
      found[words] = both.dropLast().joined(separator: " ")
      found[number] = both.last
    }
    found["IN USE"] = text(end("SECRETS"), end("IN USE")).split(separator: " ").suffix(2)
      .joined(separator: " ")
    return found
  }

  /// Bytes as the screen writes them.
  func human(_ count: Int) -> [String] {
    if count < 1024 { return ["\(count)", "B"] }
    let kib = Double(count) / 1024
    if kib < 1024 {
      let tenths = kib >= 100 ? kib.rounded() : (kib * 10).rounded() / 10
      return [tenths == tenths.rounded() ? "\(Int(tenths))" : "\(tenths)", "KiB"]
    }
    let mib = ((kib / 1024) * 10).rounded() / 10
    return [mib == mib.rounded() ? "\(Int(mib))" : "\(mib)", "MiB"]
  }

  func status(_ pid: Int32, _ key: String) throws -> Int {
    let text = try Launch(["cat", "/proc/\(pid)/status"]).run().output
    let line = text.split(separator: "\n").first { $0.hasPrefix(key + ":") }!
    return Int(line.split(whereSeparator: { $0 == " " || $0 == "\t" })[1])!
  }

  @Test(arguments: 0..<4) func everyCellIsCorrect(round: Int) throws {
    let scratch = try Scratch(onTmpfs: true)
    let world = try world(scratch)
    let found = try settled(world, scratch)
    let text = try memwatch("snapshot", "\(world.peer.pid)", "--full", stats: scratch).output
    let tmux = try Tmux(
      [Programs.memwatch, "\(world.peer.pid)", "-i", "100ms"], stats: scratch, width: 120,
      height: 40)
    let screen = try tmux.wait(for: world.arenas.last!.name)
    let lockedKiB = try status(world.peer.pid, "VmLck")
    let memlock = found["memlock"] as! [String: Any]
    #expect(memlock["lockedBytes"] as? Int == lockedKiB * 1024)
    #expect(memlock["softLimitBytes"] as? Int == world.limit)
    #expect(memlock["binds"] as? Bool == true)
    #expect(memlock["headroomBytes"] as? Int == world.limit - lockedKiB * 1024)
    #expect(
      screen.contains {
        $0.contains("\(human(world.limit - lockedKiB * 1024).joined(separator: " ")) free")
      })
    var claimed = 0
    for (expected, arena) in zip(world.arenas, arenas(found)) {
      let mapped = arena["bytesMapped"] as! Int
      let locked = arena["bytesLocked"] as! Int
      claimed += locked
      #expect(arena["name"] as? String == expected.name)
      #expect(arena["layout"] as? String == expected.layout)
      #expect(arena["gate"] as? String == expected.gate)
      #expect(arena["lockPolicy"] as? String == expected.lock)
      #expect(arena["secretCount"] as? Int == expected.secrets)
      #expect(arena["bytesInUse"] as? Int == expected.bytes)
      // Chunks without secrets need not be locked.
      let idle = (arena["chunks"] as! [[String: Any]]).reduce(0) { sum, chunk in
        let secrets = (chunk["pages"] as? [String: Any])?["secretCount"] as? Int
        let isIdle = chunk["lockState"] as? String == "unlocked" && secrets == 0
        return sum + (isIdle ? chunk["dataBytes"] as! Int : 0)
      }
      let state =
        expected.lock == "off"
        ? "off"
        : locked == 0 && mapped > 0 ? "unlocked" : locked + idle == mapped ? "locked" : "partial"
      #expect(arena["lockState"] as? String == state)
      let protection = expected.gate == "none" ? "r-w" : "closed"
      #expect(arena["protectionState"] as? String == protection)
      let labels = arena["labels"] as! [[String: Any]]
      #expect(labels.reduce(0) { $0 + ($1["live"] as! Int) } == expected.secrets)
      // The screen, cell by cell.
      let row = try cells(screen, expected.name)
      let count =
        expected.secrets >= 1000 ? "1," + "\(expected.secrets)".dropFirst() : "\(expected.secrets)"
      #expect(row["ARENA"] == expected.name)
      // STATE names the worst problem or warning, if there is one.
      let worst = (found["problems"] as! [[String: Any]]).first {
        $0["arenaId"] as? Int == arena["id"] as? Int && $0["severity"] as? String != "note"
      }
      let words = ["problem": "PROBLEM", "differs": "DIFFERS", "warning": "warning"]
      let reasons = ["next-chunk-will-fail": "no room", "maps-low": "few maps"]
      let severity = worst.map { words[$0["severity"] as! String]! } ?? "ok"
      let reason = severity == "warning" ? reasons[worst!["kind"] as! String] : nil
      #expect(row["STATE"] == reason ?? severity)
      if state == "partial" || state == "unlocked" {
        #expect(severity == (expected.secrets == 0 ? "warning" : "PROBLEM"))
      }
      #expect(row["LOCK"] == state && row["PROT"] == protection)
      #expect(row["OPEN"] == "0" && row["SEAL"] == "open")
      #expect(row["GATE"] == expected.gate && row["LAYOUT"] == expected.layout)
      #expect(row["SECRETS"] == count)
      #expect(row["IN USE"] == human(expected.bytes).joined(separator: " "))
      #expect(row["LOCKED"] == human(locked).joined(separator: " "))
      // Sizes in the kernel's own list of mappings.
      if let chunk = (arena["chunks"] as! [[String: Any]]).first {
        let address = String(chunk["address"] as! Int, radix: 16)
        let maps = try Launch(["cat", "/proc/\(world.peer.pid)/maps"]).run().output
        #expect(maps.contains(address))
      }
    }
    #expect(memlock["lockedByArenasBytes"] as? Int == claimed)
    // The text agrees with the JSON, field by field.
    #expect(
      try leaves(found).allSatisfy { path, value in
        if path.hasSuffix("ageMs") || path.contains("At") || path.hasPrefix("calls")
          || path.hasPrefix("events") || path.hasPrefix("maps") || path.hasPrefix("audit")
        {
          return true
        }
        let shown = text.contains("\n\(path): \(value)\n")
        if !shown { Issue.record("\(path): \(value) is not in the text") }
        return shown
      })
  }

  func same(_ a: Any, _ b: Any) -> Bool {
    func bytes(_ value: Any) -> Data? {
      try? JSONSerialization.data(withJSONObject: [value], options: .sortedKeys)
    }
    return bytes(a) == bytes(b)
  }

  func leaves(_ object: Any, _ path: String = "") throws -> [(String, String)] {
    switch object {
    case let object as [String: Any]:
      return try object.flatMap {
        try leaves($0.value, path.isEmpty ? $0.key : path + "." + $0.key)
      }
    case let list as [Any]:
      if list.isEmpty { return [(path, "none")] }
      return try list.enumerated().flatMap { try leaves($0.element, "\(path)[\($0.offset)]") }
    case is NSNull: return [(path, "n/a")]
    case let text as String: return [(path, text)]
    case let number as NSNumber:
      let type = String(cString: number.objCType)
      if type == "c" || type == "B" { return [(path, number.boolValue ? "yes" : "no")] }
      return [(path, "\(number)")]
    default: return [(path, "?")]
    }
  }

  /// One change in the publisher changes exactly the expected cells.
  @Test func oneChangeChangesOnlyItsCells() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 1 << 20, hard: 1 << 20),
      "arena a alpha slab preferred pages", "alloc a 30 40",
      "arena b bravo isolated preferred pages", "alloc b 2 100",
      "arena c charlie slab off none", "alloc c 5 32")
    let world = World(peer: peer, arenas: [], limit: 1 << 20)
    let steps: [(String, Set<String>)] = [
      (
        "alloc a 1 40",
        [
          "secretCount", "bytesInUse", "allocations", "peakSecretCount", "peakBytesInUse", "sizes",
          "labels", "chunks",
        ]
      ),
      ("free b 1", ["secretCount", "bytesInUse", "idleBytes", "frees", "labels", "chunks"]),
      ("touch a 3", ["opens", "labels"]),
      ("hold b", ["opens", "openWindows", "protectionState", "labels", "chunks"]),
      ("release", ["openWindows", "protectionState", "labels", "chunks"]),
    ]
    // On the screen: the arena, and its cells that change (1,200 and 1,240 bytes are both 1.2 KiB
    // there).
    let seen: [(String, Set<String>)] = [
      ("alpha", ["SECRETS"]), ("bravo", ["SECRETS", "IN USE"]), ("alpha", []),
      ("bravo", ["PROT", "OPEN"]), ("bravo", ["PROT", "OPEN"]),
    ]
    let tmux = try Tmux(
      [Programs.memwatch, "\(peer.pid)", "-i", "100ms"], stats: scratch, width: 120, height: 40)
    try tmux.wait(for: "charlie")
    func rows() throws -> [String: [String: String]] {
      let screen = try tmux.screen()
      return try ["alpha", "bravo", "charlie"].reduce(into: [:]) {
        $0[$1] = try cells(screen, $1)
      }
    }
    var before = try settled(world, scratch)
    for ((command, allowed), (name, columns)) in zip(steps, seen) {
      let shown = try rows()
      try peer.send(command)
      var moved: [String: Set<String>] = [:]
      try? eventually("\(command): the screen changes") {
        // (While the screen is drawn, a row may be missing.)
        guard let now = try? rows() else { return false }
        moved = now.reduce(into: [:]) { moved, row in
          let old = shown[row.key]!
          moved[row.key] = Set(row.value.keys.filter { row.value[$0] != old[$0] })
        }
        return moved[name] == columns
      }
      #expect(moved == ["alpha": [], "bravo": [], "charlie": []].merging([name: columns]) { $1 })
      let slot = command == "release" ? 1 : command.contains(" a") ? 0 : 1
      let wanted = (0..<3).map { $0 == slot ? allowed : [] }
      var after = before
      var changed: [Set<String>] = []
      // (Page maps are written at ticks.)
      try? eventually("\(command): the cells change") {
        after = try snapshot(world, scratch)
        changed = zip(arenas(before), arenas(after)).map { old, new in
          // The time of an open window grows by itself.
          Set(
            new.keys.filter {
              !["longestOpenMs", "openSince"].contains($0) && !same(old[$0]!, new[$0]!)
            })
        }
        return changed == wanted
      }
      #expect(changed == wanted, "\(command)")
      for key in ["memlock", "problems"] {
        #expect(same(before[key]!, after[key]!), "\(command): \(key)")
      }
      before = after
    }
    // Growth, a limit, a destroyed arena: the values of the whole process.
    try peer.send("limit 524288 1048576")
    var after = try snapshot(world, scratch)
    #expect((after["memlock"] as! [String: Any])["softLimitBytes"] as? Int == 524288)
    try peer.send("destroy c")
    after = try snapshot(world, scratch)
    #expect(arenas(after).map { $0["name"] as? String } == ["alpha", "bravo"])
    #expect(after["arenasDestroyed"] as? Int == 1)
  }

  @Test func aForeignMunlockIsAFinding() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, "arena a alpha slab preferred pages", "alloc a 30 40")
    let world = World(peer: peer, arenas: [], limit: 0)
    #expect((try snapshot(world, scratch)["problems"] as! [[String: Any]]).isEmpty)
    try peer.send("munlock a")
    let found = try snapshot(world, scratch)
    let memlock = found["memlock"] as! [String: Any]
    #expect(memlock["lockedBytes"] as! Int == memlock["lockedByArenasBytes"] as! Int - 4096)
    let kinds = (found["problems"] as! [[String: Any]]).map { $0["kind"] as! String }
    #expect(kinds == ["finding"])
    let sums = try memwatch(
      "snapshot", "\(peer.pid)", "--format", "json", "--no-audit", stats: scratch)
    let problems = try json(sums.output)["problems"] as! [[String: Any]]
    #expect(problems.map { $0["kind"] as! String } == ["locked-less-than-claimed"])
    let tmux = try Tmux([Programs.memwatch, "\(peer.pid)"], stats: scratch)
    try tmux.wait(for: "DIFFERS")
  }

  /// The fix is pasted, and the arena is locked.
  @Test func theFixWorksWhenPasted() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, _) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 1 << 20),
      "arena a alpha slab preferred pages", "alloc a 3000 40")
    let world = World(peer: peer, arenas: [], limit: 65536)
    let problem = (try snapshot(world, scratch)["problems"] as! [[String: Any]])[0]
    #expect(problem["kind"] as? String == "not-locked")
    let fix = try #require(problem["advice"] as? String)
    #expect(fix.hasPrefix("prlimit --pid \(peer.pid) --memlock="))
    let pasted = try Launch(["sh", "-c", fix]).run()
    #expect(pasted.status == 0, "\(pasted.error)")
    try eventually("the arena is locked") {
      arenas(try snapshot(world, scratch))[0]["lockState"] as? String == "locked"
    }
    let after = try snapshot(world, scratch)
    #expect((after["problems"] as! [[String: Any]]).isEmpty)
    let memlock = after["memlock"] as! [String: Any]
    #expect(memlock["lockedBytes"] as! Int == memlock["lockedByArenasBytes"] as! Int)
  }

  @Test func everyStatesJSONFitsTheSchema() throws {
    let schema = try Schema.snapshot()
    let scratch = try Scratch(onTmpfs: true)
    let (peer, path) = try publishing(
      scratch, prefix: withoutLockCapability(soft: 65536, hard: 1 << 20),
      "arena a alpha slab preferred pages", "alloc a 3000 40", "arena b bravo isolated off none",
      "alloc b 2 100")
    func check(_ what: String) throws {
      let result = try memwatch("snapshot", "--file", path, "--format", "json", stats: scratch)
      let found = try json(result.output)
      let violations = Schema.violations(found, schema)
      #expect(violations.isEmpty, "\(what): \(violations.prefix(5))")
      #expect((found["process"] as! [String: Any])["state"] as? String == what)
    }
    try check("live")
    peer.signal(SIGSTOP)
    try eventually("stopped") {
      try memwatch("snapshot", "--file", path, stats: scratch).output.contains("STOPPED")
    }
    try check("stopped")
    peer.signal(SIGCONT)
    peer.kill()
    try check("exited")
    // The control: the schema rejects a wrong document.
    var wrong = try json(
      try memwatch("snapshot", "--file", path, "--format", "json", stats: scratch).output)
    wrong["surprise"] = 1
    var process = wrong["process"] as! [String: Any]
    process["state"] = "happy"
    process["pid"] = "12"
    wrong["process"] = process
    wrong["memlock"] = nil
    #expect(Schema.violations(wrong, schema).count == 4)
  }
}
