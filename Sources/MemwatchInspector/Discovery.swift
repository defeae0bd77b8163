// Finding publishers: where pages may lie, and what each place gave.

import EnclaveStats
import EnclaveSystem

/// A page that was found.
package struct Publisher: Equatable, Sendable {
  package var path: String
  /// The directory and file name, as they are opened.
  package var fileName: String
  /// In the viewer's pid namespace; nil when the holder of the lock cannot be seen, or there is
  /// none.
  package var pid: Int32?
  package var publisherPid: UInt64
  package var id: UInt64
  package var name: SafeText
  package var uid: UInt32
  package var createdAt: UInt64
  package var state: PublisherState
  package var stateDetail: String?
  package var identifier: String { hex(id) }
  /// Named by the user: links may be followed.
  package var isByPath = false
}

/// A place that was looked at.
package struct Place: Equatable, Sendable {
  package var path: SafeText
  package var outcome: SafeText
  package var isDenied: Bool

  init(path: String, outcome: String, isDenied: Bool = false) {
    self.path = SafeText(path)
    self.outcome = SafeText(outcome)
    self.isDenied = isDenied
  }
}

package struct Discovery: Sendable {
  package var publishers: [Publisher] = []
  package var places: [Place] = []

  /// Looks in every place where a publisher may put its page.
  package static func run() -> Discovery {
    var discovery = Discovery()
    var seen: Set<String> = []
    func look(_ path: String) {
      guard seen.insert(path).inserted else { return }
      discovery.look(in: path)
    }
    if let path = ProcessFacts.environment("ENCLAVE_STATS_DIR") { look(path) }
    if let path = ProcessFacts.environment("XDG_RUNTIME_DIR") { look(path + "/enclave") }
    let uid = ProcessFacts.uid
    look("/run/user/\(uid)/enclave")
    look("/dev/shm/enclave-\(uid)")
    // Directories under a name that was taken, and (for root) those of all users. A directory is
    // believed by its owner, not by its name.
    for name in names(in: "/dev/shm") where name.hasPrefix("enclave-") {
      let path = "/dev/shm/" + name
      guard let status = try? Files.status(path), status.isDirectory else { continue }
      if status.owner == uid || uid == 0 {
        look(path)
      } else if !seen.contains(path) {
        discovery.places.append(
          Place(path: path, outcome: "belongs to user \(Users.name(status.owner))", isDenied: true))
      }
    }
    if uid == 0 {
      for name in names(in: "/run/user") { look("/run/user/\(name)/enclave") }
    }
    discovery.lookIntoContainers()
    return discovery
  }

  private static func names(in path: String) -> [String] {
    guard let directory = try? OpenFile(directory: path) else { return [] }
    return ((try? directory.names()) ?? []).sorted()
  }

  private mutating func look(in path: String) {
    do {
      let directory = try OpenFile(directory: path)
      look(in: directory)
    } catch {
      let outcome =
        error.isMissing
        ? "is not there"
        : error.isDenied ? "may not be opened (permission denied)" : "\(error)"
      places.append(Place(path: path, outcome: outcome, isDenied: error.isDenied))
    }
  }

  private mutating func look(in directory: borrowing OpenFile) {
    let path = directory.path
    let owner: UInt32
    do {
      let status = try directory.status()
      owner = status.owner
      guard owner == ProcessFacts.uid || ProcessFacts.uid == 0 else {
        places.append(
          Place(path: path, outcome: "belongs to user \(Users.name(owner))", isDenied: true))
        return
      }
    } catch {
      places.append(Place(path: path, outcome: "\(error)"))
      return
    }
    let names: [String]
    do { names = try directory.names().filter { PageName($0) != nil }.sorted() } catch {
      places.append(Place(path: path, outcome: "\(error)", isDenied: error.isDenied))
      return
    }
    var found = 0
    for name in names {
      do {
        let file = try OpenFile(reading: name, in: directory)
        let status = try file.status()
        // A page belongs to whoever owns its directory; anything else was put there.
        guard status.owner == owner, status.isRegular else { continue }
        if let publisher = Publisher(file, fileName: name) {
          publishers.append(publisher)
          found += 1
        }
      } catch {
        if error.isDenied {
          places.append(Place(path: path + "/" + name, outcome: "\(error)", isDenied: true))
        }
      }
    }
    places.append(
      Place(path: path, outcome: found == 0 ? "holds no page" : "holds \(found) pages"))
  }

  /// Looks into the mount namespaces of other processes, as far as this one may. Links inside of
  /// them are not followed: they would lead out.
  private mutating func lookIntoContainers() {
    guard let own = Files.link("/proc/self/ns/mnt"), let proc = try? OpenFile(directory: "/proc")
    else { return }
    var seen: Set<String> = [own]
    for name in (try? proc.names()) ?? [] where Int32(name) != nil {
      guard let namespace = Files.link("/proc/\(name)/ns/mnt"), !seen.contains(namespace),
        let status = try? Files.status("/proc/\(name)")
      else { continue }
      let uid = status.owner
      // The last component is a magic link: only it may be followed.
      guard let root = try? OpenFile(directory: "/proc/\(name)/root", followingLinks: true) else {
        continue
      }
      var users: [UInt32] = [uid]
      if ProcessFacts.uid == 0, uid != 0 { users.append(0) }
      var foundOne = false
      for user in users {
        for parts in [["dev", "shm", "enclave-\(user)"], ["run", "user", "\(user)", "enclave"]] {
          if lookInside(root, parts) { foundOne = true }
        }
      }
      // Another process of the namespace may run as another user: keep looking until one gave a
      // directory.
      if foundOne { seen.insert(namespace) }
    }
  }

  private mutating func lookInside(_ root: borrowing OpenFile, _ parts: [String]) -> Bool {
    guard let first = try? OpenFile(directory: parts[0], in: root),
      let second = try? OpenFile(directory: parts[1], in: first),
      let third = try? OpenFile(directory: parts[2], in: second)
    else { return false }
    let known = publishers.count
    if parts.count == 4 {
      guard let fourth = try? OpenFile(directory: parts[3], in: third) else { return false }
      look(in: fourth)
    } else {
      look(in: third)
    }
    dropDuplicates(from: known)
    return true
  }

  /// The same page may be reached on two ways.
  private mutating func dropDuplicates(from start: Int) {
    let ids = Set(publishers[..<start].map(\.id))
    publishers = publishers[..<start] + publishers[start...].filter { !ids.contains($0.id) }
  }
}

