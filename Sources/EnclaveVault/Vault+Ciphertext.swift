// Encrypts and decrypts one ciphertext, with its associated data.

#if Sodium
  import Enclave

  extension Vault {
    /// Encrypts an entry's plaintext. Call it without the vault's lock: it takes time in proportion
    /// to the bytes.
    func encryptBytes(
      _ entry: UnsafeMutablePointer<Entry>, _ ciphertext: UnsafeMutablePointer<Ciphertext>,
      _ text: UnsafeRawPointer, _ keys: Keys
    ) {
      pauseBeforeCipher()
      unsafe withBinding(entry, ciphertext) { nonce, associated in
        unsafe cipher.aead.encrypt(
          text, byteCount: entry.pointee.byteCount, into: Ciphertext.bytes(of: ciphertext),
          tag: &ciphertext.pointee.tag, nonce: nonce, associated: associated,
          schedule: keys.schedule(Int(ciphertext.pointee.keyIndex)))
      }
    }

    /// Decrypts an entry, like `encryptBytes`. If the tag does not match, returns false and writes
    /// zeros.
    func decryptBytes(
      _ entry: UnsafeMutablePointer<Entry>, _ ciphertext: UnsafeMutablePointer<Ciphertext>,
      into text: UnsafeMutableRawPointer, _ keys: Keys
    ) -> Bool {
      pauseBeforeCipher()
      return unsafe withBinding(entry, ciphertext) { nonce, associated in
        var tag = unsafe ciphertext.pointee.tag
        return unsafe cipher.aead.decrypt(
          Ciphertext.bytes(of: ciphertext), byteCount: entry.pointee.byteCount, into: text,
          tag: &tag, nonce: nonce, associated: associated,
          schedule: keys.schedule(Int(ciphertext.pointee.keyIndex)))
      }
    }

    /// Calls the body with the nonce and the associated data.
    private func withBinding<R>(
      _ entry: UnsafeMutablePointer<Entry>, _ ciphertext: UnsafeMutablePointer<Ciphertext>,
      _ body: (UnsafeRawPointer, UnsafeRawBufferPointer) -> R
    ) -> R {
      let isChunk = unsafe entry.pointee.chunk.isOfStream
      // Copied field by field, because other threads may be changing the links and the reader
      // count.
      let associated = unsafe (
        id.0, id.1, ciphertext.pointee.epoch, entry.pointee.number,
        UInt64(entry.pointee.byteCount), UInt64(entry.pointee.label.address),
        UInt64(entry.pointee.label.count) | UInt64(entry.pointee.label.line) << 32,
        entry.pointee.chunk.stream, entry.pointee.chunk.position
      )
      // A secret is not a chunk: it is bound without the last two fields.
      let bound = MemoryLayout.size(ofValue: associated) - (isChunk ? 0 : 16)
      let nonce: (UInt64, UInt64, UInt64) = unsafe (ciphertext.pointee.nonce, 0, 0)
      return unsafe withUnsafeBytes(of: associated) { associated in
        unsafe withUnsafeBytes(of: nonce) { nonce in
          unsafe body(
            nonce.baseAddress.unsafelyUnwrapped,
            UnsafeRawBufferPointer(rebasing: associated[..<bound]))
        }
      }
    }

    #if DEBUG
      /// For tests: sets a function that is called before each run of the cipher, without the lock.
      package func setPause(_ body: (@Sendable () -> Void)?) {
        withCore { _ in unsafe pause = body }
      }
    #endif

    private func pauseBeforeCipher() {
      #if DEBUG
        let body = withCore { _ in unsafe pause }
        body?()
      #endif
    }
  }
#endif
