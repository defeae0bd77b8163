// Discovery: locations of pages × owners × namespaces × dumpable or not.

import Foundation
import Glibc
import TestSupport
import Testing

/// One case of the matrix.
struct Corner: CustomStringConvertible, Sendable {
  enum Relation: CaseIterable { case sameUser, rootViews, otherUser }
  /// Whether XDG_RUNTIME_DIR is set for the publisher and for the viewer.
  var publisherRuntime: Bool
  var viewerRuntime: Bool
  var relation: Relation
  /// Whether the publisher has its own pid and mount namespaces.
  var isElsewhere: Bool
  var isDumpable: Bool

  static let all: [Corner] = [false, true].flatMap { publisher in
    [false, true].flatMap { viewer in
      Relation.allCases.flatMap { relation in
        [false, true].flatMap { elsewhere in
          [false, true].map {
            Corner(
              publisherRuntime: publisher, viewerRuntime: viewer, relation: relation,
              isElsewhere: elsewhere, isDumpable: $0)
          }
        }
      }
    }
  }

  /// The expected result: found, no publisher, or not permitted.
  var expected: Int32 {
    if relation == .otherUser { return 3 }
    let mayLookInside = relation == .rootViews || isDumpable
    // /proc/PID/root opens for the same user of a dumpable process, and for root.
    if isElsewhere { return mayLookInside ? 0 : 3 }
    // A directory that only the publisher knows cannot be found, but it can be named. Whether a
    // process that must not be inspected runs in a container is unknown.
    if publisherRuntime && !viewerRuntime { return mayLookInside ? 2 : 3 }
    return 0
  }

  var description: String {
    "XDG_RUNTIME_DIR \(publisherRuntime)/\(viewerRuntime), \(relation), "
      + "\(isElsewhere ? "other" : "same") namespaces, dumpable \(isDumpable)"
  }
}

@Suite(.serialized, .waitsForProcesses) struct DiscoveryTests {
  static let nobody = [
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all",
    "--inh-caps=-all",
  ]

  /// Options of unshare(1), and a shell: mounts of its own where pages lie, then `setup`.
  private static func ownMounts(_ setup: String) -> [String] {
    [
      "--mount", "sh", "-c",
      "mount -t tmpfs -o mode=1777 none /dev/shm && mount -t tmpfs -o mode=755 none /run && "
        + "\(setup) && exec \"$@\"", "sh",
    ]
  }

  /// The process behind unshare(1).
  private static func child(of pid: Int32) throws -> Int32? {
    try procText("/proc/\(pid)/task/\(pid)/children").split(separator: " ").first
      .flatMap { Int32($0) }
  }

  @Test(.enabled(if: Programs.isRoot, "needs root, to act as several users and in namespaces"))
  func discoveryMatrix() throws {
    let copy = try Unprivileged()
    for corner in Corner.all {
      // The publisher is not root in cases where that matters.
      let isNobodys = corner.relation != .otherUser
      let runtime = try Scratch(onTmpfs: true)
      if isNobodys { chown(runtime.path, 65534, 65534) }
      let uid = isNobodys ? 65534 : 0
      let directory = corner.isElsewhere ? "/run/user/\(uid)" : runtime.path
      var prefix = isNobodys ? Self.nobody : []
      if corner.isElsewhere {
        prefix =
          ["unshare", "--pid", "--fork", "--kill-child"]
          + Self.ownMounts("mkdir -p \(directory) && chown \(uid):\(uid) \(directory)") + prefix
      }
      let peer = try Peer(
        stats: nil, prefix: prefix, program: copy.place.file("test-publisher"),
        environment: corner.publisherRuntime ? ["XDG_RUNTIME_DIR": directory] : [:])
      let path = try peer.send("start")
      #expect(
        path.hasPrefix(
          corner.publisherRuntime ? directory + "/enclave/" : "/dev/shm/enclave-\(uid)/"),
        "\(corner): \(path)")
      try peer.send("arena a alpha slab preferred none")
      try peer.send("alloc a 1 10")
      if !corner.isDumpable { try peer.send("nodump") }
      var pid = peer.pid
      if corner.isElsewhere {
        pid = try #require(try Self.child(of: pid), "\(corner)")
      }
      let viewer =
        (corner.relation == .rootViews ? [] : Self.nobody) + [copy.place.file("memwatch")]
      let environment = corner.viewerRuntime ? ["XDG_RUNTIME_DIR": directory] : [:]
      let result = try Launch(
        viewer + ["snapshot", "\(pid)", "--format", "json"], environment: environment
      ).run()
      #expect(result.status == corner.expected, "\(corner): \(result.error)")
      if result.status == 0 {
        let snapshot = try json(result.output)
        let process = snapshot["process"] as! [String: Any]
        // The audit compares what the kernel lets this viewer see. The rest is n/a, with the
        // reason.
        let audit = snapshot["audit"] as! [String: Any]
        let mayRead = corner.isDumpable || corner.relation == .rootViews
        if corner.isDumpable { #expect(audit["scope"] as? String == "arenas", "\(corner)") }
        #expect(mayRead == (audit["regionCount"] is Int), "\(corner)")
        #expect((audit["findings"] as! [Any]).isEmpty, "\(corner)")
        #expect(process["pid"] as? Int == Int(pid), "\(corner)")
        #expect(process["state"] as? String == "live", "\(corner)")
      }
      if !corner.isElsewhere {
        let named = try Launch(viewer + ["snapshot", "--file", path]).run()
        #expect(named.status == (corner.relation == .otherUser ? 3 : 0), "\(corner)")
      }
      // With unshare in between, it is not a child of the test.
      kill(pid, SIGKILL)
      peer.kill()
    }
  }

