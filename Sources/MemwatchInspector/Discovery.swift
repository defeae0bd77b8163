// Finding publishers: the directories searched, and the pages found.

import EnclaveStats
import EnclaveSystem
package import MemwatchSystem

/// A stats page that was found.
package struct Publisher: Equatable, Sendable {
  /// How to open its page.
  package var source: InspectedFile
  package var path: String
  /// The directory and file name.
  package var fileName: String
  /// In the viewer's pid namespace; nil if the lock has no holder, or none that is visible here.
  package var pid: Int32?
  package var publisherPid: UInt64
  package var id: UInt64
  package var name: SafeText
  package var uid: UInt32
  package var createdAt: Timestamp
  package var state: PublisherState
  package var stateDetail: String?
  /// When a publisher that is gone or stopped last wrote; nil: unknown, or it is running.
  package var lastSeenAt: Timestamp?
  package var identifier: String { hex(id) }
}

/// A directory that was searched.
package struct Location: Equatable, Sendable {
  package enum SearchResult: String, CaseIterable, Sendable {
    case searched, missing, foreign, denied, failed
  }
  package var path: SafeText
  package var result: SearchResult
  /// The number of pages in it; nil: it was not searched.
  package var pageCount: Int?
  /// The result in words.
  package var outcome: SafeText
  package var isDenied: Bool { result == .denied || result == .foreign }
  /// It could not be searched or opened: publishers may be missing.
  package var hasFailed: Bool
  /// It could not, because this process or the system may open no more files.
  package var isOutOfDescriptors = false
  package var isPage = false

  init(
    path: String, _ result: SearchResult, outcome: String, pageCount: Int? = nil,
    hasFailed: Bool = false
  ) {
    (self.result, self.pageCount, self.hasFailed) = (result, pageCount, hasFailed)
    self.path = SafeText(path)
    self.outcome = SafeText(outcome)
  }

  /// A place that could not be opened.
  init(path: String, failure: FileFailure) {
    self.init(
      path: path, failure.isMissing ? .missing : failure.isDenied ? .denied : .failed,
      outcome: failure.isMissing
        ? "does not exist"
        : failure.isDenied ? "cannot be opened (permission denied)" : "\(failure)",
      // A link is never followed, and so leads to no page.
      hasFailed: !failure.isMissing && !failure.isDenied && failure.errno != FileFailure.eloop)
    isOutOfDescriptors = failure.isOutOfDescriptors
  }
}

package struct Discovery: Sendable {
  package var publishers: [Publisher] = []
  package var places: [Location] = []
  private var ids: Set<UInt64> = []

  /// Searches every directory where a publisher may put its page.
  ///
  /// - Parameter inspectors: those that are attached, by publisher; a page that one of them has open
  ///   is not opened again while its publisher holds it under its name.
  package static func run(reusing inspectors: [UInt64: Inspector] = [:]) -> Discovery {
    var discovery = Discovery()
    let open = Dictionary(inspectors.values.map { ($0.publisher.source, $0) }) { first, _ in first }
    do throws(FileFailure) {
      for place in try FileOpener.current.search(inContainers: true) { discovery.add(place, open) }
    } catch {
      discovery.places = [Location(path: "page directories", failure: error)]
      discovery.places[0].hasFailed = true
    }
    return discovery
  }

  /// The live publisher with this pid whose page, in a directory of this mount namespace, has the pid
  /// in its name. Nothing else is opened.
  static func near(pid: Int32) -> Publisher? {
    let places = (try? FileOpener.current.search(inContainers: false)) ?? []
    var found: [Publisher] = []
    for place in places {
      guard case .opened(let owner) = place.outcome else { continue }
      for page in place.pages where StatsPageName(page.name)?.pid == pid {
        guard let file = try? InspectedFile.page(page.number).open(),
          let status = try? file.status(), status.owner == owner, status.isRegular,
          let publisher = Publisher(
            file, .page(page.number), path: place.path + "/" + page.name, fileName: page.name)
        else { continue }
        if publisher.pid == pid, publisher.state.isHeld { found.append(publisher) }
      }
    }
    return found.count == 1 ? found[0] : nil
  }

  private mutating func add(_ place: StatsPageLocation, _ open: [InspectedFile: Inspector]) {
    switch place.outcome {
    case .foreign(let owner):
      places.append(
        Location(path: place.path, .foreign, outcome: "belongs to user \(Users.name(owner))"))
    case .failed(let error): places.append(Location(path: place.path, failure: error))
    case .opened(let owner):
      var found = 0
      for page in place.pages where StatsPageName(page.name) != nil {
        do {
          if let inspector = open[.page(page.number)], inspector.isPublished(by: owner) {
            found += 1
            if ids.insert(inspector.publisher.id).inserted {
              publishers.append(inspector.publisher)
            }
            continue
          }
          let file = try InspectedFile.page(page.number).open()
          let status = try file.status()
          // A genuine page has the same owner as its directory.
          guard status.owner == owner, status.isRegular else { continue }
          guard
            let publisher = Publisher(
              file, .page(page.number), path: place.path + "/" + page.name, fileName: page.name)
          else { continue }
          found += 1
          // The same page may be reachable by two paths.
          if publisher.id == 0 || ids.insert(publisher.id).inserted {
            publishers.append(publisher)
          }
        } catch {
          let path = place.path + "/" + page.name
          if error.isDenied {
            places.append(Location(path: path, .denied, outcome: "cannot be opened"))
          } else if !error.isMissing {
            var place = Location(path: path, failure: error)
            place.isPage = true
            places.append(place)
          }
        }
      }
      places.append(
        Location(
          path: place.path, .searched,
          outcome: found == 0 ? "contains no page" : "contains \(counted(found, "page"))",
          pageCount: found))
    }
  }
}

