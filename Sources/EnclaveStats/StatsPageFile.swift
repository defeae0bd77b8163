// The birth of a page: where it lies, and the order of the steps that make it safe to read at any
// time. The steps, and why each is there, stand in EnclaveStats.docc/PageFormat.md.

package import EnclaveSystem

/// How many records of each kind a page has room for.
package struct StatsPageCapacities: Sendable {
  package var arenas = 256
  package var labels = 1024
  package var chunks = 2048
  package var secrets = 4096
  package var events = 256
  package init() {}

  /// As many maps as chunks.
  var all: [Int] { [arenas, labels, chunks, secrets, events, 16, chunks] }
}

/// Why a page could not be made.
package enum StatsPageFailure: Error {
  case system(SystemFailure)
  /// The directory is not fit to hold a page, and why.
  case unsuitable(directory: String, reason: String)

  /// Whether another directory could serve, because this one is unfit or cannot be opened.
  var isOfTheDirectory: Bool {
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
  /// Held for life: closing any descriptor of the file would drop the lock that says "alive".
  package let descriptor: Int32
  package let identity: StatsPageCalls.Identity
  package let directoryPath: String
  package let name: String
  package let id: UInt64
  /// The directory was not there before.
  package private(set) var isDirectoryNew = false
  nonisolated(unsafe) package let base: UnsafeMutableRawPointer

  package var path: String { directoryPath + "/" + name }

  /// Takes the page's name away. The memory stays mapped: other threads may be writing.
  package func unlink() { StatsPageCalls.unlink(path, of: identity) }

  /// Takes the directory away that was made for the page; one that holds other pages stays.
  package func removeDirectory() {
    if isDirectoryNew { StatsPageCalls.removeDirectory(directoryPath) }
  }

  /// Gives the descriptor back, if it still is this file's.
  package func close() { StatsPageCalls.close(descriptor, of: identity) }

  /// Puts the guard against truncation on this page again, after another was made and given up.
  package func guardAgain() {
    _ = try? perform(.guardPage) { unsafe StatsPageCalls.guardPage(base, writer.layout.byteCount) }
  }

  /// Writes another name of the process into the header. A reader may meet half of it, once.
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
        // The first answer is the one that the user can act on.
        firstFailure = firstFailure ?? error
        isLastUnfit = error.isOfTheDirectory
        // Not while another publisher has a page in it: then it is not empty.
        if isNew { StatsPageCalls.removeDirectory(candidate.path) }
      }
    }
    throw firstFailure ?? .unsuitable(directory: "(none)", reason: "no directory to try")
  }

  /// What starting to publish takes for a while, files of /proc among it; and the thread's stack.
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
    // In full and before use: a store into a hole of a full tmpfs would be a SIGBUS.
    _ = try system(.allocatePage) { StatsPageCalls.allocate(file, size) }
    let address = try system(.mapPage) { StatsPageCalls.map(file, size) }
    let base = unsafe UnsafeMutableRawPointer(bitPattern: Int(address))!
    var keepMapping = false
    defer { if !keepMapping { unsafe StatsPageCalls.unmap(base, size) } }
    // Swift ends the program when malloc answers nil; here a limit of memory is an error.
    _ = try system(.mapPage) {
      StatsPageCalls.hasRoom(StatsPageWriter.privateByteCount(layout) + workingByteCount)
    }
    // A child would write into its parent's page.
    _ = try system(.keepPageFromFork) { unsafe StatsPageCalls.keepFromFork(base, size) }
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
    // From now on the mapping must stay: the SIGBUS guard knows it.
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
    page.sweep()
    return page
  }

  /// `isNew`: this call made the directory.
  /// EPERM, ENOENT, EACCES, ENOTDIR, ENAMETOOLONG and ELOOP: what says nothing without the path.
  private static let answersOfAPath: Set<Int32> = [1, 2, 13, 20, 36, 40]

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
      // Missing parents are the next call's to report, with the same path.
    }
    let opened: Int64
    do {
      opened = try system(.openStatsDirectory) { StatsPageCalls.openDirectory(candidate.path) }
    } catch StatsPageFailure.system(let failure) where answersOfAPath.contains(failure.errno) {
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

  /// Removes pages of this user whose publisher is gone: their lock is free.
  private func sweep() {
    guard let opened = try? OpenFile(directory: directoryPath),
      let names = try? opened.names(limit: 10_000)
    else { return }
    for other in names where other != name {
      guard let parsed = StatsPageName(other) else { continue }
      // Another copy of the library may publish that page in this process: F_GETLK does not report
      // the process' own lock, and closing any descriptor of the file drops it (fcntl(2)).
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

/// A directory where a page may lie.
package struct DirectoryCandidate: Equatable, Sendable {
  package var path: String
  /// Where the path comes from, as it is told to the user.
  package var origin: String
  /// Only tried when the one before is somebody else's, or unfit.
  package var isSpare: Bool
  package init(path: String, origin: String, isSpare: Bool = false) {
    self.path = path
    self.origin = origin
    self.isSpare = isSpare
  }

  /// Where a publisher puts its page, in the order of trying.
  package static func forPublisher() -> [DirectoryCandidate] {
    if let path = ProcessFacts.environment("ENCLAVE_STATS_DIR"), path.hasPrefix("/") {
      return [DirectoryCandidate(path: path, origin: "ENCLAVE_STATS_DIR")]
    }
    var all: [DirectoryCandidate] = []
    if let path = ProcessFacts.environment("XDG_RUNTIME_DIR"), path.hasPrefix("/") {
      all.append(DirectoryCandidate(path: path + "/enclave", origin: "XDG_RUNTIME_DIR"))
    }
    let shared = "/dev/shm/enclave-\(ProcessFacts.uid)"
    all.append(DirectoryCandidate(path: shared, origin: "shared memory"))
    // Somebody else may sit on the name (/dev/shm is world-writable): take one that nobody can
    // foresee. Readers look for both forms, and trust the directory's owner, not its name.
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
