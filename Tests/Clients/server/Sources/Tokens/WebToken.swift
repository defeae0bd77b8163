// JSON Web Tokens (RFC 7519) with HS256, signed and checked without a copy of the key.

public import EnclaveTLS
public import Foundation

public struct WebToken: Codable, Sendable {
  public var sub: String
  public var exp: Int

  public init(sub: String, exp: Int) {
    self.sub = sub
    self.exp = exp
  }

  private static let header = encoded(Data(#"{"alg":"HS256","typ":"JWT"}"#.utf8))

  /// "HEADER.PAYLOAD.SIGNATURE"
  public func signed(by key: TokenKey) throws -> String {
    let text = Self.header + "." + Self.encoded(try JSONEncoder().encode(self))
    let signature = try key.tag(of: Array(text.utf8))
    return text + "." + Self.encoded(Data(signature))
  }

  /// nil for a token that was not signed by this key, has another algorithm, or has expired.
  public static func checked(_ text: String, by key: TokenKey, now: Date = Date()) throws
    -> WebToken?
  {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0] == header, let payload = decoded(parts[1]),
      let signature = decoded(parts[2]),
      try key.isValid(
        Array(signature), of: Array("\(parts[0]).\(parts[1])".utf8)),
      let token = try? JSONDecoder().decode(WebToken.self, from: payload),
      Double(token.exp) > now.timeIntervalSince1970
    else { return nil }
    return token
  }

  /// base64url without padding (RFC 7515).
  private static func encoded(_ data: Data) -> String {
    data.base64EncodedString().replacing("+", with: "-").replacing("/", with: "_")
      .replacing("=", with: "")
  }

  private static func decoded(_ text: Substring) -> Data? {
    guard !text.contains(where: { "+/=".contains($0) }) else { return nil }
    let padding = String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)
    return Data(
      base64Encoded: text.replacing("-", with: "+").replacing("_", with: "/") + padding)
  }
}
