// The keys of two epochs, with their schedules and nonce counters. They exist only in locked, gated
// memory.

#if Sodium
  import Enclave

  /// The page with a vault's keys, while a window to it is open. It holds two keys: the current
  /// epoch's, and the previous one until its last entry has been re-encrypted.
  @safe
  struct Keys {
    let base: UnsafeMutableRawPointer

    private static let stride = AEAD.keyBytes + AEAD.scheduleBytes + 32
    static let byteCount = 2 * stride

    private func key(_ keyIndex: Int) -> UnsafeMutableRawPointer {
      unsafe base + keyIndex * Self.stride + AEAD.scheduleBytes
    }

    func schedule(_ keyIndex: Int) -> UnsafeMutableRawPointer {
      unsafe base + keyIndex * Self.stride
    }

    /// The number of messages that this key has encrypted; the nonce of the last one.
    private func counter(_ keyIndex: Int) -> UnsafeMutablePointer<UInt64> {
      unsafe (key(keyIndex) + AEAD.keyBytes).assumingMemoryBound(to: UInt64.self)
    }

    /// Makes a new random key.
    func make(_ keyIndex: Int, _ cipher: Vault.Cipher) throws(EnclaveError) {
      do { unsafe try fillRandom(key(keyIndex), byteCount: AEAD.keyBytes) } catch {
        throw .system(error)
      }
      unsafe cipher.aead.prepare(key: key(keyIndex), schedule: schedule(keyIndex))
      unsafe counter(keyIndex).pointee = 0
    }

    func destroy(_ keyIndex: Int) { unsafe wipe(schedule(keyIndex), byteCount: Self.stride) }

    func isEmpty(_ keyIndex: Int) -> Bool {
      unsafe isZero(schedule(keyIndex), byteCount: Self.stride)
    }

    /// Takes the next nonce of a key, never the same twice. Under the vault's lock. Returns nil if
    /// the key has reached its message limit.
    func nextNonce(_ keyIndex: Int, limit: UInt64) -> UInt64? {
      guard unsafe counter(keyIndex).pointee < limit else { return nil }
      unsafe counter(keyIndex).pointee += 1
      return unsafe counter(keyIndex).pointee
    }
  }
#endif
