// Creating a page: its directory, and the order of steps that makes it safe to read at any time.
// EnclaveStats.docc/PageFormat.md explains the steps.

package import EnclaveSystem

/// How many records of each kind a page has room for.
package struct StatsPageCapacities: Sendable {
  package var arenas = 256
  package var labels = 1024
  package var chunks = 2048
  package var secrets = 4096
  package var events = 256
  package init() {}

  /// There are as many maps as chunks.
  var all: [Int] { [arenas, labels, chunks, secrets, events, 16, chunks] }
}

/// Why a page could not be created.
package enum StatsPageFailure: Error {
  case system(SystemFailure)
  /// The directory must not hold a page, with the reason.
  case unsuitable(directory: String, reason: String)

  /// Whether to try another directory, because this one is unsuitable or cannot be opened.
  var concernsDirectory: Bool {
    switch self {
    case .unsuitable: true
    case .system(let failure): failure.call == .openStatsDirectory
    }
  }
}

package struct StatsPageGeometry: Sendable {
  package var payload: Int
  package var slabBytes: Int
  package var slots: Int
  package init(payload: Int, slabBytes: Int, slots: Int) {
    self.payload = payload
    self.slabBytes = slabBytes
    self.slots = slots
  }
}

/// A page that was created, locked and named.
@safe
package struct StatsPageFile: Sendable {
  package let writer: StatsPageWriter
  /// Never closed while publishing: closing any descriptor of the file drops the lock that marks
  /// the publisher as alive.
  package let descriptor: Int32
  package let identity: StatsPageCalls.Identity
  package let directoryPath: String
  package let name: String
  package let id: UInt64
  /// Whether the directory was created for this page.
  package private(set) var isDirectoryNew = false
  nonisolated(unsafe) package let base: UnsafeMutableRawPointer

  package var path: String { directoryPath + "/" + name }

  /// Unlinks the file. The memory stays mapped: other threads may be writing.
  package func unlink() { StatsPageCalls.unlink(path, of: identity) }

  /// Removes the directory if it was created for the page and is empty.
  package func removeDirectory() {
    if isDirectoryNew { StatsPageCalls.removeDirectory(directoryPath) }
  }

  /// Closes the descriptor, if it still belongs to this file.
  package func close() { StatsPageCalls.close(descriptor, of: identity) }

  /// Whether the program has closed the descriptor, and dropped the lock with it.
  package var isUnlocked: Bool { StatsPageCalls.hasLost(descriptor, of: identity) }

  /// Points the truncation guard at this page again, after another page was created and abandoned.
  package func guardAgain() {
    _ = try? perform(.guardPage) { unsafe StatsPageCalls.guardPage(base, writer.layout.byteCount) }
  }

  /// Changes the process name in the header. A concurrent reader may see half of the change, once.
  package func rename(_ text: [UInt8]) {
    let length = unsafe base + HeaderWord.nameLength.rawValue * 8
    unsafe storeRelaxed(0, at: length)
    for (index, byte) in text.prefix(StatsPageFormat.textBytes).enumerated() {
      unsafe (base + HeaderWord.name.rawValue * 8 + index).storeBytes(of: byte, as: UInt8.self)
    }
    unsafe storeRelease(UInt64(text.count), at: length)
  }

  package static func create(
    in candidates: [DirectoryCandidate], capacities: StatsPageCapacities, processName: [UInt8],
    geometry: [StatsPageGeometry], tickMs: Int, firstHeartbeat: (StatsPageWriter) -> Void
  ) throws(StatsPageFailure) -> StatsPageFile {
    var firstFailure: StatsPageFailure?
    var isLastUnfit = false
    for candidate in candidates where !candidate.isSpare || isLastUnfit {
      var isNew = false
      do {
        var file = try create(
          candidate, capacities: capacities, processName: processName, geometry: geometry,
          tickMs: tickMs, isNew: &isNew, firstHeartbeat: firstHeartbeat)
        file.isDirectoryNew = isNew
        return file
      } catch {
        // The first failure is the one that the user can act on.
        firstFailure = firstFailure ?? error
        isLastUnfit = error.concernsDirectory
        // (Fails if another publisher has a page in it.)
        if isNew { StatsPageCalls.removeDirectory(candidate.path) }
      }
    }
    throw firstFailure ?? .unsuitable(directory: "(none)", reason: "no directory to try")
  }

  /// Temporary memory while starting to publish, such as for /proc files, and the thread's stack.
  private static let workingByteCount = 512 << 10

  private static func system(
    _ call: SystemCall, _ body: () -> Int64
  ) throws(StatsPageFailure) -> Int64 {
    do { return try perform(call, body) } catch { throw .system(error) }
  }

  private static func create(
    _ candidate: DirectoryCandidate, capacities: StatsPageCapacities, processName: [UInt8],
    geometry: [StatsPageGeometry], tickMs: Int, isNew: inout Bool,
    firstHeartbeat: (StatsPageWriter) -> Void
  ) throws(StatsPageFailure) -> StatsPageFile {
    let directory = try openDirectory(candidate, isNew: &isNew)
    defer { StatsPageCalls.close(directory) }

    guard let layout = StatsPageLayout(capacities: capacities.all) else {
      throw .unsuitable(directory: candidate.path, reason: "the capacities are out of range")
    }
    let size = layout.byteCount
    let file = Int32(try system(.createPage) { StatsPageCalls.createTemporary(directory) })
    var keepFile = false
    defer { if !keepFile { StatsPageCalls.close(file) } }
    // Allocate everything before use: a store into a hole would raise SIGBUS on a full tmpfs.
    _ = try system(.allocatePage) { StatsPageCalls.allocate(file, size) }
    let address = try system(.mapPage) { StatsPageCalls.map(file, size) }
    let base = unsafe UnsafeMutableRawPointer(bitPattern: Int(address))!
    var keepMapping = false
    defer { if !keepMapping { unsafe StatsPageCalls.unmap(base, size) } }
    // Swift traps if malloc fails; here reaching a memory limit must be an error.
    _ = try system(.mapPage) {
      StatsPageCalls.hasRoom(StatsPageWriter.privateByteCount(layout) + workingByteCount)
    }
    // Otherwise a forked child would write into its parent's page.
    _ = try system(.keepPageFromFork) { unsafe StatsPageCalls.excludeFromFork(base, size) }
    var id: UInt64 = 0
    do {
      try unsafe withUnsafeMutableBytes(of: &id) { raw throws(SystemFailure) in
        try unsafe fillRandom(raw.baseAddress!, byteCount: 8)
      }
    } catch { throw .system(error) }
    id = id == 0 ? 1 : id

    let writer = unsafe StatsPageWriter(base: base, layout: layout)
    defer { if !keepMapping { writer.deallocate() } }
    unsafe writeHeader(
      base, layout: layout, id: id, processName: processName, geometry: geometry, tickMs: tickMs)
    firstHeartbeat(writer)
    // A record lock and not flock(2): the kernel drops it when this process ends, even while a
    // forked child still has the file open.
    _ = try system(.lockPage) { StatsPageCalls.lockFile(file) }
    unsafe storeRelease(StatsPageFormat.magic, at: base)
    _ = try system(.restrictPage) { StatsPageCalls.chmod(file, 0o400) }
    _ = try system(.guardPage) { unsafe StatsPageCalls.guardPage(base, size) }
    // The SIGBUS guard refers to the mapping from now on, so it must stay.
    keepMapping = true
    let name = "\(ProcessFacts.pid)-\(hex(id)).page"
    do {
      _ = try system(.linkPage) { StatsPageCalls.link(file, directory, name) }
    } catch {
      StatsPageCalls.unguardPage()
      keepMapping = false
      throw error
    }
    keepFile = true
    var status = StatsPageCalls.Status()
    _ = StatsPageCalls.status(file, &status)
    let page = unsafe StatsPageFile(
      writer: writer, descriptor: file, identity: status.identity, directoryPath: candidate.path,
      name: name, id: id, base: base)
    page.removeStalePages()
    return page
  }

  /// Errors of a path, which mean little without it: EPERM, ENOENT, EACCES, ENOTDIR, ENAMETOOLONG,
  /// ELOOP.
  private static let pathErrors: Set<Int32> = [1, 2, 13, 20, 36, 40]

  private static func openDirectory(
    _ candidate: DirectoryCandidate, isNew: inout Bool
  ) throws(StatsPageFailure) -> Int32 {
    do {
      let exists = try system(.makeStatsDirectory) {
        let result = StatsPageCalls.makeDirectory(candidate.path)
        return result == -Int64(FileFailure.eexist) ? 1 : result
      }
      isNew = exists == 0
    } catch {
      // The next call reports missing parents, with the same path.
    }
    let opened: Int64
    do {
      opened = try system(.openStatsDirectory) { StatsPageCalls.openDirectory(candidate.path) }
    } catch StatsPageFailure.system(let failure) where pathErrors.contains(failure.errno) {
      throw .unsuitable(directory: candidate.path, reason: "\(failure)")
    }
    let fd = Int32(opened)
    do {
      var status = StatsPageCalls.Status()
      _ = try system(.checkStatsDirectory) { StatsPageCalls.status(fd, &status) }
      guard status.owner == ProcessFacts.uid else {
        throw StatsPageFailure.unsuitable(
          directory: candidate.path, reason: "it belongs to user \(status.owner)")
      }
      guard status.mode & 0o022 == 0 else {
        throw StatsPageFailure.unsuitable(
          directory: candidate.path, reason: "others may write there (chmod 0700 it)")
      }
      guard try system(.checkStatsFilesystem, { StatsPageCalls.isTmpfs(fd) }) != 0 else {
        throw StatsPageFailure.unsuitable(
          directory: candidate.path,
          reason: "it is not on tmpfs, and a page on disk would stall its publisher")
      }
    } catch {
      StatsPageCalls.close(fd)
      throw error as! StatsPageFailure
    }
    return fd
  }

  private static func writeHeader(
    _ base: UnsafeMutableRawPointer, layout: StatsPageLayout, id: UInt64, processName: [UInt8],
    geometry: [StatsPageGeometry], tickMs: Int
  ) {
    func set(_ word: Int, _ value: UInt64) { unsafe storeRelaxed(value, at: base + word * 8) }
    func set(_ word: HeaderWord, _ value: UInt64) { set(word.rawValue, value) }
    set(.version, StatsPageFormat.major << 32 | StatsPageFormat.minor)
    set(.byteCount, UInt64(layout.byteCount))
    set(.publisherID, id)
    set(.pid, UInt64(ProcessFacts.pid))
    set(.startTime, ProcessFacts.startTime() ?? StatsPageFormat.unknown)
    set(.bootID, ProcessFacts.bootIdentifier() ?? StatsPageFormat.unknown)
    set(.uid, UInt64(ProcessFacts.uid))
    set(.createdBootMs, ProcessFacts.bootMilliseconds)
    set(.createdRealMs, ProcessFacts.realMilliseconds)
    set(.tickMs, UInt64(tickMs))
    set(.pageBytes, UInt64(Page.size))
    for table in StatsPageTable.allCases {
      set(HeaderWord.arenaCapacity.rawValue + table.rawValue, UInt64(layout.capacity(table)))
      set(HeaderWord.arenaBytes.rawValue + table.rawValue, UInt64(table.recordBytes))
    }
    set(.callBytes, 32)
    set(.nameLength, UInt64(processName.count))
    for (index, byte) in processName.prefix(StatsPageFormat.textBytes).enumerated() {
      unsafe (base + HeaderWord.name.rawValue * 8 + index).storeBytes(of: byte, as: UInt8.self)
    }
    for (index, size) in geometry.prefix(StatsPageFormat.sizeClassCount).enumerated() {
      set(HeaderWord.sizeClasses.rawValue + index * 2, UInt64(size.payload))
      set(
        HeaderWord.sizeClasses.rawValue + index * 2 + 1,
        UInt64(size.slabBytes) | UInt64(size.slots) << 32)
    }
  }

  /// Removes this user's pages whose publisher is gone, which shows in their lock being free.
  private func removeStalePages() {
    guard let opened = try? OpenFile(directory: directoryPath),
      let names = try? opened.names(limit: 10_000)
    else { return }
    for other in names where other != name {
      guard let parsed = StatsPageName(other) else { continue }
      // Another copy of the library may publish that page in this process: F_GETLK does not report
      // the process's own lock, and closing any descriptor of the file drops it (fcntl(2)).
      if parsed.pid == ProcessFacts.pid {
        guard let status = try? Files.status(directoryPath + "/" + other),
          ProcessFacts.mapsFile(inode: status.inode) == false
        else { continue }
      }
      guard let file = try? OpenFile(reading: other, in: opened),
        let status = try? file.status(), status.isRegular, status.owner == ProcessFacts.uid,
        let holder = try? file.lockHolder(), holder == .nobody,
        let now = try? Files.status(directoryPath + "/" + other), now.inode == status.inode
      else { continue }
      _ = try? perform(.removeStalePage) { StatsPageCalls.unlink(opened.descriptor, other) }
    }
  }
}

