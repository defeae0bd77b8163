// Encryption at rest: secrets that are idle for long do not lie in memory in clear.

#if Sodium
  public import Enclave
  import Synchronization

  /// A key, and the secrets that are encrypted under it.
  ///
  /// An application has as many vaults as it likes. The key, its schedule and the nonce counter lie
  /// in an arena of the vault's own, which is locked and gated and shares its protection key with
  /// other vaults at most; it is reserved when the vault is made, so that decrypting works when no
  /// more memory can be locked. Plaintext is only ever in arenas; what is encrypted is kept by the
  /// vault in ordinary memory.
  ///
  /// Encrypted secrets are bound (as associated data) to their vault, epoch, number, size and label:
  /// one that was changed, swapped with another or put back from an earlier time is `notAuthentic`.
  ///
  /// Threads: all members may be called from any thread. In a forked child every use throws
  /// `EnclaveError.inheritedByFork`: no child encrypts under a copied counter.
  @safe
  public final class Vault: Sendable {
    /// How this vault encrypts.
    public let cipher: Cipher
    package let arena: Arena
    let keys: Secret
    let id: (UInt64, UInt64)
    let store: EntryStore
    /// Held by whoever rotates; others sleep.
    let rotation = Mutex(())
    let timer = Mutex<RotationTimer?>(nil)
    #if DEBUG
      let pause = Mutex<(@Sendable () -> Void)?>(nil)
    #endif

    /// How many messages one key encrypts before the vault rotates by itself: 2^32, what NIST SP
    /// 800-38D (8.3) allows a key; counted nonces would allow more.
    public static let messagesPerKey: UInt64 = 1 << 32

    /// What a vault has done, and holds.
    public struct Statistics: Sendable, Equatable {
      public var epoch: UInt64 = 1
      public var entries = 0
      /// Plaintext bytes that are encrypted now.
      public var bytes = 0
      /// Entries that still wait to be encrypted under the newest key.
      public var entriesOfOldEpoch = 0
      public var encryptions: UInt64 = 0
      public var decryptions: UInt64 = 0
      public var failures: UInt64 = 0
      public var rotations: UInt64 = 0
      /// Rotations of `rotate(every:)` that threw.
      public var failedRotations: UInt64 = 0
      public var streams = 0
      public var streamChunks = 0
      /// Plaintext bytes of streams that are encrypted now.
      public var streamBytes = 0
    }

    /// Makes a vault with a new random key.
    ///
    /// - Parameters:
    ///   - name: how the vault's arena is shown.
    ///   - lock: what to do when its pages (one, of 4 KiB, and what `rotate()` needs) cannot be
    ///     locked.
    ///   - gate: what closes the vault's arena while nobody uses it; not `.cipher`.
    ///   - cipher: nil for the best that the processor has.
    /// - Throws: as `Arena.init` and `Arena.allocate`; `cipherUnavailable` for a cipher that the processor
    ///   does not have, and for a cipher gate.
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
      // Many threads have the keys open for writing at a time.
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

    /// Encrypts a copy of a secret, which stays as it is.
    ///
    /// - Throws: when the secret or the vault cannot be opened; `destroyed`, `inheritedByFork`.
    /// - Complexity: O(bytes). At the end of a key's life, a rotation.
    public func encrypt(_ secret: borrowing Secret) throws(EnclaveError) -> EncryptedSecret {
      let handle = secret.handle
      return unsafe EncryptedSecret(
        vault: self,
        entry: try encrypt(handle, byteCount: Int(handle.byteCount), label: secret.labelKey))
    }

    // Ciphers run outside of the vault's lock: it is held to take a nonce and to change lists.

    /// Encrypts the first bytes of a place, as a secret or as a chunk of a stream.
    func encrypt(
      _ handle: SecretHandle, byteCount: Int, label: LabelKey, chunk: ChunkPlace = .secret
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
          // Wiped meanwhile: it may be zeros that were encrypted.
          if let made = unsafe made { unsafe remove(made) }
          throw error
        }
        if let made = unsafe made { return unsafe made }
        // The key has encrypted enough.
        try rotate()
      }
    }

    /// Nil when the key has encrypted as much as one key should.
    private func encrypt(
      _ text: UnsafeRawPointer, byteCount: Int, label: LabelKey, chunk: ChunkPlace, _ keys: Keys
    ) -> UnsafeMutablePointer<Entry>? {
      let ciphertext = unsafe Ciphertext.allocate(byteCount: byteCount)
      let entry = UnsafeMutablePointer<Entry>.allocate(capacity: 1)
      let isPlaced = withCore { core -> Bool in
        let side = core.side
        guard let nonce = keys.nextNonce(side, limit: core.nonceLimit) else { return false }
        unsafe ciphertext.initialize(to: Ciphertext(side: side, epoch: core.epoch, nonce: nonce))
        unsafe entry.initialize(
          to: Entry(
            number: core.nextNumber, byteCount: byteCount, label: label, chunk: chunk,
            current: ciphertext))
        core.nextNumber += 1
        // A rotation that begins now waits until the entry is in the list.
        core[users: side].sealing += 1
        core.statistics.encryptions += 1
        return true
      }
      guard isPlaced else {
        unsafe Ciphertext.deallocate(ciphertext)
        unsafe entry.deallocate()
        return nil
      }
      unsafe seal(entry, ciphertext, text, keys)
      let isAwaited = withCore { core in
        unsafe core.append(entry)
        unsafe core[users: Int(ciphertext.pointee.side)].sealing -= 1
        return store.noteChange(&core)
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

    /// Encrypts a secret and destroys it. When this throws, the secret is as it was.
    ///
    /// - Throws: as `encrypt`; `noSecret` when there is none: it was parked already, say.
    public func park(_ secret: inout Secret?) throws(EnclaveError) -> EncryptedSecret {
      guard let taken = secret.take() else { throw .noSecret }
      let encrypted: EncryptedSecret
      do { encrypted = try encrypt(taken) } catch {
        secret = consume taken
        throw error
      }
      // Pages that cannot be opened to be wiped are counted and shown; the ciphertext is made.
      _ = try? taken.destroy()
      return encrypted
    }

    /// Decrypts into a new secret of an arena. The encrypted one stays.
    ///
    /// - Throws: `notAuthentic`, and there is no plaintext then; as `Arena.allocate`; `destroyed`,
    ///   `inheritedByFork`.
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

    /// Decrypts over the bytes of a secret of the same size: no memory is taken, so this is for what is
    /// opened again and again.
    ///
    /// - Throws: as `decrypt(_:into:)`, and the secret is zeros where its bytes were not authentic;
    ///   `invalidSize` when the sizes differ, and `frozen`.
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
          let ciphertext = unsafe withCore { unsafe $0.beginOpening(entry) }
          let isAuthentic = unsafe open(entry, ciphertext, into: address, keys)
          let (isLast, isAwaited) = withCore { core in
            if isAuthentic {
              core.statistics.decryptions += 1
            } else {
              core.statistics.failures += 1
            }
            return unsafe (core.endOpening(ciphertext), store.noteChange(&core))
          }
          if isLast { unsafe Ciphertext.deallocate(ciphertext) }
          if isAwaited { store.wake() }
          return isAuthentic
        }
      }
      guard isAuthentic else { throw .notAuthentic }
    }

    /// Whether one of the two places for keys is empty: it was wiped, or never used.
    package var isOldKeyWiped: Bool {
      (try? withKeys { keys in keys.isEmpty(withCore { $0.side ^ 1 }) }) ?? false
    }

    /// The number of the key that gates the vault's own.
    package var protectionKey: Int? { arena.statistics.protectionKey }

    // MARK: - State

    /// What the vault has done, and holds. All 0 in a forked child.
    public var statistics: Statistics {
      guard !arena.reference.isInherited else { return Statistics() }
      return store.statistics
    }

    /// Wipes the keys: nothing that the vault holds can be decrypted any more.
    ///
    /// - Throws: as `Arena.destroy`.
    public func destroy() throws(EnclaveError) { try arena.destroy(waitingUpTo: .seconds(1)) }

    /// An encrypted secret goes.
    func remove(_ entry: UnsafeMutablePointer<Entry>) {
      // In a child the lock may be held by a thread that is not there.
      guard !arena.reference.isInherited else { return }
      let isFree = withCore { core in
        unsafe core.remove(entry)
        // The rotation that moves it now frees it.
        unsafe entry.pointee.isGone = true
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

  /// A secret that a vault holds encrypted, owned by whoever holds this value. When the value goes, the
  /// ciphertext goes. It keeps its vault alive.
  ///
  /// Threads: it can be sent to another thread; decrypting while the vault rotates is fine.
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

    /// A rotation changes them.
    package var epochAndNonce: (epoch: UInt64, nonce: UInt64) {
      let entry = unsafe entry
      return vault.withCore { _ in
        unsafe (entry.pointee.current.pointee.epoch, entry.pointee.current.pointee.nonce)
      }
    }

    /// The tests' way to what else lies in ordinary memory.
    package func copyNonce(from other: borrowing EncryptedSecret) {
      unsafe entry.pointee.current.pointee.nonce = other.entry.pointee.current.pointee.nonce
    }

    /// The same for the epoch that the entry says it is of.
    package func claim(epoch: UInt64) { unsafe entry.pointee.current.pointee.epoch = epoch }

    /// The tests' way to what an attacker can change: the ciphertext and its tag.
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
    /// The size, nothing else.
    public var description: String { "EncryptedSecret(\(byteCount) bytes)" }
  }
#endif
