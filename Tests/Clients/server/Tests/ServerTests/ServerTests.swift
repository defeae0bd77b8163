// What the trait Server adds: arenas as a service, metrics, logs, tokens.

import CoreMetrics
import Enclave
import EnclaveService
import EnclaveTLS
import Foundation
import Glibc
import InMemoryLogging
import Logging
import MetricsTestKit
import NIOSSL
import ServiceLifecycle
import ServiceLifecycleTestKit
import Synchronization
import Testing
import Tokens

/// Not every machine may lock what the tests use.
private func makeArena(_ name: Label = "test") throws -> Arena {
  try Arena(name, .init(lock: .preferred))
}

/// Polls until a condition holds.
private func eventually(_ what: String, _ condition: () -> Bool) async throws {
  let deadline = ContinuousClock.now + .seconds(60)
  while !condition() {
    try #require(ContinuousClock.now < deadline, "not in time: \(what)")
    try await Task.sleep(for: .milliseconds(5))
  }
}

private final class Count: Sendable {
  private let count = Mutex(0)
  var value: Int { count.withLock { $0 } }
  func add() { count.withLock { $0 += 1 } }
}

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

@Suite(.serialized) struct ServiceTests {
  private func options(_ metrics: TestMetrics, publishes: Bool = false) -> ArenaService.Options {
    var options = ArenaService.Options()
    options.publishing = publishes ? .init() : nil
    options.metrics = metrics
    options.interval = .milliseconds(10)
    return options
  }

  private func logger(_ handler: InMemoryLogHandler) -> Logger {
    Logger(label: "test") { _ in handler }
  }

