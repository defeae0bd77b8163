// Attaches to one publisher and samples it repeatedly.

import EnclaveStats
import EnclaveSystem
import MemwatchSystem

/// The process to inspect.
package enum Target: Equatable, Sendable {
  case only
  case pid(Int32)
  case name(String)
  case file(String)

  package var text: String {
    switch self {
    case .only: "any publisher"
    case .pid(let pid): "pid \(pid)"
    case .name(let name): SafeText(name).string
    case .file(let path): SafeText(path).string
    }
  }
}

/// Why no publisher could be attached.
package enum AttachFailure: Error, Sendable {
  case none(Target, [Location])
  case notPermitted(Target, [Location])
  case several([Publisher])
  case unreadable(Publisher)
}

/// A passive connection to one publisher: only reads its page and /proc.
package final class Inspector {
  package let target: Target
  package private(set) var publisher: Publisher
  private var reader: StatsPageReader
  private var image: StatsPageImage?
  private var pid: Int32?
  private var restart: Restart?
  private var lastSearchMs: UInt64 = 0
  private var successor: Publisher?
  private var maps = MapsCache()
  /// The last probes that read the limits, and the surroundings.
  private var limits: (probe: ProcessProbe, readMs: UInt64)?
  private var surroundings: (probe: ProcessProbe, readMs: UInt64)?
  /// The arenas of the last sample.
  private var knownArenas = SnapshotBuilder.KnownArenas()
  private var auditor = Auditor()
  private var unlocked: (page: UnlockedPage, readMs: UInt64)?
  /// Milliseconds that a window may stay open before a warning.
  package var openLimitMs: UInt64 = 60_000
  /// By arena: the count of windows, and since when it has not changed while one was open.
  var openSince: [UInt64: (opens: UInt64, since: UInt64)] = [:]
  /// The secrets as of the last change of their table.
  private var secrets: (version: UInt64?, all: [SecretSnapshot]) = (nil, [])

  /// Counting mappings reads all of /proc/PID/maps: do it rarely for large processes.
  private struct MapsCache {
    var count: Int?
    var nextMs: UInt64 = 0
  }

  /// How often what rarely changes is read, in milliseconds.
  package struct Pace: Sendable {
    /// RLIMIT_MEMLOCK. Slightly below one second, so every sample at 1 Hz reads it.
    var limits: UInt64 = 900
    /// The control group and the user namespace.
    var surroundings: UInt64 = 900
    /// The least time between two counts of mappings.
    var maps: UInt64 = 1000

    package static let screen = Pace()
    /// For samples of many processes at intervals of seconds.
    package static let exporter = Pace(surroundings: 60_000, maps: 60_000)
  }
  package var pace = Pace.screen

  private init(target: Target, publisher: Publisher, reader: consuming StatsPageReader) {
    self.target = target
    self.publisher = publisher
    self.reader = reader
    pid = publisher.pid
  }

  /// Finds a publisher and opens its page.
  ///
  /// - Parameter retryMilliseconds: how long to retry a record that is being written.
  package static func attach(
    to target: Target, retryMilliseconds: UInt64 = 40
  ) throws(AttachFailure) -> Inspector {
    let publisher = try find(target)
    return Inspector(
      target: target, publisher: publisher, reader: try open(publisher, retryMilliseconds))
  }

  /// Opens the page of a discovered publisher.
  package static func attach(to publisher: Publisher) throws(AttachFailure) -> Inspector {
    let target: Target =
      if case .named(let path) = publisher.source {
        .file(path)
      } else { .pid(Int32(clamping: publisher.publisherPid)) }
    return Inspector(target: target, publisher: publisher, reader: try open(publisher))
  }

  private static func open(
    _ publisher: Publisher, _ retryMilliseconds: UInt64 = 40
  ) throws(AttachFailure) -> StatsPageReader {
    let file: OpenFile
    do {
      file = try publisher.source.open()
    } catch { throw .unreadable(publisher.failing(with: .file(error))) }
    do { return try StatsPageReader(file, retryMilliseconds: retryMilliseconds) } catch {
      throw .unreadable(publisher.failing(with: error))
    }
  }

  /// The systemd service of the process, as of the last sample; nil: none or unknown.
  package var unit: SafeText? { surroundings?.probe.unit.map { SafeText($0) } }

  // MARK: - Finding

  /// Whether its page, which is that user's, still has a name, and a publisher that holds it.
  func isPublished(by owner: UInt32) -> Bool {
    guard publisher.uid == owner, publisher.state.isHeld, let status = try? reader.file.status(),
      status.links > 0, let holder = try? reader.file.lockHolder()
    else { return false }
    return holder != .nobody
  }

  package static func find(_ target: Target) throws(AttachFailure) -> Publisher {
    if case .file(let path) = target { return try file(path, target) }
    if case .pid(let pid) = target, let near = Discovery.near(pid: pid) { return near }
    let discovery = Discovery.run()
    let matching = discovery.publishers.filter { $0.matches(target) }
    let live = matching.filter { $0.state.isHeld }
    if live.count == 1 { return live[0] }
    if live.count > 1 { throw .several(live) }
    // No live publisher: the newest page tells how its process ended.
    if let last = matching.max(by: { $0.createdAt < $1.createdAt }) {
      switch target {
      case .only:
        if matching.count == 1 { return last }
      case .pid, .name, .file:
        return last
      }
    }
    guard case .pid(let pid) = target, !discovery.places.contains(where: \.hasFailed) else {
      throw .none(target, discovery.places)
    }
    let probe = ProcessProbe(pid: pid, countingMaps: false)
    // A name may be a number; try it if no process has that pid.
    let namesakes = discovery.publishers.filter { $0.matches(.name("\(pid)")) }
    if probe.isGone, namesakes.count == 1 { return namesakes[0] }
    if probe.absence(of: pid) == nil,
      InspectedFile.namespaces(pid: pid).fields(limit: 4096)?.last?.isEmpty ?? true
    {
      // It may be in a container, whose root only a process with ptrace access may read.
      let root = Location(
        path: "/proc/\(pid)/root", .denied, outcome: "cannot be opened (permission denied)")
      throw .notPermitted(target, discovery.places + [root])
    }
    let named = namesakes.map {
      Location(
        path: $0.path, .searched,
        outcome: "belongs to pid \($0.pid.map { "\($0)" } ?? "n/a"), which publishes as \(pid)")
    }
    throw .none(target, discovery.places + named)
  }

  private static func file(_ path: String, _ target: Target) throws(AttachFailure) -> Publisher {
    let opened: OpenFile
    do { opened = try InspectedFile.named(path).open() } catch {
      let place = Location(
        path: path, error.isMissing ? .missing : error.isDenied ? .denied : .failed,
        outcome: "\(error)")
      if error.isDenied { throw .notPermitted(target, [place]) }
      throw .none(target, [place])
    }
    let name = path.split(separator: "/").last.map(String.init) ?? path
    guard let publisher = Publisher(opened, .named(path), path: path, fileName: name) else {
      throw .none(target, [Location(path: path, .failed, outcome: "cannot be examined")])
    }
    return publisher
  }

  // MARK: - Reading

  /// The individual items in a sample. Large tables are read only on demand.
  package enum SampleDetail: Sendable {
    /// Not even labels.
    case totals
    case none, secrets, pages, all

    fileprivate var tables: StatsPageDetail {
      switch self {
      case .totals: []
      case .none: .labels
      case .secrets: [.labels, .secrets]
      case .pages: [.labels, .maps]
      case .all: .all
      }
    }
  }

  /// When a sample includes an audit.
  package enum Auditing: Sendable {
    /// At intervals that cost the process little, and after events.
    case automatic
    /// Now, until the result is certain: about a second if open pages may belong to windows.
    case now
    case never
  }

  /// Reads the page and /proc. Takes milliseconds, at most about 100 ms; audits take as long as the
  /// kernel needs to produce smaps.
  ///
  /// - Parameter detail: whether to include individual secrets or pages.
  package func sample(auditing: Auditing = .never, _ detail: SampleDetail = .all) -> Snapshot {
    let hasChunks = detail != .totals
    let detail = detail.tables
    followSuccessor()
    let start = ProcessFacts.bootMilliseconds
    var builder = read(detail)
    // The page and /proc are not read at the same instant: check an apparent difference again
    // before reporting it.
    if builder.claimsMoreThanLocked, ProcessFacts.bootMilliseconds - start < 50 {
      ProcessFacts.pause(milliseconds: 2)
      builder = read(detail)
    }
    audit(&builder, auditing)
    builder.hasChunks = hasChunks
    swap(&builder.knownArenas, &knownArenas)
    defer { swap(&builder.knownArenas, &knownArenas) }
    let version = detail.contains(.secrets) ? builder.image?.secretsVersion : nil
    if let version, version == secrets.version { builder.secrets = secrets.all }
    var snapshot = builder.snapshot(publisher: publisher, restart: restart)
    if builder.isFresh, builder.state.isHeld { watchWindows(&snapshot) }
    if let version, builder.isFresh { secrets = (version, snapshot.secrets) }
    return snapshot
  }

  private func audit(_ builder: inout SnapshotBuilder, _ auditing: Auditing) {
    defer { builder.audit = auditor.last.map { $0.with(builder.processFindings) } }
    guard builder.state == .live || builder.state == .stopped, let pid = builder.pid else {
      auditor = Auditor()
      return
    }
    switch auditing {
    case .never: return
    case .automatic:
      guard let image, auditor.isDue(image, now: ProcessFacts.bootMilliseconds) else { return }
      auditOnce(pid)
    case .now:
      auditOnce(pid)
      let deadline = ProcessFacts.bootMilliseconds + 3000
      while auditor.isUnsettled, ProcessFacts.bootMilliseconds < deadline {
        ProcessFacts.pause(milliseconds: 20)
        guard let image = try? reader.read([]) else { return }
        self.image = image
        if auditor.canSettle(image) { auditOnce(pid) }
      }
    }
  }

  private func auditOnce(_ pid: Int32) {
    guard let image else { return }
    auditor.audit(
      pid: pid, isOwnUser: publisher.uid == ProcessFacts.uid, user: Users.name(publisher.uid),
      image: image
    ) { try? reader.read([]) }
  }

  private func read(_ detail: StatsPageDetail) -> SnapshotBuilder {
    var builder = SnapshotBuilder(sampledAt: Timestamp(realMs: ProcessFacts.realMilliseconds))
    do throws(StatsPageReadFailure) {
      var image = try reader.read(detail)
      // A writer that was descheduled has not stopped.
      let deadline = ProcessFacts.bootMilliseconds + 200
      while image.isStuck, ProcessFacts.bootMilliseconds < deadline {
        image = try reader.read(detail)
      }
      self.image = image
      builder.isFresh = true
      if image.isStuck { builder.state = .midUpdate }
    } catch {
      switch error {
      case .corrupt(let reason):
        builder.state = .corrupt
        builder.stateDetail = reason
      case .incompatible(let major, let minor):
        builder.state = .incompatible
        builder.stateDetail = "version \(major).\(minor)"
      case .file(let failure):
        builder.state = failure.isDenied ? .notPermitted : .corrupt
        builder.stateDetail = SafeText("\(failure)").string
      }
    }
    builder.image = image
    let holder = try? reader.file.lockHolder()
    if case .process(let owner) = holder { pid = owner }
    let now = ProcessFacts.bootMilliseconds
    let isTime = now >= maps.nextMs
    builder.pid = pid ?? Int32(exactly: publisher.publisherPid).flatMap { holder == nil ? $0 : nil }
    if holder == .nobody, pid == nil { builder.pid = Int32(exactly: publisher.publisherPid) }
    if let pid = builder.pid {
      func current(_ last: (probe: ProcessProbe, readMs: UInt64)?, _ ms: UInt64) -> ProcessProbe? {
        last.flatMap { now < $0.readMs + ms ? $0.probe : nil }
      }
      let (oldLimits, oldSurroundings) =
        (current(limits, pace.limits), current(surroundings, pace.surroundings))
      builder.probe = ProcessProbe(
        pid: pid, countingMaps: isTime, limits: oldLimits, surroundings: oldSurroundings)
      if oldLimits == nil { limits = (builder.probe, now) }
      if oldSurroundings == nil { surroundings = (builder.probe, now) }
      if isTime {
        maps.count = builder.probe.mapCount
        // A thousand maps take about 0.3 ms; 20,000 are counted every 10 s.
        maps.nextMs = now + max(pace.maps, UInt64(min(60_000, (maps.count ?? 0) / 2)))
      }
    }
    builder.mapCount = maps.count
    decideState(&builder, holder: holder)
    return builder
  }

  private func decideState(_ builder: inout SnapshotBuilder, holder: LockHolder?) {
    let startTime = image?.header[.startTime]
    let isSameProcess =
      !builder.probe.isGone && (startTime == nil || builder.probe.startTime == startTime)
    if holder == .nobody {
      let closed = image?.process[.state] == PublisherStateCode.closed.rawValue
      if isSameProcess, let pid = builder.pid {
        let found = withoutLock(pid, hasClosed: closed)
        (builder.state, builder.stateDetail) = (found.state, found.detail)
        if found.state == .exec {
          // /proc describes the new program.
          builder.probe = ProcessProbe.none
          builder.mapCount = nil
        }
      } else if builder.state != .corrupt {
        builder.state = .exited
        builder.endedInOrder = closed
        builder.stateDetail = closed ? "it had stopped publishing" : "it was still publishing"
        builder.probe = ProcessProbe.none
        builder.mapCount = nil
      }
      if let successor = replacement() {
        builder.state = .replaced
        builder.stateDetail =
          "by pid \(successor.pid.map { "\($0)" } ?? "?"), \(SafeText(successor.path))"
      }
      return
    }
    guard builder.state == .live else { return }
    if let status = try? reader.file.status(), status.links == 0 {
      builder.state = .unlinked
      builder.stateDetail = "the page's file was removed; the publisher still writes to it"
      if replacement() != nil { builder.state = .replaced }
    } else if case .file(let path) = target,
      let now = try? InspectedFile.named(path).open().status(),
      let status = try? reader.file.status(), now.inode != status.inode, now.isRegular
    {
      builder.state = .replaced
      builder.stateDetail = "another file has taken its name"
    } else if builder.probe.isStopped {
      builder.state = .stopped
      builder.stateDetail = builder.probe.stopText
    }
  }

  /// At most once a second: a process may have many mappings.
  private func withoutLock(_ pid: Int32, hasClosed: Bool) -> UnlockedPage {
    let now = ProcessFacts.bootMilliseconds
    if let unlocked, unlocked.page.hasClosed == hasClosed, now < unlocked.readMs + 1000 {
      return unlocked.page
    }
    let page = UnlockedPage(
      pid: pid, status: try? reader.file.status(), fileName: publisher.fileName,
      hasClosed: hasClosed)
    unlocked = (page, now)
    return page
  }

  /// Another live page of the same process or file name. Searched at most twice a second; cached
  /// once found.
  private func replacement() -> Publisher? {
    if case .name = target { return nil }
    let now = ProcessFacts.bootMilliseconds
    guard successor == nil, now >= lastSearchMs + 500 || lastSearchMs == 0 else { return successor }
    lastSearchMs = now
    if case .file(let path) = target {
      let found = try? Self.find(.file(path))
      successor = found.flatMap { $0.id != publisher.id && $0.state.isHeld ? $0 : nil }
    } else {
      successor = Discovery.run().publishers.first {
        // After setuid(2) a process publishes as another user. Its pid as lock holder cannot be
        // forged.
        $0.state.isHeld && $0.id != publisher.id && $0.publisherPid == publisher.publisherPid
          && ($0.uid == publisher.uid || ($0.pid != nil && $0.pid == pid))
      }
    }
    return successor
  }

  /// A target by name follows the next process of that name; a pid does not.
  private func followSuccessor() {
    guard case .name(let name) = target else { return }
    guard (try? reader.file.lockHolder()) == .nobody else { return }
    let now = ProcessFacts.bootMilliseconds
    guard now >= lastSearchMs + 250 else { return }
    lastSearchMs = now
    let successors = Discovery.run().publishers.filter {
      $0.state.isHeld && $0.id != publisher.id && $0.matches(.name(name))
    }
    guard let next = successors.max(by: { $0.createdAt < $1.createdAt }),
      let reader = try? Self.open(next)
    else { return }
    restart = Restart(
      fromPid: pid ?? Int32(exactly: publisher.publisherPid), toPid: next.pid,
      at: Timestamp(realMs: ProcessFacts.realMilliseconds))
    publisher = next
    self.reader = reader
    image = nil
    pid = next.pid
    maps = MapsCache()
    (limits, surroundings) = (nil, nil)
    knownArenas = SnapshotBuilder.KnownArenas()
    auditor = Auditor()
    unlocked = nil
    openSince = [:]
    secrets = (nil, [])
  }
}
