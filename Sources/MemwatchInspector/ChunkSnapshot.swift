// A chunk in a snapshot, and the contents of its pages.

package import EnclaveStats

package struct ChunkSnapshot: Equatable, Sendable, Codable {
  package var address: UInt64?
  package var dataBytes: ByteCount?
  package var guardBytes: ByteCount?
  package var lockState: Reported<LockStateCode>?
  package var errno: Int32?
  package var kind: Reported<LayoutCode>?
  /// Its pages in order; nil: unknown or not requested.
  package var pages: [PagesSnapshot]?
}

extension ChunkSnapshot {
  package var isLocked: Bool { lockState == .locked }
  package var isLockOff: Bool { lockState == .off }
  package var isUnlocked: Bool { lockState == .unlocked }

  /// nil if the pages are unknown.
  package var pageCounts: PageCounts? { pages.map { PageCounts($0) } }
}

/// Totals over some pages.
package struct PageCounts: Equatable, Sendable {
  /// Pages that hold secrets, that have open windows and that could not be closed; and the secrets.
  package var holding: UInt64
  package var open: UInt64
  package var stuck: UInt64
  package var secrets: UInt64

  package init(_ pages: [PagesSnapshot]) {
    func count(_ isCounted: (PagesSnapshot) -> Bool) -> UInt64 {
      saturatingSum(pages.filter(isCounted).map { UInt64($0.count) })
    }
    holding = count { $0.live > 0 }
    open = count { $0.isOpen && !$0.isStuck }
    stuck = count(\.isStuck)
    secrets = saturatingSum(pages.map(\.live))
  }
}

/// Pages of a chunk that are opened together, or unused pages.
package struct PagesSnapshot: Equatable, Sendable, Codable {
  /// The index in the chunk, from 0.
  package var first: Int
  package var count: Int
  package var use: Use
  /// The size and number of slots; nil if the pages are not cut into slots.
  package var payload: UInt64?
  package var slots: UInt64?
  /// Live secrets in these pages.
  package var live: UInt64
  /// A window is open here.
  package var isOpen: Bool
  /// These pages could not be closed.
  package var isStuck: Bool

  package enum Use: UInt64, Sendable, Codable {
    case unused, slots, whole
    /// The stats page holds a value that no publisher writes.
    case odd
  }

  package init(
    first: Int, count: Int, use: Use, payload: UInt64? = nil, slots: UInt64? = nil, live: UInt64,
    isOpen: Bool, isStuck: Bool
  ) {
    (self.first, self.count, self.use, self.live) = (first, count, use, live)
    (self.payload, self.slots, self.isOpen, self.isStuck) = (payload, slots, isOpen, isStuck)
  }

  /// Encoded compactly, since a chunk has many: `[first, count, use, live, 1 open + 2 stuck]`, then
  /// `payload, slots` if present.
  package func encode(to encoder: any Encoder) throws {
    var list = encoder.unkeyedContainer()
    let windows: UInt64 = (isOpen ? 1 : 0) + (isStuck ? 2 : 0)
    var numbers = [UInt64(first), UInt64(count), use.rawValue, live, windows]
    if let payload, let slots { numbers += [payload, slots] }
    for number in numbers { try list.encode(number) }
  }

  package init(from decoder: any Decoder) throws {
    var list = try decoder.unkeyedContainer()
    func number(_ range: ClosedRange<UInt64> = 0 ... .max) throws -> UInt64 {
      let number = try list.decode(UInt64.self)
      guard range.contains(number) else {
        throw DecodingError.dataCorruptedError(in: list, debugDescription: "\(number)")
      }
      return number
    }
    // No chunk is larger.
    first = Int(try number(0...1 << 40))
    count = Int(try number(1...1 << 40))
    use = Use(rawValue: try number()) ?? .odd
    live = try number()
    let windows = try number()
    (isOpen, isStuck) = (windows & 1 == 1, windows & 2 == 2)
    if !list.isAtEnd { (payload, slots) = (try number(), try number()) }
  }
}
