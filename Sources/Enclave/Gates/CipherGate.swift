// A cipher gate's key, and what is done with it: ciphertext rests in the slots, and a window decrypts one
// secret into scratch memory of its thread.

import EnclaveSystem

#if Sodium
  internal import CEnclaveSodium
#endif

/// How secrets rest: both take a nonce of 12 bytes and make a tag of 16.
enum SlotCipher: Sendable {
  /// AES-256-GCM (NIST SP 800-38D).
  case aes256gcm
  /// ChaCha20-Poly1305 (RFC 8439).
  case chacha20poly1305

  /// The best that this processor has; nil without libsodium.
  static let preferred: SlotCipher? = {
    #if Sodium
      guard Sodium.isReady else { return nil }
      return crypto_aead_aes256gcm_is_available() != 0 ? .aes256gcm : .chacha20poly1305
    #else
      return nil
    #endif
  }()
}

#if Sodium
  /// libsodium chooses its implementations once; any thread.
  package enum Sodium {
    package static let isReady = sodium_init() >= 0
  }
#endif

/// An arena's key, in a page of its own that is always locked, kept out of core dumps and forked
/// children, and wiped by signals.
///
/// The page: the key's schedule, then the counters that nonces are made of, one for some threads each, in
/// a cache line of its own. A nonce is 4 bytes of shard and 8 of its counter, so none comes twice; a
/// virtual machine that is copied while it runs repeats them.
@safe
struct CipherGate: BitwiseCopyable {
  private static let keyBytes = 32
  private static let countersAt = 1024
  private static let shards = 32
  /// A word that is 1 once the key is gone for good.
  private static let endedAt = Page.size - 8
  /// So often may the key be used (a window that is open adds one more each): far below what the
  /// ciphers allow.
  static let mostUses: UInt64 = 1 << 48

  private let mapping: GuardedMapping
  private let entry: WipeEntry
  private let cipher: SlotCipher

  /// What a ciphertext is bound to, beside its key and nonce.
  struct CiphertextBinding: BitwiseCopyable {
    var arena: UInt64
    var address: UInt64
    var byteCount: UInt32
    var generation: UInt32
  }

  init(_ cipher: SlotCipher, gate: GateState) throws(SystemFailure) {
    try ScratchMemory.prepare()
    let mapping = try GuardedMapping(byteCount: Page.size)
    do throws(SystemFailure) {
      try mapping.excludeFromDumps()
      try mapping.keepToItself()
      _ = try mapping.keepFromFork()
      try mapping.lock()
      // Before the first byte of a key.
      entry = unsafe try WipeEntry(data: mapping.data, gate: gate)
      entry.use(Page.size)
    } catch {
      _ = try? mapping.unmap()
      throw error
    }
    self.mapping = mapping
    self.cipher = cipher
    ScratchMemory.noteKey(byteCount: mapping.byteCount)
    do throws(SystemFailure) {
      let key = unsafe mapping.data + Self.countersAt
      unsafe try fillRandom(key, byteCount: Self.keyBytes)
      unsafe expand(key)
      unsafe wipe(key, byteCount: Self.keyBytes)
      clearResidue()
    } catch {
      free()
      throw error
    }
  }

  /// Without the key, what is encrypted is nobody's any more.
  func destroyKey() { unsafe wipe(mapping.data, byteCount: Self.endedAt) }

  /// The same, for good: the page need not be locked any more.
  func endKey() {
    destroyKey()
    let ended = unsafe mapping.data + Self.endedAt
    guard unsafe loadRelaxed(ended) == 0 else { return }
    unsafe storeRelaxed(1, at: ended)
    _ = try? mapping.unlock()
    ScratchMemory.noteKey(byteCount: -mapping.byteCount)
  }

  /// No window is open.
  func free() {
    endKey()
    entry.remove()
    _ = try? mapping.unmap()
  }

  private func counter(_ shard: Int) -> UnsafeMutablePointer<UInt64> {
    unsafe (mapping.data + Self.countersAt + shard * 64).assumingMemoryBound(to: UInt64.self)
  }

  private var shard: Int { GateState.thread & (Self.shards - 1) }

  /// Whether there are nonces for this thread.
  var hasNonces: Bool { unsafe loadRelaxed(counter(shard)) < Self.mostUses }

