// The privileged process. It opens files on request and never reads their contents.

package import EnclaveSystem
package import MemwatchSystem

/// The sandbox could not be created, so nothing was read.
package struct SandboxFailure: Error, Sendable {
  package let message: String
}

/// Splits this process in two: a confined child, which parses and draws, and its broker, which
/// opens files for it.
package struct Broker: ~Copyable {
  /// The paths from the command line. Requests name them by index; each request opens the path
  /// again.
  let named: [String]
  /// The directory for new files.
  let exportsPath: String
  /// The same directory, opened at the start.
  private var exports: OpenFile?
  /// Why that directory could not be opened; nil if it was.
  package let exportsFailure: FileFailure?
  /// The one file that may be replaced; nil if new files may be created instead.
  let replaced: ReplaceableFile?
  private let files = DirectFileOpener()

  /// How the confined process ended.
  package enum End: Equatable, Sendable {
    case exited(Int32)
    case killed(signal: Int32)
    /// It got this signal, did not end within `grace`, and was killed.
    case overdue(signal: Int32)

    /// Ends this process by the same signal, so that a shell sees it.
    package func repeatSignal() {
      if case .killed(let signal) = self { ForkedProcess.endBySignal(signal) }
    }
  }

  /// CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and CAP_PERFMON (capabilities(7)):
  /// needed to open stats pages, smaps and new files.
  private static let needed: UInt64 = 1 << 1 | 1 << 2 | 1 << 19 | 1 << 38

  package init(named: [String], exportsTo directory: String, replacing: ReplaceableFile? = nil) {
    self.named = named
    exportsPath = directory
    replaced = replacing
    do throws(FileFailure) {
      exports = try OpenFile(directory: directory, followingLinks: true)
      exportsFailure = nil
    } catch {
      exports = nil
      exportsFailure = error
    }
  }

  /// Forks. The child confines itself and runs `body`, which does not return. The parent answers
  /// its requests until it has ended.
  ///
  /// - Parameters:
  ///   - mechanisms: how to confine the child.
  ///   - prepare: runs in the child before it is confined, to open files that stay open.
  ///   - body: runs in the confined child.
  ///   - other: runs in the broker; answers requests that are not for files.
  ///   - grace: the time in milliseconds within which the child must end after a signal; nil: no
  ///     limit. (A child that writes to a blocked terminal may wait forever.)
  ///   - tick: runs in the broker about ten times a second; without it the broker sleeps between
  ///     requests.
  ///   - taken: takes signals that the broker receives; false: the child is to end. Without it, the
  ///     child gets them. With it, this process has blocked them (SignalWatch.block), and the child
  ///     keeps them blocked.
  /// - Throws: if the socket or the process cannot be created.
  package mutating func run<Prepared: ~Copyable>(
    mechanisms: Set<Confinement.Mechanism> = Set(Confinement.Mechanism.allCases),
    prepare: () -> Prepared,
    body: (consuming Prepared, BrokerClient, Confinement) -> Never,
    other: (UInt64, UInt64) -> Int64 = { _, _ in -1 }, grace: UInt64? = nil,
    tick: (() -> Void)? = nil, takingSignals taken: ((ReceivedSignal) -> Bool)? = nil
  ) throws(SandboxFailure) -> End {
    do throws(FileFailure) {
      return try fork(mechanisms, prepare, body, other, grace, tick, taken)
    } catch { throw SandboxFailure(message: "\(error)") }
  }

  /// The answer to a malformed request.
  private static let invalid = -Int64(FileFailure.einval)

  private mutating func fork<Prepared: ~Copyable>(
    _ mechanisms: Set<Confinement.Mechanism>, _ prepare: () -> Prepared,
    _ body: (consuming Prepared, BrokerClient, Confinement) -> Never,
    _ other: (UInt64, UInt64) -> Int64, _ grace: UInt64?, _ tick: (() -> Void)?,
    _ taken: ((ReceivedSignal) -> Bool)?
  ) throws(FileFailure) -> End {
    var pair = try MessageSocket.pair()
    let child = try ForkedProcess.fork(
      endingWithParentBy: taken == nil ? 15 : 9, keepsSignalsBlocked: taken != nil)
    guard let child else {
      pair.first = nil
      exports = nil
      let prepared = prepare()
      Privileges.raiseFileLimit()
      let client = BrokerClient(pair.second.take()!, named: named, exports: exportsPath)
      // Load the time zone while files can still be opened.
      _ = ProcessFacts.localTime(0, withDate: false)
      let confinement = Confinement.enter(mechanisms)
      FileOpener.use(client)
      body(prepared, client, confinement)
    }
    pair.second = nil
    try? Privileges.keepCapabilities(Self.needed)
    let end = serve(child, pair.first.take(), try SignalWatch(), other, grace, tick, taken)
    removeReplaced()
    return end
  }

  private func serve(
    _ child: ForkedProcess, _ socket: consuming MessageSocket?, _ signals: consuming SignalWatch,
    _ other: (UInt64, UInt64) -> Int64, _ grace: UInt64?, _ tick: (() -> Void)?,
    _ taken: ((ReceivedSignal) -> Bool)?
  ) -> End {
    var asked: (signal: Int32, deadline: UInt64)?
    while true {
      if signals.wait(for: socket, milliseconds: tick == nil && asked == nil ? 60_000 : 100),
        let open = socket.take()
      {
        if answer(open, other) { socket = consume open }
      }
      if let signal = signals.forwardSignals(to: child, unless: taken), asked == nil {
        if taken != nil, signal != 24 {  // SIGXCPU is not blocked
          asked = (signal, 0)
        } else if let grace {
          asked = (signal, ProcessFacts.bootMilliseconds + grace)
        }
      }
      switch child.change() {
      case .exited(let status): return .exited(status)
      case .killed(9) where asked.map { ProcessFacts.bootMilliseconds >= $0.deadline } ?? false:
        return .overdue(signal: asked!.signal)
      case .killed(let signal): return .killed(signal: signal)
      // The shell waits for this process to stop, too.
      case .stopped: child.stopWithChild()
      case .none:
        if let asked, ProcessFacts.bootMilliseconds >= asked.deadline { child.signal(9) }
      }
      tick?()
    }
  }

  /// Answers one request. Returns false if the child is gone.
  func answer(
    _ socket: borrowing MessageSocket, _ other: (UInt64, UInt64) -> Int64
  ) -> Bool {
    guard let message = try? socket.receive(limit: BrokerRequest.mostBytes + 1),
      !message.bytes.isEmpty
    else { return false }
    func reply(_ value: Int64, _ descriptor: Int32 = -1) -> Bool {
      (try? socket.send(BrokerRequest.littleEndian(UInt64(bitPattern: value)), passing: descriptor))
        != nil
    }
    guard let request = BrokerRequest(message.bytes[...]) else { return reply(Self.invalid) }
    do throws(FileFailure) {
      switch request.kind {
      case .other: return reply(other(request.first, request.second))
      case .finish:
        try finish(request)
        return reply(0)
      case .replace where request.first != 0:
        guard request.first <= 2 else { return reply(Self.invalid) }
        try finishReplacing(keeping: request.first == 1)
        return reply(0)
      default:
        let file = try open(request)
        return reply(0, file.descriptor)
      }
    } catch { return reply(-Int64(error.errno)) }
  }

  private func open(_ request: BrokerRequest) throws(FileFailure) -> OpenFile {
    let invalid = FileFailure(function: "open", path: "", errno: FileFailure.einval)
    func pid() throws(FileFailure) -> Int32 {
      guard let pid = Int32(exactly: request.first), pid > 0 else { throw invalid }
      return pid
    }
    switch request.kind {
    case .stat, .status, .limits, .maps, .smaps, .cgroup:
      return try files.open(
        .process(ProcessFile(rawValue: request.kind.rawValue)!, pid: try pid()))
    case .children: return try files.open(.children(pid: try pid()))
    case .namespaces: return try files.open(.namespaces(pid: try pid()))
    case .userName:
      guard let uid = UInt32(exactly: request.first) else { throw invalid }
      return try files.open(.userName(uid))
    case .mapLimit: return try files.open(.mapLimit)
    case .host: return try files.open(.host)
    case .page:
      guard let number = Int(exactly: request.first) else { throw invalid }
      return try files.open(.page(number))
    case .named:
      guard let index = Int(exactly: request.first), named.indices.contains(index) else {
        throw invalid
      }
      return try files.open(.named(named[index]))
    case .search:
      return try OpenFile(
        holding: TextFields.encode(
          files.search(inContainers: request.first == 0).flatMap(\.fields)),
        path: "page directories")
    case .create: return try create(request)
    case .replace: return try beginReplacing()
    case .finish, .other: throw invalid
    }
  }

  // MARK: - New files

  func temporary(_ name: String) -> String { ".\(name).\(ProcessFacts.pid).tmp" }

  func directory() throws(FileFailure) -> Int32 {
    switch exports {
    case .some(let exports): return exports.descriptor
    case .none:
      throw exportsFailure
        ?? FileFailure(function: "open", path: exportsPath, errno: FileFailure.ebadf)
    }
  }

  /// The directory for new files. With a replaceable file, no other files may be created.
  private func directoryOfNewFiles() throws(FileFailure) -> Int32 {
    guard replaced == nil else {
      throw FileFailure(function: "create", path: exportsPath, errno: FileFailure.eperm)
    }
    return try directory()
  }

  private func create(_ request: BrokerRequest) throws(FileFailure) -> OpenFile {
    guard !request.name.isEmpty else {
      throw FileFailure(function: "create", path: "", errno: FileFailure.einval)
    }
    let directory = try directoryOfNewFiles()
    guard request.first == 1 else { return try OpenFile(creating: request.name, in: directory) }
    if (try? Files.status(request.name, in: directory)) != nil {
      throw FileFailure(function: "create", path: request.name, errno: FileFailure.eexist)
    }
    return try OpenFile(creating: temporary(request.name), in: directory)
  }

  private func finish(_ request: BrokerRequest) throws(FileFailure) {
    let directory = try directoryOfNewFiles()
    guard !request.name.isEmpty else {
      throw FileFailure(function: "rename", path: "", errno: FileFailure.einval)
    }
    let temporary = temporary(request.name)
    if request.first == 1 {
      do throws(FileFailure) {
        try Files.renameExclusively(temporary, to: request.name, in: directory)
        return
      } catch {
        Files.remove(temporary, in: directory)
        throw error
      }
    }
    Files.remove(temporary, in: directory)
  }
}