  @Test func arenasAreMeasuredAndThenDestroyed() async throws {
    let metrics = TestMetrics()
    let arena = try makeArena("measured")
    var secrets = [try SecretReference(arena.allocate(byteCount: 100, label: "a"))]
    let other = try makeArena("measured")
    secrets.append(try SecretReference(other.allocate(byteCount: 20, label: "b")))
    let log = InMemoryLogHandler()
    let service = ArenaService([arena, other], logger: logger(log), options: options(metrics))
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        // Two of one name are one series.
        try await eventually("the gauge") {
          let gauge = try? metrics.expectGauge(
            "memwatch_arena_used_bytes", [("arena", "measured")])
          return gauge?.lastValue == 120
        }
        #expect(
          try metrics.expectGauge("memwatch_arena_secrets", [("arena", "measured")]).lastValue == 2)
        // Made once.
        #expect(metrics.recorders(label: "memwatch_arena_secrets").count == 1)
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
    #expect(throws: EnclaveError.destroyed) { _ = try other.allocate(byteCount: 1) }
    #expect(log.entries.isEmpty, "\(log.entries)")
    #expect(secrets.count == 2)
  }

  @Test func failuresAreCountedAndLogged() async throws {
    let metrics = TestMetrics()
    let log = InMemoryLogHandler()
    let arena = try makeArena("failing")
    let service = ArenaService([arena], logger: logger(log), options: options(metrics))
    let operation = [("arena", "failing"), ("operation", "allocate")]
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        // (Its first look is the zero from which is counted.)
        try await eventually("a first look") {
          !metrics.recorders(label: "memwatch_arena_secrets").isEmpty
        }
        try arena.freeze()
        #expect(throws: EnclaveError.frozen) { _ = try arena.allocate(byteCount: 1) }
        try await eventually("the counter") {
          metrics.counterTotal(label: "memwatch_arena_failures_total", dimensions: operation) == 1
        }
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
  }

  @Test(arguments: [false, true]) func violationsAreLogged(logsLabels: Bool) async throws {
    let log = InMemoryLogHandler()
    let arena = try Arena("misused", .init(lock: .off, gate: .none))
    var options = options(TestMetrics())
    options.response = .goOn
    options.logsLabels = logsLabels
    let service = ArenaService([arena], logger: logger(log), options: options)
    let metrics = try #require(options.metrics as? TestMetrics)
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        try await eventually("a first look") {
          !metrics.recorders(label: "memwatch_arena_secrets").isEmpty
        }
        try misuse(arena)
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
    let entry = try #require(log.entries.first)
    #expect(entry.level == .critical && log.entries.count == 1)
    #expect(
      entry.metadata["arena"] == "misused" && entry.metadata["kind"] == "overflow"
        && entry.metadata["offset"] == "32" && entry.metadata["bytes"] == "32")
    #expect(entry.metadata["label"] == (logsLabels ? "too short" : nil))
  }

  @Test func theServicePublishesWhileItRuns() async throws {
    let directory = "/dev/shm/enclave-server-test-\(getpid())"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    defer { try? FileManager.default.removeItem(atPath: directory) }
    setenv("ENCLAVE_STATS_DIR", directory, 1)
    let arena = try makeArena()
    let service = ArenaService(
      [arena], logger: logger(InMemoryLogHandler()),
      options: options(TestMetrics(), publishes: true))
    func pages() -> Int {
      (try? FileManager.default.contentsOfDirectory(atPath: directory).count) ?? 0
    }
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        try await eventually("a page") { pages() > 0 }
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
    #expect(pages() == 0)
  }

  @Test func anUnsuitableDirectoryIsLogged() async throws {
    setenv("ENCLAVE_STATS_DIR", "/proc/self/no-directory", 1)
    defer { unsetenv("ENCLAVE_STATS_DIR") }
    let log = InMemoryLogHandler()
    let arena = try makeArena("unwatched")
    let service = ArenaService(
      [arena], logger: logger(log), options: options(TestMetrics(), publishes: true))
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        try await eventually("a line in the log") { !log.entries.isEmpty }
        #expect(arena.statistics.secretCount == 0)
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
    #expect(log.entries.count == 1 && log.entries.first?.level == .warning)
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
  }

  /// One byte behind a secret: found when it is freed.
  private func misuse(_ arena: Arena) throws {
    var secret = try arena.allocate(byteCount: 32, label: "too short")
    try secret.withMutableBytes { bytes in
      bytes.withUnsafeMutableBytes {
        ($0.baseAddress! + 32).assumingMemoryBound(to: UInt8.self).pointee ^= 0xff
      }
    }
    try secret.destroy()
  }

  @Test(arguments: [false, true]) func theProgramsOwnHandlerIsCalledAndKept(
    changesMeanwhile: Bool
  ) async throws {
    let (own, other) = (Count(), Count())
    ViolationHandler.set { _ in
      own.add()
      return .goOn
    }
    defer { ViolationHandler.set(nil) }
    let log = InMemoryLogHandler()
    let arena = try Arena("misused", .init(lock: .off, gate: .none))
    let after = try Arena("after", .init(lock: .off, gate: .none))
    // It would end the process, if the program's handler were not asked.
    let metrics = TestMetrics()
    let service = ArenaService([arena], logger: logger(log), options: options(metrics))
    try await testGracefulShutdown { trigger in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await service.run() }
        try await eventually("a first look") {
          !metrics.recorders(label: "memwatch_arena_secrets").isEmpty
        }
        try misuse(arena)
        if changesMeanwhile {
          ViolationHandler.set { _ in
            other.add()
            return .goOn
          }
        }
        trigger.triggerGracefulShutdown()
        try await group.waitForAll()
      }
    }
    try misuse(after)
    #expect(log.entries.count == 1)
    #expect(own.value == (changesMeanwhile ? 1 : 2))
    #expect(other.value == (changesMeanwhile ? 1 : 0))
  }

  private struct Failing: Service {
    struct Failure: Error {}
    func run() async throws { throw Failure() }
  }

  /// Counts when another service has ended.
  private struct Counted: Service {
    let service: ArenaService
    let ended = Count()
    func run() async throws {
      defer { ended.add() }
      try await service.run()
    }
  }

  /// Uses a secret until it is cancelled and another service has ended.
  private struct Using: Service {
    let secret: SecretReference
    let ended: Count
    let found = Count()
    func run() async throws {
      try? await gracefulShutdown()
      // (In a cancelled task, nothing sleeps.)
      await Task.detached {
        try? await eventually("the other service has ended") { ended.value > 0 }
      }.value
      if (try? secret.withBytes { $0.byteCount }) == 1 { found.add() }
    }
  }

  /// A group whose service fails cancels all others at once, in no order.
  @Test func arenasOutliveServicesThatStillUseThem() async throws {
    let arena = try makeArena("used")
    let log = InMemoryLogHandler()
    let service = ArenaService([arena], logger: logger(log), options: options(TestMetrics()))
    let counted = Counted(service: service)
    let using = Using(
      secret: SecretReference(try arena.allocate(byteCount: 1)), ended: counted.ended)
    let group = ServiceGroup(
      services: [counted, using, Failing()], logger: logger(InMemoryLogHandler()))
    await #expect(throws: Failing.Failure.self) { try await group.run() }
    #expect(counted.ended.value == 1 && using.found.value == 1)
    _ = try arena.allocate(byteCount: 1)
    try await service.destroyArenas()
    #expect(throws: EnclaveError.destroyed) { _ = try arena.allocate(byteCount: 1) }
    #expect(log.entries.isEmpty)
  }

  /// Waiting for a window leaves the threads of the pool to those who have it open.
  @Test func waitingForWindowsBlocksNoThread() async throws {
    let arena = try makeArena("waited")
    let secret = SecretReference(try arena.allocate(byteCount: 1))
    let (opened, mayEnd) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
    Thread {
      try? secret.withBytes { _ in
        opened.signal()
        mayEnd.wait()
      }
    }.start()
    try await eventually("a window") { arena.statistics.openWindows == 1 }
    var options = options(TestMetrics())
    options.patience = .seconds(300)
    // More services than the pool has threads: each waits for the window.
    let services = (0..<ProcessInfo.processInfo.activeProcessorCount + 2).map { _ in
      ArenaService([arena], logger: logger(InMemoryLogHandler()), options: options)
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
      let (begun, ended) = (Count(), Count())
      for service in services {
        group.addTask {
          begun.add()
          defer { ended.add() }
          try await service.destroyArenas()
        }
      }
      // If they kept their threads, the last could begin only after the first had lost patience.
      try await eventually("all wait") { begun.value == services.count }
      #expect(ended.value == 0)
      mayEnd.signal()
      try await group.waitForAll()
    }
  }

  @Test func aWindowThatStaysOpenIsReported() async throws {
    let log = InMemoryLogHandler()
    let arena = try makeArena("held")
    let after = try makeArena("after")
    let secret = SecretReference(try arena.allocate(byteCount: 1))
    var options = options(TestMetrics())
    options.patience = .milliseconds(10)
    let service = ArenaService([arena, after], logger: logger(log), options: options)
    let ended = DispatchSemaphore(value: 0)
    Thread { try? secret.withBytes { _ in ended.wait() } }.start()
    try await eventually("a window") { arena.statistics.openWindows == 1 }
    defer { ended.signal() }
    await testGracefulShutdown { trigger in
      trigger.triggerGracefulShutdown()
      await #expect(throws: EnclaveError.self) { try await service.run() }
    }
    #expect(log.entries.count == 1 && log.entries.first?.metadata["arena"] == "held")
    // The others are destroyed all the same.
    #expect(throws: EnclaveError.destroyed) { _ = try after.allocate(byteCount: 1) }
  }
}

