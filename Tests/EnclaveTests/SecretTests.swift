// The way of one secret: allocated, written, read, compared, copied, freed.

import Enclave
import Testing

@Suite struct SecretTests {
  @Test func keepsWhatWasWritten() throws {
    let arena = try Arena("test", .init(lock: .preferred))
    var secret = try arena.allocate(byteCount: 33)
    try secret.withMutableBytes { bytes in
      for offset in 0..<33 {
        bytes.storeBytes(of: UInt8(offset), toByteOffset: offset, as: UInt8.self)
      }
    }
    let sum = try secret.withBytes { bytes in
      (0..<33).reduce(0) { $0 + Int(bytes.unsafeLoad(fromByteOffset: $1, as: UInt8.self)) }
    }
    #expect(sum == 528)
    #expect(arena.statistics.secretCount == 1)
    try secret.destroy()
    #expect(arena.statistics.secretCount == 0)
  }
}
