// Wiping everything: open windows read zeros and get an error, and no window opens any more.

#if Sodium
  import CTestSupport
  import Enclave
  import EnclaveVault
  import Glibc
  import TestSupport
  import Testing

  @Suite struct WipeTests {
    static let gates: [Arena.Gate] = [.automatic, .pages, .none]

    /// A closure that ran during a wipe read zeros, so its result is dropped.
    @Test(arguments: 0..<3, [Arena.Layout.slab, .isolated])
    func nobodySignsWithAKeyOfZeros(gate: Int, layout: Arena.Layout) async {
      let isSlab = layout == .slab
      await #expect(processExitsWith: .success) { [gate = gate as Int, isSlab = isSlab as Bool] in
        let arena = try Arena(
          "keys",
          .init(layout: isSlab ? .slab : .isolated, lock: .preferred, gate: WipeTests.gates[gate]))
        var key = try arena.allocate(byteCount: 32, label: "signing key")
        try key.withMutableBytes { $0.storeBytes(of: 0x41, toByteOffset: 0, as: UInt8.self) }
        let other = try arena.allocate(byteCount: 32)
        var seen: (UInt8, UInt8) = (1, 1)
        do throws(AccessError<Never>) {
          let signature = try key.withBytes { bytes in
            seen.0 = bytes.unsafeLoad(as: UInt8.self)
            EmergencyWipe.wipeEverything()
            seen.1 = bytes.unsafeLoad(as: UInt8.self)
            return 5
          }
          Issue.record("a result: \(signature)")
        } catch { #expect(error == .access(.destroyed), "\(error)") }
        #expect(seen == (0x41, 0), "before and after the wipe: \(seen)")
        #expect(throws: AccessError<Never>.access(.destroyed), "a window for writing") {
          try key.withMutableBytes { _ in }
        }
        #expect(throws: EnclaveError.destroyed, "allocating") {
          _ = try arena.allocate(byteCount: 16)
        }
        // Late uses do not crash, and late frees have no effect.
        try other.destroy()
        try arena.destroy()
        #expect(arena.statistics.secretCount == 0, "secrets in the end")
        #expect(arena.statistics.bytesMapped == 0, "mapped in the end")
      }
    }

    /// Memory that other code unmapped or protected does not crash the exit.
    @Test(arguments: ["unmapped", "protected"]) func exitSurvivesUnmappedAndProtectedMemory(
      what: String
    ) async {
      await #expect(processExitsWith: .success) { [what = what as String] in
        let arena = try Arena("victim", .init(lock: .preferred, gate: .none))
        let address = try unsafe arena.allocate(byteCount: 32).leak()
        let page = UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: address) & ~4095)!
        let result = what == "unmapped" ? munmap(page, 4096) : mprotect(page, 4096, PROT_NONE)
        try #require(result == 0, "\(what)")
        exit(EXIT_SUCCESS)  // while the arena exists
      }
    }

    /// Threads encrypt, decrypt, open and rotate during a wipe: each operation succeeds completely
    /// or fails.
    @Test func operationsDuringAWipeAreWholeOrErrors() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("plaintext", .init(lock: .preferred))
        let vault = try Vault("vault", lock: .preferred)
        let secret = try {
          var secret = try arena.allocate(byteCount: 64)
          try secret.withMutableBytes { bytes in
            bytes.withUnsafeMutableBytes { raw in for index in raw.indices { raw[index] = 0x55 } }
          }
          return SecretReference(secret)
        }()
        final class Work: @unchecked Sendable {
          let body: (Int) -> Void
          init(_ body: @escaping (Int) -> Void) { self.body = body }
        }
        // Returns when an operation throws `destroyed`.
        let work = Work { index in
          while true {
            do {
              switch index {
              case 0:
                let encrypted = try vault.encrypt(secret)
                let back = try vault.decrypt(encrypted, into: arena)
                let isRight = try back.withBytes {
                  $0.withUnsafeBytes { $0.allSatisfy { $0 == 0x55 } }
                }
                #expect(isRight, "what was decrypted")
              case 1:
                let isRight = try secret.withBytes {
                  $0.withUnsafeBytes { $0.allSatisfy { $0 == 0x55 } }
                }
                #expect(isRight, "what was read")
              case 2: try vault.rotate()
              default:
                var fresh = try arena.allocate(byteCount: 300)
                let isRight = try fresh.withMutableBytes { bytes in
                  bytes.withUnsafeMutableBytes { raw in
                    for index in raw.indices { raw[index] = 7 }
                    return raw.allSatisfy { $0 == 7 }
                  }
                }
                #expect(isRight, "what was just written")
              }
            } catch EnclaveError.destroyed {
              return
            } catch AccessError<Never>.access(.destroyed) {
              return
            } catch {
              Issue.record(error, "operation \(index)")
              return
            }
          }
        }
        final class Part {
          let work: Work
          let index: Int
          init(_ work: Work, _ index: Int) { (self.work, self.index) = (work, index) }
        }
        var threads = [pthread_t](repeating: 0, count: 4)
        for index in 0..<4 {
          pthread_create(
            &threads[index], nil,
            { raw in
              let part = Unmanaged<Part>.fromOpaque(raw!).takeRetainedValue()
              part.work.body(part.index)
              return nil
            }, Unmanaged.passRetained(Part(work, index)).toOpaque())
        }
        while vault.statistics.rotations < 50 || vault.statistics.decryptions < 50 { sched_yield() }
        EmergencyWipe.wipeEverything()
        for thread in threads { pthread_join(thread, nil) }
      }
    }
  }
#endif
