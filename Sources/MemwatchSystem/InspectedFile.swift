// The closed list of files that an inspector may open. Each item is a kind and a number, so that a
// broker can be asked for it without a path. `mem`, `environ`, `auxv`, `cmdline` and `fd` of other
// processes are not on the list.

internal import CMemwatchSystem
package import EnclaveSystem
import Synchronization

/// The files of /proc/PID that an inspector reads (proc(5)).
package enum ProcessFile: UInt8, CaseIterable, Sendable {
  case stat = 1
  case status, limits, maps, smaps, cgroup

  var name: String {
    switch self {
    case .stat: "stat"
    case .status: "status"
    case .limits: "limits"
    case .maps: "maps"
    case .smaps: "smaps"
    case .cgroup: "cgroup"
    }
  }
}

/// A file, or a small set of files, that an inspector may read.
package enum InspectedFile: Hashable, Sendable, CustomStringConvertible {
  case process(ProcessFile, pid: Int32)
  /// The pids of the children of all threads, if the kernel lists them.
  case children(pid: Int32)
  /// The targets of the links `ns/user` and `ns/mnt`; empty if they may not be read.
  case namespaces(pid: Int32)
  /// The name of a user.
  case userName(UInt32)
  /// vm.max_map_count.
  case mapLimit
  /// The host's settings: see `HostFiles`.
  case host
  /// A stats page that a search found, by the search's number for it.
  case page(Int)
  /// A path from the command line.
  case named(String)

  package var description: String {
    switch self {
    case .process(let file, let pid): "/proc/\(pid)/\(file.name)"
    case .children(let pid): "/proc/\(pid)/task"
    case .namespaces(let pid): "/proc/\(pid)/ns"
    case .userName(let uid): "the name of user \(uid)"
    case .mapLimit: "/proc/sys/vm/max_map_count"
    case .host: "the settings of the machine"
    case .page(let number): "page \(number)"
    case .named(let path): path
    }
  }

  /// Opens the file directly, or through the broker.
  package func open() throws(FileFailure) -> OpenFile {
    try FileOpener.current.open(self)
  }

  /// The contents, at most `limit` bytes; nil if they cannot be read.
  package func bytes(limit: Int) -> [UInt8]? {
    FileOpener.current.read(self, limit: limit)
  }

  /// The contents as text; invalid UTF-8 becomes U+FFFD.
  package func text(limit: Int) -> String? {
    bytes(limit: limit).map { String(decoding: $0, as: UTF8.self) }
  }

  /// The contents of a set of files, as texts; see `TextFields`.
  package func fields(limit: Int) -> [String]? { bytes(limit: limit).map(TextFields.decode) }
}

/// A directory where stats pages may be, and what a search found there.
package struct StatsPageLocation: Equatable, Sendable {
  package enum Outcome: Equatable, Sendable {
    case opened(owner: UInt32)
    /// Owned by another user; not searched.
    case foreign(owner: UInt32)
    case failed(FileFailure)
  }
  package struct FoundPage: Equatable, Sendable {
    package var number: Int
    package var name: String
    package init(number: Int, name: String) {
      self.number = number
      self.name = name
    }
  }
  package var path: String
  package var outcome: Outcome
  package var pages: [FoundPage] = []
  package init(path: String, outcome: Outcome) {
    self.path = path
    self.outcome = outcome
  }
}

/// Opens the files that an inspector reads, and creates those that it writes.
package protocol FileOpening: AnyObject, Sendable {
  func open(_ file: InspectedFile) throws(FileFailure) -> OpenFile
  /// The contents of a file, at most `limit` bytes; nil if it cannot be read.
  func read(_ file: InspectedFile, limit: Int) -> [UInt8]?
  /// Searches for pages; in other mount namespaces only on request, since that looks at every
  /// process.
  func search(inContainers: Bool) throws(FileFailure) -> [StatsPageLocation]
  /// Creates a new file, mode 0600; never overwrites. `atomically`: it has a temporary name until
  /// `finish`.
  func create(_ path: String, atomically: Bool) throws(FileFailure) -> OpenFile
  /// Gives a file that was created atomically its name, or removes it.
  func finish(_ path: String, keeping: Bool) throws(FileFailure)
}

