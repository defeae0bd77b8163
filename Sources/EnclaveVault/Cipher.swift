// The ciphers that a vault can use.

#if Sodium
  package import Enclave

  extension Vault {
    /// The cipher of a vault, by libsodium. Keys have 32 bytes, tags 16.
    public enum Cipher: String, Sendable, CaseIterable {
      /// AES-256-GCM (NIST SP 800-38D) where the processor has AES and carry-less multiplication.
      case aes256gcm = "AES-256-GCM"
      /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), on every processor.
      case xchacha20poly1305 = "XChaCha20-Poly1305"

      /// AES-256-GCM if this processor supports it, otherwise XChaCha20-Poly1305.
      public static var preferred: Cipher {
        Cipher.aes256gcm.isAvailable ? .aes256gcm : .xchacha20poly1305
      }

      /// Whether this processor supports the cipher. False if libsodium could not be initialised.
      public var isAvailable: Bool { aead.isAvailable }

      package var aead: AEAD {
        switch self {
        case .aes256gcm: .aes256gcm
        case .xchacha20poly1305: .xchacha20poly1305
        }
      }
    }
  }
#endif
