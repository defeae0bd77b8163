// The library's errors, with advice on what to do about them.

// SystemFailure, SystemCall and their descriptions are part of this library's errors.
@_exported public import EnclaveSystem

/// An error of the library: what was requested, what the system answered, and what to do.
///
/// No case contains the contents of a secret, and no description renders any.
public enum EnclaveError: Error, Sendable, Equatable {
  /// A kernel call failed.
  case system(SystemFailure)
  /// This machine does not offer the requested mechanism.
  case unsupported(Capability, SystemFailure)
  /// The process has too many mappings. `limit` is vm.max_map_count.
  case mapLimit(inUse: Int, limit: Int)
  /// RLIMIT_MEMLOCK does not allow the lock. All in bytes; `inUse` is VmLck of the process, after
  /// spare memory of its arenas was released.
  case lockLimit(soft: UInt64, inUse: UInt64, needed: UInt64)
  /// The memory control group (cgroups(7)) has no room to lock this much, and the kernel would kill the
  /// process. All in bytes; `limit` is memory.max, `inUse` what the kernel cannot reclaim from the
  /// group's processes.
  case memoryGroupLimit(limit: UInt64, inUse: UInt64, needed: UInt64)
  /// The arena's own capacity (`Arena.Options.capacity`) is used up. Both in bytes; `inUse`
  /// contains no spare memory.
  case capacity(inUse: Int, limit: Int)
  /// A size below 0 or above 2 GiB, or an alignment that is not a power of two up to the page size.
  case invalidSize(byteCount: Int, alignment: Int)
  /// The secret is not aligned for its element type. The needed alignment is in bytes.
  case misaligned(neededAlignment: Int)
  /// The arena is frozen: its contents can only be read.
  case frozen
  /// The arena was destroyed.
  case destroyed
  /// The arena or publisher belongs to this process's parent.
  case inheritedByFork
  /// The arena has open windows: their number, and the label of one of them.
  case windowsOpen(Int, label: String?)
  /// The arena's open windows were all left open by threads that have ended: their number, and the
  /// label of one of them.
  case windowsAbandoned(Int, label: String?)
  /// The window was opened by another thread and only that thread can close it. It is still open.
  case windowOfAnotherThread
  /// The arena is being frozen, sealed, checked or destroyed, and this thread cannot wait for that:
  /// it is in a signal handler that interrupted the change, or the change takes longer than 5 s.
  /// Under a cipher gate also if the interrupted thread is opening or closing its own window to the
  /// secret.
  case busy
  /// There is no secret: it was parked or taken already.
  case noSecret
  /// Sealing requires a key gate or a cipher gate, because other read-only memory could not be
  /// wiped once sealed.
  case sealNeedsKeyGate
  /// The input ended early, after `received` bytes.
  case endOfInput(received: Int)
  /// This machine does not support the requested cipher, whose name is given.
  case cipherUnavailable(String)
  /// The ciphertext does not match what was encrypted.
  case notAuthentic
  /// The ciphertext of a secret under a cipher gate was changed from outside. It is left as it is;
  /// other secrets are unharmed.
  case tampered(label: String)
  /// The secret has a window for writing open, in this or another thread (cipher gate).
  case openForWriting
  /// This thread has too many windows to large secrets open (cipher gate).
  case noScratch
  /// The arena's key has been used as often as its cipher allows: 2^48 times by one thread.
  case noncesUsedUp
  /// The process already publishes a stats page.
  case alreadyPublishing
  /// The directory cannot be used for the stats page, for this reason.
  case unsuitableDirectory(path: String, reason: String)
}

