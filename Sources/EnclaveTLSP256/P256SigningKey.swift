// ECDSA keys on P-256 for TLS, whose bytes lie in an arena and are signed with by libcrypto.

#if Server
  import CEnclaveAdopt
  import CEnclaveLibcrypto
  public import Enclave
  import EnclaveC
  import EnclaveTLS
  public import NIOCore
  public import NIOSSL

  /// A private key for `NIOSSLPrivateKey(customPrivateKey:)`, as public certificate authorities and browsers
  /// take it.
  ///
  /// The key rests in an arena. For each handshake it is opened, libcrypto makes a key object of it, signs,
  /// and wipes the object. What libcrypto calls secure memory holds the object's number and each
  /// signature's nonce; in a process that uses this module it comes from an arena named "openssl"
  /// (CEnclaveAdopt), which has no gate. So the key is in the first arena, and during a signature in the
  /// second.
  ///
  /// Using this module adopts the secure memory of the whole process, libsodium's and libgcrypt's too: see
  /// "Adopt a program without changing it".
  public final class P256SigningKey: NIOSSLCustomPrivateKey, Hashable, Sendable {
    /// The scalar, in this processor's byte order.
    private let key: SecretReference
    /// The public key as it stands in the certificate: an uncompressed point of 65 bytes.
    public let publicKey: [UInt8]

    /// Takes the key of a file, which is read straight into the arena: PKCS #8 or SEC 1.
    ///
    /// - Throws: `InvalidPrivateKey`; `EnclaveError` when there is no memory in the arena.
    public convenience init(
      file path: String, format: NIOSSLSerializationFormats, in arena: Arena,
      label: Label = "TLS key"
    ) throws {
      try self.init(
        der: try PrivateKeyFile.der(
          ofFile: path, format: format, labels: Self.pemLabels, in: arena, label: label),
        in: arena, label: label)
    }

    /// Takes the key of a PEM text that was read into a secret.
    ///
    /// - Throws: as `init(der:in:label:)`.
    public convenience init(
      pem: borrowing Secret, in arena: Arena, label: Label = "TLS key"
    ) throws {
      try self.init(
        der: try PrivateKeyFile.der(pem: pem, labels: Self.pemLabels, in: arena, label: label),
        in: arena, label: label)
    }

    /// Takes a key in PKCS #8 (RFC 5958) or SEC 1 (RFC 5915), as DER.
    ///
    /// - Throws: `InvalidPrivateKey` when it holds something else, or libcrypto does not use the arena;
    ///   `EnclaveError` when it cannot be opened, or there is no memory in the arena.
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

    public var signatureAlgorithms: [SignatureAlgorithm] { [.ecdsaSecp256R1Sha256] }

    public func sign(
      channel: any Channel, algorithm: SignatureAlgorithm, data: ByteBuffer
    ) -> EventLoopFuture<ByteBuffer> {
      do {
        return channel.eventLoop.makeSucceededFuture(
          channel.allocator.buffer(bytes: try signature(of: data)))
      } catch { return channel.eventLoop.makeFailedFuture(error) }
    }

    /// The signature of some bytes' SHA-256, in DER.
    func signature(of data: ByteBuffer) throws -> [UInt8] {
      // (SEQUENCE of two INTEGERs of 33 bytes at most.)
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

    public func decrypt(channel: any Channel, data: ByteBuffer) -> EventLoopFuture<ByteBuffer> {
      // (Only RSA keys are asked.)
      channel.eventLoop.makeFailedFuture(InvalidPrivateKey.notP256)
    }

    public static func == (a: P256SigningKey, b: P256SigningKey) -> Bool { a === b }

    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
  }

  /// libcrypto had no memory for a signature, or for its random numbers.
  struct SigningFailure: Error, CustomStringConvertible {
    var description: String { "libcrypto could not sign: no memory, or no random numbers" }
  }
#endif
