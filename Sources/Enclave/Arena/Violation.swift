// Memory misuse that the library detects: writes out of bounds, double frees.

import EnclaveSystem

/// A detected misuse of memory: what happened, and where.
public struct Violation: Sendable, Equatable, CustomStringConvertible {
  public enum Kind: String, Sendable, CaseIterable {
    /// Something wrote behind a secret.
    case overflow
    /// Something wrote in front of a secret.
    case underflow
    /// Something wrote to a free slot.
    case writeAfterFree
    /// A secret was freed that was already free.
    case doubleFree
    /// An address was freed that was not allocated by this arena.
    case foreignPointer
    /// A secret was freed, by address or by a C handle, while a window to it was open. The secret
    /// still exists.
    case freedWhileOpen
    /// The ciphertext of a secret under a cipher gate was changed. Found by `Arena.check()`;
    /// opening the secret throws `EnclaveError.tampered`.
    case tampered
  }

  public let kind: Kind
  /// The arena's name; empty if no arena is concerned.
  public let arena: String
  /// The secret's label or call site; nil if no secret is concerned.
  public let label: String?
  /// The secret's size in bytes; nil if no secret is concerned.
  public let byteCount: Int?
  /// The first wrong byte, relative to the start of the secret; nil where that has no meaning.
  public let offset: Int?

  public init(kind: Kind, arena: String, label: String?, byteCount: Int?, offset: Int?) {
    self.kind = kind
    self.arena = arena
    self.label = label
    self.byteCount = byteCount
    self.offset = offset
  }

  /// What happened, in one line without contents.
  public var description: String {
    let what =
      switch kind {
      case .overflow: "something wrote past the end of a secret"
      case .underflow: "something wrote before the start of a secret"
      case .writeAfterFree: "something wrote to freed memory"
      case .doubleFree: "a secret was freed twice"
      case .foreignPointer: "a freed address does not belong to a secret"
      case .freedWhileOpen: "a secret was freed while a window to it was open"
      case .tampered: "a secret was changed outside a window"
      }
    var details = [arena.isEmpty ? "no arena" : "arena \(arena)"]
    if let label { details.append("label \(label)") }
    if let byteCount { details.append("\(byteCount) bytes") }
    if let offset { details.append("offset \(offset)") }
    return "\(kind.rawValue): \(what) (\(details.joined(separator: ", ")))"
  }
}

/// The response to violations. Process-wide.
public enum ViolationHandler {
  /// What happens after a violation.
  public enum Response: Sendable {
    /// Wipes every arena, prints the violation to standard error, and ends the process with
    /// abort(3): the code that caused it may have written elsewhere too.
    case endProcess
    /// Lets the program continue: the call that found the violation returns or throws as
    /// documented.
    case continueExecution
  }

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static var handler: (@Sendable (Violation) -> Response)?
  /// How often a handler was set.
  nonisolated(unsafe) private static var number: UInt64 = 0

  /// Sets the handler that chooses the response; nil means `endProcess`.
  ///
  /// The handler runs on the thread that found the violation, outside all locks, and may use the
  /// library.
  public static func set(_ handler: (@Sendable (Violation) -> Response)?) {
    unsafe lockInProcess(word)
    unsafe self.handler = handler
    unsafe number += 1
    unsafe unlock(word)
  }

  /// A handler that `replace` has set, with the one from before.
  package struct Replaced: Sendable {
    fileprivate let before: (@Sendable (Violation) -> Response)?
    fileprivate let number: UInt64

    /// Sets the handler from before again, unless somebody has set another meanwhile.
    package func restore() {
      unsafe lockInProcess(word)
      if unsafe number == ViolationHandler.number { unsafe handler = before }
      unsafe unlock(word)
    }
  }

  /// Sets a handler that is given the one from before with each violation.
  package static func replace(
    with handler:
      @escaping @Sendable (_ before: (@Sendable (Violation) -> Response)?, Violation) -> Response
  ) -> Replaced {
    unsafe lockInProcess(word)
    let before = unsafe self.handler
    unsafe self.handler = { handler(before, $0) }
    unsafe number += 1
    let replaced = unsafe Replaced(before: before, number: number)
    unsafe unlock(word)
    return replaced
  }

  static func report(_ violation: Violation) {
    unsafe lockInProcess(word)
    let handler = unsafe self.handler
    unsafe unlock(word)
    if let handler, asApplication({ handler(violation) }) == .continueExecution { return }
    // Print first: the text may be in memory that is about to be wiped.
    ProcessFacts.writeToStandardError("Enclave: \(violation)\n")
    Registry.refresh()  // the last update of the page
    Registry.wipeNow()
    ProcessFacts.abort()
  }
}