extension EnclaveError: CustomStringConvertible {
  /// What was requested, what the system answered, and what to do.
  public var description: String {
    switch self {
    case .system(let failure):
      "\(failure)"
    case .unsupported(let capability, let failure):
      "this machine has no \(capability.rawValue): \(failure)"
    case .mapLimit(let inUse, let limit):
      "the process has \(inUse) mappings and vm.max_map_count is \(limit): use the slab layout, "
        + "or raise it with sysctl vm.max_map_count=\(limit * 2)"
    case .lockLimit(let soft, let inUse, let needed):
      "RLIMIT_MEMLOCK is \(soft) bytes, \(inUse) are in use, \(needed) more are needed: raise it "
        + "with LimitMEMLOCK= in the unit, or with ulimit -l \((inUse + needed + 1023) / 1024) before "
        + "the program starts; or while it runs, with prlimit --pid \(ProcessFacts.pid) "
        + "--memlock=\(inUse + needed)"
    case .memoryGroupLimit(let limit, let inUse, let needed):
      "memory.max of the control group is \(limit) bytes, \(inUse) are in use, \(needed) more are "
        + "needed, and \(MemoryGroup.reservedBytes) are kept free: raise it with MemoryMax= in the unit, or "
        + "the container's memory limit"
    case .capacity(0, let limit):
      "the arena's capacity of \(limit) bytes is too small for the secret: memory is taken in "
        + "pages of \(Page.size) bytes; increase the capacity"
    case .capacity(let inUse, let limit):
      "the arena's capacity is \(limit) bytes and \(inUse) are in use: free secrets, or "
        + "increase the capacity"
    case .invalidSize(let byteCount, let alignment):
      "invalid size: \(byteCount) bytes aligned to \(alignment); sizes are 0 to 2 GiB, alignments powers of "
        + "two up to the page size"
    case .misaligned(let alignment):
      "the secret is not aligned to \(alignment) bytes: allocate it with alignment: \(alignment)"
    case .frozen:
      "the arena is frozen: its contents can only be read"
    case .windowsAbandoned(let count, let label):
      "\(count == 1 ? "1 window of the arena was" : "\(count) windows of the arena were") left open "
        + "by threads that have ended\(label.map { ", one of them to \($0)" } ?? ""): they cannot be closed, and the arena can "
        + "only be destroyed"
    case .windowOfAnotherThread:
      "the window was opened by another thread: close it there"
    case .busy:
      // One literal, like the two below: a signal handler may need it and must not allocate.
      """
      the arena is being frozen, sealed, checked or destroyed: try again later; a signal handler \
      has to return first
      """
    case .destroyed:
      "the arena and its secrets were destroyed"
    case .noSecret:
      "there is no secret: it was already parked or taken"
    case .inheritedByFork:
      "the arena belongs to the parent of this forked process: create a new one"
    case .windowsOpen(let count, let label):
      "\(count == 1 ? "1 window of the arena is" : "\(count) windows of the arena are") open\(label.map { ", one of them to \($0)" } ?? ""): "
        + "close them first"
    case .sealNeedsKeyGate:
      "only an arena with a key gate or a cipher gate can be sealed, because sealed read-only memory "
        + "could never be wiped: use gate .cipher, or a machine with protection keys"
    case .endOfInput(let received):
      "the input ended after \(received) bytes"
    case .cipherUnavailable(let cipher):
      "\(cipher) is not available here: let the library choose"
    case .notAuthentic:
      "authentication failed: the ciphertext was changed, or is not from this vault"
    case .tampered(let label):
      "the secret\(label.isEmpty ? "" : " \"\(label)\"") was tampered with: its memory was changed "
        + "outside a window"
    case .openForWriting:
      "the secret is open for writing: close that window first"
    case .noScratch:
      "this thread has 8 windows to large secrets open: close some first"
    case .noncesUsedUp:
      "the arena's key has been used 2^48 times: move the secrets into a new arena"
    case .alreadyPublishing:
      "this process already publishes a stats page: stop that publisher first"
    case .unsuitableDirectory(let path, let reason):
      "\(path) cannot hold a stats page: \(reason)"
    }
  }
}

/// Why a scoped access did not return a value.
public enum AccessError<Body: Error>: Error {
  /// The window could not be opened, or its contents were lost while it was open.
  case access(EnclaveError)
  /// The body threw this error.
  case body(Body)
}

extension AccessError: Sendable where Body: Sendable {}
extension AccessError: Equatable where Body: Equatable {}

extension AccessError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .access(let error): "\(error)"
    case .body(let error): "\(error)"
    }
  }
}
