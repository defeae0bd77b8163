// Every kernel call that can fail is one case here and goes through `perform`, which checks it,
// counts it and (in debug builds only) lets a test make it fail.

internal import CEnclaveSystem

/// One kernel call that can fail, named by its purpose.
///
/// The raw value is the call's number on the stats page; numbers are never reused.
public enum SystemCall: UInt32, CaseIterable, Sendable {
  // Arenas.
  case reserveChunk = 1
  case openNewChunk = 2
  case excludeFromDumps = 3
  case wipeOnFork = 4
  case leaveOutOfFork = 5
  case lockChunk = 6
  case unlockChunk = 7
  case closeNewChunk = 8
  case openWindow = 9
  case closeWindow = 10
  case unmapChunk = 11
  case fillRandom = 12
  // Fork detection.
  case mapForkPage = 13
  case openForkPage = 14
  case wipeForkPage = 15
  case watchFork = 16
  case watchExit = 17
  // Publishing.
  case makeStatsDirectory = 18
  case openStatsDirectory = 19
  case checkStatsDirectory = 20
  case checkStatsFilesystem = 21
  case createPage = 22
  case allocatePage = 23
  case mapPage = 24
  case keepPageFromFork = 25
  case guardPage = 26
  case lockPage = 27
  case restrictPage = 28
  case linkPage = 29
  case startThread = 30
  case readMemlockLimit = 31
  case readDumpable = 32
  case removeStalePage = 33
  // Gates, seals, backing memory.
  case registerBarrier = 34
  case barrier = 35
  case allocateKey = 36
  case tagChunk = 37
  case freezeChunk = 38
  case sealChunk = 39
  case discardChunk = 40
  case mapSecretMemory = 41
  case probeMechanism = 42
  case readInput = 43
  case setEcho = 44
  case reservePageTable = 45
  // Wiping by signals.
  case installWipeHandler = 46
  case alternateStack = 47
  case extendWipeTable = 48
  case extendCounts = 49
  // Bookkeeping of secrets; settings of a chunk's pages.
  case allocateMetadata = 56
  case keepUnmerged = 57
  case keepFromHugePages = 58
  case separatePages = 59
  case lockOnFault = 60

  /// The name of the kernel or C library function.
  public var function: String {
    switch self {
    case .reserveChunk, .mapForkPage, .mapPage, .reservePageTable, .extendWipeTable, .extendCounts:
      "mmap"
    case .openNewChunk, .closeNewChunk, .openWindow, .closeWindow, .openForkPage: "mprotect"
    case .excludeFromDumps: "madvise(MADV_DONTDUMP)"
    case .wipeOnFork, .wipeForkPage: "madvise(MADV_WIPEONFORK)"
    case .leaveOutOfFork, .keepPageFromFork: "madvise(MADV_DONTFORK)"
    case .lockChunk: "mlock"
    case .lockOnFault: "mlock2(MLOCK_ONFAULT)"
    case .unlockChunk: "munlock"
    case .unmapChunk: "munmap"
    case .fillRandom: "getrandom"
    case .watchFork: "pthread_atfork"
    case .watchExit: "atexit"
    case .makeStatsDirectory: "mkdirat"
    case .openStatsDirectory: "openat"
    case .checkStatsDirectory: "fstat"
    case .checkStatsFilesystem: "fstatfs"
    case .createPage: "openat(O_TMPFILE)"
    case .allocatePage: "posix_fallocate"
    case .guardPage: "sigaction(SIGBUS)"
    case .lockPage: "fcntl(F_SETLK)"
    case .restrictPage: "fchmod"
    case .linkPage: "linkat"
    case .startThread: "pthread_create"
    case .readMemlockLimit: "getrlimit(RLIMIT_MEMLOCK)"
    case .readDumpable: "prctl(PR_GET_DUMPABLE)"
    case .removeStalePage: "unlinkat"
    case .registerBarrier, .barrier: "membarrier(PRIVATE_EXPEDITED)"
    case .allocateKey: "pkey_alloc"
    case .tagChunk: "pkey_mprotect"
    case .freezeChunk: "mprotect"
    case .sealChunk: "mseal"
    case .discardChunk: "madvise(MADV_DONTNEED)"
    case .mapSecretMemory: "memfd_secret"
    case .probeMechanism: "a probe"
    case .readInput: "read"
    case .setEcho: "tcsetattr"
    case .installWipeHandler: "sigaction"
    case .allocateMetadata: "malloc"
    case .keepUnmerged: "madvise(MADV_UNMERGEABLE)"
    case .keepFromHugePages, .separatePages: "madvise(MADV_NOHUGEPAGE)"
    case .alternateStack: "sigaltstack"
    }
  }

