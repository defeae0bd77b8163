// `memwatch export`: all publishers of the host, as Prometheus text.

import ArgumentParser
import MemwatchExporter
import MemwatchInspector
import MemwatchSandbox

struct ExportCommand: ConfinedCommand {
  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract: "Writes metrics of all publishers of the host as Prometheus text.",
    discussion: """
      As root, it covers all users and containers. Processes are grouped by name and systemd unit. \
      At most 64 groups, 32 arenas per group and 5,000 series are written; the rest is counted under \
      (other). Without --textfile, it writes one collection to standard output. With --textfile, it \
      writes DIR/memwatch.prom (mode 0644) for node_exporter's textfile collector and replaces it at \
      each interval; SIGTERM and SIGINT end it and remove the file (a shell reports 143 and 130). A \
      single collection (to standard output, or with --once) has no counters, because they need the \
      totals of processes that have ended. It exits with 1 if DIR or the file cannot be written, and \
      with 0 if there is no publisher; memwatch_unreadable counts what could not be read.
      """)

  /// Audits take at most this share of the time, half a percent, and at least these milliseconds in
  /// each collection; the last audit of a collection may exceed it. Publishers audited longest ago
  /// come first.
  private static let (auditShare, leastAuditMs): (UInt64, UInt64) = (200, 20)

  /// How often the host's settings are read, in milliseconds.
  private static let hostMs: UInt64 = 60_000

  /// The file name in the directory.
  private static let fileName = "memwatch.prom"

  @Option(
    name: .long,
    help: ArgumentHelp("Write memwatch.prom to this directory.", valueName: "dir"))
  var textfile: String?
  @Option(
    name: [.long, .customShort("i")],
    help: ArgumentHelp("Collection interval: 15s, 1m (with --textfile).", valueName: "time"))
  var interval = Time(milliseconds: 15_000)
  @Flag(
    name: [.customShort("1"), .long],
    help: "Collect once, without counters, and leave the file in place.")
  var once = false
  @Flag(name: .long, help: "Print a description of the metrics (Markdown) instead.")
  var describe = false
  @OptionGroup var audit: AuditFlag

  func validate() throws {
    guard (50...3_600_000).contains(interval.milliseconds) else {
      throw ValidationError("--interval must be between 50ms and 1h.")
    }
  }

  private var isService: Bool { textfile != nil && !once }

  var needs: Prerequisites {
    guard let textfile, !describe else { return Prerequisites() }
    return Prerequisites(
      exports: textfile.isEmpty ? "." : textfile,
      replaced: ReplaceableFile(name: Self.fileName, isRemovedAtEnd: !once))
  }

  func runConfined(_ viewer: Viewer) throws {
    if describe { return try Output.standard(Metric.document) }
    var exporter = Exporter(version: packageVersion, hasCounters: isService)
    let wanted = UInt64(interval.milliseconds)
    var collector = Collector(
      auditing: audit.mode(.automatic),
      auditMs: isService ? max(Self.leastAuditMs, wanted / Self.auditShare) : .max)
    var host: (facts: [HostFact], readMs: UInt64)?
    var wasBlind = false
    while true {
      let begin = Console.milliseconds
      var collection = collector.collect()
      if host.map({ begin >= $0.readMs + Self.hostMs }) ?? true {
        host = (viewer.host.facts, begin)
      }
      collection.host = host!.facts
      let missed = viewer.takeMissedFiles()
      collection.unreadable[UnreadableReason.noDescriptors.rawValue, default: 0] += missed
      warn(collector.failures, missed, &wasBlind)
      let text = exporter.text(of: collection)
      guard let textfile else { return try Output.standard(text) }
      try viewer.replace("\(SafeText(textfile))/\(Self.fileName)", with: text)
      if once { return }
      let taken = Console.milliseconds - begin
      Exiting.pause(milliseconds: UInt32(clamping: wanted - min(wanted, taken)))
    }
  }
}

