// Convenience API, and misuse that the compiler rejects.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

@Suite struct InterfaceTests {
  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"), arguments: allGates)
  func elementsAreReadAndWritten(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    var secret = try arena.allocate(byteCount: 30)
    try secret.withMutableElements(of: UInt32.self) { words in
      #expect(words.count == 7, "what does not make a whole one is left out")
      for index in words.indices { words[index] = UInt32(index) * 0x0101_0101 }
    }
    let sum = try secret.withElements(of: UInt32.self) { words in
      words.indices.reduce(UInt32(0)) { $0 &+ words[$1] }
    }
    #expect(sum == 21 * 0x0101_0101)
    #expect(try secret.withElements(of: UInt8.self) { $0.count } == 30)
    struct Point: BitwiseCopyable { var x, y: Int32 }
    #expect(try secret.withUnsafeElements(of: Point.self) { $0[1].x } == 0x0202_0202)
    // An unaligned secret cannot hold wide integers.
    let isolated = try Arena("isolated", .init(layout: .isolated, lock: .preferred, gate: gate))
    let odd = try isolated.allocate(byteCount: 13, alignment: 1)
    #expect(throws: AccessError<Never>.access(.misaligned(neededAlignment: 8))) {
      try odd.withElements(of: UInt64.self) { _ in }
    }
  }

  @Test(arguments: allGates) func randomAndTemporarySecrets(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    let a = try arena.allocateRandom(byteCount: 32)
    let b = try arena.allocateRandom(byteCount: 32)
    #expect(try !a.isEqual(to: b))
    #expect(try contents(a).contains { $0 != 0 })
    let length = try arena.withTemporary(byteCount: 100) { bytes in
      bytes.storeBytes(of: 7, toByteOffset: 99, as: UInt8.self)
      return bytes.byteCount
    }
    #expect(length == 100)
    #expect(arena.statistics.secretCount == 2, "the temporary is gone")
  }

  @Test(arguments: allGates) func secretsAreFilledFromADescriptor(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .preferred, gate: gate))
    var ends: [Int32] = [0, 0]
    pipe(&ends)
    defer { close(ends[0]) }
    write(ends[1], "correct horse", 13)
    var secret = try arena.allocate(byteCount: 13)
    try secret.fill(fromDescriptor: ends[0])
    #expect(try contents(secret) == Array("correct horse".utf8))
    write(ends[1], "short", 5)
    close(ends[1])
    #expect(throws: EnclaveError.endOfInput(received: 5)) {
      try secret.fill(fromDescriptor: ends[0])
    }
    var bad = try arena.allocate(byteCount: 1)
    do throws(EnclaveError) {
      try bad.fill(fromDescriptor: -1)
      Issue.record("no error")
    } catch {
      guard case .system(let failure) = error else { throw error }
      #expect(failure.errno == EBADF && "\(error)".contains("read of 1 bytes"))
    }
  }

  @Test func secretsMoveBetweenArenas() throws {
    let a = try Arena("a", .init(lock: .preferred))
    let b = try Arena("b", .init(layout: .isolated, lock: .preferred))
    var secret = try a.allocate(byteCount: 100)
    try fill(&secret, from: 3)
    let moved = try secret.move(into: b)
    #expect(try contents(moved)[99] == 102)
    #expect(a.statistics.secretCount == 0 && b.statistics.secretCount == 1)
  }

  @Test func allocationsWaitForHeadroom() async {
    await #expect(processExitsWith: .success) {
      // Without the capability the limit applies to root too.
      try #require(ct_drop_lock_capability() == 0, "dropping the capability")
      var limit = rlimit(rlim_cur: 65536, rlim_max: 65536)
      setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
      let arena = try Arena("test")
      let large = try arena.allocate(byteCount: 40960)
      let start = DispatchTime.now()
      do throws(EnclaveError) {
        _ = try arena.allocate(byteCount: 40960, waitingForHeadroom: .milliseconds(50))
        Issue.record("allocating beyond the limit: no error")
      } catch {
        guard case .lockLimit(65536, let inUse, 40960) = error else { throw error }
        #expect(inUse >= 40960, "\(error)")
      }
      let waited = DispatchTime.now().uptimeNanoseconds - start.uptimeNanoseconds
      #expect(waited >= 50_000_000, "it waited \(waited) ns")
      #expect(arena.statistics.failedLocks == 1, "each look counts as a failure")
      let shared = Holder(large)
      Thread {
        _ = poll(nil, 0, 30)
        shared.drop()
      }.start()
      _ = try arena.allocate(byteCount: 40960, waitingForHeadroom: .seconds(20))
      #expect(arena.statistics.failedLocks == 2, "the second wait counts once")
    }
  }

  @Test func absentMechanismsAreTypedErrors() throws {
    #expect(throws: EnclaveError.self) { try Arena("tagged", .init(isTagged: true)) }
    for capability in Capability.allCases {
      if case .unavailable(let failure) = capability.availability {
        #expect(failure.errno > 0 && !"\(failure)".isEmpty)
      }
    }
    if !Capability.protectionKeys.isAvailable {
      do throws(EnclaveError) {
        _ = try Arena("key", .init(gate: .key))
        Issue.record("no error")
      } catch {
        guard case .unsupported(.protectionKeys, _) = error else { throw error }
      }
    }
  }

  @Test(.enabled(if: Capability.secretMemory.isAvailable, "this kernel has no memfd_secret"))
  func secretMemoryIsUnreadable() async {
    await #expect(processExitsWith: .success) {
      for (isSecret, expected) in [(true, false), (false, true)] {
        let arena = try Arena(
          "test", .init(gate: .none, backing: isSecret ? .secret : .anonymous))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let at = try address(of: secret)
        let file = open("/proc/self/mem", O_RDONLY)
        var bytes = [UInt8](repeating: 0, count: 32)
        let canRead = pread(file, &bytes, 32, off_t(at)) == 32
        close(file)
        #expect(canRead == expected, "secret: \(isSecret), read through /proc: \(canRead)")
        if isSecret {
          let found = arena.statistics
          #expect(found.bytesLocked == found.bytesMapped, "\(found.bytesLocked) bytes are locked")
        }
        // A child has no such memory; its parent's is unchanged.
        let report = try ChildReport()
        let pid = report.fork()
        if pid == 0 {
          let page = UnsafeMutableRawPointer(bitPattern: at & ~4095)
          let isMapped = mincore(page, 1, &bytes) == 0
          report.expect(isMapped == !isSecret, "secret: \(isSecret), mapped: \(isMapped)")
          report.end()
        }
        let failures = report.failures(of: pid)
        #expect(failures == [], "\(failures)")
        #expect(try contents(secret)[31] == 32, "the parent's contents")
      }
    }
  }

  @Test(
    .enabled(if: Capability.secretMemory.isAvailable, "this kernel has no memfd_secret"),
    arguments: gatesInPlace, [Arena.Layout.slab, .isolated])
  func secretMemoryUnderEveryGate(gate: Arena.Gate, layout: Arena.Layout) async {
    let (number, isSlab) = (allGates.firstIndex(of: gate)!, layout == .slab)
    await #expect(processExitsWith: .success) {
      [number = number as Int, isSlab = isSlab as Bool] in
      for isSealed in [false, true] {
        let gate = allGates[number]
        if isSealed, gate != .key { continue }
        let before = ProcessFacts.lockedBytes()!
        let arena = try Arena(
          "test", .init(layout: isSlab ? .slab : .isolated, gate: gate, backing: .secret))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let at = try address(of: secret)
        if gate != .none { #expect(ct_try_read(at) != 0, "idle: closed") }
        if isSealed { try arena.seal() } else { try arena.freeze() }
        #expect(try contents(secret)[31] == 32, "contents, sealed: \(isSealed)")
        #expect(ct_try_write(at) != 0, "it can be written, sealed: \(isSealed)")
        try arena.destroy()
        // Sealed secret memory stays mapped, wiped. Only some kernels (6.18) count it in VmLck.
        let after = ProcessFacts.lockedBytes()!
        #expect(
          isSealed ? after >= before : after == before,
          "sealed: \(isSealed), locked before \(before), after \(after)")
      }
    }
  }

  // MARK: - What the compiler refuses

  struct Refused: Sendable, CustomStringConvertible {
    var description: String
    var code: String
    /// nil for the control, which compiles and so shows that the others fail for their own reasons.
    var because: String?
  }

  static let snippets: [Refused] = [
    Refused(
      description: "the control",
      code: """
        func use(_ arena: Arena) throws {
          var secret = try arena.allocate(byteCount: 8, label: "literal")
          try secret.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
          _ = try secret.withBytes { $0.byteCount }
        }
        """, because: nil),
    Refused(
      description: "a span that is returned",
      code: """
        func use(_ secret: borrowing Secret) throws -> RawSpan {
          try secret.withBytes { $0 }
        }
        """, because: "Escapable|lifetime|escape"),
    Refused(
      description: "a span that is kept",
      code: """
        func use(_ secret: borrowing Secret) throws {
          var kept: RawSpan? = nil
          try secret.withBytes { kept = $0 }
          _ = kept
        }
        """, because: "lifetime|escape"),
    Refused(
      description: "a body that waits",
      code: """
        func use(_ secret: borrowing Secret) async throws {
          try await secret.withBytes { _ in await Task.yield() }
        }
        """, because: "async"),
    Refused(
      description: "a label of run time",
      code: """
        func use(_ arena: Arena, _ name: String) throws -> Secret {
          try arena.allocate(byteCount: 8, label: Label(stringLiteral: name))
        }
        """, because: "StaticString"),
    Refused(
      description: "a copied secret",
      code: """
        func use(_ secret: borrowing Secret) -> Secret { secret }
        """, because: "copied|consume"),
    Refused(
      description: "a secret used after it was destroyed",
      code: """
        func use(_ secret: consuming Secret) throws {
          try secret.destroy()
          try secret.withBytes { _ in }
        }
        """, because: "consume"),
    Refused(
      description: "a secret in an array",
      code: """
        func use(_ a: consuming Secret) -> [Secret] { [a] }
        """, because: "Copyable|noncopyable"),
    Refused(
      description: "writing through a read window",
      code: """
        func use(_ secret: borrowing Secret) throws {
          try secret.withBytes { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        }
        """, because: "no member 'storeBytes'"),
    Refused(
      description: "writing to a shared secret",
      code: """
        func use(_ secret: SecretReference) throws {
          try secret.withMutableBytes { _ in }
        }
        """, because: "no member 'withMutableBytes'"),
    Refused(
      description: "elements that are no integers",
      code: """
        func use(_ secret: borrowing Secret) throws {
          try secret.withElements(of: Bool.self) { _ in }
        }
        """, because: "FixedWidthInteger"),
    Refused(
      description: "printing a secret",
      code: """
        func use(_ secret: borrowing Secret) { print(secret) }
        """, because: "Copyable|noncopyable"),
  ]

  @Test(arguments: snippets) func compilerRejectsMisuse(snippet: Refused) throws {
    let scratch = try Scratch()
    let file = scratch.file("Snippet.swift")
    try ("import Enclave\n" + snippet.code).write(
      toFile: file, atomically: false, encoding: .utf8)
    let modules = Programs.directory.appending(path: "Modules").path
    guard FileManager.default.fileExists(atPath: modules + "/Enclave.swiftmodule") else {
      throw Failed("no module at \(modules): built elsewhere?")
    }
    let c = Programs.package.appending(path: "Sources/CEnclaveSystem/include").path
    let sodium = Programs.package.appending(path: "Sources/CEnclaveSodium/module.modulemap").path
    let result = try Launch([
      "swiftc", "-emit-sil", "-o", "/dev/null", "-swift-version", "6", "-I", modules, "-Xcc",
      "-fmodule-map-file=\(Programs.directory.path)/CEnclaveSystem.build/module.modulemap", "-Xcc",
      "-fmodule-map-file=\(sodium)", "-Xcc", "-I\(c)", "-package-name", "snippet", file,
    ]).run()
    if let because = snippet.because {
      #expect(result.status != 0, "it compiles")
      let errors = (result.output + result.error).split(separator: "\n")
        .filter { $0.contains("error:") }
      #expect(
        errors.contains { $0.range(of: because, options: .regularExpression) != nil }, "\(errors)")
    } else {
      #expect(result.status == 0, "\(result.error)")
    }
  }
}

/// Holds a secret that another thread drops.
final class Holder: @unchecked Sendable {
  private var secret: SecretReference?
  init(_ secret: consuming Secret) { self.secret = SecretReference(secret) }
  func drop() { secret = nil }
}
