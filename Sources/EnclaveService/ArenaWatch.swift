// Measures a server's arenas. Metrics have the same names as the exporter's; the log reports new
// failures.

#if Server
  import CoreMetrics
  import Enclave
  import Logging

  /// The metrics of arenas, and the state of the last sample. Arenas with the same name are added
  /// up.
  struct ArenaWatch {
    /// The metrics of the arenas with one name.
    private struct Series {
      let arenas: [Arena]
      let gauges: [(gauge: Gauge, value: (Arena.Statistics) -> Int)]
      let counters: [(counter: Counter, value: (Arena.Statistics) -> UInt64)]
      /// The last totals of `counters`.
      var totals: [UInt64]
    }

    private var groups: [Series] = []
    /// The last samples; nil before the first, which reports earlier failures.
    private var before: [Arena.Statistics?]
    private let arenas: [Arena]
    private let logger: Logger

    init(_ arenas: [Arena], logger: Logger, factory: any MetricsFactory) {
      self.arenas = arenas
      self.logger = logger
      before = arenas.map { _ in nil }
      var names: [String] = []
      for arena in arenas where !names.contains(arena.name) { names.append(arena.name) }
      groups = names.map { name in
        func gauge(
          _ label: String, _ value: @escaping (Arena.Statistics) -> Int
        ) -> (Gauge, (Arena.Statistics) -> Int) {
          (
            Gauge(
              label: "memwatch_arena_" + label, dimensions: [("arena", name)], factory: factory),
            value
          )
        }
        func counter(
          _ label: String, _ more: [(String, String)] = [],
          _ value: @escaping (Arena.Statistics) -> UInt64
        ) -> (Counter, (Arena.Statistics) -> UInt64) {
          (
            Counter(
              label: "memwatch_arena_" + label, dimensions: [("arena", name)] + more,
              factory: factory), value
          )
        }
        return Series(
          arenas: arenas.filter { $0.name == name },
          gauges: [
            gauge("locked_bytes") { $0.bytesLocked }, gauge("mapped_bytes") { $0.bytesMapped },
            gauge("used_bytes") { $0.bytesInUse }, gauge("secrets") { $0.secretCount },
            gauge("open_windows") { $0.openWindows },
            gauge("stuck_open_pages") { $0.stuckOpenPages },
          ],
          counters: [
            counter("corruptions_total") { $0.corruptions },
            counter("failures_total", [("operation", "allocate")]) { $0.failedAllocations },
            counter("failures_total", [("operation", "lock")]) { $0.failedLocks },
            counter("failures_total", [("operation", "open")]) { $0.failedOpens },
          ], totals: [0, 0, 0, 0])
      }
    }

    /// Records the current counts, and logs failures since the last sample.
    mutating func sample() {
      for index in groups.indices {
        let now = groups[index].arenas.map(\.statistics)
        for (gauge, value) in groups[index].gauges {
          gauge.record(now.reduce(0) { $0 + value($1) })
        }
        for (number, (counter, value)) in groups[index].counters.enumerated() {
          let total = now.reduce(0) { $0 &+ value($1) }
          // (Counters do not decrease when an arena is destroyed.)
          if total > groups[index].totals[number] {
            counter.increment(by: Int64(clamping: total - groups[index].totals[number]))
            groups[index].totals[number] = total
          }
        }
      }
      for (index, arena) in arenas.enumerated() {
        let now = arena.statistics
        report(arena, before[index], now)
        before[index] = now
      }
    }

    private func report(_ arena: Arena, _ before: Arena.Statistics?, _ now: Arena.Statistics) {
      let failedBefore = before?.failedLocks ?? 0
      if now.failedLocks > failedBefore {
        logger.warning(
          "memory of an arena could not be locked: it can be swapped out",
          metadata: [
            "arena": "\(arena.name)", "failures": "\(now.failedLocks - failedBefore)",
            "lockedBytes": "\(now.bytesLocked)", "mappedBytes": "\(now.bytesMapped)",
          ])
      }
      if now.stuckOpenPages > before?.stuckOpenPages ?? 0 {
        logger.error(
          "pages of an arena could not be closed again",
          metadata: ["arena": "\(arena.name)", "pages": "\(now.stuckOpenPages)"])
      }
    }
  }
#endif
