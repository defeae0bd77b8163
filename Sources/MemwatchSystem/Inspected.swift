// What an inspector may open: a closed list, each a kind and a number, so that it can be asked for
// of another process (a broker) without naming a path. `mem`, `environ`, `auxv`, `cmdline` and `fd`
// of other processes are not in it.

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

/// One thing that an inspector may read.
package enum Inspected: Hashable, Sendable, CustomStringConvertible {
  case process(ProcessFile, pid: Int32)
  /// The pids of the children of all its threads, as far as the kernel lists them: fields.
  case children(pid: Int32)
  /// What the links `ns/user` and `ns/mnt` say: two fields, empty where they may not be read.
  case namespaces(pid: Int32)
  /// The name of a user, if there is such a user.
  case userName(UInt32)
  /// vm.max_map_count.
  case mapLimit
  /// The settings of the machine: see `HostFiles`.
  case host
  /// A page that a search found, by the number that the search gave it.
  case page(Int)
  /// What the user named, at the start.
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

  package func open() throws(FileFailure) -> OpenFile {
    try InspectedFiles.current.open(self)
  }

  /// All of it, at most `limit` bytes; nil when it cannot be read.
  package func bytes(limit: Int) -> [UInt8]? {
    InspectedFiles.current.read(self, limit: limit)
  }

  package func text(limit: Int) -> String? {
    bytes(limit: limit).map { String(decoding: $0, as: UTF8.self) }
  }

  package func fields(limit: Int) -> [String]? { bytes(limit: limit).map(Fields.decode) }
}

/// A place where pages may lie, and what a search saw there.
package struct StatsPageLocation: Equatable, Sendable {
  package enum Outcome: Equatable, Sendable {
    case opened(owner: UInt32)
    /// Somebody else's, and not looked into.
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

/// Who opens what an inspector reads, and makes the files that it writes.
package protocol FileOpening: AnyObject, Sendable {
  func open(_ file: Inspected) throws(FileFailure) -> OpenFile
  /// All of a file, at most `limit` bytes; nil when it cannot be read.
  func read(_ file: Inspected, limit: Int) -> [UInt8]?
  func search() throws(FileFailure) -> [StatsPageLocation]
  /// A new file, mode 0600, never over another. `whole`: under another name until it is finished.
  func create(_ path: String, whole: Bool) throws(FileFailure) -> OpenFile
  /// Gives a file that was made whole its name, or takes it away.
  func finish(_ path: String, keeping: Bool) throws(FileFailure)
}

package enum InspectedFiles {
  private static let opener = Mutex<any FileOpening>(DirectFiles())
  /// This process itself, unless it gave up its rights.
  package static var current: any FileOpening { opener.withLock { $0 } }
  package static func use(_ files: any FileOpening) { opener.withLock { $0 = files } }
}

/// Texts one after the other, each ended by a zero byte: paths hold any other.
package enum Fields {
  package static func encode(_ fields: [String]) -> [UInt8] {
    fields.flatMap { $0.utf8.filter { $0 != 0 } + [0] }
  }
  package static func decode(_ bytes: [UInt8]) -> [String] {
    bytes.split(separator: 0, omittingEmptySubsequences: false).dropLast()
      .map { String(decoding: $0, as: UTF8.self) }
  }
}

/// A process that opens files by itself.
package final class DirectFiles: FileOpening {
  private let pages = Mutex(StatsPageSearch())

  package init() {}

  package func search() -> [StatsPageLocation] { pages.withLock { $0.run() } }

  package func open(_ file: Inspected) throws(FileFailure) -> OpenFile {
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

  package func read(_ file: Inspected, limit: Int) -> [UInt8]? {
    guard let file = try? open(file) else { return nil }
    return try? file.readAll(limit: limit)
  }

  private func answer(_ fields: [String], _ file: Inspected) throws(FileFailure) -> OpenFile {
    try OpenFile(holding: Fields.encode(fields), path: file.description)
  }

  package func create(_ path: String, whole: Bool) throws(FileFailure) -> OpenFile {
    guard whole else { return try OpenFile(creating: path) }
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
  /// A file in memory that holds these bytes (memfd_create(2)), for reading.
  package init(holding bytes: [UInt8], path: String) throws(FileFailure) {
    let result = unsafe bytes.withUnsafeBytes { unsafe cms_file_of($0.baseAddress, $0.count) }
    guard result >= 0 else {
      throw FileFailure(function: "memfd_create", path: path, errno: Int32(-result))
    }
    self.init(adopting: Int32(result), path: path)
  }
}
