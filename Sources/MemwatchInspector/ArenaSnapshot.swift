// An arena in a snapshot.

package import EnclaveStats
package import EnclaveSystem

package struct SizeRoom: Equatable, Sendable, Codable {
  /// The largest secret of this size class, in bytes.
  package var payload: Int
  package var live: Int
  package var freeSlots: Int
  /// Free slots if all headroom went to this size; nil if unlimited or unknown.
  package var freeSlotsAfterGrowth: Int?
}

package struct LockDetail: Equatable, Sendable, Codable {
  package var errno: Int32?
  package var failedCall: Reported<SystemCall>?
  package var bytesMissing: ByteCount?
  /// Milliseconds since 1970.
  package var at: Timestamp?
  package var bytesInUseThen: ByteCount?
  package var limitThen: ByteCount?
}

package struct ArenaSnapshot: Equatable, Sendable, Codable {
  package var id: UInt64
  package var name: SafeText
  package var layout: Reported<LayoutCode>?
  package var gate: ReportedGate?
  /// The number of other listed arenas under the same protection key; nil without a key.
  package var keySharedWith: UInt64?
  package var backing: Reported<BackingCode>?
  package var lockPolicy: Reported<LockPolicyCode>?
  package var lockState: Reported<LockStateCode>?
  package var lock = LockDetail()
  package var protectionState: Reported<ProtectionCode>?
  package var openWindows: UInt64?
  /// Those of them whose threads have ended.
  package var abandonedWindows: UInt64?
  package var sealState: Reported<SealCode>?
  package var forkProtection: Reported<ForkCode>?
  package var dumpProtection: Reported<DumpCode>?
  package var secretCount: UInt64?
  package var bytesInUse: ByteCount?
  package var bytesLocked: ByteCount?
  package var bytesMapped: ByteCount?
  /// Mapped bytes in chunks that hold no secret.
  package var idleBytes: ByteCount?
  package var chunkCount: UInt64?
  package var mapsUsed: UInt64?
  /// Pages in slabs with mappings of their own, and pages in chunks of one mapping; nil except
  /// under a page gate, or if an older library does not report them.
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
  package var peakBytesInUse: ByteCount?
  package var peakBytesLocked: ByteCount?
  package var nextChunkBytes: ByteCount?
  package var capacityBytes: ByteCount?
  package var createdAt: Timestamp?
  package var stuckOpenPages: UInt64?
  package var corruptions: UInt64?
  package var longestOpenMs: UInt64?
  /// When the newest open window was opened; nil: none is open, or unknown.
  package var openSince: Timestamp?
  package var encryptedCount: UInt64?
  package var unlistedSecrets: UInt64?
  package var sizes: [SizeRoom] = []
  package var chunks: [ChunkSnapshot] = []
  package var labels: [LabelSnapshot] = []
}

extension LockDetail {
  /// `ENOMEM`.
  package var errnoName: String? { errno.map(SystemFailure.name(ofErrno:)) }
}

extension ArenaSnapshot {
  /// A lock was requested but does not cover the whole arena.
  package var isNotFullyLocked: Bool { lockState == .partial || lockState == .unlocked }
  package var isLockOff: Bool { lockState == .off }
  /// Its contents can be changed.
  package var isWritable: Bool { sealState == .open }
  /// Its contents can only be read, until it is destroyed.
  package var isFrozen: Bool { sealState == .frozen || sealState == .sealed }
  package var isSealed: Bool { sealState == .sealed }
  /// Adopted libsodium memory: born open, and closed by its program alone (sodium_mprotect_noaccess). A
  /// window there is no thread's, and its age says nothing. Only adopted arenas are inherited by fork, and
  /// only libsodium's have a page gate.
  package var isOpenByDesign: Bool { isAdopted && gate == .pages }
  /// Whether it holds the secure memory of a library that does not know Enclave, or a whole heap.
  package var isAdopted: Bool { forkProtection == .inherited }
  package var isLeftOutOfDumps: Bool { dumpProtection == .excluded }

  /// The lock states that an arena can have.
  package static let lockStates = LockStateCode.allCases.map { Reported.known($0) }
}
