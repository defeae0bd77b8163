// The names of events.

package import EnclaveStats

extension EventSnapshot {
  /// The names of the kinds that this version knows.
  package static let kinds = EventCode.allCases.map(\.word)

  /// Whether the event reports a failure.
  package var isFailure: Bool {
    switch kind {
    case .known(let code): code.isFailure
    case .unknown: false
    }
  }
}

extension EventCode: NamedCode {
  fileprivate var isFailure: Bool {
    switch self {
    case .lockFailed, .allocationFailed, .openFailed, .closeFailed, .unmapFailed, .corruption,
      .addressesLost:
      true
    case .arenaCreated, .arenaDestroyed, .chunkMapped, .chunkUnmapped, .publishingStarted,
      .lockRestored, .arenaFrozen, .arenaSealed, .vaultRotated, .wiped:
      false
    }
  }

  package var word: String {
    switch self {
    case .arenaCreated: "arena-created"
    case .arenaDestroyed: "arena-destroyed"
    case .chunkMapped: "chunk-mapped"
    case .chunkUnmapped: "chunk-unmapped"
    case .lockFailed: "lock-failed"
    case .lockRestored: "lock-restored"
    case .allocationFailed: "allocation-failed"
    case .openFailed: "open-failed"
    case .closeFailed: "close-failed"
    case .corruption: "corruption"
    case .publishingStarted: "publishing-started"
    case .addressesLost: "addresses-lost"
    case .unmapFailed: "unmap-failed"
    case .arenaFrozen: "arena-frozen"
    case .arenaSealed: "arena-sealed"
    case .vaultRotated: "vault-rotated"
    case .wiped: "wiped"
    }
  }
}
