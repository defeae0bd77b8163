// Encryption at rest: decrypting, rejecting changed ciphertext, and the life of keys.

#if Sodium
  import CTestSupport
  import Enclave
  import EnclaveSystem
  import EnclaveVault
  import Glibc
  import TestSupport
  import Testing

  @Suite struct VaultTests {
    @Test(arguments: ciphers, [Arena.Gate.automatic, .pages, .none])
    func decryptionReturnsThePlaintext(cipher: Vault.Cipher, gate: Arena.Gate) throws {
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

    @Test func decryptingReusesASecretOfTheSameSize() throws {
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

    /// Many threads can open its keys at the same time.
    @Test func aCipherGateIsNoGateForKeys() {
      #expect(throws: EnclaveError.cipherUnavailable("a cipher gate for a vault's keys")) {
        _ = try Vault("vault", lock: .preferred, gate: .cipher)
      }
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

    /// A change to any byte of the ciphertext or the tag is rejected, and leaves no plaintext.
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
      // Even with its nonce: a ciphertext is bound to its entry.
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
      // A ciphertext of another vault.
      let other = try Vault("other", lock: .preferred)
      #expect(throws: EnclaveError.notAuthentic) { _ = try other.decrypt(b, into: arena) }
    }

    // MARK: - Epochs

    /// An entry's epoch is in ordinary memory, but authenticated by the tag.
    @Test(arguments: ciphers) func aForgedEpochIsNotAuthentic(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      let encrypted = try vault.encrypt(secret(arena, 32, 1))
      for epoch: UInt64 in [0, 2, 3, .max] {
        encrypted.forge(epoch: epoch)
        #expect(throws: EnclaveError.notAuthentic) { _ = try vault.decrypt(encrypted, into: arena) }
      }
      encrypted.forge(epoch: 1)
      #expect(try isRight(vault.decrypt(encrypted, into: arena), 1))
    }

    @Test(arguments: ciphers) func rotatingEncryptsEverythingAnew(cipher: Vault.Cipher) throws {
      let (vault, arena) = (try vault(cipher), try arena())
      var all: [Holder] = []
      for number in 0..<50 {
        all.append(Holder(try vault.encrypt(secret(arena, number * 13, number))))
      }
      for round in 1...5 {
        let before = all.map { copy($0.encrypted!) }
        try vault.rotate()
        #expect(vault.statistics.epoch == UInt64(round + 1))
        #expect(vault.statistics.entriesOfOldEpoch == 0)
        for (number, holder) in all.enumerated() {
          #expect(copy(holder.encrypted!) != before[number])
          #expect(try isRight(vault.decrypt(holder.encrypted!, into: arena), number))
        }
      }
      // The old key is wiped, and only its slot remains.
      #expect(vault.isOldKeyWiped)
      #expect(vault.statistics.rotations == 5 && vault.statistics.entries == 50)
    }

    /// The buffer for plaintext fits the largest entry, wherever it is in the list.
    @Test(arguments: [0, 63, 64, 199]) func rotatingMovesALargeEntryAmongManySmallOnes(place: Int)
      throws
    {
      let (vault, arena) = (try vault(), try arena())
      var all: [Holder] = []
      for number in 0..<200 {
        let size = number == place ? 5000 : 16
        all.append(Holder(try vault.encrypt(secret(arena, size, number))))
      }
      try vault.rotate()
      #expect(vault.statistics.entriesOfOldEpoch == 0 && vault.isOldKeyWiped)
      for (number, holder) in all.enumerated() {
        #expect(try isRight(vault.decrypt(holder.encrypted!, into: arena), number))
      }
    }

    /// An entry that cannot be decrypted keeps the old key; the others are re-encrypted.
    @Test func aDamagedEntryDoesNotStopARotation() throws {
      let (vault, arena) = (try vault(), try arena())
      let good = try vault.encrypt(secret(arena, 32, 1))
      let damaged = Holder(try vault.encrypt(secret(arena, 32, 2)))
      let better = try vault.encrypt(secret(arena, 32, 3))
      let right = copy(damaged.encrypted!)
      put([UInt8](repeating: 0, count: 48), into: damaged.encrypted!)
      #expect(throws: EnclaveError.notAuthentic) { try vault.rotate() }
      #expect(vault.statistics.entriesOfOldEpoch == 1 && !vault.isOldKeyWiped)
      #expect(try isRight(vault.decrypt(good, into: arena), 1))
      #expect(try isRight(vault.decrypt(better, into: arena), 3))
      // The damaged entry is not lost: restored, it can be read and re-encrypted.
      put(right, into: damaged.encrypted!)
      #expect(try isRight(vault.decrypt(damaged.encrypted!, into: arena), 2))
      try vault.rotate()
      #expect(try isRight(vault.decrypt(damaged.encrypted!, into: arena), 2))
      #expect(vault.isOldKeyWiped && vault.statistics.entriesOfOldEpoch == 0)
    }

    /// A rotation without memory for a plaintext loses nothing, and can be resumed.
    @Test func aFailedStepLosesNothing() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (
          try Vault("vault", lock: .required, gate: .automatic, cipher: nil, nonceLimit: 1 << 32),
          try Arena("plaintext", .init(lock: .preferred))
        )
        let encrypted = try vault.encrypt(secret(arena, 6000, 9))
        FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 3)
        #expect(throws: EnclaveError.self, "rotating") { try vault.rotate() }
        #expect(vault.statistics.entriesOfOldEpoch == 1, "entries of the old epoch")
        #expect(try isRight(vault.decrypt(encrypted, into: arena), 9), "contents, not rotated")
        FaultPlan.clear()
        try vault.rotate()
        #expect(vault.statistics.entriesOfOldEpoch == 0, "entries of the old epoch, rotated")
        #expect(try isRight(vault.decrypt(encrypted, into: arena), 9), "contents, rotated")
      }
    }

    /// A key's last nonce triggers a rotation, and no key uses a nonce twice, in any thread.
    @Test func noncesAreNeverReused() throws {
      let (vault, arena) = (try vault(limit: 5000), try arena())
      let used = Collected()
      try concurrently(4) { thread in
        let secret = try secret(arena, 16, thread)
        var mine: [UInt64] = []
        var kept: [Holder] = []
        for round in 0..<250_000 {
          let encrypted = try vault.encrypt(secret)
          // Read both at once, because a rotation may change them. Both are below 2^40, so they fit
          // one word.
          let (epoch, nonce) = encrypted.epochAndNonce
          mine.append(epoch << 40 | nonce)
          if round % 25_000 == 0 { kept.append(Holder(encrypted)) }
        }
        for holder in kept where try !isRight(vault.decrypt(holder.encrypted!, into: arena), thread)
        {
          throw Failed("contents")
        }
        used.add(mine)
      }
      #expect(used.all.count == 1_000_000)
      // An entry that was re-encrypted before its nonce was read has another one, but all are
      // different.
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
      let seeded = SeededGenerator()
      try concurrently(4) { thread in
        if thread == 0 {
          for _ in 0..<rounds { try vault.rotate() }
          return
        }
        var kept: [(Int, Holder)] = []
        var random = seeded.stream(thread)
        for round in 0..<1500 {
          let number = thread * 10_000 + round
          kept.append((number, Holder(try vault.encrypt(secret(arena, number % 300, number)))))
          if kept.count > 40 { kept.remove(at: Int.random(in: 0..<kept.count, using: &random)) }
          let (expected, holder) = kept[Int.random(in: 0..<kept.count, using: &random)]
          if try !isRight(vault.decrypt(holder.encrypted!, into: arena), expected) {
            throw Failed("contents of \(expected)")
          }
        }
      }
      #expect(vault.statistics.entries == 0 && vault.statistics.failures == 0)
      #expect(vault.statistics.epoch == UInt64(rounds + 1))
      #expect(arena.statistics.secretCount == 0)
    }

    /// 50,000 random operations per cipher are compared with a model at every step. A failure's
    /// message has the seed.
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
      var steps = SeededGenerator()
      let seed = steps.seed
      let arenas = [try arena(), try arena(.isolated)]
      let vaults = [try vault(cipher), try vault(cipher, limit: 5000)]
      var items: [(item: Item, vault: Vault)] = []
      func expect(_ condition: Bool, _ what: String) throws {
        if !condition { throw Failed("seed \(seed): \(what)") }
      }
      for step in 0..<50_000 {
        let choice = steps.next() % 100
        if items.count < 20 || choice < 20 && items.count < 200 {
          // Only a few, because isolated secrets are expensive.
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
  }
#endif