extension ExportCommand {
  /// Says on standard error when publishers or values begin to be missing, and when none are any more.
  private func warn(_ failures: [String], _ missedFiles: Int, _ wasBlind: inout Bool) {
    let isBlind = !failures.isEmpty || missedFiles > 0
    defer { wasBlind = isBlind }
    if isBlind, !wasBlind {
      let files =
        missedFiles == 0
        ? [] : ["\(counted(missedFiles, "file")): too many open files (RLIMIT_NOFILE)"]
      let rest = failures.count > 3 ? ["\(failures.count - 3) more"] : []
      Output.error(
        "memwatch: publishers or values are missing: "
          + (failures.prefix(3) + rest + files).joined(separator: "; "))
    } else if wasBlind, !isBlind {
      Output.error("memwatch: everything can be read again")
    }
  }
}

/// Repeatedly reads all publishers.
private struct Collector {
  let auditing: Inspector.Auditing
  let auditMs: UInt64
  private var inspectors: [UInt64: Inspector] = [:]
  /// When each publisher was last audited.
  private var auditedAt: [UInt64: Timestamp] = [:]
  private var units: [UInt64: SafeText] = [:]
  /// What the last collection could not open or search.
  private(set) var failures: [String] = []

  init(auditing: Inspector.Auditing, auditMs: UInt64) {
    (self.auditing, self.auditMs) = (auditing, auditMs)
  }

  mutating func collect() -> ExportCollection {
    var collection = ExportCollection(at: Console.now)
    let begin = Console.milliseconds
    func miss(_ reason: UnreadableReason) {
      collection.unreadable[reason.rawValue, default: 0] += 1
    }
    let discovery = Discovery.run(reusing: inspectors)
    for place in discovery.places {
      if place.isDenied {
        miss(.notPermitted)
      } else if place.hasFailed, place.isOutOfDescriptors {
        // Pages are among the files that are counted as missed.
        if !place.isPage { miss(.noDescriptors) }
      } else if place.hasFailed {
        miss(.failed)
      }
    }
    failures = discovery.places.filter(\.hasFailed).map(\.outcome.string)
    var kept: [UInt64: Inspector] = [:]
    var auditMs: UInt64 = 0
    let byAudit = discovery.publishers.sorted { (auditedAt[$0.id] ?? 0) < (auditedAt[$1.id] ?? 0) }
    for publisher in byAudit {
      var state = publisher.state
      var snapshot: Snapshot?
      if state.isHeld {
        if let inspector = inspectors[publisher.id] ?? (try? Inspector.attach(to: publisher)) {
          inspector.pace = .exporter
          let mayAudit = auditMs < self.auditMs
          let sample = inspector.sample(auditing: mayAudit ? auditing : .never, .totals)
          if let audit = sample.audit, auditedAt[publisher.id] != audit.at {
            auditedAt[publisher.id] = audit.at
            auditMs += max(audit.durationMs, 1)
          }
          // The inspector may have followed a successor, which is read separately.
          if sample.process.publisherID == publisher.identifier {
            kept[publisher.id] = inspector
            state = sample.process.state
            if state.isCurrent || state == .stopped { snapshot = sample }
            units[publisher.id] = inspector.unit ?? units[publisher.id]
          } else {
            state = .exited
          }
        } else {
          miss(.failed)
          if let pid = publisher.pid { units[publisher.id] = Units.name(of: pid) }
        }
      }
      if let reason = UnreadableReason(state) { miss(reason) }
      // An unreadable page has no name; its file name would make a label for each pid.
      let hasName = ![.corrupt, .incompatible, .notPermitted].contains(publisher.state)
      guard hasName else { continue }
      collection.publishers.append(
        ExportedPublisher(
          id: publisher.id, name: publisher.name, unit: units[publisher.id], state: state,
          snapshot: snapshot))
    }
    inspectors = kept
    let ids = Set(discovery.publishers.map(\.id))
    units = units.filter { ids.contains($0.key) }
    auditedAt = auditedAt.filter { ids.contains($0.key) }
    collection.durationMs = Console.milliseconds - begin
    return collection
  }
}
