// A vault's entries and statistics: everything but the keys.

#if Sodium
  import Enclave

  /// The entries of a vault, guarded by its lock, and the values that are published about it. It is
  /// separate from the vault because the publishing thread may hold the last reference:
  /// deinitialising a store takes no locks.
  @safe
  final class EntryStore: ReportingVault {
    let arenaID: UInt64
    private let cipher: Vault.Cipher
    nonisolated(unsafe) private let core: UnsafeMutablePointer<Core>
    /// The lock word, separate from the data it protects, so that accesses to the two never
    /// overlap.
    nonisolated(unsafe) private let word: UnsafeMutablePointer<UInt32>
    /// A futex word that counts, under the lock, the changes for which a sleeping rotation must
    /// wake.
    nonisolated(unsafe) private let changeCount: UnsafeMutablePointer<UInt32>

    /// The threads that use a key outside the lock.
    struct KeyUsers {
      /// Encryptions whose entries are not listed yet.
      var encrypting = 0
      var decrypting = 0
    }

    struct Core {
      var keyIndex = 0
      var epoch: UInt64 = 1
      var nextNumber: UInt64 = 1
      var nonceLimit: UInt64 = Vault.messagesPerKey
      var lists = (EntryList(), EntryList())
      var users = (KeyUsers(), KeyUsers())
      /// A rotation is sleeping until the users of a key have finished.
      var isAwaited = false
      var statistics = Vault.Statistics()
      var lastRotatedAtMs: UInt64?
    }

    init(cipher: Vault.Cipher, arenaID: UInt64, nonceLimit: UInt64) {
      self.cipher = cipher
      self.arenaID = arenaID
      unsafe core = .allocate(capacity: 1)
      unsafe core.initialize(to: Core())
      unsafe core.pointee.nonceLimit = nonceLimit
      unsafe word = .allocate(capacity: 1)
      unsafe word.initialize(to: 0)
      unsafe changeCount = .allocate(capacity: 1)
      unsafe changeCount.initialize(to: 0)
    }

    deinit {
      // Entries retain their vault, so none are left.
      unsafe core.deallocate()
      unsafe word.deallocate()
      unsafe changeCount.deallocate()
    }

    /// The body must be short: no cipher, no allocation, no system call. Other threads spin.
    func withCore<R>(_ body: (inout Core) -> R) -> R {
      unsafe lock(word)
      defer { unsafe unlock(word) }
      return unsafe body(&core.pointee)
    }

    /// Sleeps until a condition holds. It is checked again each time a user of a key has finished.
    func wait(until condition: (Core) -> Bool) {
      while true {
        let seen = withCore { core -> UInt32? in
          if condition(core) { return nil }
          core.isAwaited = true
          return unsafe changeCount.pointee
        }
        guard let seen else { return }
        unsafe sleep(while: changeCount, is: seen)
      }
    }

    /// Records, under the lock, that a user of a key has finished. Returns true if the caller must
    /// call `wake()` after releasing the lock.
    func recordChange(_ core: inout Core) -> Bool {
      guard core.isAwaited else { return false }
      core.isAwaited = false
      unsafe changeCount.pointee &+= 1
      return true
    }

    func wake() { unsafe EnclaveSystem.wake(changeCount) }

    var statistics: Vault.Statistics {
      withCore { core in
        var statistics = core.statistics
        statistics.entriesOfOldEpoch = core[list: core.keyIndex ^ 1].count
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

  extension EntryStore.Core {
    subscript(list keyIndex: Int) -> EntryList {
      get { keyIndex == 0 ? lists.0 : lists.1 }
      set { if keyIndex == 0 { lists.0 = newValue } else { lists.1 = newValue } }
    }

    subscript(users keyIndex: Int) -> EntryStore.KeyUsers {
      get { keyIndex == 0 ? users.0 : users.1 }
      set { if keyIndex == 0 { users.0 = newValue } else { users.1 = newValue } }
    }

    mutating func append(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe self[list: Int(entry.pointee.current.pointee.keyIndex)].append(entry)
      unsafe count(entry, by: 1)
    }

    mutating func remove(_ entry: UnsafeMutablePointer<Entry>) {
      unsafe self[list: Int(entry.pointee.current.pointee.keyIndex)].remove(entry)
      unsafe count(entry, by: -1)
    }

    /// Registers a reader; the ciphertext stays valid until `endDecryption`.
    mutating func beginDecryption(
      _ entry: UnsafeMutablePointer<Entry>
    ) -> UnsafeMutablePointer<Ciphertext> {
      let ciphertext = unsafe entry.pointee.current
      unsafe ciphertext.pointee.readers += 1
      unsafe self[users: Int(ciphertext.pointee.keyIndex)].decrypting += 1
      return unsafe ciphertext
    }

    /// Returns true if the caller must free the ciphertext.
    mutating func endDecryption(_ ciphertext: UnsafeMutablePointer<Ciphertext>) -> Bool {
      unsafe ciphertext.pointee.readers -= 1
      unsafe self[users: Int(ciphertext.pointee.keyIndex)].decrypting -= 1
      return unsafe ciphertext.pointee.isSuperseded && ciphertext.pointee.readers == 0
    }

    /// Replaces an entry's ciphertext and moves the entry to the list of the new key. Returns true
    /// if the caller must free the old one.
    mutating func replace(
      _ entry: UnsafeMutablePointer<Entry>, with ciphertext: UnsafeMutablePointer<Ciphertext>
    ) -> Bool {
      let old = unsafe entry.pointee.current
      unsafe self[list: Int(old.pointee.keyIndex)].remove(entry)
      unsafe entry.pointee.current = unsafe ciphertext
      unsafe self[list: Int(ciphertext.pointee.keyIndex)].append(entry)
      unsafe old.pointee.isSuperseded = true
      return unsafe old.pointee.readers == 0
    }

    private mutating func count(_ entry: UnsafeMutablePointer<Entry>, by change: Int) {
      let bytes = unsafe change * entry.pointee.byteCount
      if unsafe entry.pointee.chunk.isOfStream {
        statistics.streamChunks += change
        statistics.streamBytes += bytes
      } else {
        statistics.entries += change
        statistics.bytes += bytes
      }
    }
  }
#endif
