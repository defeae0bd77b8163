// What the kernel says about this process: limits, locked memory, clocks.

internal import CEnclaveSystem

package enum ProcessFacts {
  package struct Limit: Equatable, Sendable {
    /// Bytes; UInt64.max is unlimited.
    package var soft: UInt64
    package var hard: UInt64
  }

  /// getrlimit(2), RLIMIT_MEMLOCK.
  package static func memlockLimit() throws(SystemFailure) -> Limit {
    var soft: UInt64 = 0
    var hard: UInt64 = 0
    try perform(.readMemlockLimit) {
      unsafe ces_memlock_limit(&soft, &hard)
    }
    return Limit(soft: soft, hard: hard)
  }

  /// prctl(2), PR_GET_DUMPABLE: whether processes of the same user may look at this one's maps.
  package static func isDumpable() throws(SystemFailure) -> Bool {
    try perform(.readDumpable) { ces_dumpable() } == 1
  }

  /// VmLck of /proc/self/status in bytes: what RLIMIT_MEMLOCK is compared with. nil when /proc
  /// cannot be read. Several microseconds.
  package static func lockedBytes() -> UInt64? {
    guard let text = readFile("/proc/self/status", limit: 16384) else { return nil }
    return ProcText.kilobytes("VmLck", in: text).map { $0 * 1024 }
  }

  /// The number of mappings (lines of /proc/self/maps); nil when it cannot be read. O(mappings).
  /// It allocates nothing: it is asked when memory has run out.
  package static func mapCount() -> Int? {
    let count = ces_map_count()
    return count < 0 ? nil : Int(count)
  }

  /// Whether this process maps a file with that inode number, on whatever file system; nil when its
  /// mappings cannot be read. O(mappings).
  package static func mapsFile(inode: UInt64) -> Bool? {
    guard let text = readFile("/proc/self/maps", limit: 64 << 20) else { return nil }
    return text.split(separator: UInt8(ascii: "\n")).contains { line in
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
      return fields.count > 4 && ProcText.number(fields[4]) == inode
    }
  }

  /// vm.max_map_count; nil when it cannot be read.
  package static func mapLimit() -> Int? {
    readText("/proc/sys/vm/max_map_count", limit: 64).flatMap { Int($0.prefix { $0.isNumber }) }
  }

  /// CLOCK_BOOTTIME in milliseconds.
  package static var bootMilliseconds: UInt64 { ces_boottime_ms() }
  /// CLOCK_REALTIME in milliseconds.
  package static var realMilliseconds: UInt64 { ces_realtime_ms() }
  package static var pid: Int32 { Int32(ces_pid()) }
  package static var uid: UInt32 { UInt32(ces_uid()) }

  /// The user, where the real, effective and saved ids are one (getresuid(2)); nil while a program
  /// acts as another user for a time.
  package static var settledUser: UInt32? { UInt32(exactly: ces_settled_uid()) }

  /// Writes to standard error, as far as that takes it.
  package static func complain(_ text: String) {
    var text = text
    text.withUTF8 { unsafe ces_complain($0.baseAddress, $0.count) }
  }

  /// Whether threads that are born in a window are closed: see gate.c.
  package static var threadsStartClosed: Bool { ces_threads_start_closed() != 0 }

  /// abort(3).
  package static func abort() -> Never { ces_abort() }

  /// One turn of waiting for another thread, the `tries`th: a pause, then a yield, then a sleep. A
  /// waiter that only yields would keep a holder of lower real-time priority from its processor.
  package static func backOff(_ tries: inout UInt32) {
    ces_back_off(tries)
    tries &+= 1
  }
  /// The processors that are online; 1 when that cannot be known.
  package static let processors = Int(max(1, ces_processors()))
  package static func pause(milliseconds: UInt32) { _ = ces_sleep_ms(milliseconds) }

  /// An environment variable; nil when unset, and always nil in a set-user-ID program
  /// (secure_getenv(3)).
  package static func environment(_ name: String) -> String? {
    guard let value = unsafe ces_secure_getenv(name) else { return nil }
    return unsafe String(cString: value)
  }

  /// The start of this process in clock ticks since boot (field 22 of /proc/self/stat).
  package static func startTime() -> UInt64? {
    readFile("/proc/self/stat", limit: 4096).flatMap { ProcStat($0)?.startTime }
  }

  /// The command name (comm) of this process, at most 15 bytes.
  package static func commandName() -> [UInt8] {
    var bytes = readFile("/proc/self/comm", limit: 64) ?? []
    if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
    return bytes
  }

  /// A number that tells this boot of the machine from others (FNV-1a of the boot id).
  package static func bootIdentifier() -> UInt64? {
    guard let bytes = readFile("/proc/sys/kernel/random/boot_id", limit: 64) else { return nil }
    return bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }

  package static func readFile(_ path: String, limit: Int) -> [UInt8]? {
    guard let file = try? OpenFile(reading: path, followingLinks: true) else { return nil }
    return try? file.readAll(limit: limit)
  }

  package static func readText(_ path: String, limit: Int) -> String? {
    readFile(path, limit: limit).map { String(decoding: $0, as: UTF8.self) }
  }
}
