// What the library finds that must never be: writes out of bounds, double frees.

import EnclaveSystem

/// Memory that was misused: what happened, and where.
public struct Violation: Sendable, Equatable, CustomStringConvertible {
  public enum Kind: String, Sendable, CaseIterable {
    /// Something wrote behind a secret.
    case overflow
    /// Something wrote in front of a secret.
    case underflow
    /// Something wrote to a slot that is free.
    case writeAfterFree
    /// A secret was freed that was free already.
    case doubleFree
    /// An address was freed that is no secret's.
    case foreignPointer
    /// A secret was freed, by its address or by a handle of C's, while a window to it was open. It is
    /// still there.
    case freedWhileOpen
    /// A secret under a cipher gate is not what was written to it: somebody changed its ciphertext.
    /// `Arena.check()` finds it; a window throws `EnclaveError.tampered`.
    case tampered
  }

  public let kind: Kind
  /// The arena's name; empty where no arena is meant.
  public let arena: String
  /// The secret's label or call site; nil where no secret is meant.
  public let label: String?
  /// The secret's size in bytes; nil where no secret is meant.
  public let byteCount: Int?
  /// The first byte that is wrong, counted from the secret's first; nil where it has no meaning.
  public let offset: Int?

  public init(kind: Kind, arena: String, label: String?, byteCount: Int?, offset: Int?) {
    self.kind = kind
    self.arena = arena
    self.label = label
    self.byteCount = byteCount
    self.offset = offset
  }

  /// What happened, in one line. No contents.
  public var description: String {
    let what =
      switch kind {
      case .overflow: "something wrote behind a secret"
      case .underflow: "something wrote in front of a secret"
      case .writeAfterFree: "something wrote to memory that is free"
      case .doubleFree: "a secret was freed twice"
      case .foreignPointer: "an address was freed that is no secret's"
      case .freedWhileOpen: "a secret was freed while a window to it was open"
      case .tampered: "a secret is not what was written to it"
      }
    var details = [arena.isEmpty ? "no arena" : "arena \(arena)"]
    if let label { details.append("label \(label)") }
    if let byteCount { details.append("\(byteCount) bytes") }
    if let offset { details.append("offset \(offset)") }
    return "\(kind.rawValue): \(what) (\(details.joined(separator: ", ")))"
  }
}

/// What is done about a violation. Process-wide.
public enum ViolationHandler {
  public enum Response: Sendable {
    /// Every arena is wiped, the violation is printed to standard error, and the process ends by
    /// abort(3). Whoever wrote there may have written elsewhere too: going on would be a guess.
    case endProcess
    case goOn
  }

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static var handler: (@Sendable (Violation) -> Response)?

  /// Sets what decides; nil ends the process, as without a handler.
  ///
  /// The handler runs on the thread that found the violation, outside of all locks; it may use the
  /// library.
  public static func set(_ handler: (@Sendable (Violation) -> Response)?) {
    unsafe lockInProcess(word)
    unsafe self.handler = handler
    unsafe unlock(word)
  }

  static func report(_ violation: Violation) {
    unsafe lockInProcess(word)
    let handler = unsafe self.handler
    unsafe unlock(word)
    if let handler, asApplication({ handler(violation) }) == .goOn { return }
    // In this order: the text may lie in memory that is wiped.
    ProcessFacts.complain("Enclave: \(violation)\n")
    Registry.refresh()  // the last thing that the page tells
    Registry.wipeNow()
    ProcessFacts.abort()
  }
}