package enum FileOpener {
  private static let opener = Mutex<any FileOpening>(DirectFileOpener())
  /// What opens files now: this process itself, or the broker once this process is confined.
  package static var current: any FileOpening { opener.withLock { $0 } }
  package static func use(_ files: any FileOpening) { opener.withLock { $0 = files } }
}

/// Encodes texts as NUL-terminated strings, one after another. (Paths may contain any other byte.)
package enum TextFields {
  package static func encode(_ fields: [String]) -> [UInt8] {
    fields.flatMap { $0.utf8.filter { $0 != 0 } + [0] }
  }
  package static func decode(_ bytes: [UInt8]) -> [String] {
    bytes.split(separator: 0, omittingEmptySubsequences: false).dropLast()
      .map { String(decoding: $0, as: UTF8.self) }
  }
}

/// Opens files directly, without a broker.
package final class DirectFileOpener: FileOpening {
  private let pages = Mutex(StatsPageSearch())

  package init() {}

  package func search(inContainers: Bool) -> [StatsPageLocation] {
    pages.withLock { $0.search(inContainers: inContainers) }
  }

  package func open(_ file: InspectedFile) throws(FileFailure) -> OpenFile {
    switch file {
    case .process, .named, .mapLimit:
      return try OpenFile(reading: file.description, followingLinks: true)
    case .page(let number):
      guard let page = pages.withLock({ $0.page(number) }) else {
        throw FileFailure(function: "open", path: file.description, errno: FileFailure.enoent)
      }
      return try page.open()
    case .children(let pid):
      let path = "/proc/\(pid)/task"
      return try answer(
        OpenFile(directory: path).names(limit: 4096).flatMap { task in
          (ProcessFacts.readText("\(path)/\(task)/children", limit: 65536) ?? "")
            .split(separator: " ").map { String($0) }
        }, file)
    case .namespaces(let pid):
      return try answer(
        ["user", "mnt"].map { Files.link("/proc/\(pid)/ns/\($0)") ?? "" }, file)
    case .userName(let uid):
      return try answer(ProcessFacts.userName(uid).map { [$0] } ?? [], file)
    case .host:
      return try answer(HostFiles.read().fields, file)
    }
  }

  package func read(_ file: InspectedFile, limit: Int) -> [UInt8]? {
    guard let file = try? open(file) else { return nil }
    return try? file.readAll(limit: limit)
  }

  private func answer(_ fields: [String], _ file: InspectedFile) throws(FileFailure) -> OpenFile {
    try OpenFile(holding: TextFields.encode(fields), path: file.description)
  }

  package func create(_ path: String, atomically: Bool) throws(FileFailure) -> OpenFile {
    guard atomically else { return try OpenFile(creating: path) }
    if (try? Files.status(path)) != nil {
      throw FileFailure(function: "create", path: path, errno: FileFailure.eexist)
    }
    return try OpenFile(creating: Self.temporary(path))
  }

  package func finish(_ path: String, keeping: Bool) throws(FileFailure) {
    let temporary = Self.temporary(path)
    guard keeping else { return Files.remove(temporary) }
    do { try Files.renameExclusively(temporary, to: path) } catch {
      Files.remove(temporary)
      throw error
    }
  }

  private static func temporary(_ path: String) -> String { path + ".\(ProcessFacts.pid).tmp" }
}

extension OpenFile {
  /// A read-only file in memory that holds `bytes` (memfd_create(2)).
  package init(holding bytes: [UInt8], path: String) throws(FileFailure) {
    let result = unsafe bytes.withUnsafeBytes { unsafe cms_file_of($0.baseAddress, $0.count) }
    guard result >= 0 else {
      throw FileFailure(function: "memfd_create", path: path, errno: Int32(-result))
    }
    self.init(adopting: Int32(result), path: path)
  }
}
