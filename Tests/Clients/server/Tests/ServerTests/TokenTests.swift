// Tokens that a key in an arena signs.

import Enclave
import EnclaveTLS
import Foundation
import Testing
import Tokens

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

@Suite struct TokenTests {
  /// RFC 4231, test cases 1, 2, 6 (a key longer than a block of the hash), and HMAC of nothing.
  @Test(arguments: [
    (
      [UInt8](repeating: 0x0b, count: 20), "Hi There",
      "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    ),
    (
      Array("Jefe".utf8), "what do ya want for nothing?",
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    ),
    (
      [UInt8](repeating: 0xaa, count: 131),
      "Test Using Larger Than Block-Size Key - Hash Key First",
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    ),
    ([], "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"),
  ])
  func tagMatchesKnownAnswers(key: [UInt8], message: String, expected: String) throws {
    let arena = try makeArena()
    let tokens = TokenKey(
      SecretReference(try arena.allocate(copying: key)), scratch: arena)
    let tag = try tokens.tag(of: bytes(message))
    #expect(tag.map { String(format: "%02x", $0) }.joined() == expected)
    #expect(try tokens.isValid(tag, of: bytes(message)))
    // Nothing of a call is left.
    #expect(arena.statistics.secretCount == 1 && arena.statistics.openWindows == 0)
  }

  @Test func anyOtherTagIsWrong() throws {
    let arena = try makeArena()
    let tokens = TokenKey(
      SecretReference(try arena.allocateRandom(byteCount: 32)), scratch: arena)
    let message = bytes("message")
    let tag = try tokens.tag(of: message)
    for index in tag.indices {
      var other = tag
      other[index] ^= 1
      #expect(try !tokens.isValid(other, of: message))
    }
    #expect(try !tokens.isValid(Array(tag.dropLast()), of: message))
    #expect(try !tokens.isValid([], of: message))
    #expect(try !tokens.isValid(tag, of: bytes("massage")))
  }

  @Test func aDestroyedKeyDoesNotSign() throws {
    let (keys, scratch) = (try makeArena(), try makeArena())
    let tokens = TokenKey(SecretReference(try keys.allocateRandom(byteCount: 32)), scratch: scratch)
    try keys.destroy()
    #expect(throws: EnclaveError.destroyed) { try tokens.tag(of: bytes("x")) }
    #expect(scratch.statistics.secretCount == 0)
  }

  @Test func webTokens() throws {
    let arena = try makeArena()
    let tokens = TokenKey(
      SecretReference(try arena.allocate(copying: bytes("your-256-bit-secret"))), scratch: arena)
    // Signed elsewhere: jwt.io's well-known example has other claims, and is none of ours.
    let foreign =
      "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ"
    let tag = try tokens.tag(of: bytes(foreign))
    #expect(
      Data(tag).base64EncodedString() == "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV/adQssw5c=")

    let token = try WebToken(sub: "alice", exp: 2_000_000_000).signed(by: tokens)
    let then = Date(timeIntervalSince1970: 1_999_999_999)
    #expect(try WebToken.checked(token, by: tokens, now: then)?.sub == "alice")
    #expect(try WebToken.checked(token, by: tokens, now: then + 2) == nil)
    let parts = token.split(separator: ".").map(String.init)
    let unsigned = Data(#"{"alg":"none","typ":"JWT"}"#.utf8).base64EncodedString()
    for wrong in [
      "", "a.b", "..", token + "x", parts[0] + "." + parts[1] + ".",
      unsigned + "." + parts[1] + "." + parts[2], token + ".x",
    ] {
      #expect(try WebToken.checked(wrong, by: tokens, now: then) == nil, "\(wrong)")
    }
  }
}
