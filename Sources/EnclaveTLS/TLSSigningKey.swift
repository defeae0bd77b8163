// Ed25519 keys for TLS. They stay in an arena, where libsodium signs with them.

#if Server
  import CEnclaveSodium
  public import Enclave
  public import NIOCore
  public import NIOSSL

  /// An Ed25519 key (RFC 8032) for `NIOSSLPrivateKey(customPrivateKey:)`.
  ///
  /// The key never leaves its arena: BoringSSL passes the data and receives the signature. Each
  /// handshake opens one window, on its event loop's thread.
  ///
  /// Threads: all members may be used on any thread. Two keys are equal if they are the same
  /// object.
  public final class TLSSigningKey: NIOSSLCustomPrivateKey, Hashable, Sendable {
    /// In libsodium's format: the seed, followed by the public key.
    private let key: SecretReference
    /// The public key as in the certificate: 32 bytes.
    public let publicKey: [UInt8]

    /// Creates a key from its seed of 32 bytes (RFC 8032).
    ///
    /// - Throws: `InvalidPrivateKey` for another size; `EnclaveError` if the seed cannot be opened
    ///   or the arena has no memory.
    public init(
      seed: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      guard seed.byteCount == Int(crypto_sign_ed25519_SEEDBYTES) else {
        throw InvalidPrivateKey.notEd25519
      }
      var key = try arena.allocate(
        byteCount: Int(crypto_sign_ed25519_SECRETKEYBYTES), alignment: 16, label: label)
      var publicKey = [UInt8](repeating: 0, count: Int(crypto_sign_ed25519_PUBLICKEYBYTES))
      try seed.withBytes { seed in
        try key.withMutableBytes { key in
          unsafe key.withUnsafeMutableBytes { key in
            unsafe seed.withUnsafeBytes { seed in
              // (Never nil: the buffers have 64 and 32 bytes.)
              guard let key = unsafe key.bindMemory(to: UInt8.self).baseAddress,
                let seed = unsafe seed.bindMemory(to: UInt8.self).baseAddress
              else { return }
              _ = unsafe crypto_sign_ed25519_seed_keypair(&publicKey, key, seed)
            }
          }
        }
      }
      self.publicKey = publicKey
      self.key = SecretReference(key)
    }

    /// Reads a key in PKCS #8 from a file directly into the arena.
    ///
    /// - Parameters:
    ///   - path: a regular file of at most 1 MiB; symbolic links are followed.
    ///   - format: PEM (RFC 7468) or DER. An encrypted key must be decrypted first.
    ///   - arena: holds the key and, during the call, the file's contents.
    ///   - label: the label of these secrets.
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` if the file cannot be read or holds
    ///   something else.
    public convenience init(
      file path: String, format: NIOSSLSerializationFormats, in arena: Arena,
      label: Label = "TLS key"
    ) throws {
      try self.init(
        pkcs8: try PrivateKeyFile.der(
          ofFile: path, format: format, labels: ["PRIVATE KEY"], in: arena, label: label),
        in: arena, label: label)
    }

    /// Creates a key from a PEM text (RFC 7468) in a secret, which `Secret.fill(fromDescriptor:)`
    /// can read.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` if the text holds something else.
    public convenience init(
      pem: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      try self.init(
        pkcs8: try PrivateKeyFile.der(pem: pem, labels: ["PRIVATE KEY"], in: arena, label: label),
        in: arena, label: label)
    }

    /// Creates a key from PKCS #8 (RFC 8410) in DER.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` if the secret holds something else.
    public convenience init(
      pkcs8 der: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      let offset = try der.withElements(of: UInt8.self) { der in seedOffset(der) }
      guard let offset else { throw InvalidPrivateKey.notEd25519 }
      var seed = try arena.allocate(
        byteCount: Int(crypto_sign_ed25519_SEEDBYTES), label: label)
      try der.withElements(of: UInt8.self) { der in
        try seed.withMutableElements(of: UInt8.self) { seed in
          for index in seed.indices { seed[index] = der[offset + index] }
        }
      }
      try self.init(seed: seed, in: arena, label: label)
    }

    /// Ed25519 only.
    public var signatureAlgorithms: [SignatureAlgorithm] { [.ed25519] }

    /// Signs the data at once, for NIOSSL. The future fails with an `EnclaveError` if the key
    /// cannot be opened.
    public func sign(
      channel: any Channel, algorithm: SignatureAlgorithm, data: ByteBuffer
    ) -> EventLoopFuture<ByteBuffer> {
      do {
        return channel.eventLoop.makeSucceededFuture(
          channel.allocator.buffer(bytes: try signature(of: data)))
      } catch { return channel.eventLoop.makeFailedFuture(error) }
    }

    /// Signs the data. The signature has 64 bytes.
    func signature(of data: ByteBuffer) throws -> [UInt8] {
      var signature = [UInt8](repeating: 0, count: Int(crypto_sign_ed25519_BYTES))
      try key.withBytes { key in
        unsafe key.withUnsafeBytes { key in
          unsafe data.withUnsafeReadableBytes { data in
            guard let key = unsafe key.bindMemory(to: UInt8.self).baseAddress else { return }
            _ = unsafe crypto_sign_ed25519_detached(
              &signature, nil, data.bindMemory(to: UInt8.self).baseAddress, UInt64(data.count), key)
          }
        }
      }
      return signature
    }

    /// Fails: NIOSSL calls this only for RSA keys.
    public func decrypt(channel: any Channel, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
      channel.eventLoop.makeFailedFuture(InvalidPrivateKey.notEd25519)
    }

    /// Whether both are the same object.
    public static func == (a: TLSSigningKey, b: TLSSigningKey) -> Bool { a === b }

    /// Hashes the object's identity, nothing of the key.
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
  }

  /// The offset of the seed in a PKCS #8 structure; nil if it holds no Ed25519 key. In version 1
  /// the seed is all there is; in version 2 (RFC 5958) the public key may follow it.
  private func seedOffset(_ der: Span<UInt8>) -> Int? {
    let algorithm: [UInt8] = [
      0x30, 5, 6, 3, 0x2B, 0x65, 0x70,  // SEQUENCE { OBJECT IDENTIFIER 1.3.101.112 }
      4, 0x22, 4, 0x20,  // OCTET STRING { OCTET STRING of 32 bytes }
    ]
    let offset = 5 + algorithm.count
    guard der.count >= offset + 32, der[0] == 0x30, der[1] < 0x80, der.count == 2 + Int(der[1]),
      der[2] == 2, der[3] == 1, der[4] <= 1,
      algorithm.indices.allSatisfy({ algorithm[$0] == der[5 + $0] })
    else { return nil }
    return offset
  }
#endif