  /// What the call is for, as it appears in error messages.
  public var purpose: String {
    switch self {
    case .reserveChunk: "map a chunk with its guard pages"
    case .openNewChunk: "make a new chunk writable between its guard pages"
    case .excludeFromDumps: "keep a chunk out of core dumps"
    case .wipeOnFork: "have a chunk read as zeros in a forked child"
    case .leaveOutOfFork: "leave a chunk out of a forked child"
    case .lockChunk: "lock a chunk"
    case .lockOnFault: "make a locked chunk faster to open"
    case .unlockChunk: "unlock a chunk"
    case .closeNewChunk: "close a new chunk"
    case .openWindow: "open a window"
    case .closeWindow: "close a window"
    case .unmapChunk: "unmap a chunk"
    case .fillRandom: "get random bytes"
    case .mapForkPage, .openForkPage, .wipeForkPage: "set up fork detection"
    case .watchFork: "detect forks"
    case .watchExit: "run at exit"
    case .makeStatsDirectory: "make the directory of stats pages"
    case .openStatsDirectory: "open the directory of stats pages"
    case .checkStatsDirectory: "check the directory of stats pages"
    case .checkStatsFilesystem: "check that the stats directory is on tmpfs"
    case .createPage: "create the stats page"
    case .allocatePage: "allocate the stats page in full"
    case .mapPage: "map the stats page"
    case .keepPageFromFork: "keep the stats page out of a forked child"
    case .guardPage: "survive a truncated stats page"
    case .lockPage: "lock the stats page's file for life"
    case .restrictPage: "make the stats page read-only"
    case .linkPage: "give the stats page its name"
    case .startThread: "start a thread of the library"
    case .readMemlockLimit: "read the memlock limit"
    case .readDumpable: "ask whether the process is dumpable"
    case .removeStalePage: "remove the page of a process that is gone"
    case .registerBarrier: "prepare the barrier between windows and freezing"
    case .barrier: "run a barrier on every thread"
    case .allocateKey: "take a protection key"
    case .tagChunk: "put a chunk under its protection key"
    case .freezeChunk: "make a chunk read-only"
    case .sealChunk: "seal a chunk"
    case .discardChunk: "give back the memory of a wiped chunk that is sealed"
    case .mapSecretMemory: "map memory that the kernel itself cannot reach"
    case .probeMechanism: "probe a mechanism"
    case .readInput: "read into a secret"
    case .setEcho: "turn a terminal's echo off or on"
    case .reservePageTable: "make room in the table of pages"
    case .installWipeHandler: "install a signal handler that wipes"
    case .alternateStack: "give a thread a stack for signals"
    case .allocateMetadata: "keep track of secrets outside of their pages"
    case .keepUnmerged: "keep a chunk from being merged with equal pages"
    case .keepFromHugePages: "keep a chunk from being copied into a huge page"
    case .separatePages: "make each slab of a chunk a mapping of its own"
    case .extendWipeTable: "enter a chunk in the wipe table"
    case .extendCounts: "count a thread's windows"
    }
  }

  /// How often this process has made the call. One relaxed load; any thread.
  public var count: UInt64 { ces_calls(rawValue) }
  /// How often the call has failed in this process. One relaxed load; any thread.
  public var failureCount: UInt64 { ces_failures(rawValue) }
  /// The errno of the last failure; 0 if there was none.
  package var lastErrno: Int32 { ces_last_error(rawValue) }
}

/// A failed kernel call: what was asked for, and what the system answered.
public struct SystemFailure: Error, Sendable, Equatable, CustomStringConvertible {
  /// The call.
  public let call: SystemCall
  /// errno, as the kernel set it.
  public let errno: Int32
  /// How many bytes the call concerned; nil where that has no meaning.
  public let byteCount: Int?

  package init(_ call: SystemCall, errno: Int32, byteCount: Int? = nil) {
    self.call = call
    self.errno = errno
    self.byteCount = byteCount
  }

  /// The symbolic name of `errno`, for example `ENOMEM`.
  public var errnoName: String { SystemFailure.name(ofErrno: errno) }

  /// The symbolic name of an errno value.
  public static func name(ofErrno errno: Int32) -> String {
    unsafe String(cString: ces_errno_name(errno))
  }

  /// What was asked for and what the system answered, in one sentence.
  public var description: String {
    let size = byteCount.map { " of \($0) bytes" } ?? ""
    let answer = unsafe String(cString: ces_strerror(errno))
    return "\(call.function)\(size) (to \(call.purpose)) failed with \(errnoName): \(answer)"
      + (limit.map { " (\($0))" } ?? "")
  }

  /// The limit of the process or machine that explains the errno; nil if there is none or it is
  /// unknown. (Linux errno numbers: EAGAIN 11, ENOMEM 12, ENFILE 23, EMFILE 24, EFBIG 27.)
  private var limit: String? {
    switch (errno, call) {
    case (24, _): "RLIMIT_NOFILE"
    case (23, _): "fs.file-max"
    case (27, _): "RLIMIT_FSIZE"
    case (11, .startThread):
      "RLIMIT_NPROC, pids.max of the cgroup, or RLIMIT_AS for the thread's stack"
    case (12, .mapPage): "RLIMIT_AS, RLIMIT_DATA, or vm.overcommit_memory=2"
    default: nil
    }
  }
}

/// Makes a call, checks its result and counts it.
@inline(__always)
@discardableResult
package func perform(
  _ call: SystemCall, byteCount: Int? = nil, _ body: () -> Int64
) throws(SystemFailure) -> Int64 {
  #if ENCLAVE_FAULTS
    let result = FaultPlan.answer(to: call) ?? body()
  #else
    let result = body()
  #endif
  ces_count(call.rawValue, result < 0, result < 0 ? Int32(-result) : 0)
  guard result >= 0 else {
    throw SystemFailure(call, errno: Int32(-result), byteCount: byteCount)
  }
  return result
}
