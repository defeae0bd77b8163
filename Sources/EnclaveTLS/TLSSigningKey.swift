// Ed25519 keys for TLS, whose bytes lie in an arena and are signed with there, by libsodium.

#if Server
  import CEnclaveSodium
  public import Enclave
  public import NIOCore
  public import NIOSSL

  /// A private key for `NIOSSLPrivateKey(customPrivateKey:)`.
  ///
  /// The key never leaves its arena: BoringSSL gives what is to be signed, and gets the signature. Each
  /// handshake opens one window, on its event loop's thread.
  public final class TLSSigningKey: NIOSSLCustomPrivateKey, Hashable, Sendable {
    /// libsodium's form: the seed, and the public key behind it.
    private let key: SecretReference
    /// The public key's 32 bytes, as they stand in the certificate.
    public let publicKey: [UInt8]

    /// Takes a key's seed of 32 bytes (RFC 8032).
    ///
    /// - Throws: `InvalidPrivateKey` for another size; `EnclaveError` when the seed cannot be opened, or there
    ///   is no memory in the arena.
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
              // (Never nil: they have 64 and 32 bytes.)
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

    /// Takes the key of a file in PKCS #8, which is read straight into the arena.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` when it cannot be read, or holds something
    ///   else.
    public convenience init(
      file path: String, format: NIOSSLSerializationFormats, in arena: Arena,
      label: Label = "TLS key"
    ) throws {
      try self.init(
        pkcs8: try PrivateKeyFile.der(
          ofFile: path, format: format, labels: ["PRIVATE KEY"], in: arena, label: label),
        in: arena, label: label)
    }

    /// Takes the key of a PEM text that was read into a secret: `Secret.fill(fromDescriptor:)`.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` when it holds something else.
    public convenience init(
      pem: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      try self.init(
        pkcs8: try PrivateKeyFile.der(pem: pem, labels: ["PRIVATE KEY"], in: arena, label: label),
        in: arena, label: label)
    }

    /// Takes a key in PKCS #8 (RFC 8410), as DER.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidPrivateKey` when it holds something else.
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

    public var signatureAlgorithms: [SignatureAlgorithm] { [.ed25519] }

    public func sign(
      channel: any Channel, algorithm: SignatureAlgorithm, data: ByteBuffer
    ) -> EventLoopFuture<ByteBuffer> {
      do {
        return channel.eventLoop.makeSucceededFuture(
          channel.allocator.buffer(bytes: try signature(of: data)))
      } catch { return channel.eventLoop.makeFailedFuture(error) }
    }

    /// The signature of some bytes, 64 of them.
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

    public func decrypt(channel: any Channel, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
      // (Only RSA keys are asked.)
      channel.eventLoop.makeFailedFuture(InvalidPrivateKey.notEd25519)
    }

    public static func == (a: TLSSigningKey, b: TLSSigningKey) -> Bool { a === b }

    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
  }

  /// Where the seed begins in a PKCS #8 structure; nil when it is not Ed25519's. Version 1 has the seed
  /// alone, version 2 (RFC 5958) the public key behind it.
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
