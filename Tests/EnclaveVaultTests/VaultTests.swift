// Encryption at rest: what comes back, what does not, and what happens to keys.

#if Vault
  import CTestSupport
  import Enclave
  import EnclaveSystem
  import EnclaveVault
  import Glibc
  import TestSupport
  import Testing

  private let ciphers = Vault.Cipher.allCases.filter(\.isAvailable)

  private func arena(_ layout: Arena.Layout = .slab) throws -> Arena {
    try Arena("plaintext", .init(layout: layout, lock: .preferred))
  }

  private func vault(
    _ cipher: Vault.Cipher? = nil, gate: Arena.Gate = .automatic,
    limit: UInt64 = Vault.messagesPerKey
  ) throws -> Vault {
    try Vault("vault", lock: .preferred, gate: gate, cipher: cipher, nonceLimit: limit)
  }

  /// A secret whose bytes follow from a number.
  private func secret(_ arena: Arena, _ size: Int, _ number: Int) throws -> Secret {
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

  private func isRight(_ secret: borrowing Secret, _ number: Int) throws -> Bool {
    try secret.withBytes { bytes in
      bytes.withUnsafeBytes { raw in
        raw.indices.allSatisfy { raw[$0] == UInt8(truncatingIfNeeded: number &* 31 &+ $0 &* 7) }
      }
    }
  }

  private func bytes(_ hex: String) -> [UInt8] {
    let digits = Array(hex)
    return stride(from: 0, to: digits.count, by: 2).map {
      UInt8(String(digits[$0...$0 + 1]), radix: 16)!
    }
  }

  @Suite struct CipherTests {
    struct Vector: Sendable {
      var cipher: Vault.Cipher
      var key, nonce, associated, text, ciphertext, tag: [UInt8]
    }

    static let vectors = [
      // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16.
      Vector(
        cipher: .aes256gcm,
        key: bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
        nonce: bytes("cafebabefacedbaddecaf888"),
        associated: bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        text: bytes(
          "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            + "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"),
        ciphertext: bytes(
          "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            + "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"),
        tag: bytes("76fc6ece0f4e1768cddf8853bb2d551b")),
      // draft-irtf-cfrg-xchacha-03, A.3.1.
      Vector(
        cipher: .xchacha20poly1305,
        key: bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        nonce: bytes("404142434445464748494a4b4c4d4e4f5051525354555657"),
        associated: bytes("50515253c0c1c2c3c4c5c6c7"),
        text: Array(
          ("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
            + "future, sunscreen would be it.").utf8),
        ciphertext: bytes(
          "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
            + "4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc36948"
            + "8f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e"),
        tag: bytes("c0875924c1c7987947deafd8780acf49")),
    ]

    @Test(arguments: vectors.filter(\.cipher.isAvailable)) func knownAnswers(vector: Vector) {
      let schedule = UnsafeMutableRawPointer.allocate(
        byteCount: Vault.Cipher.scheduleBytes, alignment: 16)
      defer { schedule.deallocate() }
      var (made, tag) = (
        [UInt8](repeating: 0, count: vector.text.count), [UInt8](repeating: 0, count: 16)
      )
      let cipher = vector.cipher
      #expect(vector.nonce.count == cipher.nonceBytes)
      cipher.prepare(key: vector.key, schedule: schedule)
      vector.associated.withUnsafeBytes { associated in
        cipher.seal(
          vector.text, byteCount: vector.text.count, into: &made, tag: &tag, nonce: vector.nonce,
          associated: associated, schedule: schedule)
        #expect(made == vector.ciphertext && tag == vector.tag)
        var back = [UInt8](repeating: 1, count: vector.text.count)
        #expect(
          cipher.open(
            made, byteCount: made.count, into: &back, tag: tag, nonce: vector.nonce,
            associated: associated, schedule: schedule))
        #expect(back == vector.text)
        tag[3] ^= 4
        #expect(
          !cipher.open(
            made, byteCount: made.count, into: &back, tag: tag, nonce: vector.nonce,
            associated: associated, schedule: schedule))
        #expect(back.allSatisfy { $0 == 0 })
      }
    }
  }

  @Suite struct VaultTests {
    @Test(arguments: ciphers, [Arena.Gate.automatic, .pages, .none])
    func whatGoesInComesBack(cipher: Vault.Cipher, gate: Arena.Gate) throws {
      let (vault, arena) = (try vault(cipher, gate: gate), try arena())
      for size in [0, 1, 15, 32, 33, 4096, 4097, 70_000] {
        let secret = try secret(arena, size, size)
        let encrypted = try vault.encrypt(secret)
        #expect(encrypted.byteCount == size)
        try secret.destroy()
        for _ in 0..<2 {
          let back = try vault.decrypt(encrypted, into: arena)
          #expect(back.byteCount == size)
          #expect(try isRight(back, size))
        }
      }
      #expect(vault.statistics.entries == 0)
      #expect(vault.statistics.encryptions == 8 && vault.statistics.decryptions == 16)
      #expect(arena.statistics.secretCount == 0)
    }

    @Test func decryptsOverASecretOfTheSameSize() throws {
      let (vault, arena) = (try vault(), try arena())
      let encrypted = try vault.encrypt(secret(arena, 48, 1))
      var place = try secret(arena, 48, 2)
      try vault.decrypt(encrypted, over: &place)
      var isSame = try isRight(place, 1)
      #expect(isSame)
      encrypted.withStorage { text, _ in text[7] ^= 1 }
      do {
        try vault.decrypt(encrypted, over: &place)
        Issue.record("a changed byte was decrypted")
      } catch { #expect(error == .notAuthentic) }
      isSame = try place.withBytes { $0.withUnsafeBytes { $0.allSatisfy { $0 == 0 } } }
      #expect(isSame)
      var other = try arena.allocate(byteCount: 47)
      do {
        try vault.decrypt(encrypted, over: &other)
        Issue.record("47 bytes took 48")
      } catch { #expect(error == .invalidSize(byteCount: 47, alignment: 1)) }
    }

    @Test func parkEmptiesOnlyOnSuccess() throws {
      let (vault, arena) = (try vault(), try arena())
      var held: Secret? = try secret(arena, 100, 5)
      let encrypted = try vault.park(&held)
      let isGone = held == nil
      #expect(isGone && arena.statistics.secretCount == 0)
      #expect(throws: EnclaveError.noSecret) { _ = try vault.park(&held) }
      held = try vault.decrypt(encrypted, into: arena)
      try vault.destroy()
      #expect(throws: EnclaveError.destroyed) { _ = try vault.park(&held) }
      let isLeft = try isRight(held!, 5)
      #expect(isLeft && arena.statistics.secretCount == 1)
    }

    /// No byte of the ciphertext or the tag can be changed, and no plaintext is left of the attempt.
    @Test(arguments: ciphers) func aChangedByteIsNotAuthentic(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      let secret = try secret(arena, 40, 1)
      let encrypted = try vault.encrypt(secret)
      for index in 0..<56 {
        encrypted.withStorage { text, tag in
          let place = index < 40 ? text.baseAddress! + index : tag + (index - 40)
          place.storeBytes(of: place.load(as: UInt8.self) ^ 1, as: UInt8.self)
        }
        #expect(throws: EnclaveError.notAuthentic) { _ = try vault.decrypt(encrypted, into: arena) }
        #expect(arena.statistics.secretCount == 1)
        encrypted.withStorage { text, tag in
          let place = index < 40 ? text.baseAddress! + index : tag + (index - 40)
          place.storeBytes(of: place.load(as: UInt8.self) ^ 1, as: UInt8.self)
        }
      }
      #expect(try isRight(vault.decrypt(encrypted, into: arena), 1))
      #expect(vault.statistics.failures == 56)
    }

    private func copy(_ encrypted: borrowing EncryptedSecret) -> [UInt8] {
      encrypted.withStorage { text, tag in
        Array(text) + Array(UnsafeRawBufferPointer(start: tag, count: 16))
      }
    }

    private func put(_ stored: [UInt8], into encrypted: borrowing EncryptedSecret) {
      encrypted.withStorage { text, tag in
        for index in 0..<text.count { text[index] = stored[index] }
        for index in 0..<16 {
          tag.storeBytes(of: stored[text.count + index], toByteOffset: index, as: UInt8.self)
        }
      }
    }

    @Test(arguments: ciphers) func swappedAndOlderCiphertextsAreNotAuthentic(cipher: Vault.Cipher)
      throws
    {
      let (vault, arena) = (try vault(cipher), try arena())
      let a = try vault.encrypt(secret(arena, 32, 1))
      let b = try vault.encrypt(secret(arena, 32, 2))
      let (oldA, oldB) = (copy(a), copy(b))
      put(oldB, into: a)
      #expect(throws: EnclaveError.notAuthentic) { _ = try vault.decrypt(a, into: arena) }
      // With its nonce too: it is bound to its entry.
      do {
        let nonceOfA = try vault.encrypt(secret(arena, 32, 3))
        nonceOfA.copyNonce(from: a)
        a.copyNonce(from: b)
        #expect(throws: EnclaveError.notAuthentic) { _ = try vault.decrypt(a, into: arena) }
        a.copyNonce(from: nonceOfA)
      }
      put(oldA, into: a)
      #expect(try isRight(vault.decrypt(a, into: arena), 1))
      try vault.rotate()
      #expect(copy(a) != oldA)
      put(oldA, into: a)
      #expect(throws: EnclaveError.notAuthentic) { _ = try vault.decrypt(a, into: arena) }
      #expect(try isRight(vault.decrypt(b, into: arena), 2))
      // Another vault's.
      let other = try Vault("other", lock: .preferred)
      #expect(throws: EnclaveError.notAuthentic) { _ = try other.decrypt(b, into: arena) }
    }

    // MARK: - Epochs

    @Test(arguments: ciphers) func rotatingEncryptsEverythingAnew(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      var all: [Holder] = []
      for number in 0..<50 {
        all.append(Holder(try vault.encrypt(secret(arena, number * 13, number))))
      }
      for round in 1...5 {
        let before = all.map { copy($0.encrypted) }
        try vault.rotate()
        #expect(vault.statistics.epoch == UInt64(round + 1))
        #expect(vault.statistics.entriesOfOldEpoch == 0)
        for (number, holder) in all.enumerated() {
          #expect(copy(holder.encrypted) != before[number])
          #expect(try isRight(vault.decrypt(holder.encrypted, into: arena), number))
        }
      }
      // The old key is wiped, and a place for it is all there is.
      #expect(vault.isOldKeyWiped)
      #expect(vault.statistics.rotations == 5 && vault.statistics.entries == 50)
    }

    final class Holder {
      let encrypted: EncryptedSecret
      init(_ encrypted: consuming EncryptedSecret) { self.encrypted = encrypted }
    }

    /// An entry that cannot be decrypted holds the old key; the others move.
    @Test func aDamagedEntryStopsNoOther() throws {
      let (vault, arena) = (try vault(), try arena())
      let good = try vault.encrypt(secret(arena, 32, 1))
      let damaged = Holder(try vault.encrypt(secret(arena, 32, 2)))
      let better = try vault.encrypt(secret(arena, 32, 3))
      let right = copy(damaged.encrypted)
      put([UInt8](repeating: 0, count: 48), into: damaged.encrypted)
      #expect(throws: EnclaveError.notAuthentic) { try vault.rotate() }
      #expect(vault.statistics.entriesOfOldEpoch == 1 && !vault.isOldKeyWiped)
      #expect(try isRight(vault.decrypt(good, into: arena), 1))
      #expect(try isRight(vault.decrypt(better, into: arena), 3))
      // What was lost in between is not lost: put right, it can be read and moved.
      put(right, into: damaged.encrypted)
      #expect(try isRight(vault.decrypt(damaged.encrypted, into: arena), 2))
      try vault.rotate()
      #expect(try isRight(vault.decrypt(damaged.encrypted, into: arena), 2))
      #expect(vault.isOldKeyWiped && vault.statistics.entriesOfOldEpoch == 0)
    }

    /// A rotation that finds no place for a plaintext loses nothing, and goes on later.
    @Test func aFailedStepLosesNothing() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (
          try Vault("vault", lock: .required, gate: .automatic, cipher: nil, nonceLimit: 1 << 32),
          try Arena("plaintext", .init(lock: .preferred))
        )
        let encrypted = try vault.encrypt(secret(arena, 6000, 9))
        FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 3)
        do {
          try vault.rotate()
          exit(2)
        } catch {}
        guard vault.statistics.entriesOfOldEpoch == 1,
          try isRight(vault.decrypt(encrypted, into: arena), 9)
        else { exit(3) }
        FaultPlan.clear()
        try vault.rotate()
        guard vault.statistics.entriesOfOldEpoch == 0,
          try isRight(vault.decrypt(encrypted, into: arena), 9)
        else { exit(4) }
      }
    }

    /// The end of a key's counter is a rotation; no nonce comes twice under one key, in any thread.
    @Test func noNonceComesTwice() throws {
      let (vault, arena) = (try vault(limit: 5000), try arena())
      let used = Collected()
      try concurrently(4) { thread in
        let secret = try secret(arena, 16, thread)
        var mine: [UInt64] = []
        var kept: [Holder] = []
        for round in 0..<250_000 {
          let encrypted = try vault.encrypt(secret)
          // Looked at once: a rotation may move it between two looks. Below 2^40 each: a pair in a word.
          let (epoch, nonce) = encrypted.epochAndNonce
          mine.append(epoch << 40 | nonce)
          if round % 25_000 == 0 { kept.append(Holder(encrypted)) }
        }
        for holder in kept where try !isRight(vault.decrypt(holder.encrypted, into: arena), thread)
        {
          throw Failed("contents")
        }
        used.add(mine)
      }
      #expect(used.all.count == 1_000_000)
      // An entry that a rotation moved before its nonce was read has another by then, and no two have
      // the same.
      #expect(Set(used.all).count == 1_000_000)
      #expect(vault.statistics.rotations >= 199)
    }

    final class Collected: @unchecked Sendable {
      private var lock = pthread_mutex_t()
      private(set) var all: [UInt64] = []
      init() { pthread_mutex_init(&lock, nil) }
      func add(_ more: [UInt64]) {
        pthread_mutex_lock(&lock)
        all += more
        pthread_mutex_unlock(&lock)
      }
    }

    /// While the vault rotates, other threads encrypt, decrypt and drop.
    @Test(arguments: ciphers) func rotatingUnderLoad(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      let rounds = 60
      try concurrently(4) { thread in
        if thread == 0 {
          for _ in 0..<rounds { try vault.rotate() }
          return
        }
        var kept: [(Int, Holder)] = []
        var random = SystemRandomNumberGenerator()
        for round in 0..<1500 {
          let number = thread * 10_000 + round
          kept.append((number, Holder(try vault.encrypt(secret(arena, number % 300, number)))))
          if kept.count > 40 { kept.remove(at: Int.random(in: 0..<kept.count, using: &random)) }
          let (expected, holder) = kept[Int.random(in: 0..<kept.count, using: &random)]
          if try !isRight(vault.decrypt(holder.encrypted, into: arena), expected) {
            throw Failed("contents of \(expected)")
          }
        }
      }
      #expect(vault.statistics.entries == 0 && vault.statistics.failures == 0)
      #expect(vault.statistics.epoch == UInt64(rounds + 1))
      #expect(arena.statistics.secretCount == 0)
    }

    /// 50,000 random operations for each cipher, against a list of what should be where; contents are compared at every
    /// step. The seed is in the message when something differs.
    @Test(arguments: ciphers) func operationsAgreeWithAModel(cipher: Vault.Cipher) throws {
      final class Item {
        let number: Int
        let size: Int
        var secret: Secret?
        var encrypted: EncryptedSecret?
        init(_ number: Int, _ size: Int, _ secret: consuming Secret) {
          (self.number, self.size) = (number, size)
          self.secret = consume secret
        }
      }
      struct Steps: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
          state ^= state << 13
          state ^= state >> 7
          state ^= state << 17
          return state
        }
      }
      let seed = UInt64.random(in: 1 ... .max)
      var steps = Steps(state: seed)
      let arenas = [try arena(), try arena(.isolated)]
      let vaults = [try vault(cipher), try vault(cipher, limit: 5000)]
      var items: [(item: Item, vault: Vault)] = []
      func expect(_ condition: Bool, _ what: String) throws {
        if !condition { throw Failed("seed \(seed): \(what)") }
      }
      for step in 0..<50_000 {
        let choice = steps.next() % 100
        if items.count < 20 || choice < 20 && items.count < 200 {
          // Isolated secrets are dear: a few.
          let place = arenas[steps.next() % 16 == 0 ? 1 : 0]
          let size = Int(steps.next() % 500)
          items.append(
            (Item(step, size, try secret(place, size, step)), vaults[Int(steps.next() % 2)]))
          continue
        }
        if choice == 99, step % 50 == 0 {
          try vaults[Int(steps.next() % 2)].rotate()
          continue
        }
        let index = Int(steps.next() % UInt64(items.count))
        let (item, vault) = items[index]
        switch choice {
        case 20..<40:
          let isClear = item.secret != nil
          if isClear { item.encrypted = try vault.encrypt(item.secret!) }
        case 40..<60:
          let isClear = item.secret != nil
          if isClear { item.encrypted = try vault.park(&item.secret) }
        case 60..<80:
          let isKept = item.encrypted != nil
          if isKept { item.secret = try vault.decrypt(item.encrypted!, into: arenas[0]) }
        case 80..<85: items.remove(at: index)
        default:
          if item.secret != nil {
            let isWhole = try isRight(item.secret!, item.number)
            try expect(isWhole, "contents of \(item.number)")
          }
          if item.encrypted != nil {
            let back = try vault.decrypt(item.encrypted!, into: arenas[0])
            let isWhole = try isRight(back, item.number)
            try expect(isWhole && back.byteCount == item.size, "what \(item.number) decrypts to")
          }
        }
      }
      let secrets = items.count { $0.item.secret != nil }
      try expect(arenas.map(\.statistics.secretCount).reduce(0, +) == secrets, "count of secrets")
      for vault in vaults {
        let mine = items.filter { $0.vault === vault && $0.item.encrypted != nil }
        try expect(vault.statistics.entries == mine.count, "count of entries")
        try expect(vault.statistics.bytes == mine.reduce(0) { $0 + $1.item.size }, "bytes")
        try expect(vault.statistics.failures == 0, "failures")
      }
      items = []
      try expect(arenas.allSatisfy { $0.statistics.secretCount == 0 }, "all secrets are gone")
      try expect(vaults.allSatisfy { $0.statistics.entries == 0 }, "all entries are gone")
      try expect(arenas.allSatisfy { (try? $0.check().isEmpty) == true }, "the arenas are whole")
    }

    // MARK: - Forks and limits

    @Test func aChildHasNoVault() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (
          try Vault("vault", lock: .preferred), try Arena("plaintext", .init(lock: .preferred))
        )
        let encrypted = try vault.encrypt(secret(arena, 32, 1))
        let child = ct_fork()
        if child == 0 {
          do {
            _ = try vault.decrypt(encrypted, into: arena)
            _exit(1)
          } catch EnclaveError.inheritedByFork {
          } catch { _exit(2) }
          do {
            try vault.rotate()
            _exit(3)
          } catch EnclaveError.inheritedByFork {
          } catch { _exit(4) }
          do {
            // One of its own.
            let (own, place) = (
              try Vault("own", lock: .preferred), try Arena("own", .init(lock: .preferred))
            )
            guard try isRight(own.decrypt(own.encrypt(secret(place, 32, 2)), into: place), 2) else {
              _exit(5)
            }
            guard vault.statistics.encryptions == 0 else { _exit(6) }
          } catch { _exit(7) }
          _exit(0)
        }
        var status: Int32 = 0
        waitpid(child, &status, 0)
        guard status == 0 else { exit(8) }
        guard try isRight(vault.decrypt(encrypted, into: arena), 1) else { exit(9) }
      }
    }

    /// Everything that decrypting needs is there from the start.
    @Test func decryptingNeedsNoHeadroom() async {
      await #expect(processExitsWith: .success) {
        guard ct_drop_lock_capability() == 0 else { exit(1) }
        let vault = try Vault("vault")
        let arena = try Arena("plaintext")
        let encrypted = try vault.encrypt(secret(arena, 32, 1))
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        guard setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &none) == 0 else { exit(2) }
        do {
          _ = try Arena("more").allocate(byteCount: 32)
          exit(3)
        } catch {}
        for _ in 0..<100 {
          guard try isRight(vault.decrypt(encrypted, into: arena), 1) else { exit(4) }
        }
        _ = try vault.encrypt(secret(arena, 32, 1))
      }
    }

    /// The thread that writes the page may be the last to hold what it writes.
    @Test func vaultsComeAndGoWhileTheProcessPublishes() async throws {
      let stats = try Scratch(onTmpfs: true)
      await #expect(processExitsWith: .success) { [path = stats.path as String] in
        setenv("ENCLAVE_STATS_DIR", path, 1)
        var options = StatsPublisher.Options()
        options.tickMilliseconds = 10
        try StatsPublisher.start(options).keepUntilExit()
        let arena = try arena()
        try concurrently(3) { thread in
          let secret = try secret(arena, 32, thread)
          for _ in 0..<400 {
            let vault = try vault()
            let encrypted = try vault.encrypt(secret)
            guard try isRight(vault.decrypt(encrypted, into: arena), thread) else {
              throw Failed("contents")
            }
          }
        }
      }
    }

    @Test func aVaultSharesNoKeyWithAnArena() throws {
      guard Capability.protectionKeys.isAvailable else { return }
      let vault = try vault()
      let arenas = try (0..<20).map { _ in try arena() }
      for arena in arenas { #expect(arena.statistics.protectionKey != vault.protectionKey) }
    }
  }

  /// Runs a body in several threads; throws what any of them threw.
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
