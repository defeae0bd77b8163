// The exporter: its text, its bounds, its counters.

import EnclaveStats
import Foundation
import TestSupport
import Testing

@testable import MemwatchExporter
@testable import MemwatchInspector

@Suite struct ExporterTests {
  static func arena(
    _ id: UInt64, _ name: String, _ state: LockStateCode = .locked, allocations: UInt64 = 1
  ) -> ArenaSnapshot {
    var arena = ArenaSnapshot(id: id, name: SafeText(Array(name.utf8), limit: 100_000))
    (arena.lockState, arena.allocations) = (.known(state), allocations)
    (arena.frees, arena.corruptions) = (0, 0)
    (arena.bytesLocked, arena.bytesMapped, arena.bytesInUse) = (4096, 8192, 100)
    (arena.secretCount, arena.openWindows, arena.opens, arena.opensForWriting) = (3, 0, 10, 4)
    return arena
  }

  static func publisher(
    _ id: UInt64, _ name: SafeText, _ arenas: [ArenaSnapshot], unit: String? = nil
  ) -> ExportedPublisher {
    let process = ProcessSnapshot(
      publisherPid: id, publisherID: "\(id)", name: name, uid: 0, user: SafeText("root"),
      state: .live, path: SafeText("/nowhere"))
    var snapshot = Snapshot(process: process, sampledAt: 1, complete: true)
    (snapshot.arenas, snapshot.eventCount) = (arenas, 5)
    (snapshot.memlock.soft, snapshot.memlock.hardIsUnlimited) = (65536, true)
    return ExportedPublisher(
      id: id, name: name, unit: unit.map { SafeText($0) }, state: .live, snapshot: snapshot)
  }

  static func collection(_ publishers: [ExportedPublisher], at: Timestamp = 1_000_000)
    -> ExportCollection
  {
    var collection = ExportCollection(at: at)
    collection.publishers = publishers
    return collection
  }

