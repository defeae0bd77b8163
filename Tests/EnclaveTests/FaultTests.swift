// Makes every system call of the library fail, the first time or a later time.

#if DEBUG
  import Enclave
  import EnclaveSystem
  import Foundation
  import Glibc
  import TestSupport
  import Testing

  /// A round that makes every system call of the library: publishing, growing, windows, freeing,
  /// destroying. Failures are collected; nothing may be harmed.
  struct Round {
    var errors: [EnclaveError] = []

    mutating func attempt(_ body: () throws(EnclaveError) -> Void) {
      do { try body() } catch { errors.append(error) }
    }

    mutating func run() {
      var errors: [EnclaveError] = []
      func note(_ error: any Error) {
        switch error {
        case let error as EnclaveError: errors.append(error)
        case let error as AccessError<Never>:
          if case .access(let error) = error { errors.append(error) }
        default: break
        }
      }
      do {
        let publisher = try StatsPublisher.start()
        _ = publisher.path
        publisher.stop()
      } catch { note(error) }
      for layout in [Arena.Layout.slab, .isolated] {
        for lock in [Arena.Lock.required, .preferred] {
          do {
            let arena = try Arena("victim", .init(layout: layout, lock: lock, gate: .pages))
            for size in [32, 200, 5000] {
              do {
                var secret = try arena.allocate(byteCount: size)
                try secret.withMutableBytes {
                  $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self)
                }
                try secret.withBytes { _ in }
                try secret.destroy()
              } catch { note(error) }
            }
            do { try arena.destroy() } catch {
              note(error)
              // Once the fault is over, the rest succeeds.
              do { try arena.destroy() } catch { note(error) }
            }
          } catch { note(error) }
        }
      }
      // Mechanisms that a machine may lack.
      for capability in Capability.allCases {
        // A missing mechanism is not a failure of the round.
        if case .unavailable(let failure) = capability.availability, failure.errno == EIO {
          errors.append(.unsupported(capability, failure))
        }
      }
      do {
        let arena = try Arena("plain", .init(lock: .preferred, gate: .none))
        let secret = try arena.allocate(byteCount: 32)
        // As large as a huge page.
        try arena.allocate(byteCount: 2 << 20).destroy()
        try arena.freeze()
        try secret.withBytes { _ in }
        try secret.destroy()
        try arena.destroy()
      } catch { note(error) }
      if Capability.secretMemory.isAvailable {
        do {
          let arena = try Arena("hidden", .init(gate: .none, backing: .secret))
          var secret = try arena.allocate(byteCount: 32)
          try fill(&secret, from: 1)
          try secret.destroy()
          try arena.destroy()
        } catch { note(error) }
      }
      if keysAreHere {
        do {
          let arena = try Arena("keyed", .init(lock: .preferred, gate: .key))
          var secret = try arena.allocate(byteCount: 32)
          try fill(&secret, from: 1)
          if sealsAreHere { try arena.seal() }
          try secret.withBytes { _ in }
          do { try arena.destroy() } catch {
            note(error)
            do { try arena.destroy() } catch { note(error) }
          }
        } catch { note(error) }
      }
      do { try EmergencyWipe.install(signals: [SIGUSR2]) } catch { note(error) }
      do {
        let arena = try Arena("input", .init(lock: .preferred))
        var secret = try arena.allocate(byteCount: 4)
        var pair: [Int32] = [0, 0]
        pipe(&pair)
        defer {
          close(pair[0])
          close(pair[1])
        }
        write(pair[1], "abcd", 4)
        try secret.fill(fromDescriptor: pair[0])
        var main: Int32 = 0
        var terminal: Int32 = 0
        if openpty(&main, &terminal, nil, nil, nil) == 0 {
          defer {
            close(terminal)
            close(main)
          }
          let typist = Typist("abcd\n", into: main)
          defer { typist.stop() }
          let secret = try arena.readPassphrase(prompt: "? ", from: terminal)
          if try contents(secret) != Array("abcd".utf8) { errors.append(.notAuthentic) }
        }
      } catch { note(error) }
      do {
        // Enough for huge pages.
        let arena = try Arena("large", .init(lock: .off, gate: .none))
        try arena.allocate(byteCount: 3 << 20).destroy()
      } catch { note(error) }
      self.errors += errors
    }
  }

  let keysAreHere = Capability.protectionKeys.isAvailable
  let sealsAreHere = Capability.seals.isAvailable

  /// Calls that are never made on this machine, and so cannot fail.
  let absent: Set<SystemCall> = {
    var absent: Set<SystemCall> = []
    if !keysAreHere { absent.formUnion([.tagChunk, .sealChunk, .discardChunk]) }
    if !sealsAreHere { absent.insert(.discardChunk) }
    absent.insert(.alternateStack)  // made in C, when threads start
    return absent
  }()

  /// Calls whose failure is handled internally, and how. All others must throw.
  let absorbed: [SystemCall: String] = [
    .wipeOnFork: "falls back to MADV_DONTFORK",
    .wipeForkPage: "falls back to pthread_atfork",
    .closeWindow: "is tried twice",
    .readDumpable: "counts as not dumpable",
    .readMemlockLimit: "is shown as n/a",
    .makeStatsDirectory: "is told by the opening of the directory",
    .removeStalePage: "is left to the next publisher",
    .separatePages: "leaves the chunk in one piece",
    .lockOnFault: "leaves it as locked, and slower to open",
    .unlockChunk: "is only made after a failed lock",
    .barrier: "falls back to a fence in each window",
    .allocateMetadata: "leaves secrets unlisted, or throws: see MetadataTests",
    .alternateStack: "leaves the handler on the thread's own stack",
    .registerBarrier: "falls back to a fence in each window",
    .allocateKey: "falls back to pages, or to a key that is shared",
    .openStatsDirectory: "goes on to the next place", .checkStatsDirectory: "the same",
    .checkStatsFilesystem: "the same", .createPage: "the same", .allocatePage: "the same",
    .mapPage: "the same", .keepPageFromFork: "the same", .guardPage: "the same",
    .lockPage: "the same", .restrictPage: "the same", .linkPage: "the same",
  ]

  @Suite struct FaultTests {
    /// The list comes from the failure injection itself, so that added calls are tested too.
    @Test(
      .enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"),
      arguments: SystemCall.allCases.filter { !absent.contains($0) }, [0, 2])
    func everySystemCallMayFail(call: SystemCall, after: Int) async throws {
      let scratch = try Scratch(onTmpfs: true)
      // A dead publisher's page, for the sweep.
      let dead = try Peer(stats: scratch)
      try dead.send("start")
      dead.kill()
      let path = scratch.path
      let number = call.rawValue
      await #expect(processExitsWith: .success) {
        [path = path as String, number = number as UInt32, after = after as Int] in
        setenv("ENCLAVE_STATS_DIR", path, 1)
        let call = SystemCall(rawValue: number)!
        // Calls that are only made after others failed.
        if call == .leaveOutOfFork { FaultPlan.fail(.wipeOnFork, errno: EINVAL, times: 1000) }
        if call == .watchFork { FaultPlan.fail(.wipeForkPage, errno: EINVAL, times: 1000) }
        if call == .unlockChunk { FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 1000) }
        // Secrets of an existing arena must be unharmed.
        let once = [
          SystemCall.mapForkPage, .openForkPage, .wipeForkPage, .watchFork, .watchExit,
          .readDumpable, .readMemlockLimit, .removeStalePage, .registerBarrier, .allocateKey,
        ]
        let publishing =
          SystemCall.makeStatsDirectory.rawValue...SystemCall.removeStalePage.rawValue
        let isOnce = once.contains(call) || publishing.contains(call.rawValue)
        if isOnce {
          let skip = [.readDumpable, .readMemlockLimit].contains(call) ? after : 0
          FaultPlan.fail(call, errno: EIO, after: skip, times: 1)
        }
        var bystander: Arena?
        do throws(EnclaveError) {
          bystander = try Arena("bystander", .init(lock: .preferred))
        } catch {
          try #require(error.systemFailure?.call == call, "the first arena: \(error)")
          bystander = try Arena("bystander", .init(lock: .preferred))
        }
        var other = try bystander!.allocate(byteCount: 100)
        try fill(&other, from: 9)
        let before = bystander!.statistics
        let failuresBefore = call.failureCount

        if !isOnce { FaultPlan.fail(call, errno: EIO, after: after, times: 1) }
        var round = Round()
        // Some calls are made once per round.
        for _ in 0...after { round.run() }
        #expect(FaultPlan.failed.contains(call), "every entry was reached")
        // The failure is counted. (Probes fail on most machines anyway.)
        if !isOnce, call != .probeMechanism {
          #expect(call.failureCount == failuresBefore + 1, "counted once")
        }
        #expect(call.failureCount > 0, "counted")

        // Either a typed error names the call, or the table above says how it is handled.
        let named = round.errors.contains {
          switch $0 {
          case .system(let failure), .unsupported(_, let failure):
            failure.call == call && failure.errno == EIO
          default: false
          }
        }
        let isKnown = absorbed[call] != nil
        if !named, !isKnown, !once.contains(call), call != .lockChunk, call != .fillRandom {
          #expect(Bool(false), "no error names the call: \(round.errors)")
        }
        // Without the fault everything works again, and the round leaks nothing.
        FaultPlan.clear()
        var clean = Round()
        clean.run()
        #expect(clean.errors.isEmpty, "without the fault: \(clean.errors)")
        // The other secrets are unharmed.
        #expect(try contents(other) == (0..<100).map { UInt8($0 + 9) }, "other contents")
        var now = bystander!.statistics
        // Failed locks may have been retried by now.
        if call == .unlockChunk { now.bytesLocked = before.bytesLocked }
        #expect(now == before, "other counts: \(now)")
      }
    }

    /// A failed allocation is rolled back: the counts are unchanged.
    @Test(arguments: [
      SystemCall.reserveChunk, .openNewChunk, .excludeFromDumps, .keepUnmerged, .closeNewChunk,
      .lockChunk, .openWindow,
    ])
    func aFailedAllocationChangesNothing(call: SystemCall) async {
      let number = call.rawValue
      await #expect(processExitsWith: .success) { [number = number as UInt32] in
        let call = SystemCall(rawValue: number)!
        let arena = try Arena("test", .init(lock: .required, gate: .pages))
        // The heap may grow a little; twenty leaked chunks would be forty mappings.
        var maps = 0
        for attempt in 1...23 {
          // After lack of memory, the library retries with smaller chunks, and after returning idle
          // memory: all of these calls must fail.
          FaultPlan.fail(call, errno: ENOMEM, times: 10)
          do throws(EnclaveError) {
            _ = try arena.allocate(byteCount: 32)
            #expect(Bool(false), "attempt \(attempt) succeeded")
          } catch {
            #expect(error.systemFailure?.call == call, "attempt \(attempt): \(error)")
            let text = "\(error)"
            #expect(text.contains(call.function) && text.contains("ENOMEM"), "text: \(text)")
          }
          FaultPlan.clear()
          let now = arena.statistics
          #expect(now.secretCount == 0 && now.bytesInUse == 0, "what is in use: \(now)")
          #expect(now.failedAllocations == UInt64(attempt), "failures: \(now)")
          if call != .openWindow { #expect(now.bytesMapped == 0, "what is mapped: \(now)") }
          if attempt == 3 { maps = ProcessFacts.mapCount()! }
        }
        if call == .openWindow {
          #expect(arena.statistics.bytesMapped == 16384, "one chunk stays")
        } else {
          #expect(ProcessFacts.mapCount()! <= maps + 10, "mappings, from \(maps)")
        }
        FaultPlan.clear()
        _ = try arena.allocate(byteCount: 32)
        #expect(try arena.check() == [])
      }
    }

    /// `preferred` continues without the lock and reports it; `required` throws.
    @Test func aFailedLockIsNeverSilent() async {
      await #expect(processExitsWith: .success) {
        FaultPlan.fail(.lockChunk, errno: ENOMEM, times: 1000)
        let arena = try Arena("test", .init(lock: .preferred))
        _ = try arena.allocate(byteCount: 32)
        #expect(arena.statistics.bytesLocked == 0, "what is locked")
        #expect(arena.statistics.bytesMapped > 0, "what is mapped")
        #expect(arena.statistics.failedLocks == 1, "failed locks")
      }
    }

    /// A page that cannot be closed is tried twice, then counted as open.
    @Test func aFailedCloseIsShownOpen() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        let secret = try arena.allocate(byteCount: 32)
        FaultPlan.fail(.closeWindow, errno: ENOMEM, times: 2)
        try secret.withBytes { _ in }
        #expect(arena.statistics.stuckOpenPages == 1, "stuck pages after the failure")
        try secret.withBytes { _ in }
        #expect(arena.statistics.stuckOpenPages == 0, "stuck pages after the next window")
      }
    }

    /// Freezing fails at the second chunk, and so does making the first one writable again.
    @Test func anArenaThatIsFrozenHalfwayIsWiped() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(lock: .off, gate: .none))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let start = try address(of: secret)
        let large = try arena.allocate(byteCount: 1 << 20)
        FaultPlan.fail(.freezeChunk, errno: ENOMEM, after: 1)
        FaultPlan.fail(.openWindow, errno: ENOMEM, times: 2)
        do throws(EnclaveError) {
          try arena.freeze()
          Issue.record("no error")
        } catch { #expect(error.systemFailure?.call == .freezeChunk, "\(error)") }
        #expect(FaultPlan.failed == [.freezeChunk, .openWindow])
        #expect(throws: AccessError<Never>.access(.destroyed)) {
          try secret.withMutableBytes { $0.storeBytes(of: 1, as: UInt8.self) }
        }
        #expect(UnsafePointer<UInt8>(bitPattern: start)!.pointee == 0, "it was not wiped")
        try secret.destroy()
        try large.destroy()
        try arena.destroy()
        #expect(arena.statistics.bytesMapped == 0)
      }
    }

    /// A filter of system calls refuses to freeze the first chunk, and would refuse to undo it:
    /// nothing has changed, so the arena stays as it is.
    @Test func anArenaThatMayNotBeFrozenStaysUsable() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(lock: .off, gate: .none))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        FaultPlan.fail(.freezeChunk, errno: EPERM)
        FaultPlan.fail(.openWindow, errno: EPERM, times: .max)
        #expect(throws: EnclaveError.self) { try arena.freeze() }
        FaultPlan.clear()
        let first = try secret.withBytes { $0.unsafeLoad(as: UInt8.self) }
        #expect(first == 1)
        try arena.allocate(byteCount: 48).destroy()
        try arena.freeze()
      }
    }

    /// Freezing an arena that shares its key fails at the second chunk, and the first one cannot be
    /// returned to its key.
    @Test(.enabled(if: keysAreHere, "this processor has no protection keys"))
    func anArenaUnderTwoKeysIsWiped() async {
      await #expect(processExitsWith: .success) {
        // More than there are keys for writable arenas.
        var others: [Arena] = []
        for _ in 0..<13 { others.append(try Arena("other", .init(lock: .off, gate: .key))) }
        let arena = others[0]
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let large = try arena.allocate(byteCount: 1 << 20)
        FaultPlan.fail(.tagChunk, errno: ENOMEM, after: 1, times: 1000)
        do throws(EnclaveError) {
          try arena.freeze()
          Issue.record("no error")
        } catch { #expect(error.systemFailure?.call == .tagChunk, "\(error)") }
        FaultPlan.clear()
        #expect(throws: AccessError<Never>.access(.destroyed)) { try secret.withBytes { _ in } }
        try secret.destroy()
        try large.destroy()
        try arena.destroy()
        #expect(arena.statistics.bytesMapped == 0)
      }
    }

    /// A slot whose contents cannot be wiped is not reused.
    @Test func aSlotThatCannotBeWipedIsNotReused() async {
      await #expect(processExitsWith: .success) {
        let arena = try Arena("test", .init(lock: .preferred, gate: .pages))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let at = try address(of: secret)
        FaultPlan.fail(.openWindow, errno: ENOMEM)
        do throws(EnclaveError) {
          try secret.destroy()
          #expect(Bool(false), "it was freed")
        } catch { #expect(error.systemFailure?.call == .openWindow, "freeing: \(error)") }
        for _ in 0..<200 {
          #expect(
            try address(of: try arena.allocate(byteCount: 32)) != at, "its slot is used again")
        }
        #expect(arena.statistics.secretCount == 1, "secrets")
        try arena.destroy()
      }
    }

    @Test func environmentVariablesInjectNoFailures() throws {
      let file = Programs.package.appending(path: "Sources/EnclaveSystem/FaultPlan.swift")
      let text = try String(contentsOf: file, encoding: .utf8)
      #expect(!text.contains("environment(") && !text.contains("getenv"))
    }
  }
#endif
