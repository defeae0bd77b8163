// The confined process's side: gets every file from the broker.

package import EnclaveSystem
package import MemwatchSystem
import Synchronization

/// Opens files through the broker. May be used on any thread; one request runs at a time.
package final class BrokerClient: FileOpening {
  private let socket: MessageSocket
  private let named: [String]
  private let exports: String
  private let state = Mutex(State())
  /// How many files of /proc stay open: five eighths of what this process may open, at least 64.
  private let mostCachedFiles: Int

  private struct State {
    var paths: [Int: String] = [:]
    var users: [UInt32: [UInt8]] = [:]
    /// The namespaces of the last process, until a time in milliseconds: they hardly ever change.
    var namespaces: (pid: Int32, bytes: [UInt8], until: UInt64)?
    /// Open /proc files, which return current values each time they are read from the start
    /// (proc(5)).
    var cachedFiles: [InspectedFile: CachedFile] = [:]
    /// How many files could not be opened for want of descriptors; see `takeMissedFiles`.
    var missedFiles = 0
  }

  private final class CachedFile: Sendable {
    let file: OpenFile
    init(_ file: consuming OpenFile) { self.file = file }
  }

  init(_ socket: consuming MessageSocket, named: [String], exports: String) {
    self.socket = socket
    self.named = named
    self.exports = exports
    mostCachedFiles = max(64, Privileges.fileLimit / 8 * 5)
  }

  // MARK: - Asking

  private struct Answer: ~Copyable {
    var value: Int64
    var file: OpenFile?
    consuming func takeFile() -> OpenFile? { file.take() }
  }

  /// - Parameter function: the operation named in an error.
  private func ask(
    _ request: BrokerRequest, for path: String, to function: String = "open"
  ) throws(FileFailure) -> Answer {
    try state.withLock { (_) throws(FileFailure) -> Answer in
      try socket.send(request.bytes)
      let message = try socket.receive(limit: 8, path: path)
      let bytes = message.bytes
      guard bytes.count == 8 else {
        throw FileFailure(function: "ask for", path: path, errno: FileFailure.epipe)
      }
      let value = Int64(bitPattern: bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) })
      guard value >= 0 || request.kind == .other else {
        throw FileFailure(function: function, path: path, errno: Int32(clamping: -value))
      }
      return Answer(value: value, file: message.takeFile())
    }
  }

  /// Sends a request that the broker passes to `other`; nil if the broker is gone.
  package func ask(_ kind: UInt64, _ detail: UInt64 = 0) -> Int64? {
    (try? ask(BrokerRequest(.other, kind, detail), for: "an answer").value)
  }

  // MARK: - Files

  package func open(_ file: InspectedFile) throws(FileFailure) -> OpenFile {
    var path = file.description
    if case .page(let number) = file { path = state.withLock { $0.paths[number] } ?? path }
    guard let request = request(for: file) else {
      throw FileFailure(function: "open", path: path, errno: FileFailure.eperm)
    }
    do throws(FileFailure) { return try takeFile(request, for: path) } catch {
      if error.isOutOfDescriptors { state.withLock { $0.missedFiles += 1 } }
      throw error
    }
  }

  /// How many files could not be opened since the last call, because this process or the system may
  /// not open any more files.
  package func takeMissedFiles() -> Int {
    state.withLock { state in
      defer { state.missedFiles = 0 }
      return state.missedFiles
    }
  }

  /// Asks for a file. If RLIMIT_NOFILE leaves no room for it, closes the cached files and asks
  /// again.
  private func takeFile(
    _ request: BrokerRequest, for path: String, to function: String = "open"
  ) throws(FileFailure) -> OpenFile {
    if let file = try ask(request, for: path, to: function).takeFile() { return file }
    state.withLock { $0.cachedFiles = [:] }
    guard let file = try ask(request, for: path, to: function).takeFile() else {
      throw FileFailure(function: function, path: path, errno: FileFailure.emfile)
    }
    return file
  }

  private func request(for file: InspectedFile) -> BrokerRequest? {
    func number(_ pid: Int32) -> UInt64 { UInt64(UInt32(bitPattern: pid)) }
    return switch file {
    case .process(let file, let pid): BrokerRequest(file.kind, number(pid))
    case .children(let pid): BrokerRequest(.children, number(pid))
    case .namespaces(let pid): BrokerRequest(.namespaces, number(pid))
    case .userName(let uid): BrokerRequest(.userName, UInt64(uid))
    case .mapLimit: BrokerRequest(.mapLimit)
    case .host: BrokerRequest(.host)
    case .page(let index): BrokerRequest(.page, UInt64(index))
    case .named(let path): named.firstIndex(of: path).map { BrokerRequest(.named, UInt64($0)) }
    }
  }

  package func read(_ file: InspectedFile, limit: Int) -> [UInt8]? {
    let staysOpen =
      switch file {
      case .mapLimit, .process(.stat, _), .process(.status, _), .process(.limits, _),
        .process(.cgroup, _):
        true
      default: false
      }
    if case .userName(let uid) = file {
      if let known = state.withLock({ $0.users[uid] }) { return known }
    }
    if case .namespaces(let pid) = file,
      let known = state.withLock({ $0.namespaces }), known.pid == pid,
      ProcessFacts.bootMilliseconds < known.until
    {
      return known.bytes
    }
    if staysOpen, let cached = state.withLock({ $0.cachedFiles[file] }),
      let bytes = try? cached.file.readAll(limit: limit), !bytes.isEmpty
    {
      return bytes
    }
    guard let opened = try? open(file), let bytes = try? opened.readAll(limit: limit) else {
      state.withLock { _ = $0.cachedFiles.removeValue(forKey: file) }
      return nil
    }
    if staysOpen {
      let cached = CachedFile(opened)
      state.withLock {
        if $0.cachedFiles.count >= mostCachedFiles {
          $0.cachedFiles.remove(at: $0.cachedFiles.startIndex)
        }
        $0.cachedFiles[file] = cached
      }
    }
    switch file {
    case .userName(let uid): state.withLock { $0.users[uid] = bytes }
    case .namespaces(let pid):
      state.withLock { $0.namespaces = (pid, bytes, ProcessFacts.bootMilliseconds + 1000) }
    default: break
    }
    return bytes
  }

  package func search(inContainers: Bool) throws(FileFailure) -> [StatsPageLocation] {
    let request = BrokerRequest(.search, inContainers ? 0 : 1)
    let answer = try takeFile(request, for: "page directories")
    let locations = StatsPageLocation.decode(TextFields.decode(try answer.readAll(limit: 64 << 20)))
    state.withLock { state in
      for location in locations {
        for page in location.pages { state.paths[page.number] = location.path + "/" + page.name }
      }
    }
    return locations
  }

  // MARK: - New files

  /// The file name of a path in the export directory; throws for any other path.
  private func name(of path: String) throws(FileFailure) -> String {
    let name = path.hasPrefix(exports + "/") ? String(path.dropFirst(exports.utf8.count + 1)) : path
    guard !name.isEmpty, !name.contains("/"), !name.hasPrefix("."), name.utf8.count <= 255 else {
      throw FileFailure(
        function: "create", path: path, errno: FileFailure.eperm,
        reason: exports == "."
          ? "not in the directory that memwatch was started in" : "not in \(exports)")
    }
    return name
  }

  package func create(_ path: String, atomically: Bool) throws(FileFailure) -> OpenFile {
    let request = BrokerRequest(.create, atomically ? 1 : 0, name: try name(of: path))
    guard let file = try ask(request, for: path, to: "create").takeFile() else {
      throw FileFailure(function: "create", path: path, errno: FileFailure.ebadf)
    }
    return file
  }

  /// Atomically replaces the replaceable file. Returns an error message, or nil on success.
  package func replaceFile(_ path: String, with text: String) -> String? {
    do throws(FileFailure) { try replace(with: Array(text.utf8), path: path) } catch {
      return "\(error)"
    }
    return nil
  }

  private func replace(with bytes: [UInt8], path: String) throws(FileFailure) {
    let file = try takeFile(BrokerRequest(.replace, 0), for: path, to: "replace")
    do throws(FileFailure) {
      try file.write(bytes)
      try file.synchronize()
    } catch {
      _ = try? ask(BrokerRequest(.replace, 2), for: path)
      throw error
    }
    _ = try ask(BrokerRequest(.replace, 1), for: path, to: "replace")
  }

  package func finish(_ path: String, keeping: Bool) throws(FileFailure) {
    _ = try ask(BrokerRequest(.finish, keeping ? 1 : 0, name: name(of: path)), for: path)
  }
}
