// Hostile publishers and forged pages: the viewer answers in time, and names the problem.

import EnclaveSystem
import Foundation
import MemwatchInspector
import Synchronization
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct HostilePageTests {
  private func page(_ scratch: Scratch) throws -> (Peer, Data) {
    let peer = try Peer(stats: scratch)
    let path = try peer.send("start 200")
    try peer.send("arena a alpha slab preferred pages")
    try peer.send("alloc a 50 40")
    return (peer, try Data(contentsOf: URL(fileURLWithPath: path)))
  }

  /// The processor time of this thread in seconds, which excludes other work on the machine.
  private func processorTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  enum Attack: String, CaseIterable, Sendable { case rewrite, truncate, replace, odd }

  /// The page's owner changes it at full speed while it is read.
  @Test(arguments: Attack.allCases) func aPageThatChangesUnderTheReader(attack: Attack) throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, bytes) = try page(scratch)
    defer { peer.kill() }
    let path = scratch.file("hostile.page")
    try bytes.write(to: URL(fileURLWithPath: path))
    let isOver = Atomic(false)
    let group = DispatchGroup()
    group.enter()
    Thread.detachNewThread {
      var random = SeededGenerator()
      var turn = 0
      let file = open(path, O_RDWR)
      while !isOver.load(ordering: .relaxed) {
        turn += 1
        switch attack {
        case .rewrite:
          var word =
            turn % 5 == 0 ? UInt64.max : random.next() >> UInt64.random(in: 0..<60, using: &random)
          let offset = Int.random(in: 128..<(bytes.count / 8), using: &random) * 8
          _ = pwrite(file, &word, 8, off_t(offset))
        case .truncate:
          ftruncate(file, off_t(Int.random(in: 0...bytes.count, using: &random)))
          _ = bytes.withUnsafeBytes { pwrite(file, $0.baseAddress, bytes.count, 0) }
        case .replace:
          let other = path + ".new"
          try? bytes.write(to: URL(fileURLWithPath: other))
          rename(other, path)
        case .odd:
          // A sequence that is always odd, but different each time.
          var word = UInt64(turn) << 1 | 1
          _ = pwrite(file, &word, 8, 1024)
        }
      }
      close(file)
      group.leave()
    }
    defer {
      isOver.store(true, ordering: .relaxed)
      group.wait()
    }
    let end = Date().addingTimeInterval(2)
    var states: Set<PublisherState> = []
    var looks = 0
    var longest = 0.0
    while Date() < end {
      guard let inspector = try? Inspector.attach(to: .file(path)) else { continue }
      for _ in 0..<5 {
        let start = processorTime()
        let snapshot = inspector.sample()
        longest = max(longest, processorTime() - start)
        #expect(!snapshot.text.unicodeScalars.contains("\u{1b}"))
        states.insert(snapshot.process.state)
        looks += 1
      }
    }
    #expect(looks >= 5, "\(states)")
    // Its lock is free, so it is never shown as live.
    #expect(!states.contains(.live), "\(states)")
    // Retries are bounded: 40 ms per reading, and 200 ms of readings. The rest is the cost of the
    // same page without changes: sanitising thousands of random texts.
    isOver.store(true, ordering: .relaxed)
    group.wait()
    var quiet = 0.0
    while let inspector = try? Inspector.attach(to: .file(path)), quiet == 0 {
      let start = processorTime()
      _ = inspector.sample()
      quiet = processorTime() - start
    }
    #expect(longest < 2 * quiet + 0.5, "\(longest) s, and \(quiet) s at rest")
  }

  /// Files that are not pages, in place of one.
  @Test(arguments: ["link", "fifo", "directory", "sparse", "empty", "device"])
  func nonPageFilesAreRefused(kind: String) throws {
    let scratch = try Scratch(onTmpfs: true)
    let name = "4711-0123456789abcdef.page"
    let path = scratch.file(name)
    let files = FileManager.default
    switch kind {
    case "link": try files.createSymbolicLink(atPath: path, withDestinationPath: "/etc/passwd")
    case "fifo": mkfifo(path, 0o600)
    case "directory": try files.createDirectory(atPath: path, withIntermediateDirectories: false)
    case "device": try files.createSymbolicLink(atPath: path, withDestinationPath: "/dev/zero")
    default:
      #expect(files.createFile(atPath: path, contents: nil))
      if kind == "sparse" { truncate(path, 1 << 40) }
    }
    // With 1 GiB of address space, and ten seconds.
    let bounded = ["prlimit", "--as=\(1 << 30)", Programs.memwatch]
    for arguments in [["list"], ["snapshot"], ["snapshot", "--file", path]] {
      let result = try Launch(bounded + arguments, stats: scratch).run(within: 10)
      #expect(
        [0, 2, 4, 5, 9].contains(result.status), "\(arguments) \(result.status) \(result.error)")
      #expect(!(result.output + result.error).contains("root:x:"))
    }
    let direct = try Launch(bounded + ["snapshot", "--file", path], stats: scratch).run(within: 10)
    #expect([2, 4].contains(direct.status) && !direct.error.isEmpty)
  }

  /// A page that claims another publisher's identity: the lock shows the real publisher.
  @Test func aForgedPageBelongsToItsLockHolder() throws {
    let scratch = try Scratch(onTmpfs: true)
    let (peer, bytes) = try page(scratch)
    defer { peer.kill() }
    let forged = scratch.file("\(peer.pid)-00000000deadbeef.page")
    try bytes.write(to: URL(fileURLWithPath: forged))
    let script = """
      import fcntl,signal,sys
      f = open(sys.argv[1], "r+b")
      fcntl.lockf(f, fcntl.LOCK_EX)
      print("ok", flush=True)
      signal.pause()
      """
    let holder = Launch(["python3", "-c", script, forged]).process()
    let output = Pipe()
    holder.standardOutput = output
    try holder.run()
    defer {
      kill(holder.processIdentifier, SIGKILL)
      try? eventually("it is gone") { !holder.isRunning }
    }
    _ = output.fileHandleForReading.availableData
    let snapshot = try Inspector.attach(to: .file(forged)).sample()
    #expect(snapshot.process.pid == holder.processIdentifier)
    #expect(snapshot.process.publisherPid == UInt64(peer.pid))
    #expect(!snapshot.verdict.hasPrefix("OK"), "\(snapshot.verdict)")
  }
}