@Suite struct TLSKeyTests {
  /// RFC 8032, test 2; as PKCS #8 of both versions (RFC 8410, RFC 5958).
  static let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
  static let publicKey = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
  static let version1 = "302e020100300506032b657004220420" + seed
  static let version2 = "3051020101300506032b657004220420" + seed + "812100" + publicKey

  static func bytes(hex: String) -> [UInt8] {
    stride(from: 0, to: hex.count, by: 2).map { offset in
      let start = hex.index(hex.startIndex, offsetBy: offset)
      return UInt8(hex[start..<hex.index(start, offsetBy: 2)], radix: 16)!
    }
  }

  static func pem(_ der: [UInt8], separator: String = "\n") -> String {
    "-----BEGIN PRIVATE KEY-----" + separator
      + Data(der).base64EncodedString(options: .lineLength64Characters) + separator
      + "-----END PRIVATE KEY-----" + separator
  }

  @Test(arguments: [version1, version2]) func keysAreRead(der: String) throws {
    let arena = try makeArena("tls")
    let key = try TLSSigningKey(
      pkcs8: try arena.allocate(copying: Self.bytes(hex: der)), in: arena)
    #expect(key.publicKey == Self.bytes(hex: Self.publicKey))
    #expect(key.signatureAlgorithms == [.ed25519] && key.derBytes.isEmpty)
    for text in [
      Self.pem(Self.bytes(hex: der)), "Bag\n" + Self.pem(Self.bytes(hex: der), separator: "\r\n"),
    ] {
      let other = try TLSSigningKey(pem: try arena.allocate(copying: text.utf8), in: arena)
      #expect(other.publicKey == key.publicKey)
      #expect(other != key && Set([other, key]).count == 2)
    }
    // What was needed on the way is gone.
    #expect(arena.statistics.secretCount == 1)
  }

  @Test func invalidKeysAreRefused() throws {
    let arena = try makeArena("tls")
    func refusal(_ der: [UInt8]) throws -> InvalidPrivateKey? {
      do {
        _ = try TLSSigningKey(pkcs8: try arena.allocate(copying: der), in: arena)
        return nil
      } catch let error as InvalidPrivateKey { return error }
    }
    let whole = Self.bytes(hex: Self.version1)
    for count in 0..<whole.count {
      #expect(try refusal(Array(whole.prefix(count))) == .notEd25519)
    }
    for index in 0..<16 {
      var other = whole
      other[index] ^= 0x40
      #expect(try refusal(other) == .notEd25519, "byte \(index)")
    }
    #expect(try refusal(whole + [0]) == .notEd25519)
    for text in [
      "", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----",
      "-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----",
      Self.pem(whole).replacing("PRIVATE", with: "ENCRYPTED PRIVATE"),
    ] {
      #expect(throws: InvalidPrivateKey.notPEM, "\(text)") {
        _ = try TLSSigningKey(pem: try arena.allocate(copying: text.utf8), in: arena)
      }
    }
    #expect(arena.statistics.secretCount == 0)
  }
}
