// Machines that lack a mechanism: everything works and reports an honest state. Also exhausted
// maps.

#if DEBUG
  import CTestSupport
  import Enclave
  import EnclaveSystem
  import Foundation
  import Glibc
  import TestSupport
  import Testing

  @Suite struct AbsenceTests {
    /// How older kernels fail, and the protection that must be in effect anyway.
    static let absences: [(call: SystemCall, errno: Int32)] = [
      (.wipeOnFork, EINVAL), (.wipeForkPage, EINVAL), (.sealChunk, ENOSYS),
      (.mapSecretMemory, ENOSYS), (.probeMechanism, EINVAL), (.allocateKey, ENOSYS),
      (.registerBarrier, EINVAL),
    ]

    @Test(arguments: absences.map(\.call), [true, false])
    func everyMechanismMayBeAbsent(call: SystemCall, withLockCapability: Bool) async {
      let number = call.rawValue
      await #expect(processExitsWith: .success) {
        [number = number as UInt32, withLockCapability = withLockCapability as Bool] in
        let call = SystemCall(rawValue: number)!
        if !withLockCapability {
          try #require(ct_drop_lock_capability() == 0, "dropping the capability")
          var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
          setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
        }
        FaultPlan.fail(
          call, errno: AbsenceTests.absences.first { $0.call == call }!.errno, times: .max)
        var round = Round()
        round.run()
        // Only an explicit request for the missing mechanism fails.
        for error in round.errors {
          guard case .unsupported = error else { throw error }
        }
        // A child does not get the contents, whichever mechanism prevents it.
        let arena = try Arena("test", .init(lock: .preferred, gate: .none))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let at = try address(of: secret)
        let report = try ChildReport()
        let pid = report.fork()
        if pid == 0 {
          if ct_try_read(at) == 0 {
            report.expect(UnsafePointer<UInt8>(bitPattern: at)!.pointee == 0, "zeros in the child")
          }
          report.expect(throws: EnclaveError.inheritedByFork, "allocating") {
            _ = try arena.allocate(byteCount: 1)
          }
          report.end()
        }
        let failures = report.failures(of: pid)
        #expect(failures == [], "\(failures)")
        // The parent's secret is unchanged, and closes normally.
        #expect(try contents(secret)[31] == 32, "the parent's contents")
        let idle = try Arena("idle", .init(lock: .preferred))
        let closed = try idle.allocate(byteCount: 8)
        #expect(ct_try_read(try address(of: closed)) != 0, "idle: closed")
      }
    }

    /// The twin: without fork protection the child reads the secret.
    @Test func withoutForkProtectionTheChildReadsIt() async {
      await #expect(processExitsWith: .success) {
        FaultPlan.switchOff(.wipeOnFork)
        let arena = try Arena("test", .init(lock: .preferred, gate: .none))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        let at = try address(of: secret)
        let report = try ChildReport()
        let pid = report.fork()
        if pid == 0 {
          report.expect(UnsafePointer<UInt8>(bitPattern: at)!.pointee == 1, "the child reads it")
          report.end()
        }
        let failures = report.failures(of: pid)
        #expect(failures == [], "\(failures)")
      }
    }

    /// deinit and exit in a child change neither the parent's secrets nor its page.
    @Test func aChildsExitDoesNotAffectItsParent() async throws {
      let scratch = try Scratch(onTmpfs: true)
      let path = scratch.path
      await #expect(processExitsWith: .success) { [path = path as String] in
        setenv("ENCLAVE_STATS_DIR", path, 1)
        let publisher = try StatsPublisher.start()
        var arena: Arena? = try Arena("test", .init(lock: .preferred))
        var secret: Secret? = try arena!.allocate(byteCount: 32)
        try fill(&secret!, from: 1)
        let report = try ChildReport()
        let pid = report.fork()
        if pid == 0 {
          secret = nil
          arena = nil
          exit(EXIT_SUCCESS)  // runs the exit handlers
        }
        let failures = report.failures(of: pid)
        #expect(failures == [], "\(failures)")
        #expect(try contents(secret!)[31] == 32, "the parent's contents")
        let (path, isPublishing) = (publisher.path, publisher.isPublishing)
        let page = try #require(path, "a page")
        #expect(access(page, F_OK) == 0, "the page is gone")
        #expect(isPublishing, "it no longer publishes")
        try secret!.withBytes { _ in }
      }
    }

    /// An exhausted vm.max_map_count is a typed error with both numbers. No protection is lost, and
    /// existing secrets keep working.
    @Test(arguments: [Arena.Layout.slab, .isolated])
    func exhaustedMapsAreATypedError(layout: Arena.Layout) async {
      let isSlab = layout == .slab
      await #expect(processExitsWith: .success) { [isSlab = isSlab as Bool] in
        let arena = try Arena(
          "test", .init(layout: isSlab ? .slab : .isolated, lock: .preferred))
        var secret = try arena.allocate(byteCount: 32)
        try fill(&secret, from: 1)
        // Change the protection of every other page until no map is left.
        let length = 70_000 * 4096
        let base = mmap(nil, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
        var offset = 4096
        while offset < length, mprotect(base + offset, 4096, PROT_NONE) == 0 { offset += 8192 }
        let other = try Arena("other", .init(layout: .isolated, lock: .preferred, gate: .none))
        var wasTold = false
        for _ in 0..<20 {
          do throws(EnclaveError) {
            let new = try other.allocate(byteCount: 32)
            // Every allocation that succeeds has its guard.
            guard let at = try? address(of: new) else {
              Issue.record("a new secret cannot be read")
              continue
            }
            #expect(ct_try_read((at & ~4095) + 4096) != 0, "a guard is open")
          } catch {
            guard case .mapLimit(let inUse, let limit) = error else { throw error }
            #expect(inUse + 3 >= limit, "\(error)")
            wasTold = true
          }
        }
        #expect(wasTold, "no error")
        munmap(base, length)
        #expect(try contents(secret)[31] == 32, "contents")
        _ = try other.allocate(byteCount: 32)
      }
    }
  }
#endif
