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
      unsafe expand(key: key, schedule: schedule)
      clearResidue()
    }

    @inline(__always)
    private func expand(key: UnsafeRawPointer, schedule: UnsafeMutableRawPointer) {
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
      unsafe encryptLeavingResidue(
        text, byteCount: byteCount, into: ciphertext, tag: tag, nonce: nonce,
        associated: associated, schedule: schedule)
      clearResidue()
    }

    /// Like `encrypt`, but leaves residue: the caller has to clear it.
    @inline(__always)
    func encryptLeavingResidue(
      _ text: UnsafeRawPointer, byteCount: Int, into ciphertext: UnsafeMutableRawPointer,
      tag: UnsafeMutableRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) {
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
      let isAuthentic = unsafe decryptLeavingResidue(
        ciphertext, byteCount: byteCount, into: text, tag: tag, nonce: nonce,
        associated: associated, schedule: schedule)
      clearResidue()
      return isAuthentic
    }

    /// Like `decrypt`, but leaves residue: the caller has to clear it.
    @inline(__always)
    func decryptLeavingResidue(
      _ ciphertext: UnsafeRawPointer, byteCount: Int, into text: UnsafeMutableRawPointer,
      tag: UnsafeRawPointer, nonce: UnsafeRawPointer, associated: UnsafeRawBufferPointer,
      schedule: UnsafeRawPointer
    ) -> Bool {
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

    /// Clears what libsodium leaves of key, text and key stream in vector registers and on the stack.
    @inline(__always)
    private func clearResidue() { EnclaveSystem.clearResidue(stackBytes: residueBytes) }

    /// How far below its caller to clear the stack: at least twice what a call was seen to use, on the processors
    /// that it was tried on. Less is faster up to a point: see cipher.c.
    package var residueBytes: Int {
      switch self {
      // libsodium 1.0.18, which has one implementation, uses 448 bytes.
      case .aes256gcm: Self.isMeasuredVersion ? 1024 : 2048
      // 2.2 KiB.
      case .chacha20poly1305, .xchacha20poly1305: 5120
      }
    }

    /// Version 1.0.18.
    private static let isMeasuredVersion =
      sodium_library_version_major() == 10 && sodium_library_version_minor() == 3

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
#else
  extension AEAD {
    package var residueBytes: Int { 0 }
  }
#endif
