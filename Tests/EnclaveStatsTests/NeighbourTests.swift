// Other processes interfere with the places of pages: the publisher keeps working, and never writes
// elsewhere.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct NeighbourTests {
  /// A file that another process put in place of the directory is not followed, used or changed.
  @Test(arguments: ["link", "file", "fifo", "open", "link to nothing"])
  func filesInPlaceOfTheDirectoryAreLeftAlone(kind: String) throws {
    let runtime = try Scratch(onTmpfs: true)
    let other = try Scratch(onTmpfs: true)
    let place = runtime.file("enclave")
    let files = FileManager.default
    switch kind {
    case "link": try files.createSymbolicLink(atPath: place, withDestinationPath: other.path)
    case "link to nothing":
      try files.createSymbolicLink(atPath: place, withDestinationPath: other.file("new"))
    case "file": try Data("mine".utf8).write(to: URL(fileURLWithPath: place))
    case "fifo": mkfifo(place, 0o600)
    default:
      try files.createDirectory(atPath: place, withIntermediateDirectories: false)
      try files.setAttributes([.posixPermissions: 0o777], ofItemAtPath: place)
    }
    let peer = try Peer(stats: nil, environment: ["XDG_RUNTIME_DIR": runtime.path])
    let path = try peer.send("start")
    #expect(path.hasPrefix("/dev/shm/enclave-\(geteuid())"))
    try peer.send("arena a alpha slab off none")
    #expect(try files.contentsOfDirectory(atPath: other.path).isEmpty)
    if kind == "file" { #expect(try String(contentsOfFile: place, encoding: .utf8) == "mine") }
    if kind == "open" { #expect(try files.contentsOfDirectory(atPath: place).isEmpty) }
  }

  /// The page's owner removes it, makes it accessible to all, or overwrites it.
  @Test(arguments: ["remove", "chmod", "overwrite", "replace", "truncate", "grow"])
  func thePublisherSurvivesChangesToItsPage(what: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("churn a 2")
    let size = try #require(
      FileManager.default.attributesOfItem(atPath: path)[.size] as? Int)
    let commands = [
      "remove": "rm -f \"$1\"", "chmod": "chmod 777 \"$1\"",
      "overwrite": "chmod 600 \"$1\"; head -c \(size) /dev/urandom | dd of=\"$1\" conv=notrunc",
      "replace": "echo x > \"$1.new\"; mv -f \"$1.new\" \"$1\"",
      "truncate": "chmod 600 \"$1\"; truncate -s 4096 \"$1\"",
      "grow": "chmod 600 \"$1\"; truncate -s 100M \"$1\"",
    ]
    #expect(try Launch(["sh", "-c", commands[what]!, "sh", path]).run().status == 0)
    for _ in 0..<20 { try peer.send("stats a") }
    try peer.send("arena b bravo slab preferred pages")
    try peer.send("alloc b 100 40")
    let seen = try Launch([Programs.memwatch, "snapshot", "--file", path], stats: scratch)
      .run()
    // remove: no publisher; overwrite, replace, truncate, grow: corrupt; chmod: unchanged.
    let codes: [String: [Int32]] = ["remove": [2], "chmod": [0], "overwrite": [4, 7]]
    #expect((codes[what] ?? [4]).contains(seen.status), "\(seen.status) \(seen.error)")
    try peer.exit()
    #expect(peer.process.terminationStatus == 0)
  }

  /// The program has a SIGBUS handler of its own, set before publishing or after: the page's faults
  /// are the library's, all others are the program's.
  @Test(arguments: ["before", "after", "with wiping"], [true, false])
  func theProgramsOwnSigbusHandlerIsKept(order: String, isCut: Bool) throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    if order == "before" { try peer.send("exit-on-bus") }
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    if order == "with wiping" { try peer.send("wipe-on-signals") }
    if order != "before" { try peer.send("exit-on-bus") }
    // It is seen at the next tick.
    func heartbeat() throws -> Data {
      try Data(contentsOf: URL(fileURLWithPath: path))[1024..<1536]
    }
    for _ in 0..<2 {
      let before = try heartbeat()
      try eventually("a tick") { try heartbeat() != before }
    }
    if isCut {
      try peer.send("churn a 2")
      #expect(
        try Launch(["sh", "-c", "chmod 600 \"$1\"; truncate -s 0 \"$1\"", "sh", path]).run().status
          == 0)
      for _ in 0..<50 { try peer.send("stats a") }
      #expect(peer.process.isRunning)
    } else {
      peer.post("raise-bus")
      try eventually("it ended") { !peer.process.isRunning }
      #expect(peer.process.terminationStatus == 99)
    }
  }

  static let mayUnshare =
    (try? Launch(["unshare", "-rm", "true"]).run().status) == 0

  /// A tmpfs with no room: publishing is refused with the system's answer; the program goes on.
  @Test(.enabled(if: mayUnshare, "mount namespaces of one's own are not allowed here"))
  func aFullTmpfsIsAnErrorNotAFault() throws {
    let scratch = try Scratch(onTmpfs: true)
    let mount = "mount -t tmpfs -o size=64k,mode=700 none \"$1\" && exec \"$2\""
    let peer = try Peer(
      stats: scratch, prefix: ["unshare", "-rm", "sh", "-c", mount, "sh", scratch.path])
    do {
      try peer.send("start")
      Issue.record("a page of hundreds of kilobytes fits into 64")
    } catch let failure as Failed { #expect(failure.description.contains("ENOSPC")) }
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 10 40")
    #expect(peer.process.isRunning)
  }

  /// A program that runs with more rights than who started it does not believe that one's
  /// environment.
  @Test(.enabled(if: Programs.isRoot, "only root can make a set-user-ID program of another user"))
  func setUserIDProgramsIgnoreTheEnvironment() throws {
    let place = try Scratch(onTmpfs: false, mode: 0o755)
    let stats = try Scratch(onTmpfs: true, mode: 0o777)
    try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: stats.path)
    let program = place.file("publisher")
    try copyProgram(Programs.publisher, to: program)
    #expect(chown(program, 65533, 65533) == 0 && chmod(program, 0o4755) == 0)
    let peer = try Peer(
      stats: stats,
      prefix: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"],
      program: program, environment: ["XDG_RUNTIME_DIR": stats.path, "ENCLAVE_STATS": "1"])
    let path: String
    do { path = try peer.send("start") } catch let failure as Failed {
      // The environment alone would have started publishing.
      #expect(!failure.description.contains("alreadyPublishing"), "\(failure)")
      return
    }
    #expect(path.hasPrefix("/dev/shm/enclave-65533"))
    #expect(try FileManager.default.contentsOfDirectory(atPath: stats.path).isEmpty)
    peer.kill()
    try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
  }
}