  /// Series and their values. Fails if one occurs twice.
  static func series(_ text: String) -> [String: Double] {
    var series: [String: Double] = [:]
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      let space = line.lastIndex(of: " ")!
      let name = String(line[..<space])
      #expect(series[name] == nil, "twice: \(name)")
      let value = String(line[line.index(after: space)...])
      series[name] = Double(value == "+Inf" ? "inf" : value)
      #expect(series[name] != nil, "no number: \(line)")
    }
    return series
  }

  @Test func processesOfAGroupAreAddedUp() {
    var exporter = Exporter(version: "1", hasCounters: false)
    let text = exporter.text(
      of: Self.collection([
        Self.publisher(1, SafeText("web"), [Self.arena(1, "keys")], unit: "web.service"),
        Self.publisher(2, SafeText("web"), [Self.arena(1, "keys", .partial)], unit: "web.service"),
      ]))
    let series = Self.series(text)
    let g = "process=\"web\",unit=\"web.service\""
    #expect(series["memwatch_publishers{\(g),state=\"live\"}"] == 2)
    #expect(series["memwatch_arena_locked_bytes{\(g),arena=\"keys\"}"] == 8192)
    #expect(series["memwatch_arena_lock_state{\(g),arena=\"keys\",state=\"locked\"}"] == 1)
    #expect(series["memwatch_arena_lock_state{\(g),arena=\"keys\",state=\"partial\"}"] == 1)
    #expect(series["memwatch_memlock_soft_limit_bytes{\(g)}"] == 65536)
    #expect(series["memwatch_memlock_hard_limit_bytes{\(g)}"] == .infinity)
    // Unknown values are omitted.
    #expect(!text.contains("memwatch_memlock_headroom_bytes"))
    #expect(!text.contains("_total"))
  }

  /// The longest open window in a group of processes. Older libraries do not report it, which is
  /// not 0.
  @Test func openWindowsAreAsOldAsTheOldest() {
    func series(
      _ windows: [(open: UInt64, since: Timestamp?)], gate: ReportedGate = .pages,
      fork: ForkCode = .zeros
    ) -> Double? {
      var exporter = Exporter(version: "1", hasCounters: false)
      let publishers = windows.enumerated().map { index, window in
        var arena = Self.arena(1, "keys")
        (arena.openWindows, arena.openSince) = (window.open, window.since)
        (arena.gate, arena.forkProtection) = (gate, .known(fork))
        var publisher = Self.publisher(UInt64(index + 1), SafeText("web"), [arena])
        publisher.snapshot!.sampledAt = 100_000
        return publisher
      }
      return Self.series(exporter.text(of: Self.collection(publishers)))[
        "memwatch_arena_open_window_seconds{process=\"web\",unit=\"\",arena=\"keys\"}"]
    }
    #expect(series([(0, nil)]) == 0)
    #expect(series([(1, nil)]) == nil)
    #expect(series([(0, nil), (2, 97_500), (1, 99_000), (1, nil)]) == 2.5)
    // The publisher's clock is ahead.
    #expect(series([(1, 100_007)]) == 0)
    // Adopted libsodium memory is open by design, unlike other inherited memory and other page
    // gates.
    #expect(series([(2, 97_500)], fork: .inherited) == nil)
    #expect(series([(2, 97_500)], gate: .ungated, fork: .inherited) == 2.5)
  }

  /// What exceeds the page's tables is in no other metric, and is not audited.
  @Test(arguments: [0, 44]) func unlistedRecordsAreCounted(count: UInt64) {
    var publisher = Self.publisher(1, SafeText("web"), [Self.arena(1, "keys")])
    publisher.snapshot!.audit = Audit(at: 1, durationMs: 1, scope: .arenas)
    (publisher.snapshot!.arenasUnlisted, publisher.snapshot!.chunksUnlisted) = (count, 0)
    var exporter = Exporter(version: "1", hasCounters: false)
    let series = Self.series(exporter.text(of: Self.collection([publisher, publisher])))
    let g = "process=\"web\",unit=\"\""
    #expect(series["memwatch_publisher_unlisted{\(g),kind=\"arenas\"}"] == Double(count) * 2)
    #expect(series["memwatch_publisher_unlisted{\(g),kind=\"chunks\"}"] == 0)
    #expect(series["memwatch_publisher_unlisted{\(g),kind=\"vaults\"}"] == nil, "unknown")
    #expect(series["memwatch_audit_complete{\(g)}"] == (count == 0 ? 1 : 0))
  }

  /// Each check has exactly one verdict, even if it is listed twice.
  @Test func hostChecksAreExported() {
    var collection = Self.collection([])
    collection.host = [
      HostFact(kind: .swap, judgement: .bad, value: "/dev/sda2", meaning: "m", fix: "f"),
      HostFact(kind: .sandbox, judgement: .unknown, value: "v", meaning: "m"),
      HostFact(kind: .swap, judgement: .bad, value: "/dev/sdb2", meaning: "m"),
    ]
    var exporter = Exporter(version: "1", hasCounters: true)
    let series = Self.series(exporter.text(of: collection))
    for (check, holds) in [("swap", "bad"), ("memwatch's sandbox", "unknown")] {
      for judgement in ["good", "bad", "unknown"] {
        let name = "memwatch_host_check{check=\"\(check)\",judgement=\"\(judgement)\"}"
        #expect(series[name] == (judgement == holds ? 1 : 0), "\(name)")
      }
    }
    #expect(!series.keys.contains { $0.contains("sda2") })
  }

  @Test func threeHundredGroupsStayWithinTheBounds() {
    for counts in [false, true] {
      var exporter = Exporter(version: "1", hasCounters: counts)
      let publishers = (0..<300).map { number in
        Self.publisher(
          UInt64(number + 1), SafeText("p\(number)"),
          (0..<40).map {
            Self.arena($0, "a\($0)", number == 299 && $0 == 39 ? .unlocked : .locked)
          })
      }
      for round in 0..<2 {
        let text = exporter.text(of: Self.collection(publishers, at: 1_000_000 + UInt64(round)))
        let series = Self.series(text)
        #expect(series.count <= Exporter.mostSeries && series.count > 1000)
        let names = Set(text.matches(of: /process="([^"]*)"/).map { String($0.1) })
        #expect(names.count <= Exporter.mostGroups + 1 && names.contains("(other)"))
        // Unhealthy arenas are not folded.
        let bad = "process=\"p299\",unit=\"\",arena=\"a39\",state=\"unlocked\""
        #expect(series["memwatch_arena_lock_state{\(bad)}"] == 1)
        #expect(series["memwatch_folded{level=\"groups\"}"]! >= 236)
        // The totals include everything.
        let locked = series.filter { $0.key.hasPrefix("memwatch_arena_locked_bytes") }
        let all: Double = 300 * 40 * 4096
        #expect(locked.values.reduce(0, +) == all)
        let live = series.filter { $0.key.contains("state=\"live\"") }
        #expect(live.values.reduce(0, +) == 300)
      }
    }
  }

  /// The most hostile names of processes and arenas that a page can hold.
  static var hostile: ExportCollection {
    let names: [SafeText] = [
      SafeText("q\"uote"), SafeText("back\\slash"), SafeText("new\nline"),
      SafeText(Array(String(repeating: "x", count: 10_000).utf8), limit: 20_000),
      SafeText([0x66, 0xff, 0xfe, 0x67]), SafeText("(other)"),
    ]
    return collection(
      names.enumerated().map { index, name in
        publisher(UInt64(index + 1), name, [arena(1, name.string)])
      })
  }

  @Test func hostileNamesAreEscapedAndCut() {
    var exporter = Exporter(version: "1", hasCounters: true)
    let series = Self.series(exporter.text(of: Self.hostile))
    #expect(series.keys.contains { $0.contains("process=\"q\\\"uote\"") })
    #expect(series.keys.contains { $0.contains("process=\"back\\\\slash\"") })
    #expect(series.keys.contains { $0.contains("process=\"new\\\\u{a}line\"") })
    #expect(series.keys.allSatisfy { $0.utf8.count < 600 })
    #expect(Exposition.escaped("a\nb\"\\") == "a\\nb\\\"\\\\")
  }

  @Test func countersNeverFallAlthoughProcessesComeAndGo() {
    var exporter = Exporter(version: "1", hasCounters: true)
    var last: [String: Double] = [:]
    func collect(_ publishers: [ExportedPublisher], at: Timestamp) -> [String: Double] {
      let series = Self.series(exporter.text(of: Self.collection(publishers, at: at)))
      for (name, value) in last where name.contains("_total") {
        #expect(series[name] ?? 0 >= value, "\(name) fell")
      }
      last = series
      return series
    }
    let name = SafeText("web")
    func web(_ id: UInt64, _ allocations: UInt64) -> ExportedPublisher {
      Self.publisher(id, name, [Self.arena(1, "keys", allocations: allocations)])
    }
    let key = "memwatch_arena_allocations_total{process=\"web\",unit=\"\",arena=\"keys\"}"
    let restarts = "memwatch_publisher_restarts_total{process=\"web\",unit=\"\"}"
    #expect(collect([web(1, 100), web(2, 50)], at: 1_000)[key] == 150)
    #expect(collect([web(1, 110)], at: 2_000)[key] == 160)
    let gone = collect([], at: 3_000)
    #expect(gone[key] == 160 && gone[restarts] == 0)
    #expect(gone["memwatch_publishers{process=\"web\",unit=\"\",state=\"live\"}"] == 0)
    let back = collect([web(3, 7)], at: 4_000)
    #expect(back[key] == 167 && back[restarts] == 1)
    // A page whose count decreases adds nothing twice.
    #expect(collect([web(3, 2)], at: 5_000)[key] == 167)
    #expect(collect([web(3, 9)], at: 6_000)[key] == 169)
    // Folding moves later counts, and decreases none.
    let many = (10..<400).map {
      Self.publisher(UInt64($0), SafeText("p\($0)"), [Self.arena(1, "bad", .unlocked)])
    }
    _ = exporter.text(of: Self.collection([web(3, 20)] + many, at: 7_000))
    #expect(collect([web(3, 30)], at: 8_000)[key] ?? 0 >= 169)
  }

  /// Events are counted once, by kind. A page's ring only holds the last ones.
  @Test func eventsAreCountedByKind() {
    var exporter = Exporter(version: "1", hasCounters: true)
    func collect(_ count: UInt64, _ events: [(UInt64, Reported<EventCode>)]) -> [String: Double] {
      var publisher = Self.publisher(1, SafeText("web"), [])
      publisher.snapshot!.eventCount = count
      publisher.snapshot!.events = events.map {
        EventSnapshot(
          serial: $0.0, kind: $0.1, arenaID: nil, at: nil, call: nil, errno: nil, bytes: nil)
      }
      let text = exporter.text(of: Self.collection([publisher]))
      return Self.series(text).reduce(into: [:]) { kinds, series in
        if let match = series.key.firstMatch(of: /^memwatch_events_total.*kind="([^"]*)"/) {
          kinds[String(match.1)] = series.value
        }
      }
    }
    var ring: [(UInt64, Reported<EventCode>)] = [
      (4, .known(.arenaCreated)), (5, .known(.lockFailed)),
    ]
    #expect(collect(5, ring) == ["arena-created": 1, "lock-failed": 1, "(other)": 3])
    ring += [(6, .known(.lockFailed)), (7, .unknown(77)), (8, .unknown(0))]
    for _ in 0..<2 {
      #expect(collect(8, ring) == ["arena-created": 1, "lock-failed": 2, "(other)": 5])
    }
    // A page whose counts decrease, and one with more events than it counts.
    #expect(collect(1, ring) == ["arena-created": 1, "lock-failed": 2, "(other)": 5])
    ring += (9..<99).map { ($0, .known(.lockFailed)) }
    #expect(collect(9, ring) == ["arena-created": 1, "lock-failed": 3, "(other)": 5])
  }

  @Test func theMetricTableIsConsistentAndDocumented() throws {
    #expect(Set(Metric.all.map(\.name)).count == Metric.all.count)
    for metric in Metric.all {
      #expect(metric.name.hasPrefix("memwatch_") && metric.help.hasSuffix("."))
      #expect(metric.name.hasSuffix("_total") == (metric.kind == .counter))
      if let unit = metric.unit { #expect(metric.name.hasSuffix("_" + unit)) }
      let forbidden = ["pid", "id", "publisher", "secret", "label"]
      #expect(!metric.labels.contains { forbidden.contains($0) })
      if metric.labels.contains("process") && metric.aggregation != .sum {
        #expect(metric.help.contains("group"))
      }
    }
    let page = Programs.package.appending(path: "Assets/metrics.md")
    #expect(try String(contentsOf: page, encoding: .utf8) == Metric.document)
  }
}

/// promtool checks the files for Prometheus.
@Suite(
  .enabled(
    if: FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool"),
    "promtool (Debian: prometheus) is not installed"))
struct PromtoolTests {
  private func check(_ text: String) throws -> Ended {
    try Launch(["/usr/bin/promtool", "check", "metrics"]).run(input: text)
  }

  @Test(arguments: [false, true])
  func promtoolAcceptsTheText(counts: Bool) throws {
    var exporter = Exporter(version: "1", hasCounters: counts)
    let ordinary = ExporterTests.collection([
      ExporterTests.publisher(1, SafeText("web"), [ExporterTests.arena(1, "keys")])
    ])
    for collection in [ordinary, ExporterTests.hostile] {
      let ended = try check(exporter.text(of: collection))
      #expect(ended.status == 0, "\(ended.output)\(ended.error)")
    }
    // The control: promtool finds mistakes.
    let bad = "# HELP memwatch_x_total X.\n# TYPE memwatch_x_total gauge\nmemwatch_x_total 1\n"
    #expect(try check(bad).status != 0)
  }
}
