// Who finds whom: where pages lie × whose they are × which namespaces × dumpable or not.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized) struct DiscoveryTests {
  static let runtime: [Bool] = [true, false]

  /// The same user, XDG_RUNTIME_DIR set or not on either side.
  @Test(arguments: runtime, runtime) func sameUser(publisher: Bool, viewer: Bool) throws {
    let directory = try Scratch(onTmpfs: true)
    let environment = ["XDG_RUNTIME_DIR": directory.path]
    let peer = try Peer(stats: nil, environment: publisher ? environment : [:])
    let path = try peer.send("start")
    #expect(path.hasPrefix(publisher ? directory.path + "/enclave/" : "/dev/shm/enclave-"))
    let result = try memwatch("snapshot", "\(peer.pid)", environment: viewer ? environment : [:])
    if publisher && !viewer {
      // A directory that only the publisher was told of cannot be guessed; it can be named.
      #expect(result.status == 2)
      #expect(try memwatch("snapshot", "--file", path).status == 0)
    } else {
      #expect(result.status == 0, "\(result.error)")
    }
    try peer.exit()
  }

  @Test(arguments: [true, false]) func dumpableOrNot(dumpable: Bool) throws {
    let peer = try Peer(stats: nil)
    try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 3 40")
    if !dumpable { try peer.send("nodump") }
    let result = try memwatch("snapshot", "\(peer.pid)", "--format", "json")
    #expect(result.status == 0, "\(result.error)")
    try eventually("the page says so") {
      let found = try json(
        try memwatch("snapshot", "\(peer.pid)", "--format", "json").output)
      return (found["process"] as! [String: Any])["dumpable"] as? Bool == dumpable
    }
    try peer.exit()
  }

  /// Root sees other users' pages; another user does not.
  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a second user or mount"))
  func otherUsers() throws {
    let copy = try Unprivileged()
    let peer = try Peer(
      stats: nil, prefix: unprivileged(), program: copy.place.file("test-publisher"))
    let path = try peer.send("start")
    #expect(path.hasPrefix("/dev/shm/enclave-65534/"))
    #expect(try memwatch("snapshot", "\(peer.pid)").status == 0)
    let own = try copy.memwatch("snapshot", "\(peer.pid)", stats: nil)
    #expect(own.status == 0, "\(own.error)")
    let roots = try Peer(stats: nil)
    try roots.send("start")
    let refused = try copy.memwatch("snapshot", "\(roots.pid)", stats: nil)
    #expect(refused.status == 3)
    try roots.exit()
    try peer.exit()
  }

  /// A publisher in a pid and mount namespace of its own, as in a container.
  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a second user or mount"))
  func otherNamespaces() throws {
    let peer = try Peer(
      stats: nil,
      prefix: [
        "unshare", "--pid", "--fork", "--kill-child", "--mount", "sh", "-c",
        "mount -t tmpfs none /dev/shm && exec \"$@\"", "sh",
      ])
    let path = try peer.send("start")
    #expect(path.hasPrefix("/dev/shm/enclave-0/1-"), "pid 1 in there: \(path)")
    #expect(!FileManager.default.fileExists(atPath: path), "another mount namespace")
    let list = try json(try memwatch("list", "--json").output)
    let inside = (list["publishers"] as! [[String: Any]]).filter {
      ($0["page"] as! String).hasPrefix("/proc/") && $0["publisherPid"] as? Int == 1
    }
    #expect(inside.count == 1, "\(list)")
    let pid = inside[0]["pid"] as! Int
    #expect(pid > 1, "the pid as the viewer sees it")
    let result = try memwatch("snapshot", "\(pid)", "--format", "json")
    #expect(result.status == 0, "\(result.error)")
    let process = try json(result.output)["process"] as! [String: Any]
    #expect(process["pid"] as? Int == pid && process["publisherPid"] as? Int == 1)
    #expect(process["state"] as? String == "live")
  }

  /// The viewer in a pid namespace where the publisher is not seen.
  @Test func aViewerElsewhere() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    let result = try Launch(
      [
        "unshare", "-r", "--pid", "--fork", "--mount-proc", Programs.memwatch, "snapshot",
        "--file", path, "--format", "json",
      ], stats: scratch
    ).run()
    #expect(result.status == 0, "\(result.error)")
    let process = try json(result.output)["process"] as! [String: Any]
    #expect(process["state"] as? String == "live")
    #expect(process["pid"] is NSNull, "not visible there, so not known")
    #expect(process["publisherPid"] as? Int == Int(peer.pid))
  }

  /// Somebody else sits on the name: the publisher takes another, and is found all the same.
  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a second user or mount"))
  func aSquattedDirectory() throws {
    let copy = try Unprivileged()
    let squatted = "/dev/shm/enclave-65533"
    try FileManager.default.createDirectory(
      atPath: squatted, withIntermediateDirectories: false,
      attributes: [.posixPermissions: 0o777])
    defer { try? FileManager.default.removeItem(atPath: squatted) }
    let other = [
      "setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--bounding-set=-all",
      "--inh-caps=-all",
    ]
    let peer = try Peer(stats: nil, prefix: other, program: copy.place.file("test-publisher"))
    let path = try peer.send("start")
    #expect(path.hasPrefix("/dev/shm/enclave-65533."), "\(path)")
    defer {
      try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
    }
    let own = try Launch(other + [copy.place.file("memwatch"), "snapshot", "\(peer.pid)"]).run()
    #expect(own.status == 0, "\(own.error)")
    try peer.exit()
  }

  /// Names in a directory that all may write are strangers' text.
  @Test func namesOfDirectoriesCannotCarryEscapes() throws {
    let path = "/dev/shm/enclave-\u{1b}[31m\u{202e}-\(getpid())"
    mkdir(path, 0o700)
    defer { rmdir(path) }
    let scratch = try Scratch(onTmpfs: true)
    let result = try memwatch("snapshot", "no-such-name", stats: scratch)
    #expect(result.error.contains("\\u{1b}[31m\\u{202e}"))
    #expect(!result.error.contains("\u{1b}") && !result.error.contains("\u{202e}"))
  }
}
