// Private keys in PEM and DER.

import Enclave
import EnclaveTLS
import Foundation
import NIOSSL
import Testing

@Suite struct TLSKeyTests {
  /// RFC 8032, test 2; as PKCS #8 of both versions (RFC 8410, RFC 5958).
  static let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
  static let publicKey = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
  static let version1 = "302e020100300506032b657004220420" + seed
  static let version2 = "3051020101300506032b657004220420" + seed + "812100" + publicKey

  static func bytes(hex: String) -> [UInt8] {
    stride(from: 0, to: hex.count, by: 2).map { offset in
      let start = hex.index(hex.startIndex, offsetBy: offset)
      return UInt8(hex[start..<hex.index(start, offsetBy: 2)], radix: 16)!
    }
  }

  static func pem(_ der: [UInt8], separator: String = "\n") -> String {
    "-----BEGIN PRIVATE KEY-----" + separator
      + Data(der).base64EncodedString(options: .lineLength64Characters) + separator
      + "-----END PRIVATE KEY-----" + separator
  }

  @Test(arguments: [version1, version2]) func keysAreRead(der: String) throws {
    let arena = try makeArena("tls")
    let key = try TLSSigningKey(
      pkcs8: try arena.allocate(copying: Self.bytes(hex: der)), in: arena)
    #expect(key.publicKey == Self.bytes(hex: Self.publicKey))
    #expect(key.signatureAlgorithms == [.ed25519] && key.derBytes.isEmpty)
    for text in [
      Self.pem(Self.bytes(hex: der)), "Bag\n" + Self.pem(Self.bytes(hex: der), separator: "\r\n"),
    ] {
      let other = try TLSSigningKey(pem: try arena.allocate(copying: text.utf8), in: arena)
      #expect(other.publicKey == key.publicKey)
      #expect(other != key && Set([other, key]).count == 2)
    }
    // What was needed on the way is gone.
    #expect(arena.statistics.secretCount == 1)
  }

  @Test func invalidKeysAreRefused() throws {
    let arena = try makeArena("tls")
    func refusal(_ der: [UInt8]) throws -> InvalidPrivateKey? {
      do {
        _ = try TLSSigningKey(pkcs8: try arena.allocate(copying: der), in: arena)
        return nil
      } catch let error as InvalidPrivateKey { return error }
    }
    let whole = Self.bytes(hex: Self.version1)
    for count in 0..<whole.count {
      #expect(try refusal(Array(whole.prefix(count))) == .notEd25519)
    }
    for index in 0..<16 {
      var other = whole
      other[index] ^= 0x40
      #expect(try refusal(other) == .notEd25519, "byte \(index)")
    }
    #expect(try refusal(whole + [0]) == .notEd25519)
    for text in [
      "", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----",
      "-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----",
      Self.pem(whole).replacing("PRIVATE", with: "ENCRYPTED PRIVATE"),
    ] {
      #expect(throws: InvalidPrivateKey.notPEM, "\(text)") {
        _ = try TLSSigningKey(pem: try arena.allocate(copying: text.utf8), in: arena)
      }
    }
    #expect(arena.statistics.secretCount == 0)
  }
}
