// The format of the stats page: the positions of its parts, and the word numbers of its records.
// The codes, the tables, the page map and the fields' declarations are in files next to this one.
// PageFormat.md documents the format for readers in other languages; a test compares it with these
// enumerations.
//
//   0      header      written before the page has a name, then never changed
//   1024   process     one record, rewritten by the ticker
//   1536   calls       one record per system call, by its number
//   4096   stamps      one word per block of 64 records of the tables marked (s)
//   …      arenas (s), labels (s), chunks (s), secrets (s), events, vaults, maps (s)
//
// Words are 8 bytes, little-endian. A record starts with its sequence: odd while the record is
// being written, and increased by two by each update. The page contains no offsets or pointers: all
// positions follow from the capacities in the header.

internal import EnclaveSystem

package enum StatsPageFormat {
  /// "ENCLAVE" and 1, as a little-endian word; written last.
  package static let magic: UInt64 = 0x01_45_56_41_4c_43_4e_45
  package static let major: UInt64 = 1
  package static let minor: UInt64 = 0

  /// "Unknown", in any numeric word.
  package static let unknown = UInt64.max
  /// "No limit", in a word that holds a limit.
  package static let unlimited = UInt64.max - 1

  package static let headerBytes = 1024
  package static let processOffset = 1024
  package static let processBytes = 512
  package static let callsOffset = 1536
  package static let callCapacity = 64
  package static let stampsOffset = 4096
  package static let blockRecords = 64
  package static let textBytes = 64
  package static let sizeClassCount = 16
  /// The maximum size of a page; readers refuse larger ones.
  package static let maximumBytes = 1 << 30
}

/// The words of one kind of record. Their numbers are here, their declarations in
/// StatsPageFields+….swift.
package protocol RecordWord: RawRepresentable, SendableMetatype where RawValue == Int {
  /// The record's name in PageFormat.md.
  static var record: String { get }
  var field: StatsPageField { get }
}
/// The words of a record in a table.
package protocol TableWord: RecordWord {
  static var table: StatsPageTable { get }
}

/// Word numbers of the header.
package enum HeaderWord: Int, CaseIterable, RecordWord {
  case magic = 0
  case version = 1
  case byteCount = 2
  case publisherID = 3
  case pid = 4
  case startTime = 5
  case bootID = 6
  case uid = 7
  case createdBootMs = 8
  case createdRealMs = 9
  case tickMs = 10
  case pageBytes = 11
  case arenaCapacity = 16
  case labelCapacity = 17
  case chunkCapacity = 18
  case secretCapacity = 19
  case eventCapacity = 20
  case vaultCapacity = 21
  case mapCapacity = 22
  case arenaBytes = 24
  case labelBytes = 25
  case chunkBytes = 26
  case secretBytes = 27
  case eventBytes = 28
  case vaultBytes = 29
  case mapBytes = 30
  case callBytes = 31
  case nameLength = 32
  case name = 40
  case sizeClasses = 64
}

package enum ProcessWord: Int, CaseIterable, RecordWord {
  case sequence = 0
  case state = 1
  case heartbeatBootMs = 2
  case heartbeatRealMs = 3
  case memlockSoft = 4
  case memlockHard = 5
  case lockedBytes = 6
  case arenas = 7
  case arenasUnlisted = 8
  case labelsUnlisted = 9
  case chunksUnlisted = 10
  case events = 11
  case addresses = 12
  case dumpable = 13
  case emergencyWipe = 14
  case arenasDestroyed = 15
  case retiredMappings = 16
  case retiredBytes = 17
  case vaultsUnlisted = 18
  case endedBySignal = 19
  case scratchBytes = 20
}

package enum CallWord: Int, CaseIterable, RecordWord {
  case sequence = 0
  case count = 1
  case failures = 2
  case lastErrno = 3
}

package enum ArenaWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .arenas }
  case sequence = 0
  case id = 1
  case state = 2
  case layout = 3
  case gate = 4
  case keyNumber = 5
  case backing = 6
  case lockPolicy = 7
  case lockState = 8
  case lockErrno = 9
  case lockFailedCall = 10
  case lockBytesMissing = 11
  case lockFailedAtMs = 12
  case lockBytesInUse = 13
  case protectionState = 14
  case openWindows = 15
  case sealState = 16
  case forkProtection = 17
  case dumpProtection = 18
  case secretCount = 19
  case bytesInUse = 20
  case bytesLocked = 21
  case bytesMapped = 22
  case chunkCount = 23
  case mapsUsed = 24
  case guardPages = 25
  case allocations = 26
  case frees = 27
  case opens = 28
  case opensForWriting = 29
  case failedAllocations = 30
  case failedLocks = 31
  case failedOpens = 32
  case peakSecretCount = 33
  case peakBytesInUse = 34
  case peakBytesLocked = 35
  case nextChunkBytes = 36
  case capacityBytes = 37
  case createdAtMs = 38
  case stuckOpenPages = 39
  case corruptions = 40
  case longestOpenMs = 41
  case unlistedSecrets = 42
  case encryptedCount = 43
  case openSinceMs = 44
  case nameLength = 45
  case name = 46
  case lockLimitSoft = 54
  case separatePages = 55
  case mergedPages = 56
  case idleBytes = 57
  case abandonedWindows = 58
  case sizeClasses = 64
}

package enum LabelWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .labels }
  case sequence = 0
  case arenaID = 1
  case index = 2
  case live = 3
  case bytes = 4
  case allocations = 5
  case frees = 6
  case opens = 7
  case openNow = 8
  case lastOpenedAtMs = 9
  case minimumSize = 10
  case maximumSize = 11
  case line = 12
  case origin = 13
  case createdAtMs = 14
  case textLength = 15
  case text = 16
}

package enum ChunkWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .chunks }
  case sequence = 0
  case arenaID = 1
  case address = 2
  case dataBytes = 3
  case guardBytes = 4
  case lockState = 5
  case lockErrno = 6
  case kind = 7
}

package enum SecretWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .secrets }
  case sequence = 0
  case owner = 1
  case serial = 2
  case size = 3
  case allocatedAtMs = 4
  case opens = 5
  case lastOpenedAtMs = 6
  case openNow = 7
}

package enum EventWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .events }
  case sequence = 0
  case serial = 1
  case kind = 2
  case arenaID = 3
  case atMs = 4
  case call = 5
  case errno = 6
  case bytes = 7
}

package enum VaultWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .vaults }
  case sequence = 0
  case arenaID = 1
  case cipher = 2
  case epoch = 3
  case entries = 4
  case bytes = 5
  case entriesOfOldEpoch = 6
  case encryptions = 7
  case decryptions = 8
  case failures = 9
  case rotations = 10
  case lastRotatedAtMs = 11
  case failedRotations = 12
  case streams = 13
  case streamChunks = 14
  case streamBytes = 15
}

/// The contents of a chunk's pages: map record N belongs to chunk record N.
package enum MapWord: Int, CaseIterable, TableWord {
  package static var table: StatsPageTable { .maps }
  case sequence = 0
  case arenaID = 1
  case pages = 2
}