/// A directory that may hold a page.
package struct DirectoryCandidate: Equatable, Sendable {
  package var path: String
  /// The source of the path, for error messages.
  package var origin: String
  /// Tried only if the previous one belongs to another user or is unsuitable.
  package var isSpare: Bool
  package init(path: String, origin: String, isSpare: Bool = false) {
    self.path = path
    self.origin = origin
    self.isSpare = isSpare
  }

  /// The directories where a publisher may put its page, in order of preference.
  package static func forPublisher(
    _ environment: StatsPageEnvironment = .init()
  ) -> [DirectoryCandidate] {
    if let path = environment.directory, path.hasPrefix("/") {
      return [DirectoryCandidate(path: path, origin: "ENCLAVE_STATS_DIR")]
    }
    var all: [DirectoryCandidate] = []
    if let path = environment.runtimeDirectory, path.hasPrefix("/") {
      all.append(DirectoryCandidate(path: path + "/enclave", origin: "XDG_RUNTIME_DIR"))
    }
    let shared = "/dev/shm/enclave-\(ProcessFacts.uid)"
    all.append(DirectoryCandidate(path: shared, origin: "shared memory"))
    // Another user may have taken the name (/dev/shm is world-writable): use an unpredictable one.
    // Readers look for both forms, and trust the directory's owner, not its name.
    var random: UInt64 = 0
    unsafe withUnsafeMutableBytes(of: &random) { raw in
      _ = try? unsafe fillRandom(raw.baseAddress!, byteCount: 8)
    }
    all.append(
      DirectoryCandidate(
        path: shared + "." + hex(random), origin: "shared memory", isSpare: true))
    return all
  }
}

/// The environment variables that say where pages are.
package struct StatsPageEnvironment: Sendable {
  package let directory: String?
  package let runtimeDirectory: String?

  /// The current environment.
  package init() {
    directory = ProcessFacts.environment("ENCLAVE_STATS_DIR")
    runtimeDirectory = ProcessFacts.environment("XDG_RUNTIME_DIR")
  }
}

/// The name of a page's file: `PID-RANDOM.page`.
package struct StatsPageName: Equatable, Sendable {
  package var pid: Int32
  package var id: UInt64

  package init?(_ name: String) {
    guard name.hasSuffix(".page") else { return nil }
    let parts = name.dropLast(5).split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[1].utf8.count == 16, let pid = Int32(parts[0]), pid > 0,
      let id = UInt64(parts[1], radix: 16)
    else { return nil }
    self.pid = pid
    self.id = id
  }
}

/// Sixteen hexadecimal digits.
package func hex(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return String(repeating: "0", count: 16 - digits.utf8.count) + digits
}
