// Authenticated encryption with associated data, from libsodium, for cipher gates and vaults.

import EnclaveSystem

#if Sodium
  internal import CEnclaveSodium

  /// libsodium, initialised once. It then chooses its implementations for this processor. Any thread.
  package enum Sodium {
    package static let isReady = sodium_init() >= 0
  }
#endif

/// A cipher with its key size, nonce size and calls. It works on bytes and keys in the caller's memory,
/// and allocates nothing. Keys have 32 bytes, tags 16.
package enum AEAD: Sendable, BitwiseCopyable {
  /// AES-256-GCM (NIST SP 800-38D), where the processor has AES and carry-less multiplication.
  case aes256gcm
  /// ChaCha20-Poly1305 (RFC 8439), on every processor.
  case chacha20poly1305
  /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), on every processor.
  case xchacha20poly1305

  package static let keyBytes = 32
  package static let tagBytes = 16
  /// The size of what `prepare` writes: the AES key schedule, or the key itself.
  package static let scheduleBytes = 512

  package var nonceBytes: Int {
    switch self {
    case .aes256gcm, .chacha20poly1305: 12
    case .xchacha20poly1305: 24
    }
  }
}

#if Sodium
  extension AEAD {
    /// Whether this processor supports the cipher, which libsodium detects when it is initialised.
    package var isAvailable: Bool {
      switch self {
      case .aes256gcm: Sodium.isReady && crypto_aead_aes256gcm_is_available() != 0
      case .chacha20poly1305, .xchacha20poly1305: Sodium.isReady
      }
    }

    /// Prepares a key for use. Writes `scheduleBytes` bytes at most, aligned to 16.
    package func prepare(key: UnsafeRawPointer, schedule: UnsafeMutableRawPointer) {
      defer { clearResidue() }
      switch self {
      case .aes256gcm:
        unsafe crypto_aead_aes256gcm_beforenm(
          schedule.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self), bytes(key))
      case .chacha20poly1305, .xchacha20poly1305:
        unsafe schedule.copyMemory(from: key, byteCount: Self.keyBytes)
      }
    }

    /// Encrypts `byteCount` bytes; writes as many, plus a tag. `text` and `ciphertext` may be equal.
    package func encrypt(
      _ text: UnsafeRawPointer, byteCount: Int, into ciphertext: UnsafeMutableRawPointer,
      tag: UnsafeMutableRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) {
      defer { clearResidue() }
      let (m, c) = unsafe (bytes(text), mutableBytes(ciphertext))
      let tag = unsafe mutableBytes(tag)
      let (a, aCount) = unsafe (
        associated.baseAddress.map { unsafe bytes($0) }, UInt64(associated.count)
      )
      switch self {
      case .aes256gcm:
        unsafe crypto_aead_aes256gcm_encrypt_detached_afternm(
          c, tag, nil, m, UInt64(byteCount), a, aCount, nil, bytes(nonce), state(schedule))
      case .chacha20poly1305:
        unsafe crypto_aead_chacha20poly1305_ietf_encrypt_detached(
          c, tag, nil, m, UInt64(byteCount), a, aCount, nil, bytes(nonce), bytes(schedule))
      case .xchacha20poly1305:
        unsafe crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
          c, tag, nil, m, UInt64(byteCount), a, aCount, nil, bytes(nonce), bytes(schedule))
      }
    }

    /// Decrypts `byteCount` bytes. If the tag does not match, returns false and writes zeros.
    /// `ciphertext` and `text` may be equal.
    package func decrypt(
      _ ciphertext: UnsafeRawPointer, byteCount: Int, into text: UnsafeMutableRawPointer,
      tag: UnsafeRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) -> Bool {
      defer { clearResidue() }
      let (m, c) = unsafe (mutableBytes(text), bytes(ciphertext))
      let tag = unsafe bytes(tag)
      let (a, aCount) = unsafe (
        associated.baseAddress.map { unsafe bytes($0) }, UInt64(associated.count)
      )
      let result =
        switch self {
        case .aes256gcm:
          unsafe crypto_aead_aes256gcm_decrypt_detached_afternm(
            m, nil, c, UInt64(byteCount), tag, a, aCount, bytes(nonce), state(schedule))
        case .chacha20poly1305:
          unsafe crypto_aead_chacha20poly1305_ietf_decrypt_detached(
            m, nil, c, UInt64(byteCount), tag, a, aCount, bytes(nonce), bytes(schedule))
        case .xchacha20poly1305:
          unsafe crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
            m, nil, c, UInt64(byteCount), tag, a, aCount, bytes(nonce), bytes(schedule))
        }
      return result == 0
    }

    /// Clears what libsodium leaves of key, text and key stream in vector registers and on the stack:
    /// several times what version 1.0.18 was seen to use there, 416 bytes for AES-GCM and 2.2 KiB else.
    @inline(__always)
    private func clearResidue() {
      EnclaveSystem.clearResidue(stackBytes: self == .aes256gcm ? 2048 : 5120)
    }

    @inline(__always)
    private func state(
      _ schedule: UnsafeRawPointer
    ) -> UnsafePointer<crypto_aead_aes256gcm_state> {
      unsafe schedule.assumingMemoryBound(to: crypto_aead_aes256gcm_state.self)
    }

    @inline(__always)
    private func bytes(_ address: UnsafeRawPointer) -> UnsafePointer<UInt8> {
      unsafe address.assumingMemoryBound(to: UInt8.self)
    }

    @inline(__always)
    private func mutableBytes(_ address: UnsafeMutableRawPointer) -> UnsafeMutablePointer<UInt8> {
      unsafe address.assumingMemoryBound(to: UInt8.self)
    }
  }
#endif