extension Publisher {
  /// Reads a page's header and lock; nil if the file is not a stats page.
  init?(_ file: consuming OpenFile, _ source: InspectedFile, path: String, fileName: String) {
    guard let status = try? file.status() else { return nil }
    let holder = try? file.lockHolder()
    do throws(StatsPageReadFailure) {
      let reader = try StatsPageReader(file)
      let header = reader.header
      let length = header[.nameLength]
      self.init(
        source: source, path: path, fileName: fileName, pid: nil, publisherPid: header[.pid],
        id: header[.publisherID],
        name: header.safeText(at: .name, length: length),
        uid: status.owner, createdAt: Timestamp(realMs: header[.createdRealMs]), state: .live)
      switch holder {
      case .process(let pid): self.pid = pid
      case .nobody: state = .exited
      case .inOtherNamespace, nil: break
      }
      if state == .live, let pid = self.pid {
        let probe = ProcessProbe(pid: pid, countingMaps: false)
        if probe.isStopped {
          state = .stopped
          stateDetail = probe.stopText
        }
      } else if state == .exited, let pid = Int32(exactly: publisherPid) {
        let probe = ProcessProbe(pid: pid, countingMaps: false)
        if !probe.isGone, probe.startTime == header[.startTime] {
          let page = UnlockedPage(
            pid: pid, status: status, fileName: fileName, hasClosed: reader.hasClosed)
          (state, stateDetail) = (page.state, page.detail)
          self.pid = pid
        }
      }
      if !state.isCurrent { lastSeenAt = reader.lastHeartbeat.map { Timestamp(realMs: $0) } }
    } catch {
      let pid = StatsPageName(fileName)
      self.init(
        source: source, path: path, fileName: fileName, pid: nil,
        publisherPid: UInt64(pid?.pid ?? 0),
        id: pid?.id ?? 0, name: SafeText(fileName), uid: status.owner, createdAt: 0,
        state: .corrupt)
      if case .process(let owner) = holder { self.pid = owner }
      switch error {
      case .incompatible(let major, let minor):
        state = .incompatible
        stateDetail =
          "the page has version \(major).\(minor); memwatch reads version \(StatsPageFormat.major)"
      case .corrupt(let reason): stateDetail = reason
      case .file(let failure):
        if failure.isDenied { state = .notPermitted }
        stateDetail = SafeText("\(failure)").string
      }
    }
  }
}

extension Discovery {
  /// - Parameter now: when the publishers were looked for.
  package func document(at now: Timestamp) -> Value {
    Value.document(
      .list,
      [
        ("publishers", .list(publishers.map { $0.document(at: now) })),
        ("places", .list(places.map(\.document))),
      ])
  }
}

extension Publisher {
  fileprivate func document(at now: Timestamp) -> Value {
    .object([
      ("pid", Value(pid)), ("publisherPid", Value(publisherPid)),
      ("publisherId", .text(identifier)), ("name", Value(name)), ("uid", Value(uid)),
      ("state", .text(state.rawValue)), ("message", Value(stateDetail)),
      ("lastSeenAt", Value(state.isCurrent ? now : lastSeenAt)),
      ("page", Value(SafeText(path))),
    ])
  }
}

extension Location {
  fileprivate var document: Value {
    .object([
      ("path", Value(path)), ("outcome", .text(result.rawValue)), ("pageCount", Value(pageCount)),
      ("message", Value(outcome)),
    ])
  }
}
