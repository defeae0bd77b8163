// An arena in a snapshot.

package struct SizeRoom: Equatable, Sendable, Codable {
  /// The largest secret of this size class, in bytes.
  package var payload: Int
  package var live: Int
  package var freeSlots: Int
  /// Free slots once the headroom is used for this size alone; nil where it is not limited, or not
  /// known.
  package var freeSlotsAfterGrowth: Int?
}

package struct LockDetail: Equatable, Sendable, Codable {
  package var errno: Int32?
  package var errnoName: String?
  package var failedCall: String?
  package var bytesMissing: UInt64?
  /// Milliseconds since 1970.
  package var at: UInt64?
  package var bytesInUseThen: UInt64?
  package var limitThen: UInt64?
}

package struct ArenaSnapshot: Equatable, Sendable, Codable {
  package var id: UInt64
  package var name: SafeText
  package var layout: String?
  package var gate: String?
  /// How many other arenas that are listed are under the same protection key; nil without one.
  package var keySharedWith: UInt64?
  package var backing: String?
  package var lockPolicy: String?
  package var lockState: String?
  package var lock = LockDetail()
  package var protectionState: String?
  package var openWindows: UInt64?
  package var sealState: String?
  package var forkProtection: String?
  package var dumpProtection: String?
  package var secretCount: UInt64?
  package var bytesInUse: UInt64?
  package var bytesLocked: UInt64?
  package var bytesMapped: UInt64?
  package var chunkCount: UInt64?
  package var mapsUsed: UInt64?
  /// Pages of slabs that are mappings of their own, and of chunks in one piece; nil but under a page
  /// gate, and where an older library does not tell.
  package var separatePages: UInt64?
  package var mergedPages: UInt64?
  package var guardPages: UInt64?
  package var allocations: UInt64?
  package var frees: UInt64?
  package var opens: UInt64?
  package var opensForWriting: UInt64?
  package var failedAllocations: UInt64?
  package var failedLocks: UInt64?
  package var failedOpens: UInt64?
  package var peakSecretCount: UInt64?
  package var peakBytesInUse: UInt64?
  package var peakBytesLocked: UInt64?
  package var nextChunkBytes: UInt64?
  package var capacityBytes: UInt64?
  package var createdAt: UInt64?
  package var stuckOpenPages: UInt64?
  package var corruptions: UInt64?
  package var longestOpenMs: UInt64?
  /// Windows are open, and none was opened since then (ms since 1970); nil: none open, or not known.
  package var openSince: UInt64?
  package var encryptedCount: UInt64?
  package var unlistedSecrets: UInt64?
  package var sizes: [SizeRoom] = []
  package var chunks: [ChunkSnapshot] = []
  package var labels: [LabelSnapshot] = []
}