  /// For tests: as if the key had been used so often by this thread.
  func useUp() { unsafe storeRelaxed(Self.mostUses, at: counter(shard)) }

  // MARK: - The ciphers

  #if Sodium
    private func expand(_ key: UnsafeMutableRawPointer) {
      let key = unsafe key.assumingMemoryBound(to: UInt8.self)
      switch cipher {
      case .aes256gcm: unsafe crypto_aead_aes256gcm_beforenm(state, key)
      case .chacha20poly1305: unsafe mapping.data.copyMemory(from: key, byteCount: Self.keyBytes)
      }
    }

    private var state: UnsafeMutablePointer<crypto_aead_aes256gcm_state> {
      unsafe mapping.data.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self)
    }

    /// Encrypts bytes where they lie, under a nonce that no other has.
    func encrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ binding: CiphertextBinding
    ) -> CipherSlot.Known {
      var known = CipherSlot.Known()
      let shard = self.shard
      known.shard = UInt32(shard)
      known.counter = unsafe nextCounter(counter(shard))
      let text = unsafe bytes.assumingMemoryBound(to: UInt8.self)
      let size = UInt64(byteCount)
      var tag: (UInt64, UInt64) = (0, 0)
      unsafe Self.withBytes(known, binding) { nonce, associated, associatedCount in
        unsafe withUnsafeMutableBytes(of: &tag) { tag in
          let tag = unsafe tag.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self)
          switch cipher {
          case .aes256gcm:
            unsafe crypto_aead_aes256gcm_encrypt_detached_afternm(
              text, tag, nil, text, size, associated, associatedCount, nil, nonce, state)
          case .chacha20poly1305:
            unsafe crypto_aead_chacha20poly1305_ietf_encrypt_detached(
              text, tag, nil, text, size, associated, associatedCount, nil, nonce,
              mapping.data.assumingMemoryBound(to: UInt8.self))
          }
        }
      }
      known.tag = tag
      return known
    }

    /// Decrypts bytes where they lie; false, and zeros, when they are not what was encrypted.
    func decrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ known: CipherSlot.Known,
      _ binding: CiphertextBinding
    ) -> Bool {
      let text = unsafe bytes.assumingMemoryBound(to: UInt8.self)
      let size = UInt64(byteCount)
      let tag = known.tag
      var result: Int32 = -1
      unsafe Self.withBytes(known, binding) { nonce, associated, associatedCount in
        unsafe withUnsafeBytes(of: tag) { tag in
          let tag = unsafe tag.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self)
          switch cipher {
          case .aes256gcm:
            result = unsafe crypto_aead_aes256gcm_decrypt_detached_afternm(
              text, nil, text, size, tag, associated, associatedCount, nonce, state)
          case .chacha20poly1305:
            result = unsafe crypto_aead_chacha20poly1305_ietf_decrypt_detached(
              text, nil, text, size, tag, associated, associatedCount, nonce,
              mapping.data.assumingMemoryBound(to: UInt8.self))
          }
        }
      }
      return result == 0
    }

    @inline(__always)
    private static func withBytes(
      _ known: CipherSlot.Known, _ binding: CiphertextBinding,
      _ body: (_ nonce: UnsafePointer<UInt8>, UnsafePointer<UInt8>, UInt64) -> Void
    ) {
      var nonce: (UInt32, UInt32, UInt32) = (
        known.shard, UInt32(truncatingIfNeeded: known.counter),
        UInt32(truncatingIfNeeded: known.counter >> 32)
      )
      var binding = binding
      unsafe withUnsafeBytes(of: &nonce) { nonce in
        unsafe withUnsafeBytes(of: &binding) { associated in
          unsafe body(
            nonce.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self),
            associated.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self),
            UInt64(associated.count))
        }
      }
    }
  #else
    // Without libsodium no arena has a cipher gate: `Registry.mechanism` throws.
    private func expand(_ key: UnsafeMutableRawPointer) {}
    func encrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ binding: CiphertextBinding
    ) -> CipherSlot.Known { CipherSlot.Known() }
    func decrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ known: CipherSlot.Known,
      _ binding: CiphertextBinding
    ) -> Bool { false }
  #endif
}
