// Searches for stats pages. Looks at names only; reading a page is the caller's work.

internal import EnclaveSystem

/// Searches, and gives each page found a number that stays the same.
package struct StatsPageSearch: Sendable {
  /// A directory and how to reach it: by path, or from the root of another mount namespace, where
  /// links are not followed because they would lead out of it.
  struct Route: Hashable, Sendable {
    var path: String
    var container: Int32?
    var parts: [String] = []

    func open() throws(FileFailure) -> OpenFile {
      guard let container else { return try OpenFile(directory: path) }
      // The last component is a magic link, the only one that is followed.
      var at = try OpenFile(directory: "/proc/\(container)/root", followingLinks: true)
      for part in parts { at = try OpenFile(directory: part, in: at) }
      return at
    }
  }

  package struct Found: Hashable, Sendable {
    var route: Route
    var name: String

    /// Opens the page, if its directory still belongs to this user (root: to any user).
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

  func page(_ number: Int) -> Found? { found.indices.contains(number) ? found[number] : nil }

  /// Searches every directory where a publisher may put its page.
  mutating func run(inContainers: Bool) -> [StatsPageLocation] {
    var places: [StatsPageLocation] = []
    var seen: Set<String> = []
    if found.count > Self.mostPages { (found, numbers) = ([], [:]) }
    func look(_ path: String, _ search: inout StatsPageSearch) {
      guard seen.insert(path).inserted else { return }
      places.append(search.look(Route(path: path)))
    }
    if let path = ProcessFacts.environment("ENCLAVE_STATS_DIR") { look(path, &self) }
    if let path = ProcessFacts.environment("XDG_RUNTIME_DIR") { look(path + "/enclave", &self) }
    let uid = ProcessFacts.uid
    look("/run/user/\(uid)/enclave", &self)
    look("/dev/shm/enclave-\(uid)", &self)
    // Also fallback directories, for publishers whose name was taken, and for root those of all
    // users. A directory is trusted by its owner, not by its name.
    for name in Self.names(in: "/dev/shm", &places) where name.hasPrefix("enclave-") {
      let path = "/dev/shm/" + name
      guard let status = try? Files.status(path), status.isDirectory else { continue }
      if status.owner == uid || uid == 0 {
        look(path, &self)
      } else if seen.insert(path).inserted {
        places.append(StatsPageLocation(path: path, outcome: .foreign(owner: status.owner)))
      }
    }
    if uid == 0 {
      for name in Self.names(in: "/run/user", &places) {
        look("/run/user/\(name)/enclave", &self)
      }
    }
    return inContainers ? places + searchContainers() : places
  }

  /// The names in a directory. If it could not be read, adds it to `places`.
  private static func names(in path: String, _ places: inout [StatsPageLocation]) -> [String] {
    do throws(FileFailure) {
      return try OpenFile(directory: path).names().sorted()
    } catch {
      // Not every host has a /run/user.
      if !error.isMissing {
        places.append(StatsPageLocation(path: path, outcome: .failed(error)))
      }
      return []
    }
  }

  private mutating func look(_ route: Route) -> StatsPageLocation {
    do {
      let directory = try route.open()
      let owner = try directory.status().owner
      guard owner == ProcessFacts.uid || ProcessFacts.uid == 0 else {
        return StatsPageLocation(path: route.path, outcome: .foreign(owner: owner))
      }
      let names = try directory.names().filter { $0.hasSuffix(".page") }.sorted()
      var place = StatsPageLocation(path: route.path, outcome: .opened(owner: owner))
      for name in names {
        let page = Found(route: route, name: name)
        let number = numbers[page] ?? found.count
        if number == found.count {
          found.append(page)
          numbers[page] = number
        }
        place.pages.append(.init(number: number, name: name))
      }
      return place
    } catch { return StatsPageLocation(path: route.path, outcome: .failed(error)) }
  }

  /// Searches the mount namespaces of other processes. What root may not look into is a failed
  /// location: a page may lie there. (Another user may look into few processes, and expects no more.)
  private mutating func searchContainers() -> [StatsPageLocation] {
    guard let own = Files.link("/proc/self/ns/mnt") else { return [] }
    var places: [StatsPageLocation] = []
    // Namespaces and users that a directory was found of.
    var seen: Set<String> = []
    // By namespace and directory: another process may lead there.
    var failed: [String: StatsPageLocation] = [:]
    var hiddenProcesses = 0
    for name in Self.names(in: "/proc", &places) {
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
          let place = look(Route(path: path, container: pid, parts: parts))
          let key = "\(namespace) \(parts)"
          if case .failed(let error) = place.outcome {
            if error.isDenied || error.isOutOfDescriptors { failed[key] = place }
            continue
          }
          failed[key] = nil
          places.append(place)
          seen.insert("\(namespace) \(user)")
        }
      }
    }
    places += failed.values.sorted { $0.path < $1.path }
    if ProcessFacts.uid == 0, hiddenProcesses > 0 {
      let path = "/proc/PID/root (processes: \(hiddenProcesses))"
      let failure = FileFailure(function: "open", path: path, errno: FileFailure.eacces)
      places.append(StatsPageLocation(path: path, outcome: .failed(failure)))
    }
    return places
  }
}