  @Test(arguments: [true, false]) func dumpableAndUndumpablePublishersAreFound(dumpable: Bool)
    throws
  {
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
  func pagesOfOtherUsersAreListedForRoot() throws {
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

  /// A publisher in its own pid and mount namespaces, as in a container.
  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a second user or mount"))
  func publishersInOtherNamespacesAreFound() throws {
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

  /// The viewer is in a pid namespace in which the publisher is invisible.
  @Test func publishersOutsideThePidNamespaceAreReadByFile() throws {
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

  /// The service's capabilities, and no other, reach a publisher of another user in a container, from
  /// another container that sees the host's processes. With one less, what is not seen is counted.
  @Test(.enabled(if: Programs.isRoot, "needs root, to give up capabilities and make namespaces"))
  func theServicesCapabilitiesReachContainers() throws {
    let unit = try String(
      contentsOf: Programs.package.appending(
        path: "Assets/packaging/debian/memwatch-exporter.service"), encoding: .utf8)
    let line = try #require(unit.firstMatch(of: /\nCapabilityBoundingSet=(.*)\n/)?.1)
    let kept = line.split(separator: " ").map { $0.dropFirst("CAP_".count).lowercased() }

    let copy = try Unprivileged()
    let name = "pub-\(getpid())"
    let program = copy.place.file(name)
    try FileManager.default.createSymbolicLink(
      atPath: program, withDestinationPath: "test-publisher")
    let peer = try Peer(
      stats: nil,
      prefix: ["unshare", "--pid", "--fork", "--kill-child"] + Self.ownMounts("true") + Self.nobody,
      program: program)
    try peer.send("start plain")
    let inner = try #require(try Self.child(of: peer.pid))
    defer {
      kill(inner, SIGKILL)
      peer.kill()
    }
    try peer.send("arena a alpha slab preferred none")
    try peer.send("alloc a 1 10")

    func exported(by capabilities: [String]) throws -> String {
      let drop = ["-all"] + capabilities.map { "+" + $0 }
      let ended = try Launch(
        ["unshare"] + Self.ownMounts("true") + [
          "setpriv", "--bounding-set=" + drop.joined(separator: ","), "--inh-caps=-all",
          "--no-new-privs", Programs.memwatch, "export",
        ]
      ).run()
      #expect(ended.status == 0, "\(ended.error)")
      return ended.output
    }
    func hasPublisher(_ text: String) -> Bool {
      text.split(separator: "\n").contains {
        $0.hasPrefix("memwatch_publishers{process=\"\(name)\",")
          && $0.hasSuffix(",state=\"live\"} 1")
      }
    }
    let whole = try exported(by: kept)
    #expect(hasPublisher(whole))
    let complete = whole.split(separator: "\n").filter {
      $0.hasPrefix("memwatch_audit_complete{process=\"\(name)\",")
    }
    #expect(complete.count == 1 && complete.allSatisfy { $0.hasSuffix("} 1") }, "\(complete)")
    for missing in kept {
      let text = try exported(by: kept.filter { $0 != missing })
      #expect(!hasPublisher(text), "without \(missing)")
      #expect(
        text.contains(/memwatch_unreadable\{reason="not-permitted"\} [1-9]/), "without \(missing)")
    }
  }

  /// Somebody else sits on the name: the publisher takes another, and is found all the same.
  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a second user or mount"))
  func aSquattedDirectoryIsAvoided() throws {
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

  /// Names in a world-writable directory are untrusted text.
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
