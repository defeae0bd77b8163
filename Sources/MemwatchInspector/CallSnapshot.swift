// Counts and failures of one system call.

package import EnclaveSystem

package struct CallSnapshot: Equatable, Sendable {
  package var call: Reported<SystemCall>
  package var count: UInt64
  package var failures: UInt64
  package var lastErrno: Int32?
}

extension CallSnapshot {
  package var function: String { call.text }
  package var purpose: String {
    switch call {
    case .known(let call): call.purpose
    case .unknown: call.text
    }
  }
}

/// Encoded by function and purpose, which together are unique.
extension CallSnapshot: Codable {
  private enum CodingKeys: String, CodingKey {
    case function, purpose, count, failures, lastErrno
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(function, forKey: .function)
    try container.encode(purpose, forKey: .purpose)
    try container.encode(count, forKey: .count)
    try container.encode(failures, forKey: .failures)
    try container.encodeIfPresent(lastErrno, forKey: .lastErrno)
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let function = try container.decode(String.self, forKey: .function)
    let purpose = try container.decode(String.self, forKey: .purpose)
    let known = SystemCall.allCases.first { $0.function == function && $0.purpose == purpose }
    call = known.map { .known($0) } ?? .unknown(0)
    count = try container.decode(UInt64.self, forKey: .count)
    failures = try container.decode(UInt64.self, forKey: .failures)
    lastErrno = try container.decodeIfPresent(Int32.self, forKey: .lastErrno)
  }
}
