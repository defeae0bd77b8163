// Finds the scalar in the DER encoding of a P-256 key.

#if Server
  /// Finds the scalar of a private key in PKCS #8 (RFC 5958) or SEC 1 (RFC 5915). Strict: anything
  /// but exactly one key of this curve in DER is rejected.
  enum P256KeyStructure {
    static let scalarByteCount = 32

    private enum Tag {
      static let integer: UInt8 = 0x02
      static let octets: UInt8 = 0x04
      static let identifier: UInt8 = 0x06
      static let sequence: UInt8 = 0x30
      /// [0]: the curve in SEC 1, attributes in PKCS #8.
      static let context0: UInt8 = 0xA0
      /// [1]: the public key in SEC 1.
      static let context1: UInt8 = 0xA1
      /// [1], not constructed: the public key in PKCS #8, version 2.
      static let publicKey: UInt8 = 0x81
    }
    /// The object identifiers 1.2.840.10045.2.1 and 1.2.840.10045.3.1.7 (RFC 5480).
    private static let ecPublicKey: [UInt8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1]
    private static let prime256v1: [UInt8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7]

    /// The offset of the scalar's 32 bytes, most significant first; nil if this is not such a key.
    static func scalarOffset(_ der: Span<UInt8>) -> Int? {
      var offset = 0
      guard let key = element(der, Tag.sequence, at: &offset, end: der.count), offset == der.count
      else { return nil }
      return pkcs8(der, key) ?? sec1(der, key, needsCurve: true)
    }

    private static func pkcs8(_ der: Span<UInt8>, _ key: Range<Int>) -> Int? {
      var offset = key.lowerBound
      guard let version = element(der, Tag.integer, at: &offset, end: key.upperBound),
        version.count == 1, der[version.lowerBound] <= 1,
        let algorithm = element(der, Tag.sequence, at: &offset, end: key.upperBound),
        let inner = element(der, Tag.octets, at: &offset, end: key.upperBound)
      else { return nil }
      _ = element(der, Tag.context0, at: &offset, end: key.upperBound)
      if der[version.lowerBound] == 1 {
        _ = element(der, Tag.publicKey, at: &offset, end: key.upperBound)
      }
      guard offset == key.upperBound else { return nil }

      var part = algorithm.lowerBound
      guard isNext(ecPublicKey, der, at: &part, end: algorithm.upperBound),
        isNext(prime256v1, der, at: &part, end: algorithm.upperBound), part == algorithm.upperBound
      else { return nil }

      var start = inner.lowerBound
      guard let key = element(der, Tag.sequence, at: &start, end: inner.upperBound),
        start == inner.upperBound
      else { return nil }
      return sec1(der, key, needsCurve: false)
    }

    private static func sec1(_ der: Span<UInt8>, _ key: Range<Int>, needsCurve: Bool) -> Int? {
      var offset = key.lowerBound
      guard let version = element(der, Tag.integer, at: &offset, end: key.upperBound),
        version.count == 1, der[version.lowerBound] == 1,
        let scalar = element(der, Tag.octets, at: &offset, end: key.upperBound),
        scalar.count == scalarByteCount
      else { return nil }
      if let curve = element(der, Tag.context0, at: &offset, end: key.upperBound) {
        var part = curve.lowerBound
        guard isNext(prime256v1, der, at: &part, end: curve.upperBound), part == curve.upperBound
        else { return nil }
      } else if needsCurve {
        return nil
      }
      _ = element(der, Tag.context1, at: &offset, end: key.upperBound)
      return offset == key.upperBound ? scalar.lowerBound : nil
    }

    /// Whether the next element is this object identifier; if so, the offset moves past it.
    private static func isNext(
      _ identifier: [UInt8], _ der: Span<UInt8>, at offset: inout Int, end: Int
    ) -> Bool {
      guard let found = element(der, Tag.identifier, at: &offset, end: end),
        found.count == identifier.count
      else { return false }
      return identifier.indices.allSatisfy { identifier[$0] == der[found.lowerBound + $0] }
    }

    /// The contents of the next element. Returns nil and leaves the offset unchanged if the element
    /// has another tag or exceeds its container. In keys of this curve, lengths have one byte or
    /// two (0x81).
    private static func element(
      _ der: Span<UInt8>, _ tag: UInt8, at offset: inout Int, end: Int
    ) -> Range<Int>? {
      guard end - offset >= 2, der[offset] == tag else { return nil }
      var (start, count) = (offset + 2, Int(der[offset + 1]))
      if count == 0x81 {
        guard end - start >= 1, der[start] >= 0x80 else { return nil }
        (start, count) = (start + 1, Int(der[start]))
      } else if count >= 0x80 {
        return nil
      }
      guard end - start >= count else { return nil }
      offset = start + count
      return start..<offset
    }
  }
#endif
