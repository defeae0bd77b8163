// Idle memory: wiped, locked, closed, bounded, and returned when others need it.

import CTestSupport
import Enclave
import EnclaveSystem
import Foundation
import Glibc
import TestSupport
import Testing

private let mebibyte = 1 << 20

/// The bytes at an address, read past every gate.
private func peek(_ address: UInt, _ count: Int) throws -> [UInt8] {
  let file = open("/proc/self/mem", O_RDONLY)
  defer { close(file) }
  var bytes = [UInt8](repeating: 0xff, count: count)
  let read = pread(file, &bytes, count, off_t(address))
  guard read == count else { throw Failed("read \(read) of \(count) bytes: \(errno)") }
  return bytes
}

/// Makes RLIMIT_MEMLOCK effective, for root too.
private func limitLocks(to bytes: UInt) throws {
  try #require(ct_drop_lock_capability() == 0, "dropping the capability")
  var limit = rlimit(rlim_cur: bytes, rlim_max: bytes)
  try #require(
    setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0, "the limit")
}

private var mapCalls: UInt64 { SystemCall.reserveChunk.count }

@Suite(.enabled(if: mayLockMuch, mayLockLittle)) struct IdleMemoryTests {
  static let mayLock: Int = {
    let soft = (try? ProcessFacts.memlockLimit())?.soft ?? 0
    return soft > 6 << 20 ? .max : 0
  }()

  /// (Not under a cipher gate, whose windows map scratch memory.)
  @Test(arguments: gatesInPlace.indices) func largeAllocationsReuseSpares(gate: Int) async {
    await #expect(processExitsWith: .success) { [gate = gate as Int] in
      let arena = try Arena("test", .init(lock: .preferred, gate: gatesInPlace[gate]))
      let small = try arena.allocate(byteCount: 32)
      try arena.allocate(byteCount: mebibyte).destroy()
      #expect(arena.statistics.idleBytes == mebibyte, "idle after the first")
      let before = (mapCalls, SystemCall.unmapChunk.count, SystemCall.lockChunk.count)
      for round in 0..<20 {
        // Slightly different sizes reuse it too.
        var secret = try arena.allocate(byteCount: mebibyte - (round % 3) * 10_000)
        #expect(arena.statistics.idleBytes == 0, "idle while it lives")
        let isZero = try secret.withBytes { bytes in
          bytes.withUnsafeBytes { EnclaveSystem.isZero($0.baseAddress!, byteCount: $0.count) }
        }
        #expect(isZero, "a new secret's contents in round \(round)")
        try secret.withMutableBytes { bytes in
          bytes.withUnsafeMutableBytes { _ = memset($0.baseAddress!, 0xa5, $0.count) }
        }
        try secret.destroy()
        #expect(try arena.check().isEmpty, "round \(round)")
      }
      let after = (mapCalls, SystemCall.unmapChunk.count, SystemCall.lockChunk.count)
      #expect(before == after, "calls: \(before), \(after)")
      #expect(arena.statistics.bytesLocked == arena.statistics.bytesMapped, "locked")
      // A secret of half the size does not reuse it.
      let half = try arena.allocate(byteCount: mebibyte / 2)
      #expect(mapCalls == before.0 + 1 && arena.statistics.idleBytes == mebibyte, "half of it")
      try half.destroy()
      try small.destroy()
      try arena.destroy()
      #expect(arena.statistics.bytesMapped == 0 && arena.statistics.idleBytes == 0, "destroyed")
    }
  }

  /// The same search finds a live secret (the control), and nothing of a freed one.
  @Test(arguments: allGates.indices, [Arena.Layout.slab, .isolated])
  func sparesStayWiped(gate: Int, layout: Arena.Layout) async {
    await #expect(processExitsWith: .success) {
      [gate = gate as Int, isSlab = (layout == .slab) as Bool] in
      let arena = try Arena(
        "test", .init(layout: isSlab ? .slab : .isolated, lock: .off, gate: allGates[gate]))
      for size in [40, 5000, 100_000, mebibyte] {
        var secret = try arena.allocate(byteCount: size)
        try secret.withMutableBytes { bytes in
          bytes.withUnsafeMutableBytes { _ = memset($0.baseAddress!, 0x5a, $0.count) }
        }
        let at = UInt(bitPattern: secret.handle.address)
        let isPlain = try peek(at, size).allSatisfy { $0 == 0x5a }
        #expect(isPlain == (allGates[gate] != .cipher), "\(size) bytes alive")
        try secret.destroy()
        #expect(try peek(at, size).allSatisfy { $0 == 0 }, "\(size) bytes idle")
        #expect(arena.statistics.idleBytes >= size, "\(size) bytes are kept")
      }
      #expect(arena.statistics.bytesInUse == 0, "in use")
      EmergencyWipe.wipeEverything()
    }
  }

  /// Writes to free memory, or past a secret that reuses it, are detected.
  @Test(arguments: [5000, 100_000]) func writesToSparesAreDetected(size: Int) async {
    await #expect(processExitsWith: .success) { [size = size as Int] in
      ViolationHandler.set { _ in .continueExecution }
      let arena = try Arena("test", .init(lock: .off, gate: .none))
      let first = try arena.allocate(byteCount: size)
      let at = try address(of: first)
      try first.destroy()
      #expect(try arena.check().isEmpty, "untouched")
      let spare = UnsafeMutablePointer<UInt8>(bitPattern: at)!
      spare[1] = 1
      #expect(try arena.check().map(\.kind) == [.writeAfterFree], "in the middle")
      spare[1] = 0
      // Its canaries: 16 bytes before it, and the alignment slack after it.
      spare[-1] ^= 1
      #expect(try arena.check().map(\.kind) == [.writeAfterFree], "a canary")
      spare[-1] ^= 1
      for other in [size - 3, size, size - 1, size] {
        let secret = try arena.allocate(byteCount: other)
        #expect(try arena.check().isEmpty, "another size in the same pages")
        let place = UnsafeMutablePointer<UInt8>(bitPattern: try address(of: secret))!
        let behind = place + other
        if UInt(bitPattern: behind) % 4096 != 0 {
          behind.pointee ^= 1
          #expect(try arena.check().map(\.kind) == [.overflow], "behind it")
          behind.pointee ^= 1
        }
        place[-1] ^= 1
        #expect(try arena.check().map(\.kind) == [.underflow], "before it")
        place[-1] ^= 1
        try secret.destroy()
      }
      #expect(arena.statistics.corruptions == 0, "corruptions")
      // Pages of new mappings get new canaries, whatever the old ones were.
      #expect(try arena.trim() > 0, "trimmed")
      let last = try arena.allocate(byteCount: size)
      #expect(try arena.check().isEmpty, "after a trim")
      try last.destroy()
      #expect(arena.statistics.corruptions == 0, "corruptions after a trim")
    }
  }

  /// Allocating a secret of the same size as the previous one opens no pages.
  @Test(arguments: [100, 5000, 200_000]) func reusingASlotOfTheSameSizeOpensNoPages(size: Int) async
  {
    await #expect(processExitsWith: .success) { [size = size as Int] in
      let arena = try Arena("test", .init(layout: .isolated, lock: .off, gate: .pages))
      try arena.allocate(byteCount: size).destroy()
      let before = SystemCall.openWindow.count
      let secret = try arena.allocate(byteCount: size)
      #expect(SystemCall.openWindow.count == before, "the same size")
      try secret.destroy()
      let other = try arena.allocate(byteCount: size - 1)
      #expect(SystemCall.openWindow.count == before + 2, "another size")
      try other.destroy()
    }
  }

  /// The most recently freed memory is reused next; older spares are returned first.
  @Test func theNewestSpareIsKept() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .off, gate: .none))
      for round in 0..<2 {
        var kept = try (0..<30).map { _ in
          SecretReference(try arena.allocate(byteCount: 69_632))
        }
        #expect(kept.count == 30)
        kept = []
        #expect(arena.statistics.idleBytes > mebibyte, "idle in round \(round)")
        try arena.allocate(byteCount: mebibyte).destroy()
        let before = mapCalls
        try arena.allocate(byteCount: mebibyte).destroy()
        #expect(mapCalls == before, "the second one of round \(round)")
        #expect(arena.statistics.idleBytes <= 2 * mebibyte, "the bound in round \(round)")
      }
    }
  }

  /// At most 2 MiB or an eighth of the peak, and less than half of RLIMIT_MEMLOCK.
  @Test func sparesAreBounded() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .off, gate: .none))
      for count in [3, 40] {
        var kept = try (0..<count).map { _ in
          SecretReference(try arena.allocate(byteCount: mebibyte))
        }
        let peak = arena.statistics.bytesMapped
        #expect(kept.count == count)
        kept = []
        let idle = arena.statistics.idleBytes
        #expect(idle > 0 && idle <= max(2 * mebibyte, peak / 8), "\(idle) of \(peak)")
        #expect(arena.statistics.bytesMapped == idle, "what is mapped")
      }
      try limitLocks(to: 1_500_000)
      let limited = try Arena("limited", .init(gate: .none))
      try limited.allocate(byteCount: mebibyte).destroy()
      #expect(limited.statistics.bytesMapped == 0, "more than half of the limit")
      try limited.allocate(byteCount: 500_000).destroy()
      #expect(limited.statistics.idleBytes == 503_808, "less than half of it")
    }
  }

  @Test(arguments: allGates.indices) func trimGivesIdleMemoryBack(gate: Int) async {
    await #expect(processExitsWith: .success) { [gate = gate as Int] in
      let arena = try Arena("test", .init(lock: .preferred, gate: allGates[gate]))
      let kept = try arena.allocate(byteCount: 100)
      let least = arena.statistics.bytesMapped
      #expect(try arena.trim() == 0, "nothing is idle")
      // More than fits into the first chunk, and a secret with separate pages.
      var some = try (0..<100).map { _ in SecretReference(try arena.allocate(byteCount: 4000)) }
      let large = try arena.allocate(byteCount: 300_000)
      #expect(some.count == 100)
      some = []
      try large.destroy()
      let before = arena.statistics
      #expect(before.idleBytes > 300_000, "idle")
      let locked = ProcessFacts.lockedBytes()!
      let given = try arena.trim()
      let after = arena.statistics
      #expect(given == before.idleBytes, "returned bytes")
      #expect(after.idleBytes == 0 && after.bytesMapped == before.bytesMapped - given, "left")
      #expect(after.bytesMapped <= least + 16384, "left of \(least)")
      #expect(
        locked - ProcessFacts.lockedBytes()! >= UInt64(before.bytesLocked - after.bytesLocked),
        "VmLck")
      #expect(after.bytesInUse == 100 && after.secretCount == 1, "in use")
      #expect(try arena.trim() == 0, "the second time")
      // A frozen arena never allocates, so freezing returns idle memory.
      try arena.allocate(byteCount: 300_000).destroy()
      #expect(arena.statistics.idleBytes == 303_104, "before freezing")
      try arena.freeze()
      #expect(arena.statistics.idleBytes == 0, "after freezing")
      #expect(try arena.trim() == 0, "a frozen arena")
      try kept.destroy()
      try arena.destroy()
      do throws(EnclaveError) {
        try arena.trim()
        #expect(Bool(false), "a destroyed arena")
      } catch { #expect(error == .destroyed, "\(error)") }
    }
  }

  @Test func trimmingInAChildIsAnError() async {
    await #expect(processExitsWith: .success) {
      let arena = try Arena("test", .init(lock: .off, gate: .none))
      try arena.allocate(byteCount: 300_000).destroy()
      let child = ct_fork_at_rest()
      if child == 0 {
        do throws(EnclaveError) {
          try arena.trim()
          _exit(1)
        } catch { _exit(error == .inheritedByFork && arena.statistics.idleBytes == 0 ? 0 : 2) }
      }
      var status: Int32 = 0
      #expect(waitpid(child, &status, 0) == child && status == 0, "the child: \(status)")
      #expect(try arena.trim() == 303_104, "the parent")
    }
  }

  // MARK: - Others need it

  /// When a lock is refused, spares of this and other arenas are returned first, even their last
  /// ones.
  @Test(arguments: [Arena.Lock.required, .preferred], [true, false])
  func aRefusedLockReclaimsSpares(lock: Arena.Lock, isOther: Bool) async {
    await #expect(processExitsWith: .success) {
      [isRequired = (lock == .required) as Bool, isOther = isOther as Bool] in
      try limitLocks(to: 3 << 20)
      let lock: Arena.Lock = isRequired ? .required : .preferred
      let idle = try Arena("idle", .init(lock: lock, gate: .none))
      try idle.allocate(byteCount: mebibyte).destroy()
      #expect(idle.statistics.idleBytes == mebibyte, "idle")
      let arena = isOther ? try Arena("other", .init(lock: lock, gate: .none)) : idle
      let large = try arena.allocate(byteCount: 5 * mebibyte / 2)
      #expect(arena.statistics.bytesLocked == 5 * mebibyte / 2, "locked")
      #expect(arena.statistics.failedLocks == 0, "no lock was missed")
      #expect(idle.statistics.idleBytes == 0, "idle afterwards")
      try large.destroy()
    }
  }

  /// An arena that needs a larger chunk returns its own small last spare.
  @Test func anArenaReclaimsItsOwnLastSpare() async {
    await #expect(processExitsWith: .success) {
      try limitLocks(to: 92_160)
      let arena = try Arena("test", .init(lock: .preferred, gate: .none))
      try arena.allocate(byteCount: 40_000).destroy()
      #expect(arena.statistics.idleBytes == 40_960, "idle")
      let other = try Arena("other", .init(lock: .preferred, gate: .none))
      let refused = try other.allocate(byteCount: 80_000)
      #expect(arena.statistics.idleBytes == 40_960, "idle when another arena needs it")
      try refused.destroy()
      let second = try arena.allocate(byteCount: 60_000)
      #expect(arena.statistics.bytesLocked == 61_440, "locked")
      #expect(arena.statistics.failedLocks == 0 && arena.statistics.idleBytes == 0, "its own")
      try second.destroy()
    }
  }

  /// A thread that waits for headroom gets memory that becomes idle meanwhile.
  @Test func waitingGetsMemoryThatBecomesIdle() async {
    await #expect(processExitsWith: .success) {
      alarm(60)
      try limitLocks(to: 3 << 20)
      let first = try Arena("first", .init(gate: .none))
      let second = try Arena("second", .init(gate: .none))
      let held = Holder(try first.allocate(byteCount: mebibyte))
      Thread {
        while second.statistics.failedLocks == 0 { sched_yield() }
        held.drop()
      }.start()
      let large = try second.allocate(
        byteCount: 5 * mebibyte / 2, waitingForHeadroom: .seconds(40))
      #expect(first.statistics.bytesMapped == 0, "what was idle")
      try large.destroy()
    }
  }

  /// Spares do not count against an arena's capacity.
  @Test(arguments: allGates) func sparesDoNotUseUpTheCapacity(gate: Arena.Gate) throws {
    let arena = try Arena("test", .init(lock: .off, gate: gate, capacity: 2 << 20))
    try arena.allocate(byteCount: mebibyte).destroy()
    #expect(arena.statistics.idleBytes == mebibyte)
    let large = try arena.allocate(byteCount: 3 * mebibyte / 2)
    #expect(arena.statistics.idleBytes == 0)
    do throws(EnclaveError) {
      _ = try arena.allocate(byteCount: mebibyte)
      Issue.record("no error")
    } catch { #expect(error == .capacity(inUse: 3 * mebibyte / 2, limit: 2 << 20)) }
    try large.destroy()
  }

  /// A wipe also works with spares.
  @Test(arguments: allGates.indices) func wipeEverythingWipesSpares(gate: Int) async {
    await #expect(processExitsWith: .success) { [gate = gate as Int] in
      let arena = try Arena("test", .init(lock: .off, gate: allGates[gate]))
      try arena.allocate(byteCount: mebibyte).destroy()
      var secret = try arena.allocate(byteCount: 200)
      try fill(&secret, from: 1)
      let at = try address(of: secret)
      #expect(EmergencyWipe.wipeEverything().isEmpty, "what was left")
      #expect(try peek(at, 200).allSatisfy { $0 == 0 }, "contents")
      #expect(arena.statistics.idleBytes == 0, "idle")
      do throws(EnclaveError) {
        try arena.trim()
        #expect(Bool(false), "a wiped arena")
      } catch { #expect(error == .destroyed, "\(error)") }
      try arena.destroy()
    }
  }
}
