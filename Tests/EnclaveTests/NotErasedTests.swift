// Demonstrates limits that WhatIsNotErased documents, in the process itself.

import CTestSupport
import Enclave
import Glibc
import TestSupport
import Testing

@Suite struct NotErasedTests {
  private func secret(_ gate: Arena.Gate = .automatic) throws -> Secret {
    let arena = try Arena("not erased", .init(lock: .preferred, gate: gate))
    var secret = try arena.allocate(byteCount: 16)
    try secret.withMutableBytes { bytes in
      for index in 0..<16 {
        bytes.storeBytes(of: UInt8(index + 1), toByteOffset: index, as: UInt8.self)
      }
    }
    return secret
  }

  private static let contents = (1...16).map { UInt8($0) }

  @Test func copiesOutOfAWindowRemain() throws {
    let secret = try secret()
    let copy = try secret.withBytes { bytes in bytes.withUnsafeBytes { Array($0) } }
    try secret.destroy()
    #expect(copy == Self.contents)
  }

  /// Bytes written to a pipe stay in the kernel after the secret is wiped.
  @Test func aPipeKeepsWhatWasWritten() throws {
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    let secret = try secret()
    let written = try secret.withBytes { bytes in
      bytes.withUnsafeBytes { write(ends[1], $0.baseAddress, $0.count) }
    }
    try secret.destroy()
    var received = [UInt8](repeating: 0, count: 16)
    #expect(written == 16 && read(ends[0], &received, 16) == 16 && received == Self.contents)
  }

  /// Opening a protection key needs no privilege: WRPKRU, here through pkey_set(3). (Needs
  /// protection keys, of this machine or of the emulated one.)
  @Test(.enabled(if: Capability.protectionKeys.isAvailable, "this machine has no protection keys"))
  func codeThatExecutesWRPKRUReads() throws {
    let secret = try secret(.key)
    let address = try secret.withBytes { bytes in
      bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
    }
    #expect(ct_try_read(address) != 0, "closed")
    for key in 1..<16 { _ = ct_set_key(Int32(key), 0) }
    #expect(ct_try_read(address) == 0, "open to whoever says so")
    for key in 1..<16 { _ = ct_set_key(Int32(key), 3) }
    #expect(ct_try_read(address) != 0, "closed again")
  }
}
