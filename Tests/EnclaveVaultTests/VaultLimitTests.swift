// Vaults in forked children, under limits, on the page, and with arenas' protection keys.

#if Sodium
  import CTestSupport
  import Enclave
  import EnclaveSystem
  import EnclaveVault
  import Glibc
  import TestSupport
  import Testing

  @Suite struct VaultLimitTests {
    @Test func aChildHasNoVault() async {
      await #expect(processExitsWith: .success) {
        let (vault, arena) = (
          try Vault("vault", lock: .preferred), try Arena("plaintext", .init(lock: .preferred))
        )
        let encrypted = try vault.encrypt(secret(arena, 32, 1))
        let report = try ChildReport()
        let child = report.fork()
        if child == 0 {
          report.expect(throws: EnclaveError.inheritedByFork, "decrypting") {
            _ = try vault.decrypt(encrypted, into: arena)
          }
          report.expect(throws: EnclaveError.inheritedByFork, "rotating") { try vault.rotate() }
          report.expectNoError("a vault of its own") {
            let (own, place) = (
              try Vault("own", lock: .preferred), try Arena("own", .init(lock: .preferred))
            )
            report.expect(
              try isRight(own.decrypt(own.encrypt(secret(place, 32, 2)), into: place), 2),
              "contents of its own")
          }
          report.expect(vault.statistics.encryptions == 0, "no counts of an inherited vault")
          report.end()
        }
        let failures = report.failures(of: child)
        #expect(failures == [], "\(failures)")
        #expect(try isRight(vault.decrypt(encrypted, into: arena), 1), "the parent's contents")
      }
    }

    /// All memory that decrypting needs is reserved from the start.
    @Test(.withoutThreadSanitizer("it does not lock memory"))
    func decryptingNeedsNoHeadroom() async {
      await #expect(processExitsWith: .success) {
        try #require(ct_drop_lock_capability() == 0, "dropping the capability")
        let vault = try Vault("vault")
        let arena = try Arena("plaintext")
        let encrypted = try vault.encrypt(secret(arena, 32, 1))
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        try #require(
          setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &none) == 0, "no headroom")
        #expect(throws: EnclaveError.self, "allocating without headroom") {
          _ = try Arena("more").allocate(byteCount: 32)
        }
        for _ in 0..<100 {
          #expect(try isRight(vault.decrypt(encrypted, into: arena), 1), "contents")
        }
        _ = try vault.encrypt(secret(arena, 32, 1))
      }
    }

    /// A rotation needs room for the largest current secret, not for former ones.
    @Test(.withoutThreadSanitizer("it does not lock memory"))
    func rotatingNeedsRoomForWhatIsThere() async {
      await #expect(processExitsWith: .success) {
        try #require(ct_drop_lock_capability() == 0, "dropping the capability")
        let vault = try Vault("vault")
        let arena = try Arena("plaintext", .init(lock: .off))
        let small = try vault.encrypt(secret(arena, 5000, 1))
        do { _ = try vault.encrypt(secret(arena, 1 << 20, 2)) }
        #expect(vault.statistics.entries == 1, "entries")
        var limit = rlimit(rlim_cur: 32768, rlim_max: 32768)
        try #require(
          setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0, "the limit")
        try vault.rotate()
        #expect(vault.isOldKeyWiped, "the old key was not wiped")
        #expect(try isRight(vault.decrypt(small, into: arena), 1), "the small secret, rotated")
        // Lack of room stops the rotation, and nothing is lost.
        let large = try vault.encrypt(secret(arena, 1 << 20, 2))
        #expect(throws: EnclaveError.self, "rotating without room") { try vault.rotate() }
        #expect(vault.statistics.entriesOfOldEpoch == 2, "entries of the old epoch")
        #expect(try isRight(vault.decrypt(large, into: arena), 2), "the large secret")
        #expect(try isRight(vault.decrypt(small, into: arena), 1), "the small secret")
      }
    }

    /// The publishing thread may hold the last reference to a vault's entry store.
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

    @Test(.enabled(if: Capability.protectionKeys.isAvailable, "no protection keys here"))
    func aVaultSharesNoKeyWithAnArena() throws {
      let vault = try vault()
      let arenas = try (0..<20).map { _ in try arena() }
      for arena in arenas { #expect(arena.statistics.protectionKey != vault.protectionKey) }
    }
  }
#endif
