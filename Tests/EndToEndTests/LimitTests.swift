// Resource limits of memwatch's own process: the error names the limit, no file remains, and no
// signal kills it.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct LimitTests {
  private func limited(
    _ limits: [String], _ arguments: String..., stats: Scratch, directory: Scratch? = nil
  ) throws -> Ended {
    var launch = Launch(["prlimit"] + limits + [Programs.memwatch] + arguments, stats: stats)
    launch.directory = directory?.path
    return try launch.run()
  }

  private func world() throws -> (Peer, Scratch) {
    let scratch = try Scratch(onTmpfs: true)
    let peer = try Peer(stats: scratch)
    try peer.send("start")
    try peer.send("arena a alpha slab off none")
    try peer.send("alloc a 3 40")
    return (peer, scratch)
  }

  /// (As CSV, one arena takes less than 2,000 bytes.)
  @Test(arguments: [
    ("txt", 200), ("txt", 2000), ("json", 200), ("json", 2000), ("csv", 200), ("svg", 200),
    ("svg", 2000),
  ])
  func snapshotsAboveTheFileSizeLimitAreErrors(ending: String, limit: Int) throws {
    let ((peer, stats), place) = (try world(), try Scratch())
    let ended = try limited(
      ["--fsize=\(limit)"], "snapshot", "\(peer.pid)", "--full", "-o", "x.\(ending)", stats: stats,
      directory: place)
    #expect(ended.status == 1 || ended.status == 2, "\(ended)")
    #expect(ended.error.contains("RLIMIT_FSIZE"), "\(ended)")
    #expect(try FileManager.default.contentsOfDirectory(atPath: place.path) == [])
    #expect(peer.process.isRunning)
  }

  /// Samples that were recorded before the limit can be replayed.
  @Test func aRecordEndsAtTheFileSizeLimit() throws {
    let ((peer, stats), place) = (try world(), try Scratch())
    let ended = try limited(
      ["--fsize=20000"], "record", "\(peer.pid)", "-o", "x.rec", "--interval", "50ms", "--for",
      "120s", stats: stats, directory: place)
    #expect(ended.status == 1 && ended.error.contains("RLIMIT_FSIZE"), "\(ended)")
    #expect(try FileManager.default.contentsOfDirectory(atPath: place.path) == ["x.rec"])
    let replayed = try memwatch("replay", place.file("x.rec"), stats: stats)
    #expect(replayed.status == 0 && replayed.output.contains("alpha"), "\(replayed)")
  }

  /// Standard output is a file that reaches its size limit.
  @Test(arguments: ["snapshot", "audit", "list", "host"])
  func outputAboveTheFileSizeLimitIsAnError(command: String) throws {
    let ((peer, stats), place) = (try world(), try Scratch())
    let arguments = ["snapshot", "audit"].contains(command) ? "\(command) \(peer.pid)" : command
    let ended = try Launch(
      ["sh", "-c", "prlimit --fsize=10 \(Programs.memwatch) \(arguments) > \(place.file("out"))"],
      stats: stats
    ).run()
    #expect((1...3).contains(ended.status) && ended.error.contains("RLIMIT_FSIZE"), "\(ended)")
    #expect(peer.process.isRunning)
  }

  /// A command that memwatch starts has the default action of the signal.
  @Test func aCommandKeepsItsSignals() throws {
    let stats = try Scratch(onTmpfs: true)
    let plain = try Launch(
      [
        "prlimit", "--fsize=100000", Programs.memwatch, "run", "--", "grep", "SigIgn",
        "/proc/self/status",
      ], stats: stats
    ).run()
    let bits = plain.output.split(separator: "\t").last.flatMap {
      UInt64($0.prefix { $0.isHexDigit }, radix: 16)
    }
    #expect(try #require(bits, "\(plain)") & 1 << UInt64(SIGXFSZ - 1) == 0)
  }

  @Test(arguments: 5..<9) func aLowDescriptorLimitIsNamed(count: Int) throws {
    let (peer, stats) = try world()
    let ended = try limited(["--nofile=\(count)"], "snapshot", "\(peer.pid)", stats: stats)
    let isTold = ended.error.contains("RLIMIT_NOFILE")
    // With too few, the dynamic loader fails first, with its own message.
    #expect(ended.status == 0 || isTold || ended.status == 127, "\(ended)")
    #expect(ended.status < 128)
  }

  @Test(.enabled(if: Programs.isRoot, "needs root, to act as a user with no other process"))
  func anExhaustedProcessLimitIsNamed() throws {
    let scratch = try Scratch(onTmpfs: true, mode: 0o755)
    chown(scratch.path, 65534, 65534)
    let copy = try Unprivileged()
    let ended = try Launch(
      [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "prlimit", "--nproc=1",
        copy.place.file("memwatch"), "list",
      ], stats: scratch
    ).run()
    #expect(ended.status == 1 && ended.error.contains("RLIMIT_NPROC"), "\(ended)")
  }

  /// With RLIMIT_MEMLOCK of 0 memwatch works, because it locks no memory.
  @Test func memwatchNeedsNoLockedMemory() throws {
    let (peer, stats) = try world()
    let ended = try limited(
      ["--memlock=0", "--rttime=1:1", "--core=0"], "snapshot", "\(peer.pid)", stats: stats)
    #expect(ended.status == 0, "\(ended)")
  }

  /// Too little memory for a snapshot of 20,000 secrets only ends memwatch, which names the limit.
  @Test(arguments: ["as", "data"]) func aLowMemoryLimitIsNamed(limit: String) throws {
    let (peer, stats) = try world()
    try peer.send("alloc a 20000 40")
    var told = 0
    /// Whether this much memory is enough.
    func isEnough(_ kibibytes: Int) throws -> Bool {
      let ended = try limited(
        ["--\(limit)=\(kibibytes << 10)"], "snapshot", "\(peer.pid)", stats: stats)
      if ended.status == 0 {
        #expect(ended.output.contains("alpha"), "\(kibibytes): \(ended)")
        return true
      }
      // 127: the loader failed. 139, 132, 134: the kernel or the Swift runtime could not start it.
      if [127, 139, 132, 134].contains(ended.status), ended.output.isEmpty { return false }
      #expect(ended.status == 1, "\(kibibytes): \(ended)")
      #expect(ended.error.contains("RLIMIT_\(limit.uppercased())"), "\(kibibytes): \(ended)")
      told += 1
      return false
    }
    var (little, enough) = (2_000, 1_000_000)
    #expect(try isEnough(enough))
    while enough - little > 100 {
      let middle = (little + enough) / 2
      if try isEnough(middle) { enough = middle } else { little = middle }
    }
    for kibibytes in stride(from: enough - 2_000, to: enough, by: 100) {
      _ = try isEnough(kibibytes)
    }
    #expect(told > 0, "\(enough) KiB are enough")
    #expect(peer.process.isRunning)
  }

  /// When the processor time is used up, the record up to then is kept.
  @Test(arguments: [("1:60", "RLIMIT_CPU (ulimit -t)"), ("1:1", "the hard RLIMIT_CPU")])
  func aRecordEndsWithTheProcessorTime(limit: String, text: String) throws {
    let ((peer, stats), place) = (try world(), try Scratch())
    // More to read for each sample.
    for number in 0..<200 { try peer.send("arena x\(number) arena-\(number) slab off none") }
    let ended = try limited(
      ["--cpu=\(limit)"], "record", "\(peer.pid)", "-o", "x.rec", "--interval", "50ms", "--for",
      "120s", stats: stats, directory: place)
    #expect(ended.status == 1 && ended.error.contains(text), "\(ended)")
    let replayed = try memwatch("replay", place.file("x.rec"), stats: stats)
    #expect(replayed.status == 0 && replayed.output.contains("alpha"), "\(replayed)")
    #expect(peer.process.isRunning)
  }

  /// Under every limit that a shell can set, the screen works or ends, and the terminal is
  /// restored.
  @Test(
    arguments: [
      "nofile=8", "nofile=10", "fsize=0", "as=48000000", "data=7000000", "memlock=0",
      "stack=200000",
      "core=0", "rttime=1:1",
    ])
  func screenDrawsOrEndsUnderLimits(limit: String) throws {
    let (peer, stats) = try world()
    let line = try Line(
      ["prlimit", "--\(limit)", Programs.memwatch, "\(peer.pid)"], stats: stats)
    try eventually("it draws or ends") {
      line.take(65536)
      return line.text.contains("alpha") || !line.process.isRunning
    }
    line.type("Q")
    try line.waitForEnd()
    #expect(line.process.terminationReason == .exit, "\(line.text)")
    #expect(line.echoes)
    #expect(
      line.process.terminationStatus == 0 || line.text.contains("RLIMIT_")
        || line.process.terminationStatus == 127, "\(line.process.terminationStatus) \(line.text)")
    #expect(peer.process.isRunning)
  }

  /// The output of a command on a screen goes to a file, whose limit must not end the command.
  @Test func aCommandOutlivesTheFileSizeLimit() throws {
    let stats = try Scratch(onTmpfs: true)
    let tmux = try Tmux(
      [
        "prlimit", "--fsize=1000", Programs.memwatch, "run", "--", "sh", "-c",
        "seq 20000; exit 3",
      ], stats: stats)
    try tmux.wait(for: "[STATUS 3]", "not kept: RLIMIT_FSIZE (ulimit -f) of 1000 bytes")
  }
}
