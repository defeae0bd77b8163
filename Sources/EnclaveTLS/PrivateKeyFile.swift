// Reads private key files in PEM (RFC 7468) or DER directly into an arena.

#if Server
  import CEnclaveSodium
  package import Enclave
  import EnclaveSystem
  package import NIOSSL

  /// Why a private key was rejected.
  public enum InvalidPrivateKey: Error, Sendable, Equatable, CustomStringConvertible {
    /// The text holds no private key in PEM (RFC 7468) with a supported label.
    case notPEM
    /// The secret holds no Ed25519 key: neither a seed of 32 bytes nor PKCS #8 (RFC 8410).
    case notEd25519
    /// The secret holds no P-256 key in PKCS #8 (RFC 5958) or SEC 1 (RFC 5915).
    case notP256
    /// The file cannot be read. The text names the file and says why.
    case unreadable(String)
    /// libcrypto would keep the key in its own memory.
    case notInArena

    /// What is wrong, and what to do.
    public var description: String {
      switch self {
      case .notPEM:
        "there is no \"BEGIN PRIVATE KEY\" in PEM (an encrypted key has to be decrypted first)"
      case .notEd25519:
        "the key is not Ed25519 in PKCS #8 (RFC 8410): make one with openssl genpkey -algorithm ed25519"
      case .notP256:
        "the key is not P-256 in PKCS #8 or SEC 1 (RFC 5915): make one with "
          + "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
      case .unreadable(let what): what
      case .notInArena:
        "libcrypto does not use the arena for its secure memory: it calls its own functions "
          + "(linked with -Bsymbolic-functions, or statically), or the arena cannot be created"
      }
    }
  }

  package enum PrivateKeyFile {
    /// The size limit of a private key file, in bytes.
    static let maximum = 1 << 20

    /// The DER encoding of the key in a file.
    package static func der(
      ofFile path: String, format: NIOSSLSerializationFormats, labels: [StaticString],
      in arena: Arena, label: Label
    ) throws -> Secret {
      let contents = try secret(ofFile: path, in: arena, label: label)
      if format == .der { return contents }
      return try der(pem: contents, labels: labels, in: arena, label: label)
    }

    /// The DER encoding of the first key in a PEM text with one of these labels, such as "PRIVATE
    /// KEY".
    package static func der(
      pem: borrowing Secret, labels: [StaticString], in arena: Arena, label: Label
    ) throws -> Secret {
      var der = try arena.allocate(byteCount: pem.byteCount, label: label)
      let byteCount = try pem.withBytes { pem in
        try der.withMutableBytes { der in
          for label in labels {
            if let byteCount = decodePEM(pem, label, into: &der) { return byteCount as Int? }
          }
          return nil
        }
      }
      guard let byteCount else { throw InvalidPrivateKey.notPEM }
      try der.resize(to: byteCount)
      return der
    }

    /// Reads a file into a secret. The bytes never lie in other memory of this process.
    private static func secret(
      ofFile path: String, in arena: Arena, label: Label
    ) throws -> Secret {
      do {
        // (Symbolic links are followed: mounted credentials are links.)
        let file = try OpenFile(reading: path, followingLinks: true)
        let status = try file.status()
        guard status.isRegular, (1...UInt64(maximum)).contains(status.size) else {
          throw InvalidPrivateKey.unreadable("\(path) is empty, too large, or no file")
        }
        var secret = try arena.allocate(byteCount: Int(status.size), label: label)
        try secret.fill(fromDescriptor: file.descriptor)
        return secret
      } catch let failure as FileFailure { throw InvalidPrivateKey.unreadable("\(failure)") }
    }

    /// Decodes the base64 between the BEGIN and END lines. Returns the number of bytes, or nil if
    /// there is no such text. The time that libsodium's decoder takes does not depend on the
    /// characters.
    private static func decodePEM(
      _ pem: RawSpan, _ label: StaticString, into der: inout MutableRawSpan
    ) -> Int? {
      unsafe pem.withUnsafeBytes { pem -> Int? in
        guard let begin = unsafe find("-----BEGIN ", label, in: pem, from: 0),
          let end = unsafe find("-----END ", label, in: pem, from: begin.upperBound)
        else { return nil }
        return unsafe der.withUnsafeMutableBytes { der -> Int? in
          let text = unsafe UnsafeRawBufferPointer(rebasing: pem[begin.upperBound..<end.lowerBound])
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

    /// Finds a line "-----BEGIN label-----" at or after an offset.
    private static func find(
      _ prefix: StaticString, _ label: StaticString, in bytes: UnsafeRawBufferPointer,
      from start: Int
    ) -> Range<Int>? {
      let parts: [StaticString] = [prefix, label, "-----"]
      let count = parts.reduce(0) { $0 + $1.utf8CodeUnitCount }
      guard bytes.count - start >= count else { return nil }
      let first = (start...bytes.count - count).first { offset in
        var offset = offset
        return parts.allSatisfy { part in
          defer { offset += part.utf8CodeUnitCount }
          return (0..<part.utf8CodeUnitCount).allSatisfy {
            unsafe bytes[offset + $0] == part.utf8Start[$0]
          }
        }
      }
      return first.map { $0..<$0 + count }
    }
  }
#endif
