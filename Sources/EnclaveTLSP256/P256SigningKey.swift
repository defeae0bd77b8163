// ECDSA keys on P-256 for TLS. They stay in arenas; libcrypto signs with them.

#if Server
  import CEnclaveAdopt
  import CEnclaveLibcrypto
  public import Enclave
  import EnclaveC
  import EnclaveTLS
  public import NIOCore
  public import NIOSSL

  /// An ECDSA key on P-256 (FIPS 186-5) for `NIOSSLPrivateKey(customPrivateKey:)`: the kind that
  /// public certificate authorities and browsers support.
  ///
  /// The key lies in an arena while it is not used. Each handshake opens it, and libcrypto copies
  /// the scalar into a key object, signs, and wipes the copy. The object's scalar and each signature's
  /// nonce lie in libcrypto's secure memory, which in a process with this module is an arena named
  /// "openssl" (CEnclaveAdopt) without a gate. So the key is in its own arena and, during a
  /// signature, also in that one.
  ///
  /// Using this module adopts all secure memory of the process, including libsodium's and
  /// libgcrypt's: see "Adopt a program without changing it".
  ///
  /// Threads: all members may be used on any thread. Two keys are equal if they are the same
  /// object.
  public final class P256SigningKey: NIOSSLCustomPrivateKey, Hashable, Sendable {
    /// The scalar in native byte order.
    private let key: SecretReference
    /// The public key as in the certificate: an uncompressed point of 65 bytes.
    public let publicKey: [UInt8]

    /// Reads a key in PKCS #8 or SEC 1 from a file directly into the arena.
    ///
    /// - Parameters:
    ///   - path: a regular file of at most 1 MiB; symbolic links are followed.
    ///   - format: PEM (RFC 7468) or DER. An encrypted key must be decrypted first.
    ///   - arena: holds the key and, during the call, the file's contents.
    ///   - label: the label of these secrets.
    /// - Throws: as `init(der:in:label:)`; `InvalidPrivateKey` if the file cannot be read.
    public convenience init(
      file path: String, format: NIOSSLSerializationFormats, in arena: Arena,
      label: Label = "TLS key"
    ) throws {
      try self.init(
        der: try PrivateKeyFile.der(
          ofFile: path, format: format, labels: Self.pemLabels, in: arena, label: label),
        in: arena, label: label)
    }

    /// Creates a key from a PEM text (RFC 7468) in a secret.
    ///
    /// - Throws: as `init(der:in:label:)`.
    public convenience init(
      pem: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      try self.init(
        der: try PrivateKeyFile.der(pem: pem, labels: Self.pemLabels, in: arena, label: label),
        in: arena, label: label)
    }

    /// Creates a key from PKCS #8 (RFC 5958) or SEC 1 (RFC 5915) in DER.
    ///
    /// - Throws: `InvalidPrivateKey` if the secret holds something else or libcrypto does not use
    ///   the arena; `EnclaveError` if the secret cannot be opened or the arena has no memory.
    public init(
      der: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      let offset = try der.withElements(of: UInt8.self) { P256KeyStructure.scalarOffset($0) }
      guard let offset else { throw InvalidPrivateKey.notP256 }
      let count = P256KeyStructure.scalarByteCount
      var key = try arena.allocate(byteCount: count, alignment: 16, label: label)
      try der.withElements(of: UInt8.self) { der in
        try key.withMutableElements(of: UInt8.self) { key in
          for index in 0..<count {
            #if _endian(little)
              key[index] = der[offset + count - 1 - index]
            #else
              key[index] = der[offset + index]
            #endif
          }
        }
      }
      var publicKey = [UInt8](repeating: 0, count: 65)
      let (isKey, isSecure) = try key.withBytes { key in
        unsafe key.withUnsafeBytes { key -> (Bool, Bool) in
          guard unsafe celc_make_public_key(key.baseAddress, &publicKey) == 1 else {
            return (false, false)
          }
          return unsafe (true, celc_keys_are_secure(key.baseAddress) == 1)
        }
      }
      guard isKey else { throw InvalidPrivateKey.notP256 }
      guard isSecure else { throw InvalidPrivateKey.notInArena }
      self.publicKey = publicKey
      self.key = SecretReference(key)
    }

    private static let pemLabels: [StaticString] = ["PRIVATE KEY", "EC PRIVATE KEY"]

    /// ECDSA on P-256 with SHA-256 only.
    public var signatureAlgorithms: [SignatureAlgorithm] { [.ecdsaSecp256R1Sha256] }

    /// Signs the data at once, for NIOSSL. The future fails if the key cannot be opened or
    /// libcrypto has no memory or no random numbers.
    public func sign(
      channel: any Channel, algorithm: SignatureAlgorithm, data: ByteBuffer
    ) -> EventLoopFuture<ByteBuffer> {
      do {
        return channel.eventLoop.makeSucceededFuture(
          channel.allocator.buffer(bytes: try signature(of: data)))
      } catch { return channel.eventLoop.makeFailedFuture(error) }
    }

    /// Signs the SHA-256 of the data. The signature is in DER.
    func signature(of data: ByteBuffer) throws -> [UInt8] {
      // (A SEQUENCE of two INTEGERs of at most 33 bytes.)
      var signature = [UInt8](repeating: 0, count: 72)
      var count = signature.count
      let isSigned = try key.withBytes { key in
        unsafe key.withUnsafeBytes { key in
          unsafe data.withUnsafeReadableBytes { data in
            return unsafe celc_sign(
              key.baseAddress, data.baseAddress, data.count, &signature, &count) == 1
          }
        }
      }
      guard isSigned else { throw SigningFailure() }
      signature.removeLast(signature.count - count)
      return signature
    }

    /// Fails: NIOSSL calls this only for RSA keys.
    public func decrypt(channel: any Channel, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
      channel.eventLoop.makeFailedFuture(InvalidPrivateKey.notP256)
    }

    /// Whether both are the same object.
    public static func == (a: P256SigningKey, b: P256SigningKey) -> Bool { a === b }

    /// Hashes the object's identity, nothing of the key.
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
  }

  /// libcrypto had no memory for a signature or for its random numbers.
  struct SigningFailure: Error, CustomStringConvertible {
    var description: String { "libcrypto could not sign: no memory, or no random numbers" }
  }
#endif
