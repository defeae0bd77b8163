// The key of a cipher gate. Ciphertext rests in the slots; a window decrypts one secret into its thread's
// scratch memory.

import EnclaveSystem

extension AEAD {
  /// The best cipher for slots on this processor; nil without libsodium. Both candidates take a nonce of 12
  /// bytes and make a tag of 16, which is what `CipherSlot` has room for.
  static let preferredForSlots: AEAD? = {
    #if Sodium
      return [.aes256gcm, .chacha20poly1305].first { $0.isAvailable }
    #else
      return nil
    #endif
  }()
}

/// An arena's key, in a separate page that is always locked, kept out of core dumps and forked children,
/// and wiped by signals.
///
/// The page contains the key schedule, then the counters for nonces: one per group of threads, each in its
/// own cache line. A nonce is 4 bytes of shard number and 8 of that shard's counter, so none is used twice.
/// (A virtual machine that is cloned while it runs repeats them.)
@safe
struct CipherGate: BitwiseCopyable {
  private static let countersAt = 1024
  private static let shards = 32
  /// The offset of a word that is 1 once the key was destroyed for good.
  private static let endedAt = Page.size - 8
  /// How often each shard may use the key (each open window may add one more): far below what the ciphers
  /// allow.
  static let usesLimit: UInt64 = 1 << 48

  private let mapping: GuardedMapping
  private let entry: WipeEntry
  private let cipher: AEAD
  /// `AEAD.residueBytes`, at hand.
  private let residueBytes: Int

  /// The associated data of a ciphertext, which binds it to its place and to this allocation. (Every arena
  /// has a key of its own.) 16 bytes are one block of GHASH; with 24, which are two, libsodium took 16 % longer
  /// for a secret of 32 bytes.
  struct CiphertextBinding: BitwiseCopyable {
    /// The address; the size and the generation.
    let words: SIMD2<UInt64>

    @inline(__always)
    init(address: UInt64, byteCount: UInt32, generation: UInt32) {
      words = SIMD2(address, UInt64(byteCount) | UInt64(generation) << 32)
    }
  }

  init(_ cipher: AEAD, gate: GateState) throws(SystemFailure) {
    precondition(cipher.nonceBytes == 12)
    try ScratchMemory.prepare()
    let mapping = try GuardedMapping(byteCount: Page.size)
    do throws(SystemFailure) {
      try mapping.excludeFromDumps()
      try mapping.optOutOfPageMerging()
      _ = try mapping.protectFromFork()
      do throws(SystemFailure) { try mapping.lock() } catch {
        // Spare memory may make room.
        guard Registry.trimAll() else { throw error }
        try mapping.lock()
      }
      // Before the first byte of the key is written.
      entry = unsafe try WipeEntry(data: mapping.data, gate: gate)
      entry.setUsed(Page.size)
    } catch {
      _ = try? mapping.unmap()
      throw error
    }
    self.mapping = mapping
    self.cipher = cipher
    residueBytes = cipher.residueBytes
    ScratchMemory.addKeyBytes(byteCount: mapping.byteCount)
    do throws(SystemFailure) {
      let key = unsafe mapping.data + Self.countersAt
      unsafe try fillRandom(key, byteCount: AEAD.keyBytes)
      unsafe expand(key)
      unsafe wipe(key, byteCount: AEAD.keyBytes)
    } catch {
      free()
      throw error
    }
  }

  /// Wipes the key, so that nothing encrypted under it can be decrypted.
  func destroyKey() { unsafe wipe(mapping.data, byteCount: Self.endedAt) }

  /// Wipes the key for good and unlocks its page.
  func destroyKeyForGood() {
    destroyKey()
    let ended = unsafe mapping.data + Self.endedAt
    guard unsafe loadRelaxed(ended) == 0 else { return }
    unsafe storeRelaxed(1, at: ended)
    _ = try? mapping.unlock()
    ScratchMemory.addKeyBytes(byteCount: -mapping.byteCount)
  }

  /// Frees the page. No window may be open.
  func free() {
    destroyKeyForGood()
    entry.remove()
    _ = try? mapping.unmap()
  }

  private func counter(_ shard: Int) -> UnsafeMutablePointer<UInt64> {
    unsafe (mapping.data + Self.countersAt + shard * 64).assumingMemoryBound(to: UInt64.self)
  }

  private var shard: Int { GateState.thread & (Self.shards - 1) }

  /// Whether this thread has unused nonces.
  var hasNonces: Bool { unsafe loadRelaxed(counter(shard)) < Self.usesLimit }

  /// For tests: uses up this thread's nonces.
  func useUpNonces() { unsafe storeRelaxed(Self.usesLimit, at: counter(shard)) }

  // MARK: - Encryption

  #if Sodium
    private func expand(_ key: UnsafeMutableRawPointer) {
      unsafe cipher.prepare(key: key, schedule: mapping.data)
    }

    /// Encrypts bytes in place, under a nonce that is never used again.
    func encrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ binding: CiphertextBinding
    ) -> CipherSlot.NonceAndTag {
      let shard = self.shard
      var result = unsafe CipherSlot.NonceAndTag(
        shard: UInt32(shard), counter: nextCounter(counter(shard)))
      var tag = SIMD2<UInt64>()
      unsafe withUnsafeMutableBytes(of: &tag) { tag in
        unsafe Self.withBytes(result, binding) { nonce, _, associated in
          unsafe cipher.encryptLeavingResidue(
            bytes, byteCount: byteCount, into: bytes, tag: tag.baseAddress.unsafelyUnwrapped,
            nonce: nonce, associated: associated, schedule: mapping.data)
        }
      }
      clearResidue(stackBytes: residueBytes)
      result.tag = tag
      return result
    }

    /// Decrypts bytes in place. If they are not what was encrypted, returns false and writes zeros.
    @inline(__always)
    func decrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ nonceAndTag: CipherSlot.NonceAndTag,
      _ binding: CiphertextBinding
    ) -> Bool {
      let isAuthentic = unsafe Self.withBytes(nonceAndTag, binding) { nonce, tag, associated in
        unsafe cipher.decryptLeavingResidue(
          bytes, byteCount: byteCount, into: bytes, tag: tag, nonce: nonce,
          associated: associated, schedule: mapping.data)
      }
      clearResidue(stackBytes: residueBytes)
      return isAuthentic
    }

    @inline(__always)
    private static func withBytes<R>(
      _ nonceAndTag: CipherSlot.NonceAndTag, _ binding: CiphertextBinding,
      _ body: (
        _ nonce: UnsafeRawPointer, _ tag: UnsafeRawPointer, _ associated: UnsafeRawBufferPointer
      ) -> R
    ) -> R {
      unsafe withUnsafeBytes(of: nonceAndTag.nonceAndState) { nonce in
        unsafe withUnsafeBytes(of: nonceAndTag.tag) { tag in
          unsafe withUnsafeBytes(of: binding.words) { associated in
            unsafe body(
              nonce.baseAddress.unsafelyUnwrapped, tag.baseAddress.unsafelyUnwrapped, associated)
          }
        }
      }
    }
  #else
    // Without libsodium no arena has a cipher gate: `Registry.mechanism` throws.
    private func expand(_ key: UnsafeMutableRawPointer) {}
    func encrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ binding: CiphertextBinding
    ) -> CipherSlot.NonceAndTag { CipherSlot.NonceAndTag(shard: 0, counter: 0) }
    func decrypt(
      _ bytes: UnsafeMutableRawPointer, byteCount: Int, _ nonceAndTag: CipherSlot.NonceAndTag,
      _ binding: CiphertextBinding
    ) -> Bool { false }
  #endif
}
