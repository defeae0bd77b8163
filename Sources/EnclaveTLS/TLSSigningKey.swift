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
    /// Why a key was not taken.
    public enum InvalidKey: Error, Sendable, Equatable, CustomStringConvertible {
      case notPEM
      case notEd25519

      public var description: String {
        switch self {
        case .notPEM: "there is no \"BEGIN PRIVATE KEY\" in PEM"
        case .notEd25519:
          "the key is not Ed25519 in PKCS #8 (RFC 8410): make one with openssl genpkey -algorithm ed25519"
        }
      }
    }

    /// libsodium's form: the seed, and the public key behind it.
    private let key: SecretReference
    /// The public key's 32 bytes, as they stand in the certificate.
    public let publicKey: [UInt8]

    /// Takes a key's seed of 32 bytes (RFC 8032).
    ///
    /// - Throws: `InvalidKey` for another size; `EnclaveError` when the seed cannot be opened, or there
    ///   is no memory in the arena.
    public init(
      seed: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      guard seed.byteCount == Int(crypto_sign_ed25519_SEEDBYTES) else {
        throw InvalidKey.notEd25519
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

    /// Takes the key of a PEM file that was read into a secret: `Secret.fill(fromDescriptor:)`.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidKey` when it holds something else.
    public convenience init(
      pem: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      var der = try arena.allocate(byteCount: pem.byteCount, label: label)
      let byteCount = try pem.withBytes { pem in
        try der.withMutableBytes { der in decodePEM(pem, into: &der) }
      }
      guard let byteCount else { throw InvalidKey.notPEM }
      try der.resize(to: byteCount)
      try self.init(pkcs8: der, in: arena, label: label)
    }

    /// Takes a key in PKCS #8 (RFC 8410), as DER.
    ///
    /// - Throws: as `init(seed:in:label:)`; `InvalidKey` when it holds something else.
    public convenience init(
      pkcs8 der: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      let offset = try der.withElements(of: UInt8.self) { der in seedOffset(der) }
      guard let offset else { throw InvalidKey.notEd25519 }
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
      channel.eventLoop.makeFailedFuture(InvalidKey.notEd25519)  // (Only RSA keys are asked.)
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

  /// Decodes what is between the lines of a PEM private key; nil where there is none. libsodium's decoder
  /// takes a time that does not depend on the characters.
  private func decodePEM(_ pem: RawSpan, into der: inout MutableRawSpan) -> Int? {
    let (begin, end): (StaticString, StaticString) = (
      "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
    )
    return unsafe pem.withUnsafeBytes { pem -> Int? in
      guard let first = unsafe find(begin, in: pem, from: 0) else { return nil }
      let start = first + begin.utf8CodeUnitCount
      guard let last = unsafe find(end, in: pem, from: start) else { return nil }
      return unsafe der.withUnsafeMutableBytes { der -> Int? in
        let text = unsafe UnsafeRawBufferPointer(rebasing: pem[start..<last])
          .bindMemory(to: CChar.self)
        guard let start = unsafe der.bindMemory(to: UInt8.self).baseAddress,
          let textStart = text.baseAddress
        else { return nil }
        var byteCount = 0
        let status = unsafe sodium_base642bin(
          start, der.count, textStart, text.count, "\r\n ", &byteCount, nil,
          sodium_base64_VARIANT_ORIGINAL)
        return status == 0 && byteCount > 0 ? byteCount : nil
      }
    }
  }

  /// Where a text begins, at or behind an offset.
  private func find(
    _ text: StaticString, in bytes: UnsafeRawBufferPointer, from start: Int
  ) -> Int? {
    let count = text.utf8CodeUnitCount
    guard bytes.count - start >= count else { return nil }
    return (start...bytes.count - count).first { offset in
      (0..<count).allSatisfy { unsafe bytes[offset + $0] == text.utf8Start[$0] }
    }
  }
#endif