extension Publisher {
  /// What the page's header and lock tell; nil for a file that is no page at all.
  init?(_ file: consuming OpenFile, fileName: String) {
    let path = file.path
    guard let status = try? file.status() else { return nil }
    let holder = try? file.lockHolder()
    do throws(PageReadFailure) {
      let reader = try PageReader(file)
      let header = reader.header
      let length = header[.nameLength]
      self.init(
        path: path, fileName: fileName, pid: nil,
        publisherPid: header[.pid],
        id: header[.publisherID],
        name: SafeText(header.text(at: .name, length: length)),
        uid: status.owner, createdAt: header[.createdRealMs], state: .live)
      switch holder {
      case .process(let pid): self.pid = pid
      case .nobody: state = .exited
      case .unseen, nil: break
      }
      if state == .exited, let pid = Int32(exactly: publisherPid) {
        let probe = ProcessProbe(pid: pid, countingMaps: false)
        if !probe.isGone, probe.startTime == header[.startTime] {
          state = .detached
          self.pid = pid
        }
      }
    } catch {
      let pid = PageName(fileName)
      self.init(
        path: path, fileName: fileName, pid: nil, publisherPid: UInt64(pid?.pid ?? 0),
        id: pid?.id ?? 0, name: SafeText(fileName), uid: status.owner, createdAt: 0,
        state: .corrupt)
      if case .process(let owner) = holder { self.pid = owner }
      switch error {
      case .incompatible(let major, let minor):
        state = .incompatible
        stateDetail = "the page is of version \(major).\(minor), memwatch reads \(PageFormat.major)"
      case .corrupt(let reason): stateDetail = reason
      case .file(let failure):
        if failure.isDenied { state = .notPermitted }
        stateDetail = SafeText("\(failure)").string
      }
    }
  }
}
