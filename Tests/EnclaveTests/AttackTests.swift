// Attacks and bugs, and how they end. Each protection has a twin without it in which the same
// attack succeeds, which shows that the test can fail.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

/// The address of a secret's first byte.
func address(of secret: borrowing Secret) throws -> UInt {
  try secret.withBytes { bytes in
    bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress!) }
  }
}

/// The flags and permissions of the mapping that holds an address.
func mapping(of address: UInt) throws -> (permissions: String, flags: Set<Substring>) {
  let text = ProcessFacts.readText("/proc/self/smaps", limit: 64 << 20) ?? ""
  var permissions: String?
  for line in text.split(separator: "\n") {
    let words = line.split(separator: " ")
    let range = words[0].split(separator: "-")
    if range.count == 2, let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16) {
      permissions = address >= low && address < high ? String(words[1]) : nil
    } else if let permissions, line.hasPrefix("VmFlags:") {
      return (permissions, Set(words.dropFirst()))
    }
  }
  throw Failed("no mapping at \(address)")
}

@Suite struct AttackTests {
  @Test func readingAnIdleSecretIsAFault() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      setenv("SWIFT_BACKTRACE", "enable=no", 1)
      let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
      let secret = try arena.allocate(byteCount: 32)
      let address = try address(of: secret)
      let first = UnsafePointer<UInt8>(bitPattern: address)!.pointee
      Issue.record("it was read: \(first)")
    }
  }

  @Test func readSucceedsWithoutAGate() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      let secret = try arena.allocate(byteCount: 32)
      let address = try address(of: secret)
      let first = UnsafePointer<UInt8>(bitPattern: address)!.pointee
      #expect(first == 0, "\(first)")
    }
  }

  @Test func writingInAReadWindowIsAFault() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
      let secret = try arena.allocate(byteCount: 32)
      try secret.withBytes { bytes in
        bytes.withUnsafeBytes {
          UnsafeMutableRawPointer(mutating: $0.baseAddress!).storeBytes(of: 1, as: UInt8.self)
        }
      }
    }
  }

  /// The guard page follows an isolated secret immediately.
  @Test(arguments: [0, 4095]) func overflowOfAnIsolatedSecretIsAFault(offset: Int) async {
    await #expect(processExitsWith: .signal(SIGSEGV)) { [offset] in
      let arena = try Arena("test", .init(layout: .isolated, lock: .preferred, gate: .none))
      var secret = try arena.allocate(byteCount: 32)
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes {
          $0.baseAddress!.storeBytes(of: 1, toByteOffset: 32 + offset, as: UInt8.self)
        }
      }
    }
  }

  /// With `endsAtGuard` this holds for every size, and for reads too.
  @Test(arguments: [1, 15, 17, 30, 33, 4095, 4097, 5000], [true, false])
  func byteAfterASecretThatEndsAtItsGuardFaults(byteCount: Int, writing: Bool) async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      [byteCount = byteCount as Int, writing = writing as Bool] in
      var options = Arena.Options(layout: .isolated, lock: .preferred, gate: .none)
      options.endsAtGuard = true
      let arena = try Arena("test", options)
      var secret = try arena.allocate(byteCount: byteCount)
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { raw in
          raw.storeBytes(of: 7, toByteOffset: byteCount - 1, as: UInt8.self)
          let behind = raw.baseAddress! + byteCount
          if writing {
            behind.storeBytes(of: 1, as: UInt8.self)
          } else {
            print(behind.load(as: UInt8.self))
          }
        }
      }
    }
  }

  /// Such secrets, although unaligned, are used, resized, frozen and freed like others.
  @Test(arguments: [Arena.Layout.slab, .isolated]) func secretsThatEndAtTheirGuard(
    layout: Arena.Layout
  ) throws {
    var options = Arena.Options(layout: layout, lock: .preferred, gate: .none)
    options.endsAtGuard = true
    let arena = try Arena("test", options)
    func isFlush(_ handle: SecretHandle) -> Bool {
      (UInt(bitPattern: handle.address) + UInt(handle.byteCount)) % UInt(Page.size) == 0
    }
    for byteCount in [1, 30, 4097, 5001] {
      let address = try unsafe arena.allocate(byteCount: byteCount).leak()
      address.storeBytes(of: 9, as: UInt8.self)
      var handle = try #require(SecretHandle.live(startingAt: address))
      #expect(isFlush(handle) == (layout == .isolated || byteCount > 4096))
      handle = try handle.resize(to: 31)
      #expect(isFlush(handle) == (layout == .isolated))
      #expect(handle.address.load(as: UInt8.self) == 9)
      handle = try handle.resize(to: 9001)
      #expect(isFlush(handle))
      #expect(handle.address.load(as: UInt8.self) == 9)
      try handle.free()
    }
    #expect(throws: EnclaveError.invalidSize(byteCount: 8, alignment: 3)) {
      _ = try arena.allocate(byteCount: 8, alignment: 3)
    }
    #expect(try address(of: arena.allocate(byteCount: 8, alignment: 64)) % 64 == 0)
    #expect(try arena.check().isEmpty)
  }

  @Test func overflowOfASlabSecretIsFoundWhenItIsFreed() async throws {
    let result = await #expect(
      processExitsWith: .failure, observing: [\.standardErrorContent]
    ) {
      let arena = try Arena("shop", .init(lock: .preferred))
      var secret = try arena.allocate(byteCount: 30, label: "till")
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes {
          $0.baseAddress!.storeBytes(of: 1, toByteOffset: 30, as: UInt8.self)
        }
      }
      try secret.destroy()
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("arena shop, label till"))
  }

  @Test func writeWithinBoundsIsNoViolation() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("shop", .init(lock: .preferred))
      var secret = try arena.allocate(byteCount: 30, label: "till")
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes {
          $0.baseAddress!.storeBytes(of: 1, toByteOffset: 29, as: UInt8.self)
        }
      }
      try secret.destroy()
    }
  }

  @Test func overflowByAPageHitsTheGuard() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      var secret = try arena.allocate(byteCount: 4000)
      try secret.withMutableBytes { bytes in
        bytes.withUnsafeMutableBytes { raw in
          for offset in stride(from: 0, to: 1 << 20, by: 4096) {
            raw.baseAddress!.storeBytes(of: 1, toByteOffset: offset, as: UInt8.self)
          }
        }
      }
    }
  }

  @Test(arguments: [Arena.Layout.slab, .isolated])
  func theKernelConfirmsTheProtections(layout: Arena.Layout) throws {
    let arena = try Arena("test", .init(layout: layout, lock: .required, gate: .pages))
    var secret = try arena.allocate(byteCount: 32)
    let at = try address(of: secret)
    #expect(try mapping(of: at).permissions.hasPrefix("---"), "idle")
    try secret.withBytes { _ in
      let found = try! mapping(of: at)
      #expect(found.permissions.hasPrefix("r--"))
      #expect(found.flags.isSuperset(of: ["lo", "dd", "wf"]))
    }
    try secret.withMutableBytes { _ in
      #expect(try! mapping(of: at).permissions.hasPrefix("rw-"))
    }
    #expect(try mapping(of: at).permissions.hasPrefix("---"), "idle again")
    let open = try Arena("open", .init(lock: .off, gate: .none))
    let other = try open.allocate(byteCount: 32)
    let found = try mapping(of: try address(of: other))
    #expect(!found.flags.contains("lo"), "not asked for")
  }

  @Test func aForkedChildHasZerosAndTypedErrors() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      var secret = try arena.allocate(byteCount: 32)
      try fill(&secret, from: 5)
      let at = try address(of: secret)
      let shared = SecretReference(try arena.allocate(byteCount: 8))
      // The control: a child inherits a plain page.
      let plain = UnsafeMutablePointer<UInt8>.allocate(capacity: 32)
      plain.initialize(repeating: 5, count: 32)
      let report = try ChildReport()
      let pid = report.fork()
      if pid == 0 {
        let bytes = UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: at), count: 32)
        report.expect(bytes.allSatisfy { $0 == 0 }, "the secret is zeros")
        report.expect(plain[31] == 5, "a plain page is inherited")
        report.expect(throws: EnclaveError.inheritedByFork, "allocating") {
          _ = try arena.allocate(byteCount: 1)
        }
        report.expect(throws: AccessError<Never>.access(.inheritedByFork), "a window") {
          try shared.withBytes { _ in }
        }
        report.expectNoError("an arena of its own") {
          let own = try Arena("own", .init(lock: .preferred))
          var mine = try own.allocate(byteCount: 16)
          try fill(&mine, from: 1)
          report.expect(try contents(mine)[15] == 16, "contents of its own")
        }
        report.end()
      }
      let failures = report.failures(of: pid)
      #expect(failures == [], "\(failures)")
      #expect(try contents(secret)[31] == 36, "the parent's contents")
    }
  }

  @Test(.withoutThreadSanitizer("its shadow memory would be dumped, too"))
  func aCoreDumpLeavesSecretsOut() async throws {
    // gcore honours MADV_DONTDUMP like the kernel's own dumps.
    for (publish, expected) in [(true, false), (false, true)] {
      let scratch = try Scratch()
      let peer = try Peer(stats: nil, seed: 4242)
      try peer.send("arena a alpha slab preferred none")
      try peer.send("alloc a 50 64 fill")
      let result = try Launch(
        [
          "gcore", publish ? "-o" : "-a", publish ? scratch.file("core") : "-o",
          publish ? "\(peer.pid)" : scratch.file("core"), publish ? "" : "\(peer.pid)",
        ].filter { !$0.isEmpty }
      ).run()
      let file = scratch.file("core.\(peer.pid)")
      guard let core = FileManager.default.contents(atPath: file) else {
        throw Failed("gcore: \(result.error)")
      }
      // At least ten copies: the program itself contains one as its pattern.
      #expect((occurrences(of: Pattern.bytes(4242), in: core) > 10) == expected)
    }
  }
}
