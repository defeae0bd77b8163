// Every state of a publisher, with real processes.

import EnclaveStats
import EnclaveSystem
import Foundation
import Glibc
import MemwatchInspector
import TestSupport
import Testing

@Suite(.serialized) struct StateTests {
  func publishing(_ scratch: Scratch) throws -> (Peer, Inspector) {
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 5 40")
    return (peer, try Inspector.attach(to: .file(path)))
  }

  /// A window is reported once it has been open for long enough, until it is closed.
  @Test func aWindowOpenTooLongIsReported() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    inspector.openLimitMs = 100
    // Memory that is open by design, such as adopted libsodium memory, is not reported, and does
    // not hide others.
    try peer.send("arena b bravo isolated preferred pages inherited")
    try peer.send("alloc b 1 40")
    try peer.send("hold b")
    func problem() -> Problem? {
      let found = inspector.sample().problems.filter { $0.kind == .openTooLong }
      #expect(found.allSatisfy { $0.text.hasPrefix("alpha") }, "\(found)")
      return found.first
    }
    #expect(problem() == nil)
    try peer.send("hold a")
    var seen: Problem?
    try eventually("it is told") {
      seen = problem()
      return seen != nil
    }
    #expect(seen?.severity == .warning && seen?.text.hasPrefix("alpha: open for ") == true)
    // A new viewer gets the time from the publisher.
    let later = try Inspector.attach(to: .file(inspector.sample().process.path.string))
    later.openLimitMs = 100
    #expect(later.sample().problems.contains { $0.kind == .openTooLong })
    try peer.send("release")
    try eventually("it is over") { problem() == nil }
  }

  /// A window that nobody can close is reported at once, until the arena is destroyed.
  @Test func aWindowOfAnEndedThreadIsReported() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    inspector.openLimitMs = 86_400_000
    try peer.send("abandon a")
    var seen: Problem?
    try eventually("it is told") {
      seen = inspector.sample().problems.first { $0.kind == .openTooLong }
      return seen != nil
    }
    #expect(
      seen?.text == "alpha: 1 window left open by a thread that has ended; destroying the arena "
        + "closes it")
    try peer.send("destroy a")
    try eventually("it is over") { inspector.sample().problems.isEmpty }
  }

  /// The publisher runs under a system call filter: memwatch names the missing calls, and the
  /// setting to add to the unit.
  @Test(arguments: [
    (number: 330, call: "pkey_alloc", filter: "SystemCallFilter=@pkey "),
    (number: 447, call: "memfd_secret", filter: "SystemCallFilter=memfd_secret "),
  ])
  func missingSystemCallsAreNamed(number: Int, call: String, filter: String) throws {
    #if arch(x86_64)
      let scratch = try Scratch(onTmpfs: true)
      let peer = try Peer(stats: scratch)
      func denied(_ path: String) throws -> Problem? {
        try Inspector.attach(to: .file(path)).sample().problems
          .first { $0.kind == .callFailed && $0.text.contains(call) }
      }
      let path = try peer.send("start")
      #expect(try denied(path) == nil)
      try peer.send("refuse \(number)")
      // (The arena cannot be created with that backing, or gets another gate.)
      _ = try? peer.send("arena a alpha slab preferred \(number == 447 ? "none secret" : "key")")
      _ = try? peer.send("alloc a 1 40")
      var problem: Problem?
      try eventually("it is reported") {
        problem = try denied(path)
        return problem != nil
      }
      #expect(problem?.severity == .warning && problem?.fix?.hasPrefix(filter) == true)
    #endif
  }

  @Test func live() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    let snapshot = inspector.sample()
    #expect(snapshot.process.state == .live)
    #expect(snapshot.process.pid == peer.pid)
    #expect(snapshot.complete)
    #expect(snapshot.process.debugger == 0)
    #expect(snapshot.arenas.first?.secretCount == 5)
  }

  /// Secrets are only read when they are needed, and changes in between are not missed.
  @Test func secretsAreReadOnlyWhenRequested() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    #expect(inspector.sample(auditing: .never, .none).secrets.isEmpty)
    #expect(inspector.sample().secrets.count == 5 && inspector.sample().secrets.count == 5)
    try peer.send("alloc a 3 40")
    #expect(inspector.sample(auditing: .never, .none).secrets.isEmpty)
    #expect(inspector.sample(auditing: .never, .none).arenas[0].secretCount ?? 0 >= 5)
    #expect(inspector.sample().secrets.count == 8)
    try peer.send("free a 6")
    #expect(inspector.sample().secrets.count == 2)
  }

  /// Recorded page maps of a live process are read back unchanged.
  @Test func pagesSurviveARecord() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    try peer.send("alloc a 1000 40")
    try peer.send("hold a")
    try eventually("the map tells") {
      PageCounts(inspector.sample().arenas[0].chunks.flatMap { $0.pages ?? [] }).open == 1
    }
    let pages = try #require(inspector.sample().arenas[0].chunks.last?.pages)
    let data = try JSONEncoder().encode(pages)
    #expect(try JSONDecoder().decode([PagesSnapshot].self, from: data) == pages)
    // Values that records never hold are rejected.
    for list in [
      "[]", "[0,0,1,1,0]", "[0,1,1,1]", "[-1,1,1,1,0]", "[0,1,1,1,0,5]", "[0,99e15,1,1,0]",
    ] {
      #expect(throws: (any Error).self) {
        try JSONDecoder().decode(PagesSnapshot.self, from: Data(list.utf8))
      }
    }
  }

  /// Limits are not read at each sample, but changes appear soon.
  @Test func aRaisedLimitIsNoticed() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    let before = try #require(inspector.sample().memlock.soft ?? inspector.sample().memlock.hard)
    let limit = min(before.count, 1 << 40) / 2 & ~4095
    try peer.send("limit \(limit) \(limit)")
    try eventually("the new limit") { inspector.sample().memlock.soft?.count == limit }
  }

  @Test func stoppedAndContinued() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    peer.signal(SIGSTOP)
    try eventually("stopped") { inspector.sample().process.state == .stopped }
    peer.signal(SIGCONT)
    try eventually("live again") { inspector.sample().process.state == .live }
  }

  @Test func debugged() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    let tracer = Launch([
      "python3", "-c",
      """
      import ctypes, sys
      libc = ctypes.CDLL(None, use_errno=True)
      assert libc.ptrace(0x4206, \(peer.pid), None, None) == 0  # PTRACE_SEIZE
      sys.stdin.read()
      """,
    ]).process()
    let input = Pipe()
    tracer.standardInput = input
    try tracer.run()
    try eventually("the debugger is seen") {
      inspector.sample().process.debugger == tracer.processIdentifier
    }
    #expect(inspector.sample().problems.contains { $0.kind == .debugger })
    try input.fileHandleForWriting.close()
    tracer.waitUntilExit()
    try eventually("and its end") { inspector.sample().process.debugger == 0 }
  }

  /// A process that a debugger stopped (`t` in /proc) is stopped.
  @Test func stoppedByADebugger() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    let tracer = Launch([
      "python3", "-c",
      """
      import ctypes, os, sys
      libc = ctypes.CDLL(None, use_errno=True)
      assert libc.ptrace(16, \(peer.pid), None, None) == 0  # PTRACE_ATTACH
      os.waitpid(\(peer.pid), 0x40000000)
      sys.stdin.read()
      """,
    ]).process()
    let input = Pipe()
    tracer.standardInput = input
    try tracer.run()
    func end() {
      try? input.fileHandleForWriting.close()
      tracer.waitUntilExit()
    }
    defer { end() }
    try eventually("the stop is seen") { inspector.sample().process.state == .stopped }
    #expect(
      inspector.sample().process.stateDetail == "by the debugger, pid \(tracer.processIdentifier)")
    end()
    try eventually("live again") { inspector.sample().process.state == .live }
  }

  @Test func exitedAtTheNextReading() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    _ = inspector.sample()
    peer.kill()
    let snapshot = inspector.sample()
    #expect(snapshot.process.state == .exited)
    #expect(snapshot.arenas.first?.secretCount == 5, "the last page is still told")
  }

  @Test func unlinked() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    try FileManager.default.removeItem(atPath: inspector.publisher.path)
    #expect(inspector.sample().process.state == .unlinked)
    try peer.send("alloc a 1 40")
    #expect(inspector.sample().arenas.first?.secretCount == 6, "it can still be read")
  }

  @Test func detachedWhenPublishingEnds() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    try peer.send("stop")
    #expect(inspector.sample().process.state == .detached)
  }

  @Test func replacedByAnotherPageOfTheSameProcess() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start")
    setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
    defer { unsetenv("ENCLAVE_STATS_DIR") }
    let byPid = try Inspector.attach(to: .pid(peer.pid))
    #expect(byPid.sample().process.state == .live)
    #expect(byPid.publisher.path == path)
    try peer.send("stop")
    try peer.send("start")
    try eventually("replaced") { byPid.sample().process.state == .replaced }
  }

  @Test func replacedByAnotherFileOfThatName() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    let path = inspector.publisher.path
    try FileManager.default.moveItem(atPath: path, toPath: scratch.file("aside"))
    try FileManager.default.copyItem(atPath: scratch.file("aside"), toPath: path)
    #expect(inspector.sample().process.state == .replaced)
    #expect(peer.process.isRunning)
  }

  /// A record whose sequence stays odd while somebody holds the lock.
  @Test func stoppedInMidUpdate() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, inspector) = try publishing(scratch)
    var bytes = try Data(contentsOf: URL(fileURLWithPath: inspector.publisher.path))
    let layout = StatsPageLayout(capacities: [256, 1024, 2048, 4096, 256, 16, 2048])!
    bytes[layout.offset(.arenas, 0)] |= 1
    let path = scratch.file("odd.page")
    try bytes.write(to: URL(fileURLWithPath: path))
    let holder = Launch([
      "python3", "-c",
      "import fcntl,sys; f=open('\(path)','r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()",
    ]).process()
    let (input, output) = (Pipe(), Pipe())
    holder.standardInput = input
    holder.standardOutput = output
    try holder.run()
    _ = output.fileHandleForReading.availableData
    let start = Date()
    let odd = try Inspector.attach(to: .file(path)).sample()
    #expect(odd.process.state == .midUpdate)
    #expect(!odd.complete)
    #expect(Date().timeIntervalSince(start) < 2, "bounded")
    let command = try memwatch("snapshot", "--file", path, stats: scratch)
    #expect(command.status == 8)
    try input.fileHandleForWriting.close()
    holder.waitUntilExit()
    _ = peer
  }

  /// Watching a name continues with its successor; watching a pid does not.
  @Test func watchingANameContinuesWithItsSuccessor() throws {
    let scratch = try Scratch(onTmpfs: true)
    setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
    defer { unsetenv("ENCLAVE_STATS_DIR") }
    let first = try Peer(stats: scratch)
    try first.send("start")
    let byName = try Inspector.attach(to: .name("test-publisher"))
    let byPid = try Inspector.attach(to: .pid(first.pid))
    #expect(byName.sample().process.pid == first.pid)
    _ = byPid.sample()
    first.kill()
    #expect(byName.sample().process.state == .exited)
    let second = try Peer(stats: scratch)
    try second.send("start")
    try eventually("followed") { byName.sample().process.pid == second.pid }
    let restart = byName.sample().restart
    #expect(restart?.fromPid == first.pid && restart?.toPid == second.pid)
    #expect(byPid.sample().process.state == .exited)
  }

  @Test func publishersOfOneNameAreDistinguished() throws {
    let scratch = try Scratch(onTmpfs: true)
    setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
    defer { unsetenv("ENCLAVE_STATS_DIR") }
    let peers = [try Peer(stats: scratch), try Peer(stats: scratch)]
    for peer in peers { try peer.send("start") }
    do throws(AttachFailure) {
      _ = try Inspector.attach(to: .name("test-publisher"))
      Issue.record("one was picked")
    } catch {
      guard case .several(let publishers) = error else { throw Failed("\(error)") }
      #expect(Set(publishers.compactMap(\.pid)) == Set(peers.map(\.pid)))
    }
  }

  @Test(.enabled(if: Programs.mayLimitToOneMiB, "needs a hard memlock limit of 1 MiB"))
  func theLimitOfAProcessWithoutTheCapabilityBinds() throws {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(
      stats: scratch, prefix: withoutLockCapability(soft: 65536, hard: 131072))
    let path = try peer.send("start")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 3000 40")
    let inspector = try Inspector.attach(to: .file(path))
    let snapshot = inspector.sample()
    #expect(snapshot.memlock.binds == .yes)
    #expect(snapshot.memlock.soft == 65536 && snapshot.memlock.hard == 131072)
    #expect(snapshot.memlock.locked == 65536)
    #expect(snapshot.memlock.headroom == 0)
    let arena = try #require(snapshot.arenas.first)
    #expect(arena.lockState == .partial)
    #expect(arena.lock.errnoName == "ENOMEM" && arena.lock.failedCall == .lockChunk)
    #expect(arena.lock.limitThen == 65536)
    let problem = try #require(snapshot.problems.first)
    #expect(problem.kind == .notLocked && problem.fix != nil)
  }
}
