// Authenticates a server's tokens by HMAC-SHA-256 (RFC 2104), which libsodium computes with a key
// that stays in its arena.

#if Server
  import CEnclaveSodium
  public import Enclave

  /// A key that authenticates tokens by HMAC-SHA-256 (RFC 2104).
  ///
  /// Key material is only in arenas: the key in its own secret, and the state of the hash, which
  /// holds the padded key, in a secret that is wiped before each call returns.
  ///
  /// Threads: all members may be used on any thread.
  public final class TokenKey: Sendable {
    /// The size of a tag: 32 bytes.
    public static let tagByteCount = Int(crypto_auth_hmacsha256_BYTES)

    private let key: SecretReference
    private let scratch: Arena

    /// Creates a token key from a secret, which it shares.
    ///
    /// - Parameters:
    ///   - key: a key of any size. 32 bytes are enough; fewer are weaker.
    ///   - scratch: the arena that holds the hash's state during a call; it must not be frozen.
    public init(_ key: SecretReference, scratch: Arena) {
      self.key = key
      self.scratch = scratch
    }

    /// The tag of a message, to send with it. The tag is no secret.
    ///
    /// - Throws: if the key cannot be opened, or as `Arena.allocate` for the scratch arena.
    /// - Complexity: O(bytes).
    public func tag(of message: RawSpan) throws(EnclaveError) -> [UInt8] {
      var result = [UInt8](repeating: 0, count: Self.tagByteCount)
      let secret = try makeTag(of: message)
      do throws(AccessError<Never>) {
        try secret.withBytes { bytes in
          for index in 0..<Self.tagByteCount {
            result[index] = unsafe bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
          }
        }
      } catch { throw error.access }
      return result
    }

    /// Whether a received tag is the message's tag. The time does not depend on where they differ,
    /// and the correct tag never leaves the arena.
    ///
    /// - Throws: as `tag(of:)`.
    /// - Complexity: O(bytes).
    public func isValid(_ tag: RawSpan, of message: RawSpan) throws(EnclaveError) -> Bool {
      guard tag.byteCount == Self.tagByteCount else { return false }
      return try makeTag(of: message).isEqual(to: tag)
    }

    /// Like `tag(of:)` of a span.
    public func tag(of message: [UInt8]) throws(EnclaveError) -> [UInt8] {
      try tag(of: unsafe message.span.bytes)
    }

    /// Like `isValid(_:of:)` of spans.
    public func isValid(_ tag: [UInt8], of message: [UInt8]) throws(EnclaveError) -> Bool {
      try isValid(unsafe tag.span.bytes, of: unsafe message.span.bytes)
    }

    /// Computes the tag as a secret. During the call the secret also holds the hash's state, after
    /// the tag.
    private func makeTag(of message: RawSpan) throws(EnclaveError) -> Secret {
      typealias State = crypto_auth_hmacsha256_state
      let size = MemoryLayout<State>.size
      var work = try scratch.allocate(byteCount: 64 + size, alignment: 64, label: "token")
      do throws(AccessError<AccessError<Never>>) {
        try work.withMutableBytes { (bytes: inout MutableRawSpan) throws(AccessError<Never>) in
          try key.withBytes { key in
            unsafe bytes.withUnsafeMutableBytes { work in
              unsafe key.withUnsafeBytes { key in
                unsafe message.withUnsafeBytes { message in
                  // (Never nil: there are 64 bytes, and a window has an address.)
                  guard let start = work.baseAddress, let keyStart = key.baseAddress else { return }
                  let state = unsafe (start + 64).bindMemory(to: State.self, capacity: 1)
                  let keyBytes = unsafe keyStart.bindMemory(to: UInt8.self, capacity: key.count)
                  let messageBytes = unsafe message.bindMemory(to: UInt8.self)
                  let tag = unsafe start.bindMemory(to: UInt8.self, capacity: 32)
                  unsafe crypto_auth_hmacsha256_init(state, keyBytes, key.count)
                  unsafe crypto_auth_hmacsha256_update(
                    state, messageBytes.baseAddress, UInt64(messageBytes.count))
                  unsafe crypto_auth_hmacsha256_final(state, tag)
                }
              }
            }
          }
        }
      } catch {
        switch error {
        case .access(let failure): throw failure
        case .body(let failure): throw failure.access
        }
      }
      // Shrinking wipes the state.
      try work.resize(to: Self.tagByteCount)
      return work
    }
  }

  extension AccessError where Body == Never {
    /// The error of the only possible case.
    fileprivate var access: EnclaveError {
      switch self {
      case .access(let error): error
      }
    }
  }
#endif
