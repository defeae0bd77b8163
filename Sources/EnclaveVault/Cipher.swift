// The ciphers, from libsodium. They work on bytes and keys in the caller's memory.

#if Sodium
  import CEnclaveSodium
  import Enclave

  extension Vault {
    /// The cipher of a vault.
    public enum Cipher: String, Sendable, CaseIterable {
      /// AES-256-GCM (NIST SP 800-38D) where the processor has AES and carry-less multiplication.
      case aes256gcm = "AES-256-GCM"
      /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), on every processor.
      case xchacha20poly1305 = "XChaCha20-Poly1305"

      /// The preferred cipher on this processor.
      public static var preferred: Cipher {
        Cipher.aes256gcm.isAvailable ? .aes256gcm : .xchacha20poly1305
      }

      /// Whether this processor supports the cipher.
      public var isAvailable: Bool {
        switch self {
        // libsodium detects the processor's features during initialisation.
        case .aes256gcm: Sodium.isReady && crypto_aead_aes256gcm_is_available() != 0
        case .xchacha20poly1305: true
        }
      }
    }
  }

  extension Vault.Cipher {
    package static let keyBytes = 32
    package static let tagBytes = 16
    /// The size of what `prepare` writes: the AES key schedule, or the key itself.
    package static let scheduleBytes = 512

    package var nonceBytes: Int {
      switch self {
      case .aes256gcm: 12
      case .xchacha20poly1305: 24
      }
    }

    /// Prepares a key for use. Writes to the caller's memory: 512 bytes, aligned to 16.
    package func prepare(key: UnsafeRawPointer, schedule: UnsafeMutableRawPointer) {
      let key = unsafe key.assumingMemoryBound(to: UInt8.self)
      switch self {
      case .aes256gcm:
        unsafe crypto_aead_aes256gcm_beforenm(
          schedule.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self), key)
      case .xchacha20poly1305: unsafe schedule.copyMemory(from: key, byteCount: Self.keyBytes)
      }
    }

    /// Encrypts `byteCount` bytes; writes as many, plus a 16-byte tag.
    package func encrypt(
      _ text: UnsafeRawPointer, byteCount: Int, into ciphertext: UnsafeMutableRawPointer,
      tag: UnsafeMutableRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) {
      let (m, c) = unsafe (bytes(text), mutableBytes(ciphertext))
      let associatedStart = unsafe associated.baseAddress.map { unsafe bytes($0) }
      switch self {
      case .aes256gcm:
        unsafe crypto_aead_aes256gcm_encrypt_detached_afternm(
          c, mutableBytes(tag), nil, m, UInt64(byteCount), associatedStart,
          UInt64(associated.count),
          nil, bytes(nonce), schedule.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self))
      case .xchacha20poly1305:
        unsafe crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
          c, mutableBytes(tag), nil, m, UInt64(byteCount), associatedStart,
          UInt64(associated.count),
          nil, bytes(nonce), bytes(schedule))
      }
    }

    /// Decrypts. If the tag does not match, returns false and writes zeros.
    package func decrypt(
      _ ciphertext: UnsafeRawPointer, byteCount: Int, into text: UnsafeMutableRawPointer,
      tag: UnsafeRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) -> Bool {
      let (m, c) = unsafe (mutableBytes(text), bytes(ciphertext))
      let associatedStart = unsafe associated.baseAddress.map { unsafe bytes($0) }
      let result: Int32
      switch self {
      case .aes256gcm:
        result = unsafe crypto_aead_aes256gcm_decrypt_detached_afternm(
          m, nil, c, UInt64(byteCount), bytes(tag), associatedStart, UInt64(associated.count),
          bytes(nonce), schedule.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self))
      case .xchacha20poly1305:
        result = unsafe crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
          m, nil, c, UInt64(byteCount), bytes(tag), associatedStart, UInt64(associated.count),
          bytes(nonce), bytes(schedule))
      }
      return result == 0
    }

    private func bytes(_ address: UnsafeRawPointer) -> UnsafePointer<UInt8> {
      unsafe address.assumingMemoryBound(to: UInt8.self)
    }

    private func mutableBytes(_ address: UnsafeMutableRawPointer) -> UnsafeMutablePointer<UInt8> {
      unsafe address.assumingMemoryBound(to: UInt8.self)
    }
  }
#endif
