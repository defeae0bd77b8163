// Searches for stats pages. It only lists names; the caller opens and reads the pages.

internal import EnclaveSystem

/// Searches for pages, and gives each of them a number that later searches keep.
package struct StatsPageSearch: Sendable {
  /// A directory and how to reach it: by path, or from the root of another mount namespace. There
  /// links are not followed, because they would lead out of the namespace.
  struct Route: Hashable, Sendable {
    var path: String
    /// A process in the other mount namespace; nil for this one.
    var container: Int32?
    /// The components of the path from that namespace's root.
    var parts: [String] = []

    func open() throws(FileFailure) -> OpenFile {
      guard let container else { return try OpenFile(directory: path) }
      // The last component is a magic link, the only one that is followed.
      var at = try OpenFile(directory: "/proc/\(container)/root", followingLinks: true)
      for part in parts { at = try OpenFile(directory: part, in: at) }
      return at
    }
  }

  /// A page by its directory and its name there.
  package struct Found: Hashable, Sendable {
    var route: Route
    var name: String

    /// Opens the page if its directory still belongs to this user; for root, to any user.
    func open() throws(FileFailure) -> OpenFile {
      let directory = try route.open()
      let owner = try directory.status().owner
      guard owner == ProcessFacts.uid || ProcessFacts.uid == 0 else {
        throw FileFailure(function: "open", path: route.path, errno: FileFailure.eacces)
      }
      return try OpenFile(reading: name, in: directory)
    }
  }

  private var found: [Found] = []
  private var numbers: [Found: Int] = [:]
  private static let mostPages = 100_000

  package init() {}

  /// The page with a number; nil if there is none.
  func page(_ number: Int) -> Found? { found.indices.contains(number) ? found[number] : nil }

  /// Searches every directory where a publisher may put its page.
  mutating func search(inContainers: Bool) -> [StatsPageLocation] {
    var locations: [StatsPageLocation] = []
    var seen: Set<String> = []
    if found.count > Self.mostPages { (found, numbers) = ([], [:]) }
    func searchOnce(_ path: String, _ search: inout StatsPageSearch) {
      guard seen.insert(path).inserted else { return }
      locations.append(search.searchDirectory(Route(path: path)))
    }
    if let path = ProcessFacts.environment("ENCLAVE_STATS_DIR") { searchOnce(path, &self) }
    if let path = ProcessFacts.environment("XDG_RUNTIME_DIR") {
      searchOnce(path + "/enclave", &self)
    }
    let uid = ProcessFacts.uid
    searchOnce("/run/user/\(uid)/enclave", &self)
    searchOnce("/dev/shm/enclave-\(uid)", &self)
    // If the usual name was taken, a publisher's directory has a longer one. Root also sees those
    // of all users. A directory is trusted by its owner, not by its name.
    for name in Self.names(in: "/dev/shm", &locations) where name.hasPrefix("enclave-") {
      let path = "/dev/shm/" + name
      guard let status = try? Files.status(path), status.isDirectory else { continue }
      if status.owner == uid || uid == 0 {
        searchOnce(path, &self)
      } else if seen.insert(path).inserted {
        locations.append(StatsPageLocation(path: path, outcome: .foreign(owner: status.owner)))
      }
    }
    if uid == 0 {
      for name in Self.names(in: "/run/user", &locations) {
        searchOnce("/run/user/\(name)/enclave", &self)
      }
    }
    return inContainers ? locations + searchContainers() : locations
  }

  /// The names in a directory. If it could not be read, adds it to `locations`.
  private static func names(in path: String, _ locations: inout [StatsPageLocation]) -> [String] {
    do throws(FileFailure) {
      return try OpenFile(directory: path).names().sorted()
    } catch {
      // Not every host has a /run/user.
      if !error.isMissing {
        locations.append(StatsPageLocation(path: path, outcome: .failed(error)))
      }
      return []
    }
  }

  /// Lists the pages in one directory.
  private mutating func searchDirectory(_ route: Route) -> StatsPageLocation {
    do {
      let directory = try route.open()
      let owner = try directory.status().owner
      guard owner == ProcessFacts.uid || ProcessFacts.uid == 0 else {
        return StatsPageLocation(path: route.path, outcome: .foreign(owner: owner))
      }
      let names = try directory.names().filter { $0.hasSuffix(".page") }.sorted()
      var location = StatsPageLocation(path: route.path, outcome: .opened(owner: owner))
      for name in names {
        let page = Found(route: route, name: name)
        let number = numbers[page] ?? found.count
        if number == found.count {
          found.append(page)
          numbers[page] = number
        }
        location.pages.append(.init(number: number, name: name))
      }
      return location
    } catch { return StatsPageLocation(path: route.path, outcome: .failed(error)) }
  }

  /// Searches the mount namespaces of other processes. Processes that root may not look into are
  /// reported as a failed location, because there may be pages. (Other users may look into few
  /// processes, and expect no more.)
  private mutating func searchContainers() -> [StatsPageLocation] {
    guard let own = Files.link("/proc/self/ns/mnt") else { return [] }
    var locations: [StatsPageLocation] = []
    // Namespaces and users, in pairs, whose directory was found.
    var seen: Set<String> = []
    // Failed locations by namespace and directory: a later process may still lead there.
    var failed: [String: StatsPageLocation] = [:]
    var hiddenProcesses = 0
    for name in Self.names(in: "/proc", &locations) {
      guard let pid = Int32(name) else { continue }
      let namespace: String
      do throws(FileFailure) { namespace = try Files.target(of: "/proc/\(pid)/ns/mnt") } catch {
        if error.isDenied { hiddenProcesses += 1 }
        continue
      }
      guard namespace != own, let status = try? Files.status("/proc/\(pid)") else { continue }
      var users: [UInt32] = [status.owner]
      if ProcessFacts.uid == 0, status.owner != 0 { users.append(0) }
      for user in users where !seen.contains("\(namespace) \(user)") {
        for parts in [["dev", "shm", "enclave-\(user)"], ["run", "user", "\(user)", "enclave"]] {
          let path = "/proc/\(pid)/root/" + parts.joined(separator: "/")
          let location = searchDirectory(Route(path: path, container: pid, parts: parts))
          let key = "\(namespace) \(parts)"
          if case .failed(let error) = location.outcome {
            if error.isDenied || error.isOutOfDescriptors { failed[key] = location }
            continue
          }
          failed[key] = nil
          locations.append(location)
          seen.insert("\(namespace) \(user)")
        }
      }
    }
    locations += failed.values.sorted { $0.path < $1.path }
    if ProcessFacts.uid == 0, hiddenProcesses > 0 {
      let path = "/proc/PID/root (processes: \(hiddenProcesses))"
      let failure = FileFailure(function: "open", path: path, errno: FileFailure.eacces)
      locations.append(StatsPageLocation(path: path, outcome: .failed(failure)))
    }
    return locations
  }
}
