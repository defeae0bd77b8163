// Everything that can go wrong, and what to do about it.

// Its public types, the failed call and why, are part of this library's errors.
@_exported public import EnclaveSystem

/// A failure of the library: what was asked, what the system answered, and what to do.
///
/// No case holds contents of a secret, and no description renders any.
public enum EnclaveError: Error, Sendable, Equatable {
  /// A call to the kernel failed.
  case system(SystemFailure)
  /// This machine does not offer the mechanism that was asked for.
  case unsupported(Capability, SystemFailure)
  /// The process has too many mappings. `limit` is vm.max_map_count.
  case mapLimit(inUse: Int, limit: Int)
  /// RLIMIT_MEMLOCK does not allow the lock. All in bytes; `inUse` is VmLck of the process, after what
  /// was idle in its arenas was given back.
  case lockLimit(soft: UInt64, inUse: UInt64, needed: UInt64)
  /// The memory control group (cgroups(7)) has no room to lock so much: the kernel would kill the
  /// process. All in bytes; `limit` is memory.max, `inUse` what the kernel cannot take back from the
  /// group's processes.
  case memoryGroupLimit(limit: UInt64, inUse: UInt64, needed: UInt64)
  /// The arena's own capacity (`Arena.Options.capacity`) is used up. Both in bytes; nothing of what is
  /// in use is idle.
  case capacity(inUse: Int, limit: Int)
  /// A size below 0 or above 2 GiB, or an alignment that is no power of two up to a page.
  case invalidSize(byteCount: Int, alignment: Int)
  /// The secret's first byte is not aligned as its elements need it, in bytes.
  case misaligned(neededAlignment: Int)
  /// The arena is frozen: its contents can only be read.
  case frozen
  /// The arena was destroyed.
  case destroyed
  /// The arena or publisher belongs to the parent of this process.
  case inheritedByFork
  /// The arena has open windows: so many, and the label of one of them.
  case windowsOpen(Int, label: String?)
  /// The arena has open windows, all of them left open by threads that have ended: so many, and the
  /// label of one of them.
  case windowsAbandoned(Int, label: String?)
  /// The window was opened by another thread, and only that one can close it. It is still open.
  case windowOfAnotherThread
  /// The arena is being frozen, sealed, checked or destroyed, and this cannot be waited for: a signal
  /// handler interrupted the thread that does it, or it takes longer than 5 s. Under a cipher gate also
  /// when the interrupted thread is opening or closing its own window to the secret.
  case busy
  /// There is no secret: nil was given, since it was parked or taken already.
  case noSecret
  /// Sealing was asked for without a key or cipher gate: read-only memory that is sealed could not be
  /// wiped.
  case sealNeedsKeyGate
  /// The bytes that were asked for did not come: `received` did.
  case endOfInput(received: Int)
  /// This machine cannot encrypt as it was asked to: the cipher's name.
  case cipherUnavailable(String)
  /// What was to be decrypted is not what was encrypted.
  case notAuthentic
  /// A secret of an arena with a cipher gate is not what was written: somebody changed its ciphertext.
  /// It stays as it is; others are unharmed.
  case tampered(label: String)
  /// This thread has a window for writing to the secret (cipher gate), or another has.
  case openForWriting
  /// This thread has too many windows to large secrets open (cipher gate).
  case noScratch
  /// The arena's key was used as often as its cipher allows: 2^48 times by one thread.
  case noncesUsedUp
  /// The process publishes already.
  case alreadyPublishing
  /// The directory for the stats page is not fit for it, and why.
  case unsuitableDirectory(path: String, reason: String)
}

extension EnclaveError: CustomStringConvertible {
  /// What was asked, what the system answered, and what to do.
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
        + "with prlimit --pid \(ProcessFacts.pid) --memlock=\(inUse + needed), or "
        + "LimitMEMLOCK= in the unit"
    case .memoryGroupLimit(let limit, let inUse, let needed):
      "memory.max of the control group is \(limit) bytes, \(inUse) are in use, \(needed) more are "
        + "needed, and \(MemoryGroup.keptBytes) are kept free: raise it with MemoryMax= in the unit, or "
        + "the container's memory limit"
    case .capacity(0, let limit):
      "the arena's capacity of \(limit) bytes has no room for such a secret: memory is taken in "
        + "pages of \(Page.size) bytes; give it a larger capacity"
    case .capacity(let inUse, let limit):
      "the arena's capacity is \(limit) bytes and \(inUse) are in use: free secrets, or give it "
        + "a larger capacity"
    case .invalidSize(let byteCount, let alignment):
      "\(byteCount) bytes aligned to \(alignment): sizes are 0 to 2 GiB, alignments powers of "
        + "two up to the page size"
    case .misaligned(let alignment):
      "the secret is not aligned to \(alignment) bytes: allocate it with alignment: \(alignment)"
    case .frozen:
      "the arena is frozen: its contents can be read until it is destroyed, and not written"
    case .windowsAbandoned(let count, let label):
      "\(count == 1 ? "1 window of the arena was" : "\(count) windows of the arena were") left open "
        + "by threads that have ended\(label.map { ", one of them to \($0)" } ?? ""): nobody can close them, and the arena can "
        + "only be destroyed"
    case .windowOfAnotherThread:
      "the window was opened by another thread: close it there"
    case .busy:
      // (One literal, as the two below: what a signal handler meets allocates nothing.)
      """
      the arena is being frozen, sealed, checked or destroyed: try again later, and in a signal \
      handler not before it has returned
      """
    case .destroyed:
      "the arena was destroyed, and its secrets with it"
    case .noSecret:
      "there is no secret: nil was given; it was parked or taken already"
    case .inheritedByFork:
      "this process is a forked child, and the arena is its parent's: make one of its own"
    case .windowsOpen(let count, let label):
      "\(count == 1 ? "1 window of the arena is" : "\(count) windows of the arena are") open\(label.map { ", one of them to \($0)" } ?? ""): "
        + "close them first"
    case .sealNeedsKeyGate:
      "only an arena with a key gate or a cipher gate can be sealed, since sealed read-only memory "
        + "could never be wiped: give it gate .cipher, or run it where protection keys are"
    case .endOfInput(let received):
      "the input ended after \(received) bytes"
    case .cipherUnavailable(let cipher):
      "\(cipher) cannot be used here: leave the choice to the library"
    case .notAuthentic:
      "the ciphertext is not what this vault encrypted"
    case .tampered(let label):
      "the secret\(label.isEmpty ? "" : " \"\(label)\"") is not what was written to it: its memory was changed "
        + "from outside of a window"
    case .openForWriting:
      "the secret has a window for writing: close that first"
    case .noScratch:
      "this thread has 8 windows to large secrets open: close some first"
    case .noncesUsedUp:
      "the arena's key was used 2^48 times: move the secrets into a new arena"
    case .alreadyPublishing:
      "this process publishes a stats page already: stop that publisher first"
    case .unsuitableDirectory(let path, let reason):
      "\(path) cannot hold a stats page: \(reason)"
    }
  }
}

/// Why a scoped access did not return a value.
public enum AccessError<Body: Error>: Error {
  /// The window could not be opened; the body did not run.
  case access(EnclaveError)
  /// The body threw.
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
