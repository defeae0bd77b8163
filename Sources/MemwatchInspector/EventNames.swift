// The names of events.

import EnclaveStats

extension EventSnapshot {
  /// The kinds that this version knows; any other is a question mark and a number.
  package static let kinds = EventCode.allCases.map(\.name)
}

extension EventCode {
  var name: String {
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
