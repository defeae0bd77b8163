// A vault's counts for the stats page. The publishing side knows nothing about ciphers.

import EnclaveStats

/// A vault's current counts.
package struct VaultReport: Sendable {
  package enum Algorithm: UInt64, Sendable {
    case aes256gcm = 1
    case xchacha20poly1305 = 2
  }

  package var cipher: Algorithm
  package var epoch: UInt64
  package var entries: Int
  package var bytes: Int
  package var entriesOfOldEpoch: Int
  package var encryptions: UInt64
  package var decryptions: UInt64
  package var failures: UInt64
  package var rotations: UInt64
  package var failedRotations: UInt64
  package var lastRotatedAtMs: UInt64?
  package var streams: Int
  package var streamChunks: Int
  package var streamBytes: Int

  package init(
    cipher: Algorithm, epoch: UInt64, entries: Int, bytes: Int, entriesOfOldEpoch: Int,
    encryptions: UInt64, decryptions: UInt64, failures: UInt64, rotations: UInt64,
    failedRotations: UInt64, lastRotatedAtMs: UInt64?, streams: Int, streamChunks: Int,
    streamBytes: Int
  ) {
    self.cipher = cipher
    self.epoch = epoch
    self.entries = entries
    self.bytes = bytes
    self.entriesOfOldEpoch = entriesOfOldEpoch
    self.encryptions = encryptions
    self.decryptions = decryptions
    self.failures = failures
    self.rotations = rotations
    self.failedRotations = failedRotations
    self.lastRotatedAtMs = lastRotatedAtMs
    self.streams = streams
    self.streamChunks = streamChunks
    self.streamBytes = streamBytes
  }
}

/// A vault, as the registry sees it. The registry calls it, and may release its last reference,
/// under the registry's lock. So it may take only locks that nobody holds while calling the
/// registry, and it must not own an arena, whose release would take the registry's lock again.
package protocol ReportingVault: AnyObject, Sendable {
  /// The id of the arena that holds its keys.
  var arenaID: UInt64 { get }
  var report: VaultReport { get }
}

/// A registered vault. The registry keeps no vault alive.
struct KnownVault {
  weak var vault: (any ReportingVault)?
}

extension Registry {
  /// Publishes a vault for as long as it lives.
  package static func add(_ vault: any ReportingVault) {
    with { state in
      state.vaults.removeAll { $0.vault == nil }
      state.vaults.append(KnownVault(vault: vault))
    }
  }

  /// Publishes the event that a vault has a new key.
  package static func rotated(_ vault: any ReportingVault) {
    with { state in
      state.publication?.file.writer.event(.vaultRotated, arena: vault.arenaID)
    }
  }

  /// Publishes the vaults' records. Returns how many vaults have none.
  static func writeVaults(_ state: inout State, _ writer: StatsPageWriter) -> UInt64 {
    let vaults = state.vaults.compactMap { $0.vault }
    let table = writer.table(VaultWord.self)
    let capacity = writer.layout.capacity(.vaults)
    for index in 0..<max(min(vaults.count, capacity), min(state.listedVaults, capacity)) {
      let record = table[index]
      guard index < vaults.count else {
        record.clear(words: VaultWord.allCases.count)
        continue
      }
      let report = vaults[index].report
      record.begin()
      record.set(.arenaID, vaults[index].arenaID)
      record.set(.cipher, report.cipher.rawValue)
      record.set(.epoch, report.epoch)
      record.set(.entries, UInt64(report.entries))
      record.set(.bytes, UInt64(report.bytes))
      record.set(.entriesOfOldEpoch, UInt64(report.entriesOfOldEpoch))
      record.set(.encryptions, report.encryptions)
      record.set(.decryptions, report.decryptions)
      record.set(.failures, report.failures)
      record.set(.rotations, report.rotations)
      record.set(.lastRotatedAtMs, report.lastRotatedAtMs ?? StatsPageFormat.unknown)
      record.set(.failedRotations, report.failedRotations)
      record.set(.streams, UInt64(report.streams))
      record.set(.streamChunks, UInt64(report.streamChunks))
      record.set(.streamBytes, UInt64(report.streamBytes))
      record.end()
    }
    state.listedVaults = min(vaults.count, capacity)
    return UInt64(max(0, vaults.count - capacity))
  }
}
