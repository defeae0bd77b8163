// What the kernel reports about this process: limits, locked memory, clocks.

internal import CEnclaveSystem

package enum ProcessFacts {
  package struct Limit: Equatable, Sendable {
    /// Bytes; UInt64.max means unlimited.
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

  /// prctl(2), PR_GET_DUMPABLE: whether processes of the same user may read this one's maps.
  package static func isDumpable() throws(SystemFailure) -> Bool {
    try perform(.readDumpable) { ces_dumpable() } == 1
  }

  /// VmLck of /proc/self/status in bytes, which the kernel compares with RLIMIT_MEMLOCK. nil if
  /// the file cannot be read. Takes several microseconds.
  package static func lockedBytes() -> UInt64? {
    guard let text = KeptStatus.current() else { return nil }
    return ProcText.kilobytes("VmLck", in: text).map { $0 * 1024 }
  }

  /// The number of mappings (lines of /proc/self/maps); nil if it cannot be read. O(mappings).
  /// Allocates nothing, because it is called when memory has run out.
  package static func mapCount() -> Int? {
    let count = ces_map_count()
    return count < 0 ? nil : Int(count)
  }

  /// Whether this process maps a file with this inode number, on any file system; nil if the
  /// mappings cannot be read. O(mappings).
  package static func mapsFile(inode: UInt64) -> Bool? {
    guard let text = readFile("/proc/self/maps", limit: 64 << 20) else { return nil }
    return text.split(separator: UInt8(ascii: "\n")).contains { line in
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
      return fields.count > 4 && ProcText.number(fields[4]) == inode
    }
  }

  /// vm.max_map_count; nil if it cannot be read.
  package static func mapLimit() -> Int? {
    readText("/proc/sys/vm/max_map_count", limit: 64).flatMap { Int($0.prefix { $0.isNumber }) }
  }

  /// CLOCK_BOOTTIME in milliseconds.
  package static var bootMilliseconds: UInt64 { ces_boottime_ms() }
  /// CLOCK_REALTIME in milliseconds.
  package static var realMilliseconds: UInt64 { ces_realtime_ms() }
  package static var pid: Int32 { Int32(ces_pid()) }
  package static var uid: UInt32 { UInt32(ces_uid()) }

  /// The only user that this process can act as: the real, effective and saved ids are equal
  /// (getresuid(2)). nil while a program temporarily acts as another user.
  package static var soleUser: UInt32? { UInt32(exactly: ces_sole_uid()) }

  /// Writes to standard error; gives up when that would block or fails.
  package static func writeToStandardError(_ text: String) {
    var text = text
    text.withUTF8 { unsafe ces_write_stderr($0.baseAddress, $0.count) }
  }

  /// Whether threads created in a window start with closed keys; see the pthread_create wrapper.
  package static var threadsStartClosed: Bool { ces_threads_start_closed() != 0 }

  /// abort(3).
  package static func abort() -> Never { ces_abort() }

  /// One round of waiting for another thread: a pause first, then a yield, then a sleep, by the
  /// number of tries. A waiter that only yields could starve a lock holder of lower real-time
  /// priority.
  package static func backOff(_ tries: inout UInt32) {
    ces_back_off(tries)
    tries &+= 1
  }
  /// The number of online processors; 1 if unknown.
  package static let processors = Int(max(1, ces_processors()))
  package static func pause(milliseconds: UInt32) { _ = ces_sleep_ms(milliseconds) }

  /// An environment variable; nil if unset, and always nil in a set-user-ID program
  /// (secure_getenv(3)).
  package static func environment(_ name: String) -> String? {
    guard let value = unsafe ces_secure_getenv(name) else { return nil }
    return unsafe String(cString: value)
  }

  /// When this process started, in clock ticks since boot (field 22 of /proc/self/stat).
  package static func startTime() -> UInt64? {
    readFile("/proc/self/stat", limit: 4096).flatMap { ProcStat($0)?.startTime }
  }

  /// The command name (comm) of this process, at most 15 bytes.
  package static func commandName() -> [UInt8] {
    var bytes = readFile("/proc/self/comm", limit: 64) ?? []
    if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
    return bytes
  }

  /// A number that identifies this boot of the machine (FNV-1a of the boot id).
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
