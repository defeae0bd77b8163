// Filters of system calls (seccomp(2)) that the program's threads have and the library's do not.

internal import CEnclaveSystem

/// The filters of a thread. A thread inherits those of its creator, and loses none.
package struct SystemCallFilter: Equatable, Sendable {
  /// 0: none; 1: strict; 2: filters.
  private var mode: UInt64
  /// How many filters there are. 0 if the kernel does not say (before Linux 5.9).
  private var count: UInt64

  /// From the text of a thread's status file (proc(5)).
  package init?(_ status: [UInt8]) {
    guard let mode = ProcText.kilobytes("Seccomp", in: status) else { return nil }
    self.mode = mode
    count = ProcText.kilobytes("Seccomp_filters", in: status) ?? 0
  }

  private init(mode: UInt64, count: UInt64) {
    self.mode = mode
    self.count = count
  }

  private func exceeds(_ other: Self) -> Bool {
    mode > 0 && other.mode == 0 || count > other.count
  }

  /// How many threads are examined in one call.
  private static var threadsAtOnce: Int { 32 }

  /// Where the next call continues in the list of threads.
  nonisolated(unsafe) private static let position: UnsafeMutablePointer<UInt64> =
    unsafe makeWord()
  /// The number of filters of the library's threads, as last read.
  nonisolated(unsafe) private static let ownCount: UnsafeMutablePointer<UInt64> =
    unsafe makeWord()

  private static func makeWord() -> UnsafeMutablePointer<UInt64> {
    let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    unsafe word.initialize(to: 0)
    return unsafe word
  }

  /// Whether another thread of this process has a filter that this thread lacks.
  ///
  /// Examines the first thread and at most 32 others, each time the next ones. About 20 µs, and
  /// 10 µs for each of the others. Where /proc is missing, only the first thread's status can be
  /// read, if it was kept open; if not, the answer is false.
  package static func isMissingHere() -> Bool {
    let own = ofThisThread()
    if let first = KeptStatus.current().flatMap({ Self($0) }), first.exceeds(own) { return true }
    guard let tasks = try? OpenFile(directory: "/proc/self/task") else { return false }
    var threads = [Int32](repeating: 0, count: threadsAtOnce)
    var next = unsafe loadRelaxed(position)
    let found = unsafe threads.withUnsafeMutableBufferPointer { threads in
      unsafe ces_list_threads(tasks.descriptor, &next, threads.baseAddress, threads.count)
    }
    unsafe storeRelaxed(next, at: position)
    return threads.prefix(Int(max(0, found))).contains { thread in
      let status = try? OpenFile(reading: "\(thread)/status", in: tasks).readAll(limit: 16384)
      return status.flatMap { Self($0) }?.exceeds(own) ?? false
    }
  }

  private static func ofThisThread() -> Self {
    if let status = ProcessFacts.readFile("/proc/thread-self/status", limit: 16384),
      let own = Self(status)
    {
      unsafe storeRelaxed(own.count, at: ownCount)
      return own
    }
    return Self(mode: UInt64(max(0, ces_seccomp_mode())), count: unsafe loadRelaxed(ownCount))
  }
}
