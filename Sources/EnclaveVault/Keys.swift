// What only locked, gated memory ever holds: the keys of two epochs, their schedules and their
// nonce counters.

#if Sodium
  import Enclave

  /// The page of a vault's keys, while a window to it is open. Two places for keys: the epoch's, and
  /// that of the one before, until its last entry has moved.
  @safe
  struct Keys {
    let base: UnsafeMutableRawPointer

    private static let stride = Vault.Cipher.keyBytes + Vault.Cipher.scheduleBytes + 32
    static let byteCount = 2 * stride

    private func key(_ side: Int) -> UnsafeMutableRawPointer {
      unsafe base + side * Self.stride + Vault.Cipher.scheduleBytes
    }

    func schedule(_ side: Int) -> UnsafeMutableRawPointer { unsafe base + side * Self.stride }

    /// How many messages this key has encrypted: the next one's nonce.
    private func counter(_ side: Int) -> UnsafeMutablePointer<UInt64> {
      unsafe (key(side) + Vault.Cipher.keyBytes).assumingMemoryBound(to: UInt64.self)
    }

    /// A new random key.
    func make(_ side: Int, _ cipher: Vault.Cipher) throws(EnclaveError) {
      do { unsafe try fillRandom(key(side), byteCount: Vault.Cipher.keyBytes) } catch {
        throw .system(error)
      }
      unsafe cipher.prepare(key: key(side), schedule: schedule(side))
      unsafe counter(side).pointee = 0
    }

    func destroy(_ side: Int) { unsafe wipe(schedule(side), byteCount: Self.stride) }

    func isEmpty(_ side: Int) -> Bool { unsafe isZero(schedule(side), byteCount: Self.stride) }

    /// The next nonce of a key: never the same twice. Under the vault's lock. Nil when the key has
    /// encrypted as much as one key should.
    func nextNonce(_ side: Int, limit: UInt64) -> UInt64? {
      guard unsafe counter(side).pointee < limit else { return nil }
      unsafe counter(side).pointee += 1
      return unsafe counter(side).pointee
    }
  }
#endif
