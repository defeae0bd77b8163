// Encryption at rest for secrets that are idle for a long time.

#if Sodium
  public import Enclave
  import Synchronization

  /// A key, and the secrets encrypted under it.
  ///
  /// An application may have any number of vaults. The key, its schedule and the nonce counter are
  /// in the vault's own arena, which is locked and gated and shares its protection key only with
  /// other vaults. The memory is reserved when the vault is made, so decrypting works even when no
  /// more memory can be locked. Plaintext exists only in arenas; ciphertext is in ordinary memory.
  ///
  /// Ciphertext is bound (as associated data) to its vault, epoch, number, size and label: if it
  /// was changed, swapped with another or replaced by an older one, it is `notAuthentic`.
  ///
  /// Threads: all members may be called from any thread. In a forked child every use throws
  /// `EnclaveError.inheritedByFork`, so that no child encrypts under a copied counter.
  @safe
  public final class Vault: Sendable {
    /// The vault's cipher.
    public let cipher: Cipher
    package let arena: Arena
    let keys: Secret
    let id: (UInt64, UInt64)
    let store: EntryStore
    /// Held during a rotation; other rotations wait for it.
    let rotation = Mutex(())
    let timer = Mutex<RotationTimer?>(nil)
    #if DEBUG
      /// For tests; under the lock of the entries, because the thread sanitizer does not see that
      /// of a `Mutex`.
      nonisolated(unsafe) var pause: (@Sendable () -> Void)?
    #endif

    /// The number of messages after which the vault rotates by itself: 2^32, the limit of NIST SP
    /// 800-38D (8.3). Counted nonces would allow more.
    public static let messagesPerKey: UInt64 = 1 << 32

    /// The activity and contents of a vault. Totals count from when the vault was made.
    public struct Statistics: Sendable, Equatable {
      /// The number of keys made so far: 1, and 1 more for each rotation.
      public var epoch: UInt64 = 1
      /// Secrets that are encrypted now.
      public var entries = 0
      /// Plaintext bytes of the secrets that are encrypted now.
      public var bytes = 0
      /// Secrets and chunks of streams not yet re-encrypted under the newest key.
      public var entriesOfOldEpoch = 0
      /// Secrets and chunks of streams that were encrypted; without rotations.
      public var encryptions: UInt64 = 0
      /// Secrets and chunks of streams that were decrypted; without rotations.
      public var decryptions: UInt64 = 0
      /// Attempts to decrypt something that was not authentic; with rotations.
      public var failures: UInt64 = 0
      /// New keys made since the first.
      public var rotations: UInt64 = 0
      /// Rotations by `rotate(every:)` that failed.
      public var failedRotations: UInt64 = 0
      /// Streams that exist now, unfinished ones too.
      public var streams = 0
      /// Encrypted chunks of streams.
      public var streamChunks = 0
      /// Plaintext bytes of these chunks.
      public var streamBytes = 0
    }

    /// Makes a vault with a new random key.
    ///
    /// - Parameters:
    ///   - name: the name of the vault's arena.
    ///   - lock: the policy if its memory (one 4 KiB page, and what `rotate()` needs) cannot be
    ///     locked.
    ///   - gate: the gate of the vault's arena; not `.cipher`.
    ///   - cipher: nil for `Cipher.preferred`.
    /// - Throws: as `Arena.init` and `Arena.allocate`; `cipherUnavailable` if the processor lacks
    ///   the cipher, or for a cipher gate.
    public convenience init(
      _ name: Label, lock: Arena.Lock = .required, gate: Arena.Gate = .automatic,
      cipher: Cipher? = nil
    ) throws(EnclaveError) {
      try self.init(name, lock: lock, gate: gate, cipher: cipher, nonceLimit: Vault.messagesPerKey)
    }

    package init(
      _ name: Label, lock: Arena.Lock, gate: Arena.Gate, cipher: Cipher?, nonceLimit: UInt64
    ) throws(EnclaveError) {
      try Vault.prepareSodium()
      // A vault's keys are open for writing on several threads at once, which a cipher gate does
      // not allow.
      guard gate != .cipher else { throw .cipherUnavailable("a cipher gate for a vault's keys") }
      let chosen = cipher ?? .preferred
      guard chosen.isAvailable else { throw .cipherUnavailable(chosen.rawValue) }
      self.cipher = chosen
      arena = try Arena(vault: name, .init(layout: .isolated, lock: lock, gate: gate))
      keys = try arena.allocate(byteCount: Keys.byteCount, alignment: 64, label: "vault key")
      var id: (UInt64, UInt64) = (0, 0)
      do {
        unsafe try withUnsafeMutableBytes(of: &id) { raw throws(SystemFailure) in
          unsafe try fillRandom(raw.baseAddress!, byteCount: 16)
        }
      } catch { throw .system(error) }
      self.id = id
      store = EntryStore(cipher: chosen, arenaID: arena.reference.id, nonceLimit: nonceLimit)
      try withKeys { keys throws(EnclaveError) in try keys.make(0, chosen) }
      Registry.add(store)
    }

    // MARK: - Encrypt and decrypt

    /// Encrypts a copy of a secret, which is unchanged.
    ///
    /// - Throws: an error if the secret or the vault cannot be opened; `destroyed`,
    ///   `inheritedByFork`.
    /// - Complexity: O(bytes); includes a rotation when the key reaches its message limit.
    public func encrypt(_ secret: borrowing Secret) throws(EnclaveError) -> EncryptedSecret {
      let handle = secret.handle
      return unsafe EncryptedSecret(
        vault: self,
        entry: try encrypt(handle, byteCount: Int(handle.byteCount), label: secret.labelKey))
    }

    // Ciphers run outside the vault's lock, which is held only to take a nonce and to change lists.

    /// Encrypts the first bytes of a slot, as a secret or as a chunk of a stream.
    func encrypt(
      _ handle: SecretHandle, byteCount: Int, label: LabelKey, chunk: ChunkPosition = .secret
    ) throws(EnclaveError) -> UnsafeMutablePointer<Entry> {
      while true {
        var made: UnsafeMutablePointer<Entry>?
        do throws(EnclaveError) {
          unsafe try handle.withWindow(writing: false) { address throws(EnclaveError) in
            try withKeys { keys throws(EnclaveError) in
              unsafe made = unsafe encrypt(
                address, byteCount: byteCount, label: label, chunk: chunk, keys)
            }
          }
        } catch {
          // If the secret was wiped during the window, zeros may have been encrypted.
          if let made = unsafe made { unsafe remove(made) }
          throw error
        }
        if let made = unsafe made { return unsafe made }
        // The key has reached its message limit.
        try rotate()
      }
    }

    /// Returns nil if the key has reached its message limit.
    private func encrypt(
      _ text: UnsafeRawPointer, byteCount: Int, label: LabelKey, chunk: ChunkPosition, _ keys: Keys
    ) -> UnsafeMutablePointer<Entry>? {
      let ciphertext = unsafe Ciphertext.allocate(byteCount: byteCount)
      let entry = UnsafeMutablePointer<Entry>.allocate(capacity: 1)
      let hasNonce = withCore { core -> Bool in
        let keyIndex = core.keyIndex
        guard let nonce = keys.nextNonce(keyIndex, limit: core.nonceLimit) else { return false }
        unsafe ciphertext.initialize(
          to: Ciphertext(keyIndex: keyIndex, epoch: core.epoch, nonce: nonce))
        unsafe entry.initialize(
          to: Entry(
            number: core.nextNumber, byteCount: byteCount, label: label, chunk: chunk,
            current: ciphertext))
        core.nextNumber += 1
        // A rotation that starts now waits until the entry is listed.
        core[users: keyIndex].encrypting += 1
        core.statistics.encryptions += 1
        return true
      }
      guard hasNonce else {
        unsafe Ciphertext.deallocate(ciphertext)
        unsafe entry.deallocate()
        return nil
      }
      unsafe encryptBytes(entry, ciphertext, text, keys)
      let isAwaited = withCore { core in
        unsafe core.append(entry)
        unsafe core[users: Int(ciphertext.pointee.keyIndex)].encrypting -= 1
        return store.recordChange(&core)
      }
      if isAwaited { store.wake() }
      return unsafe entry
    }

    /// Encrypts a copy of a shared secret.
    ///
    /// - Throws: as `encrypt(_:)` of a secret.
    public func encrypt(_ secret: SecretReference) throws(EnclaveError) -> EncryptedSecret {
      try secret.withSecret { secret throws(EnclaveError) in try encrypt(secret) }
    }

    /// Encrypts a secret and destroys it. On error the secret is unchanged.
    ///
    /// - Throws: as `encrypt`; `noSecret` if it is nil, for example because it was parked already.
    public func park(_ secret: inout Secret?) throws(EnclaveError) -> EncryptedSecret {
      guard let taken = secret.take() else { throw .noSecret }
      let encrypted: EncryptedSecret
      do { encrypted = try encrypt(taken) } catch {
        secret = consume taken
        throw error
      }
      // Pages that cannot be opened for wiping are counted and published; the ciphertext is valid.
      _ = try? taken.destroy()
      return encrypted
    }

    /// Decrypts into a new secret in an arena. The encrypted secret is unchanged.
    ///
    /// - Throws: `notAuthentic`, leaving no plaintext, also for another vault's secret; as
    ///   `Arena.allocate`; `destroyed`, `inheritedByFork`.
    /// - Complexity: O(bytes).
    public func decrypt(
      _ encrypted: borrowing EncryptedSecret, into arena: Arena
    ) throws(EnclaveError) -> Secret {
      guard encrypted.vault === self else { throw .notAuthentic }
      let entry = unsafe encrypted.entry
      let secret = unsafe try arena.allocate(
        byteCount: entry.pointee.byteCount, key: entry.pointee.label)
      unsafe try decrypt(entry, into: secret.handle)
      return secret
    }

    /// Decrypts over an existing secret of the same size. Allocates nothing, so use this for
    /// secrets that are decrypted often.
    ///
    /// - Throws: as `decrypt(_:into:)`; if not authentic, the secret becomes zeros. `invalidSize`
    ///   if the sizes differ; `frozen`.
    public func decrypt(
      _ encrypted: borrowing EncryptedSecret, over secret: inout Secret
    ) throws(EnclaveError) {
      guard encrypted.vault === self else { throw .notAuthentic }
      guard encrypted.byteCount == secret.byteCount else {
        throw .invalidSize(byteCount: secret.byteCount, alignment: 1)
      }
      unsafe try decrypt(encrypted.entry, into: secret.handle)
    }

    func decrypt(
      _ entry: UnsafeMutablePointer<Entry>, into handle: SecretHandle
    ) throws(EnclaveError) {
      let isAuthentic = unsafe try handle.withWindow(writing: true) {
        address throws(EnclaveError) in
        try withKeys { keys throws(EnclaveError) in
          let ciphertext = unsafe withCore { unsafe $0.beginDecryption(entry) }
          let isAuthentic = unsafe decryptBytes(entry, ciphertext, into: address, keys)
          let (mustFree, isAwaited) = withCore { core in
            if isAuthentic {
              core.statistics.decryptions += 1
            } else {
              core.statistics.failures += 1
            }
            return unsafe (core.endDecryption(ciphertext), store.recordChange(&core))
          }
          if mustFree { unsafe Ciphertext.deallocate(ciphertext) }
          if isAwaited { store.wake() }
          return isAuthentic
        }
      }
      guard isAuthentic else { throw .notAuthentic }
    }

    /// Whether the previous key was wiped, or was never made.
    package var isOldKeyWiped: Bool {
      (try? withKeys { keys in keys.isEmpty(withCore { $0.keyIndex ^ 1 }) }) ?? false
    }

    /// The protection key that gates the vault's arena.
    package var protectionKey: Int? { arena.statistics.protectionKey }

    // MARK: - State

    /// The activity and contents of the vault; in a forked child those of an empty vault. O(1).
    public var statistics: Statistics {
      guard !arena.reference.isInherited else { return Statistics() }
      return store.statistics
    }

    /// Wipes the keys: nothing in the vault can be decrypted any more. Waits up to a second for
    /// operations in progress.
    ///
    /// - Throws: as `Arena.destroy(waitingUpTo:)`.
    public func destroy() throws(EnclaveError) { try arena.destroy(waitingUpTo: .seconds(1)) }

    /// Removes an entry, and frees it unless a rotation holds it.
    func remove(_ entry: UnsafeMutablePointer<Entry>) {
      // In a child, the lock may be held by a thread that no longer exists.
      guard !arena.reference.isInherited else { return }
      let isFree = withCore { core in
        unsafe core.remove(entry)
        // The rotation that is moving the entry will free it.
        unsafe entry.pointee.isRemoved = true
        return unsafe !entry.pointee.isHeld
      }
      if isFree { unsafe Entry.deallocate(entry) }
    }

    func withKeys<R>(_ body: (Keys) throws(EnclaveError) -> R) throws(EnclaveError) -> R {
      let handle = keys.handle
      return unsafe try handle.withWindow(writing: true) { address throws(EnclaveError) in
        unsafe try body(Keys(base: address))
      }
    }

    func withCore<R>(_ body: (inout EntryStore.Core) -> R) -> R { store.withCore(body) }

    private static func prepareSodium() throws(EnclaveError) {
      guard Sodium.isReady else { throw .cipherUnavailable("libsodium") }
    }
  }

  /// A secret encrypted by a vault, uniquely owned. The ciphertext is freed with this value. It
  /// keeps its vault alive.
  ///
  /// Threads: can be sent to another thread; may be decrypted while the vault rotates.
  @safe
  public struct EncryptedSecret: ~Copyable, @unchecked Sendable {
    let vault: Vault
    let entry: UnsafeMutablePointer<Entry>

    init(vault: Vault, entry: UnsafeMutablePointer<Entry>) {
      self.vault = vault
      unsafe self.entry = unsafe entry
    }

    deinit { unsafe vault.remove(entry) }

    /// The size of the secret in bytes.
    public var byteCount: Int { unsafe entry.pointee.byteCount }

    /// For tests: the epoch and the nonce; a rotation changes both.
    package var epochAndNonce: (epoch: UInt64, nonce: UInt64) {
      let entry = unsafe entry
      return vault.withCore { _ in
        unsafe (entry.pointee.current.pointee.epoch, entry.pointee.current.pointee.nonce)
      }
    }

    /// For tests: forges the nonce, which is in ordinary memory.
    package func copyNonce(from other: borrowing EncryptedSecret) {
      unsafe entry.pointee.current.pointee.nonce = other.entry.pointee.current.pointee.nonce
    }

    /// For tests: forges the epoch.
    package func forge(epoch: UInt64) { unsafe entry.pointee.current.pointee.epoch = epoch }

    /// For tests: the ciphertext and its tag, which an attacker can change.
    package func withStorage<R>(
      _ body: (UnsafeMutableRawBufferPointer, UnsafeMutableRawPointer) -> R
    ) -> R {
      unsafe body(
        UnsafeMutableRawBufferPointer(
          start: Ciphertext.bytes(of: entry.pointee.current), count: entry.pointee.byteCount),
        &entry.pointee.current.pointee.tag)
    }
  }

  extension EncryptedSecret {
    /// Shows only the size.
    public var description: String { "EncryptedSecret(\(byteCount) bytes)" }
  }
#endif
