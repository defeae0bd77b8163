// The ciphers that a vault can use.

#if Sodium
  package import Enclave

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
