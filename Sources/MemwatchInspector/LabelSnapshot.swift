// Labels and secrets in a snapshot.

package import EnclaveStats

package struct LabelSnapshot: Equatable, Sendable, Codable {
  package var label: SafeText
  package var origin: Reported<OriginCode>?
  package var live: UInt64?
  package var bytes: ByteCount?
  package var allocations: UInt64?
  package var frees: UInt64?
  package var opens: UInt64?
  package var openNow: UInt64?
  package var lastOpenedAt: Timestamp?
  package var minimumSize: ByteCount?
  package var maximumSize: ByteCount?
  /// Its number in its arena, which secrets name.
  package var index: UInt64 = 0
  /// Of its secrets, where a record does not hold them one by one.
  package var ages: SecretAges?
}

extension LabelSnapshot {
  /// The program gave it; else it is the place that allocated the secret.
  package var isGiven: Bool { origin == .label }
}

/// What the secrets of a label that are listed one by one have in common. Times are milliseconds
/// since 1970; `.max` where there is none.
package struct SecretAges: Equatable, Sendable {
  package var listed: UInt64 = 0
  package var oldest = Timestamp.max
  /// Of the one that was not opened for the longest time: when that was, or when it was allocated.
  package var leastRecent = Timestamp.max
  /// When the one that is open for the longest time was opened.
  package var openSince = Timestamp.max
  /// Those that were never opened, and were allocated before the mark.
  package var neverOpened: UInt64 = 0
  package var oldestNeverOpened = Timestamp.max

  package init() {}

  package mutating func add(_ secret: SecretSnapshot, at now: Timestamp, mark: Timestamp) {
    listed += 1
    let born = secret.allocatedAt ?? now
    oldest = min(oldest, born)
    leastRecent = min(leastRecent, secret.lastOpenedAt ?? born)
    if secret.openNow > 0 { openSince = min(openSince, secret.lastOpenedAt ?? .max) }
    if secret.opens == 0, born < mark {
      neverOpened += 1
      oldestNeverOpened = min(oldestNeverOpened, born)
    }
  }
}

/// In records, a list.
extension SecretAges: Codable {
  private static let fields: [any WritableKeyPath<SecretAges, UInt64> & Sendable] = [
    \.listed, \.oldest.realMs, \.leastRecent.realMs, \.openSince.realMs, \.neverOpened,
    \.oldestNeverOpened.realMs,
  ]

  package func encode(to encoder: any Encoder) throws {
    var list = encoder.unkeyedContainer()
    for field in Self.fields { try list.encode(self[keyPath: field]) }
  }

  package init(from decoder: any Decoder) throws {
    var list = try decoder.unkeyedContainer()
    for field in Self.fields { self[keyPath: field] = try list.decode(UInt64.self) }
  }
}

package struct SecretSnapshot: Equatable, Sendable, Codable {
  package var arenaID: UInt64
  package var serial: UInt64
  package var labelIndex: UInt64
  package var byteCount: ByteCount
  package var allocatedAt: Timestamp?
  package var opens: UInt64
  package var lastOpenedAt: Timestamp?
  package var openNow: UInt64
}
