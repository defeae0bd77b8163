// Files of private keys, read straight into an arena: PEM (RFC 7468) and DER.

#if Server
  import CEnclaveSodium
  package import Enclave
  import EnclaveSystem
  package import NIOSSL

  /// Why a private key was not taken.
  public enum InvalidPrivateKey: Error, Sendable, Equatable, CustomStringConvertible {
    case notPEM
    case notEd25519
    case notP256
    /// A file that cannot be read: what was asked, and what the system answered.
    case unreadable(String)
    /// libcrypto would keep the key in memory of its own.
    case notInArena

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
          + "(linked with -Bsymbolic-functions, or statically), or the arena cannot be made"
      }
    }
  }

  package enum PrivateKeyFile {
    /// More is no private key.
    static let maximum = 1 << 20

    /// The DER of a key's file.
    package static func der(
      ofFile path: String, format: NIOSSLSerializationFormats, labels: [StaticString],
      in arena: Arena, label: Label
    ) throws -> Secret {
      let contents = try secret(ofFile: path, in: arena, label: label)
      if format == .der { return contents }
      return try der(pem: contents, labels: labels, in: arena, label: label)
    }

    /// The DER of the first key in a PEM text that has one of the labels ("PRIVATE KEY").
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

    /// A file's bytes. They are never in other memory of this process.
    private static func secret(
      ofFile path: String, in arena: Arena, label: Label
    ) throws -> Secret {
      do {
        // (Mounted credentials are symbolic links.)
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

    /// Decodes what is between the lines of a PEM text; nil where there is none. libsodium's decoder takes
    /// a time that does not depend on the characters.
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

    /// Where a line "-----BEGIN label-----" is, at or behind an offset.
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
