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
  /// Its index in its arena, which secrets refer to.
  package var index: UInt64 = 0
  /// The ages of its secrets, in records, which hold no individual secrets.
  package var ages: SecretAges?
}

extension LabelSnapshot {
  /// The program gave the label; otherwise it is the call site of the allocation.
  package var isGiven: Bool { origin == .label }
}

/// Ages over the listed secrets of a label. `.max` means none.
package struct SecretAges: Equatable, Sendable {
  package var listed: UInt64 = 0
  package var oldest = Timestamp.max
  /// When the longest-idle secret was last opened, or allocated if never opened.
  package var leastRecent = Timestamp.max
  /// When the longest-open secret was opened.
  package var openSince = Timestamp.max
  /// Secrets allocated before the mark and never opened.
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

/// Encoded as a list.
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
