// Shared by the vault's tests: arenas, vaults and secrets with known contents.

#if Sodium
  import Enclave
  import EnclaveVault
  import Glibc
  import TestSupport

  let ciphers = Vault.Cipher.allCases.filter(\.isAvailable)

  func arena(_ layout: Arena.Layout = .slab) throws -> Arena {
    try Arena("plaintext", .init(layout: layout, lock: .preferred))
  }

  func vault(
    _ cipher: Vault.Cipher? = nil, gate: Arena.Gate = .automatic,
    limit: UInt64 = Vault.messagesPerKey
  ) throws -> Vault {
    try Vault("vault", lock: .preferred, gate: gate, cipher: cipher, nonceLimit: limit)
  }

  /// A secret whose bytes are derived from a number.
  func secret(_ arena: Arena, _ size: Int, _ number: Int) throws -> Secret {
    var secret = try arena.allocate(byteCount: size)
    try secret.withMutableBytes { bytes in
      bytes.withUnsafeMutableBytes { raw in
        for index in raw.indices {
          raw[index] = UInt8(truncatingIfNeeded: number &* 31 &+ index &* 7)
        }
      }
    }
    return secret
  }

  func isRight(_ secret: borrowing Secret, _ number: Int) throws -> Bool {
    try secret.withBytes { bytes in
      bytes.withUnsafeBytes { raw in
        raw.indices.allSatisfy { raw[$0] == UInt8(truncatingIfNeeded: number &* 31 &+ $0 &* 7) }
      }
    }
  }

  /// A reference to an encrypted secret, for collections.
  final class Holder: @unchecked Sendable {
    var encrypted: EncryptedSecret?
    init(_ encrypted: consuming EncryptedSecret) { self.encrypted = consume encrypted }
  }

  /// Runs a body in several threads. Rethrows the error of any of them.
  func concurrently(_ count: Int, _ body: @escaping (Int) throws -> Void) throws {
    final class Shared: @unchecked Sendable {
      let body: (Int) throws -> Void
      var errors: [(any Error)?]
      init(_ count: Int, _ body: @escaping (Int) throws -> Void) {
        self.body = body
        errors = .init(repeating: nil, count: count)
      }
    }
    let shared = Shared(count, body)
    final class Part {
      let shared: Shared
      let index: Int
      init(_ shared: Shared, _ index: Int) { (self.shared, self.index) = (shared, index) }
    }
    var threads = [pthread_t](repeating: 0, count: count)
    for index in 0..<count {
      let part = Unmanaged.passRetained(Part(shared, index))
      let result = pthread_create(
        &threads[index], nil,
        { raw in
          let part = Unmanaged<Part>.fromOpaque(raw!).takeRetainedValue()
          var error: (any Error)?
          do { try part.shared.body(part.index) } catch let thrown { error = thrown }
          if let error { part.shared.errors[part.index] = error }
          return nil
        }, part.toOpaque())
      if result != 0 { throw Failed("pthread_create: \(result)") }
    }
    for thread in threads { pthread_join(thread, nil) }
    for case let error? in shared.errors { throw error }
  }
#endif
