// An arena's record after a refresh is correct, whatever it was before.

import Enclave
import EnclaveStats
import EnclaveSystem
import Foundation
import Synchronization
import TestSupport
import Testing

@Suite struct ChangeTests {
  /// Eight windows at one refresh and none at the next, with as many opens in between as would
  /// cancel them in a sum: with opens weighted by eight, and with equal weights.
  @Test(arguments: [1, 8]) func newOpensDoNotHideClosedWindows(further: Int) async {
    await #expect(processExitsWith: .success) { [further = further as Int] in
      let scratch = try Scratch(onTmpfs: true)
      setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
      var options = StatsPublisher.Options()
      // Disable the publisher's own ticks.
      options.tickMilliseconds = 10_000
      let publisher = try StatsPublisher.start(options)
      let published = publisher.path
      let path = try #require(published)
      var reader = try StatsPageReader(OpenFile(reading: path, followingLinks: false))
      let arena = try Arena("changes", .init(lock: .preferred, gate: .pages))
      let secret = SecretReference(try arena.allocate(byteCount: 32))

      func hold(_ windows: Int, _ body: () -> Void) throws {
        if windows == 0 { return body() }
        try secret.withBytes { _ in try hold(windows - 1, body) }
      }
      // (Until nothing is new: what changed at one refresh is written at the next, too.)
      try hold(8) { for _ in 0..<3 { publisher.refresh() } }
      var record = try reader.read([]).arenas[0]
      #expect(record[.openWindows] == 8 && record[.opens] == 8)

      for _ in 0..<further { try secret.withBytes { _ in } }
      publisher.refresh()
      record = try reader.read([]).arenas[0]
      #expect(record[.openWindows] == 0 && record[.opens] == UInt64(8 + further))
    }
  }

  /// A secret's opens are counted from its allocation, although slots are reused, and survive
  /// resizing and another page.
  @Test func opensBelongToTheSecret() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      var publisher: StatsPublisher? = try Self.publish(in: scratch)
      var reader = try Self.reader(of: publisher!)
      let arena = try Arena("changes", .init(lock: .preferred, gate: .none))
      func expectOpens(_ count: UInt64, _ when: String) throws {
        publisher!.refresh()
        let opens = try reader.read().secrets.map { $0[.opens] }
        #expect(opens == [count], "\(when): \(opens)")
      }
      func open(_ secret: borrowing Secret, _ times: Int) throws {
        for _ in 0..<times { try secret.withBytes { _ in } }
      }
      for times in [3, 0, 2] {
        let secret = try arena.allocate(byteCount: 32)
        try open(secret, times)
        try expectOpens(UInt64(times), "in a reused slot")
        try secret.destroy()
      }
      var secret = try arena.allocate(byteCount: 32)
      try open(secret, 3)
      try expectOpens(3, "once")
      try open(secret, 2)
      try expectOpens(5, "again")
      try secret.resize(to: 30)
      try open(secret, 1)
      try expectOpens(6, "resized in place")
      try open(secret, 2)
      try secret.destroy()
      secret = try arena.allocate(byteCount: 32)
      try open(secret, 4)
      try expectOpens(4, "freed and allocated between two ticks")
      publisher = nil
      publisher = try Self.publish(in: scratch)
      reader = try Self.reader(of: publisher!)
      try expectOpens(4, "on another page")
      try open(secret, 1)
      try expectOpens(5, "on another page, later")
      try secret.destroy()
    }
  }

  #if Sodium
    /// A window that fails after it was counted is uncounted, whatever was published meanwhile.
    @Test func failedWindowsAreNotOpens() async {
      await #expect(processExitsWith: .success) {
        let scratch = try Scratch(onTmpfs: true)
        let publisher = try Self.publish(in: scratch)
        var reader = try Self.reader(of: publisher)
        let arena = try Arena("changes", .init(lock: .off, gate: .cipher))
        var secret = try arena.allocate(byteCount: 32)
        nonisolated(unsafe) let handle = secret.handle
        let isDone = Mutex(false)
        let ended = DispatchSemaphore(value: 0)
        try secret.withMutableBytes { _ in
          Thread {
            // It fails, because the secret is open for writing.
            while !isDone.withLock({ $0 }) { _ = try? handle.openWindow(writing: true) }
            ended.signal()
          }.start()
          for _ in 0..<2000 {
            publisher.refresh()
            let opens = try reader.read().secrets.first?[.opens] ?? 0
            #expect(opens <= 2)
            if opens > 2 { break }
          }
          isDone.withLock { $0 = true }
          ended.wait()
        }
        publisher.refresh()
        let opens = try reader.read().secrets.first?[.opens]
        #expect(opens == 1)
      }
    }
  #endif

  /// A window that is open at one refresh and closed at the next, with no other opened in between.
  @Test func aSecretsWindowEnds() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let publisher = try Self.publish(in: scratch)
      var reader = try Self.reader(of: publisher)
      let arena = try Arena("changes", .init(lock: .preferred, gate: .none))
      let secret = try arena.allocate(byteCount: 32)
      // Until nothing is new, as above.
      try secret.withBytes { _ in for _ in 0..<3 { publisher.refresh() } }
      var secrets = try reader.read().secrets
      var record = try #require(secrets.first)
      #expect(record[.openNow] == 1 && record[.opens] == 1)
      publisher.refresh()
      secrets = try reader.read().secrets
      record = try #require(secrets.first)
      #expect(record[.openNow] == 0 && record[.opens] == 1)
    }
  }

  /// After any changes between two refreshes, on several threads, listed secrets are live and have
  /// the right size, and the others are counted.
  @Test(arguments: [8, 64, 4096])
  func listedSecretsAreLiveAndCorrect(capacity: Int) async {
    await #expect(processExitsWith: .success) { [capacity = capacity as Int] in
      try Self.comeAndGo(capacity: capacity)
    }
  }

  private static func comeAndGo(capacity: Int) throws {
    let scratch = try Scratch(onTmpfs: true)
    let publisher = try Self.publish(in: scratch, listedSecrets: capacity)
    var reader = try Self.reader(of: publisher)
    var random = SeededGenerator(for: "listedSecretsAreLiveAndCorrect")
    let arena = try Arena("many", .init(lock: .preferred, gate: .none))
    // Secrets by address, which any thread can resize and free.
    var live: [UnsafeMutableRawPointer: Int] = [:]
    func change() throws {
      for _ in 0..<Int.random(in: 0..<60, using: &random) {
        let size = Int.random(in: 1...1500, using: &random)
        if let (address, _) = live.randomElement(using: &random), Bool.random(using: &random) {
          try arena.free(address)
          live[address] = nil
        } else {
          let address = try arena.allocate(byteCount: size).leak()
          live[address] = size
        }
      }
      if Int.random(in: 0..<10, using: &random) == 0 {
        for address in live.keys { try arena.free(address) }
        live = [:]
        _ = try arena.trim()
      }
    }
    for _ in 0..<200 {
      // Another thread uses another shard, if there are two processors.
      let done = DispatchSemaphore(value: 0)
      nonisolated(unsafe) var failure: (any Error)?
      nonisolated(unsafe) let body = { do { try change() } catch { failure = error } }
      Thread {
        body()
        done.signal()
      }.start()
      done.wait()
      if let failure { throw failure }
      try change()
      publisher.refresh()
      let image = try reader.read()
      let sizes = image.secrets.map { Int($0[.size]) }
      let unlisted = Int(image.arenas[0][.unlistedSecrets])
      #expect(sizes.count + unlisted == live.count, "listed \(sizes.count), not \(unlisted)")
      #expect(unlisted == 0 || capacity < 4096, "\(unlisted) of \(live.count)")
      var left = live.values.reduce(into: [:]) { $0[$1, default: 0] += 1 }
      for size in sizes { left[size, default: 0] -= 1 }
      #expect(left.values.allSatisfy { $0 >= 0 }, "what is not live is listed")
      let serials = Set(image.secrets.map { $0[.serial] })
      #expect(serials.count == sizes.count, "a serial came twice")
    }
    for address in live.keys { try arena.free(address) }
    publisher.refresh()
    let left = try reader.read().secrets.count
    #expect(left == 0, "all are free")
  }

  private static func publish(
    in scratch: Scratch, listedSecrets: Int = 4096, tickMilliseconds: UInt32 = 10_000
  ) throws -> StatsPublisher {
    setenv("ENCLAVE_STATS_DIR", scratch.path, 1)
    var options = StatsPublisher.Options()
    // By default the publisher's own ticks are disabled.
    options.tickMilliseconds = tickMilliseconds
    options.listedSecrets = listedSecrets
    return try StatsPublisher.start(options)
  }

  private static func reader(of publisher: borrowing StatsPublisher) throws -> StatsPageReader {
    let published = publisher.path
    let path = try #require(published)
    return try StatsPageReader(OpenFile(reading: path, followingLinks: false))
  }

  /// Threads allocate and free large and small secrets while this thread and the publisher's write
  /// changes. Afterwards the list matches the live secrets.
  @Test(arguments: [64, 100_000]) func secretsAreListedWhileTheyComeAndGo(capacity: Int) async {
    await #expect(processExitsWith: .success) { [capacity = capacity as Int] in
      try Self.comeAndGoAtOnce(capacity: capacity)
    }
  }

  private static func comeAndGoAtOnce(capacity: Int) throws {
    let scratch = try Scratch(onTmpfs: true)
    let publisher = try publish(in: scratch, listedSecrets: capacity, tickMilliseconds: 10)
    var reader = try reader(of: publisher)
    let arena = try Arena("many", .init(lock: .preferred, gate: .none))
    let random = SeededGenerator(for: "secretsAreListedWhileTheyComeAndGo")
    let isOver = Atomic(false)
    let failures = Atomic(0)
    let live = Atomic(0)
    let done = DispatchSemaphore(value: 0)
    for number in 0..<4 {
      nonisolated(unsafe) var random = random.stream(number)
      Thread {
        var mine: [SecretReference] = []
        for _ in 0..<4_000 {
          if mine.count > 200 || !mine.isEmpty && Bool.random(using: &random) {
            mine.swapAt(Int.random(in: 0..<mine.count, using: &random), mine.count - 1)
            mine.removeLast()
          } else {
            let isLarge = Int.random(in: 0..<50, using: &random) == 0
            let size = isLarge ? 20_000 : Int.random(in: 1...1500, using: &random)
            guard let secret = try? arena.allocate(byteCount: size) else {
              failures.add(1, ordering: .relaxed)
              continue
            }
            mine.append(SecretReference(secret))
          }
        }
        live.add(mine.count, ordering: .relaxed)
        done.signal()
        // They live until everything was checked.
        while !isOver.load(ordering: .acquiring) { _ = poll(nil, 0, 10) }
        mine = []
        done.signal()
      }.start()
    }
    for _ in 0..<4 {
      while done.wait(timeout: .now()) == .timedOut { publisher.refresh() }
    }
    #expect(failures.load(ordering: .relaxed) == 0)
    publisher.refresh()
    var image = try reader.read()
    let there = live.load(ordering: .relaxed)
    #expect(capacity < there || image.secrets.count == there, "\(image.secrets.count) of \(there)")
    #expect(image.secrets.count + Int(image.arenas[0][.unlistedSecrets]) == there)
    let serials = Set(image.secrets.map { $0[.serial] })
    #expect(serials.count == image.secrets.count, "a serial came twice")
    isOver.store(true, ordering: .releasing)
    for _ in 0..<4 { done.wait() }
    publisher.refresh()
    image = try reader.read()
    #expect(image.secrets.isEmpty && image.arenas[0][.unlistedSecrets] == 0, "all are free")
    // Every record is reusable.
    var secrets: [SecretReference] = []
    for _ in 0..<min(capacity, 2000) {
      secrets.append(SecretReference(try arena.allocate(byteCount: 16)))
    }
    publisher.refresh()
    image = try reader.read()
    #expect(image.secrets.count == secrets.count, "records were lost")
  }

  /// Secrets that are allocated while others are counted are counted at the next refresh, although
  /// nothing else changed since the last.
  @Test func unlistedSecretsAreCountedDuringAllocation() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let publisher = try Self.publish(in: scratch, listedSecrets: 8)
      var reader = try Self.reader(of: publisher)
      let arena = try Arena("full", .init(lock: .preferred, gate: .none))
      let first = try (0..<8).map { _ in SecretReference(try arena.allocate(byteCount: 32)) }
      publisher.refresh()
      let rounds = 500
      let begun = Atomic(0)
      let done = Atomic(0)
      Thread {
        var secrets: [SecretReference] = []
        for round in 1...rounds {
          while begun.load(ordering: .acquiring) < round { sched_yield() }
          guard let secret = try? arena.allocate(byteCount: 32) else { break }
          secrets.append(SecretReference(secret))
          done.store(round, ordering: .releasing)
        }
        while begun.load(ordering: .acquiring) <= rounds { _ = poll(nil, 0, 10) }
      }.start()
      for round in 1...rounds {
        begun.store(round, ordering: .releasing)
        while done.load(ordering: .acquiring) < round { publisher.refresh() }
        publisher.refresh()
        let unlisted = try reader.read().arenas[0][.unlistedSecrets]
        #expect(unlisted == UInt64(round), "of \(first.count + round) secrets")
      }
      begun.store(rounds + 1, ordering: .releasing)
    }
  }

  /// All secrets are replaced between two refreshes, in other slabs. They fit the table, so all are
  /// listed.
  @Test func secretsAreReplacedWhole() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch(onTmpfs: true)
      let publisher = try Self.publish(in: scratch, listedSecrets: 100)
      var reader = try Self.reader(of: publisher)
      let arena = try Arena("replaced", .init(lock: .preferred, gate: .none))
      // The slab of the larger ones comes later in the list than that of the smaller ones.
      let first = SecretReference(try arena.allocate(byteCount: 16))
      var secrets = try (0..<80).map { _ in SecretReference(try arena.allocate(byteCount: 100)) }
      publisher.refresh()
      var listed = try reader.read().secrets.count
      #expect(listed == 81)
      secrets = try (0..<80).map { _ in SecretReference(try arena.allocate(byteCount: 16)) }
      publisher.refresh()
      let image = try reader.read()
      listed = image.secrets.count
      #expect(listed == 81 && image.arenas[0][.unlistedSecrets] == 0, "\(listed) listed")
      withExtendedLifetime((first, secrets)) {}
    }
  }
}
