// What a vault knows of its entries, and counts: all but the keys.

#if Vault
  import Enclave

  /// The entries of a vault under its lock, and what the page shows. An object of its own, which the
  /// thread that writes the page may be the last to hold: letting go of it takes no locks.
  @safe
  final class Ledger: ReportingVault {
    let arenaID: UInt64
    private let cipher: Vault.Cipher
    nonisolated(unsafe) private let core: UnsafeMutablePointer<Core>
    /// The lock, apart from what it covers: nobody's access to the one is an access to the other.
    nonisolated(unsafe) private let word: UnsafeMutablePointer<UInt32>

    struct Core {
      var side = 0
      var epoch: UInt64 = 1
      var nextNumber: UInt64 = 1
      var nonceLimit: UInt64 = Vault.messagesPerKey
      var lists = (EntryList(), EntryList())
      var statistics = Vault.Statistics()
      var lastRotatedAtMs: UInt64?
      var largest = 0
    }

    init(cipher: Vault.Cipher, arenaID: UInt64, nonceLimit: UInt64) {
      self.cipher = cipher
      self.arenaID = arenaID
      unsafe core = .allocate(capacity: 1)
      unsafe core.initialize(to: Core())
      unsafe core.pointee.nonceLimit = nonceLimit
      unsafe word = .allocate(capacity: 1)
      unsafe word.initialize(to: 0)
    }

    deinit {
      // Entries hold their vault, so there are none.
      unsafe core.deallocate()
      unsafe word.deallocate()
    }

    func withCore<R>(_ body: (inout Core) -> R) -> R {
      unsafe lock(word)
      defer { unsafe unlock(word) }
      return unsafe body(&core.pointee)
    }

    var statistics: Vault.Statistics {
      withCore { core in
        var statistics = core.statistics
        statistics.entriesOfOldEpoch = core[list: core.side ^ 1].count
        return statistics
      }
    }

    var report: VaultReport {
      let now = statistics
      return VaultReport(
        cipher: cipher == .aes256gcm ? .aes256gcm : .xchacha20poly1305, epoch: now.epoch,
        entries: now.entries, bytes: now.bytes, entriesOfOldEpoch: now.entriesOfOldEpoch,
        encryptions: now.encryptions, decryptions: now.decryptions, failures: now.failures,
        rotations: now.rotations, failedRotations: now.failedRotations,
        lastRotatedAtMs: withCore { $0.lastRotatedAtMs }, streams: now.streams,
        streamChunks: now.streamChunks, streamBytes: now.streamBytes)
    }
  }

  extension Ledger.Core {
    subscript(list side: Int) -> EntryList {
      get { side == 0 ? lists.0 : lists.1 }
      set { if side == 0 { lists.0 = newValue } else { lists.1 = newValue } }
    }

    mutating func append(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe self[list: Int(entry.pointee.side)].append(entry)
      unsafe count(entry, by: 1)
    }

    mutating func remove(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe self[list: Int(entry.pointee.side)].remove(entry)
      unsafe count(entry, by: -1)
    }

    private mutating func count(_ entry: UnsafeMutablePointer<Entry>, by one: Int) {
      let bytes = unsafe one * entry.pointee.byteCount
      if unsafe entry.pointee.chunk.isOfStream {
        statistics.streamChunks += one
        statistics.streamBytes += bytes
      } else {
        statistics.entries += one
        statistics.bytes += bytes
      }
    }
  }
#endif
