// Codes from a stats page, and their names, which are made only where text, JSON, CSV and records
// are written.

package import EnclaveStats
package import EnclaveSystem

/// A value that has a text for people.
package protocol TextConvertible {
  var text: String { get }
}

extension Optional where Wrapped: TextConvertible {
  /// `n/a` for nil.
  package var text: String { self?.text ?? "n/a" }
}

/// An enumeration from the stats page.
package protocol NamedCode: CaseIterable, Equatable, Sendable where AllCases == [Self] {
  init?(number: UInt64)
  var word: String { get }
  /// Unique among all cases, which `word` need not be.
  var wordInRecords: String { get }
  /// The word in JSON documents: lower-case, unique among all cases.
  var wordInDocuments: String { get }
}

extension NamedCode {
  package var word: String { "\(self)" }
  package var wordInRecords: String { word }
  package var wordInDocuments: String { word }
}

extension NamedCode where Self: RawRepresentable<UInt64> {
  package init?(number: UInt64) { self.init(rawValue: number) }
}

/// A code as read: a newer publisher may write one that this version does not know.
package enum Reported<Code: NamedCode>: Equatable, Sendable, TextConvertible {
  case known(Code)
  /// Shown as `?7`.
  case unknown(UInt64)

  package init(number: UInt64) {
    self = Code(number: number).map { .known($0) } ?? .unknown(number)
  }

  package var text: String {
    switch self {
    case .known(let code): code.word
    case .unknown(let number): "?\(number)"
    }
  }

  package var isKnown: Bool {
    switch self {
    case .known: true
    case .unknown: false
    }
  }
}

package func == <Code>(a: Reported<Code>?, b: Code) -> Bool { a == .some(.known(b)) }
package func != <Code>(a: Reported<Code>?, b: Code) -> Bool { !(a == b) }

/// In records, a word.
extension Reported: Codable {
  package init(from decoder: any Decoder) throws {
    let word = try decoder.singleValueContainer().decode(String.self)
    let code =
      Code.allCases.first { $0.wordInRecords == word } ?? Code.allCases.first { $0.word == word }
    self =
      code.map { .known($0) } ?? .unknown(word.first == "?" ? UInt64(word.dropFirst()) ?? 0 : 0)
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .known(let code): try container.encode(code.wordInRecords)
    case .unknown: try container.encode(text)
    }
  }
}

/// An arena's gate, with the number of its protection key.
package enum ReportedGate: Equatable, Sendable, TextConvertible {
  case key(UInt64?)
  case pages
  case cipher
  case ungated
  case unknown(UInt64)

  /// The number of the protection key; nil: none, or unknown.
  package var keyNumber: UInt64? {
    switch self {
    case .key(let number): number
    case .pages, .cipher, .ungated, .unknown: nil
    }
  }

  package var isKey: Bool {
    switch self {
    case .key: true
    case .pages, .cipher, .ungated, .unknown: false
    }
  }

  package var text: String {
    switch self {
    case .key(let number): number.map { "key \($0)" } ?? "key"
    case .pages: "pages"
    case .cipher: "cipher"
    case .ungated: "none"
    case .unknown(let number): "?\(number)"
    }
  }
}

/// In records, a word.
extension ReportedGate: Codable {
  package init(from decoder: any Decoder) throws {
    let word = try decoder.singleValueContainer().decode(String.self)
    self =
      switch word {
      case "pages": .pages
      case "cipher": .cipher
      case "none": .ungated
      case "key": .key(nil)
      default:
        if word.hasPrefix("key "), let number = UInt64(word.dropFirst(4)) {
          .key(number)
        } else {
          .unknown(word.first == "?" ? UInt64(word.dropFirst()) ?? 0 : 0)
        }
      }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}

// MARK: - Words

extension LayoutCode: NamedCode {}
extension BackingCode: NamedCode {}
extension LockPolicyCode: NamedCode {}
extension LockStateCode: NamedCode {}
extension SealCode: NamedCode {}
extension ForkCode: NamedCode {}
extension DumpCode: NamedCode {}
extension AddressCode: NamedCode {}
extension EmergencyWipeCode: NamedCode {}

extension ProtectionCode: NamedCode {
  package var word: String {
    switch self {
    case .closed: "closed"
    case .read: "read"
    case .readWrite: "r-w"
    case .encrypted: "encrypted"
    }
  }
}

extension OriginCode: NamedCode {
  package var word: String {
    switch self {
    case .label: "label"
    case .callSite: "call-site"
    }
  }
}

extension CipherCode: NamedCode {
  package var word: String {
    switch self {
    case .aes256gcm: "AES-256-GCM"
    case .xchacha20poly1305: "XChaCha20-Poly1305"
    }
  }
  package var wordInDocuments: String { word.lowercased() }
}

extension SystemCall: NamedCode {
  package init?(number: UInt64) {
    guard let number = UInt32(exactly: number) else { return nil }
    self.init(rawValue: number)
  }
  package var word: String { function }
  package var wordInRecords: String { "\(self)" }
  /// `lock-chunk`.
  package var wordInDocuments: String {
    wordInRecords.reduce(into: "") { $0 += $1.isUppercase ? "-" + $1.lowercased() : String($1) }
  }
}
